//! Every machine says through `nvml-wrapper` what its description says.
#![allow(clippy::unwrap_used, reason = "tests, and what they share")]

mod common;

use common::{same, staged};
use divvy_nvidia_machine::{Answer, Description, Gpu, Link};
use nvml_wrapper::enum_wrappers::device::{
    Clock, EccCounter, MemoryError, P2pCapabilitiesIndex, P2pStatus, TemperatureSensor,
    TemperatureThreshold, TopologyLevel,
};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

const MIB: u64 = 1 << 20;

/// What a call about this GPU is described to answer, if that is an error.
fn fault(description: &Description, name: &str, call: &str) -> Option<Answer> {
    let mut faults = description.fault.iter();
    let found = faults.find(|fault| fault.call == call && fault.gpu.as_deref() == Some(name));
    found.map(|fault| fault.answer.clone())
}

fn check(name: &str) {
    let staged = staged(name);
    let nvml = staged.open();
    let description = &*staged.machine.current();
    assert_eq!(nvml.sys_driver_version().unwrap(), description.driver);
    let cuda = nvml.sys_cuda_driver_version().unwrap();
    assert_eq!(
        format!("{}.{}", cuda / 1000, cuda % 1000 / 10),
        description.cuda
    );
    let version = nvml.sys_nvml_version().unwrap();
    assert!(version.ends_with(&description.driver), "{version}");
    let visible = staged.machine.visible();
    assert_eq!(
        usize::try_from(nvml.device_count().unwrap()).unwrap(),
        visible.len()
    );
    for (index, name) in (0..).zip(&visible) {
        let gpu = &description.gpu[name];
        let device = nvml.device_by_index(index);
        if gpu.lost {
            assert!(matches!(device, Err(NvmlError::GpuLost)), "{device:?}");
            continue;
        }
        let device = device.unwrap();
        assert_eq!(device.index().unwrap(), index);
        identity(&nvml, &device, description, name, gpu);
        readings(&device, gpu);
        memory(&device, description, gpu);
        links(&nvml, &device, description, &visible, gpu);
    }
    let beyond = nvml.device_by_index(u32::try_from(visible.len()).unwrap());
    assert!(matches!(beyond, Err(NvmlError::InvalidArg)), "{beyond:?}");
}

fn identity(nvml: &Nvml, device: &Device, description: &Description, name: &str, gpu: &Gpu) {
    assert_eq!(device.name().unwrap(), gpu.name);
    let known = |call| fault(description, name, call).is_none();
    same(
        device.uuid(),
        known("nvmlDeviceGetUUID").then(|| gpu.uuid.clone()),
    );
    same(
        device.minor_number(),
        known("nvmlDeviceGetMinorNumber").then_some(gpu.minor),
    );
    same(device.serial(), gpu.serial.clone());
    same(device.vbios_version(), gpu.vbios.clone());
    let pci = device.pci_info().unwrap();
    let upper = gpu.pci.to_uppercase();
    assert_eq!(pci.bus_id, format!("0000{upper}"));
    let id = u32::from_str_radix(gpu.pci_id.trim_start_matches("0x"), 16).unwrap();
    assert_eq!(pci.pci_device_id, id << 16 | 0x10de);
    for id in [&pci.bus_id, &gpu.pci] {
        let found = nvml.device_by_pci_bus_id(id.as_str()).unwrap();
        assert_eq!(found.index().unwrap(), device.index().unwrap());
    }
    let found = nvml.device_by_uuid(gpu.uuid.as_str()).unwrap();
    assert_eq!(found.index().unwrap(), device.index().unwrap());
    let has = |symbol: &str| !description.lacks.iter().any(|lacked| lacked == symbol);
    match device.cuda_compute_capability() {
        Ok(got) => assert_eq!(
            format!("{}.{}", got.major, got.minor),
            gpu.compute_capability
        ),
        Err(error) => {
            assert!(matches!(error, NvmlError::FailedToLoadSymbol(_)), "{error}");
            assert!(!has("nvmlDeviceGetCudaComputeCapability"));
        }
    }
    if has("nvmlDeviceGetNumGpuCores") {
        assert_eq!(device.num_cores().unwrap(), gpu.sms * gpu.cores_per_sm);
    }
    if has("nvmlDeviceGetMigMode") {
        let mode = device.mig_mode().map(|mode| mode.current == 1);
        same(mode, gpu.mig);
    }
}

fn readings(device: &Device, gpu: &Gpu) {
    let divided = gpu.mig == Some(true);
    same(device.temperature(TemperatureSensor::Gpu), gpu.temperature);
    let [shutdown, slowdown, max] = gpu.thresholds.map(Some);
    for (which, celsius) in [
        (TemperatureThreshold::Shutdown, shutdown),
        (TemperatureThreshold::Slowdown, slowdown),
        (TemperatureThreshold::GpuMax, max),
    ] {
        same(device.temperature_threshold(which), celsius);
    }
    same(device.power_usage(), gpu.power_mw.map(|power| power[0]));
    same(
        device.enforced_power_limit(),
        gpu.power_mw.map(|power| power[1]),
    );
    same(device.total_energy_consumption(), gpu.energy_mj);
    same(device.fan_speed(0).or_else(missing), gpu.fan);
    let clocks = [Clock::Graphics, Clock::SM, Clock::Memory, Clock::Video];
    for (place, clock) in clocks.into_iter().enumerate() {
        same(
            device.clock_info(clock),
            gpu.clocks.map(|clocks| clocks[place]),
        );
        same(
            device.max_clock_info(clock),
            gpu.max_clocks.map(|clocks| clocks[place]),
        );
    }
    let rates = device
        .utilization_rates()
        .map(|rates| [rates.gpu, rates.memory]);
    same(rates, gpu.utilization.filter(|_| !divided));
    same(
        device.is_ecc_enabled().map(|state| state.currently_enabled),
        gpu.ecc,
    );
    let errors = device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile);
    same(errors, gpu.ecc.filter(|on| *on).map(|_| gpu.ecc_errors));
    same(device.current_pcie_link_gen(), gpu.pcie.map(|link| link[0]));
    same(
        device.current_pcie_link_width(),
        gpu.pcie.map(|link| link[1]),
    );
}

/// An old library has the call by another name: whatever it answers.
fn missing<T>(error: NvmlError) -> Result<T, NvmlError> {
    match error {
        NvmlError::FailedToLoadSymbol(_) => Err(NvmlError::NotSupported),
        error => Err(error),
    }
}

fn memory(device: &Device, description: &Description, gpu: &Gpu) {
    let got = device.memory_info();
    if description
        .lacks
        .iter()
        .any(|lacked| lacked == "nvmlDeviceGetMemoryInfo_v2")
    {
        assert!(
            matches!(got, Err(NvmlError::FailedToLoadSymbol(_))),
            "{got:?}"
        );
        return;
    }
    let processes: u64 = gpu
        .process
        .iter()
        .filter_map(|process| process.memory_mib)
        .sum();
    let parts: u64 = gpu.instance.iter().map(|instance| instance.used_mib).sum();
    let used = (gpu.used_mib + processes + parts) * MIB;
    let all = got.map(|memory| (memory.total, memory.reserved, memory.used, memory.free));
    same(
        all,
        gpu.memory_mib.map(|total| {
            let (total, reserved) = (total * MIB, gpu.reserved_mib * MIB);
            (total, reserved, used, total - reserved - used)
        }),
    );
    let count = |graphics| {
        gpu.process
            .iter()
            .filter(|process| process.graphics == graphics)
            .count()
    };
    assert_eq!(
        device.running_compute_processes().unwrap().len(),
        count(false)
    );
    assert_eq!(
        device.running_graphics_processes().unwrap().len(),
        count(true)
    );
}

fn links(nvml: &Nvml, device: &Device, description: &Description, visible: &[String], gpu: &Gpu) {
    for number in 0..18 {
        let link = device.link_wrapper_for(number);
        let described = gpu.nvlink.get(usize::try_from(number).unwrap());
        let described = described.filter(|_| gpu.mig != Some(true));
        same(link.is_active(), described.map(|link| *link != Link::Off));
        let remote = link.remote_pci_info().map(|pci| pci.bus_id);
        match described {
            Some(Link::Gpu(other)) => {
                let other = description.gpu[other].pci.to_uppercase();
                same(remote, Some(format!("0000{other}")));
                assert!(matches!(remote_type(nvml, device, number), None | Some(0)));
            }
            Some(Link::Switch(name)) => {
                let remote = remote.unwrap();
                assert!(!name.contains(':') || remote == format!("0000{}", name.to_uppercase()));
                assert_eq!(remote_type(nvml, device, number), Some(2));
            }
            Some(Link::Off) | None => same(remote, None),
        }
    }
    for other in visible.iter().filter(|other| !description.gpu[*other].lost) {
        let other = &description.gpu[other];
        let found = nvml.device_by_pci_bus_id(other.pci.as_str()).unwrap();
        let level = device.topology_common_ancestor(found).unwrap();
        let wanted = match () {
            () if other.pci == gpu.pci => TopologyLevel::Internal,
            () if gpu.switch.is_some() && gpu.switch == other.switch => TopologyLevel::Single,
            () if gpu.numa_node == other.numa_node => TopologyLevel::Node,
            () => TopologyLevel::System,
        };
        assert_eq!(level, wanted, "{} {}", gpu.pci, other.pci);
    }
    let near: Vec<usize> = {
        let words = device.cpu_affinity(8).unwrap();
        let bits = (0..512).filter(|bit| words[bit / 64] >> (bit % 64) & 1 == 1);
        bits.collect()
    };
    let list = gpu.local_cpus.as_deref().unwrap();
    let (first, _) = list.split_once('-').unwrap();
    assert_eq!(near.first(), first.parse().ok().as_ref());
    let last = list.rsplit('-').next().unwrap();
    assert_eq!(near.last(), last.parse().ok().as_ref());
}

/// `nvml-wrapper` 0.13 lets the answer be written to a copy, and always says "unknown". `None`:
/// the library does not have the call.
fn remote_type(nvml: &Nvml, device: &Device, number: u32) -> Option<u32> {
    let call = nvml
        .lib()
        .nvmlDeviceGetNvLinkRemoteDeviceType
        .as_ref()
        .ok()?;
    let mut kind = u32::MAX;
    // SAFETY: the handle is of this library, and the answer has a place.
    assert_eq!(unsafe { call(device.handle(), number, &mut kind) }, 0);
    Some(kind)
}

#[test]
fn t4() {
    check("t4");
}

#[test]
fn rtx4090x2() {
    check("rtx4090x2");
}

#[test]
fn a100x8() {
    check("a100x8");
}

#[test]
fn h100x8() {
    check("h100x8");
}

#[test]
fn gb200x4() {
    check("gb200x4");
}

#[test]
fn a100_mig() {
    check("a100-mig");
}

#[test]
fn old_driver() {
    check("old-driver");
}

#[test]
fn broken() {
    check("broken");
}

#[test]
fn neighbours() {
    let staged = staged("h100x8");
    let nvml = staged.open();
    let device = nvml.device_by_index(0).unwrap();
    let near = |level| {
        let near = device.topology_nearest_gpus(level).unwrap();
        let near = near.iter().map(|device| device.index().unwrap());
        near.collect::<Vec<_>>()
    };
    assert_eq!(near(TopologyLevel::Single), [1]);
    assert_eq!(near(TopologyLevel::Node), [2, 3]);
    assert_eq!(near(TopologyLevel::System), [4, 5, 6, 7]);
    assert_eq!(nvml.topology_gpu_set(0).unwrap().len(), 4);
    assert_eq!(nvml.topology_gpu_set(500).unwrap().len(), 0);
    let other = nvml.device_by_index(7).unwrap();
    let status = |what| device.p2p_status(&other, what).unwrap();
    assert_eq!(status(P2pCapabilitiesIndex::NvLink), P2pStatus::Ok);
    assert_eq!(status(P2pCapabilitiesIndex::Read), P2pStatus::Ok);
}
