//! What is measured of NVIDIA's GPUs, and whose it is.
#![allow(clippy::unwrap_used)] // a test says what failed by failing

use divvy::agent::{Measures, Samples};
use divvy_nvidia_machine::{Answer, Fault, Process};
use divvy_tests::nvidia::{Nvidia, description};
use divvy_tests::rootfs::record;
use divvy_tests::{Agent, eventually, requires};

fn samples(agent: &Agent) -> Samples {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(agent.client().get("/v1/samples")).unwrap()
}

fn of<'a>(samples: &'a Samples, id: &str) -> Option<&'a Measures> {
    let mut devices = samples.devices.iter();
    devices
        .find(|device| device.id == id)
        .map(|device| &device.measures)
}

fn text(measures: &Measures, name: &str) -> String {
    measures
        .get(name)
        .map_or_else(|| "absent".into(), ToString::to_string)
}

#[test]
fn every_figure_is_the_drivers_in_base_units_or_absent() {
    requires!(root);
    let nvidia = Nvidia::ready("h100x8");
    let agent = nvidia.agent("");
    nvidia.change(|machine| {
        let gpu = machine.gpu.get_mut("g0").unwrap();
        gpu.utilization = Some([37, 12]);
        gpu.temperature = Some(61);
        gpu.power_mw = Some([412_250, 700_000]);
        gpu.energy_mj = Some(5_000_125);
        gpu.clocks = Some([1980, 1981, 2619, 1545]);
        gpu.nvlink_kib = [3, 5];
        gpu.pcie_bytes = Some([7, 11]);
        gpu.ecc_corrected = 2;
        gpu.throttle = vec!["sw-power-cap".into()];
        gpu.used_mib = 100;
        machine.gpu.get_mut("g1").unwrap().lost = true;
        machine.gpu.get_mut("g2").unwrap().temperature = None;
        machine.fault.push(Fault {
            call: "nvmlDeviceGetPowerUsage".into(),
            nth: None,
            gpu: Some("g3".into()),
            after: false,
            answer: Answer::Code(999),
        });
    });
    let uuid = |name: &str| description("h100x8").gpu[name].uuid.clone();
    assert!(eventually(|| samples(&agent)
        .devices
        .iter()
        .any(|d| d.id == uuid("g0"))));
    let samples = samples(&agent);
    let first = of(&samples, &uuid("g0")).unwrap();
    for (name, value) in [
        ("utilization_ratio", "0.37"),
        ("memory_busy_ratio", "0.12"),
        ("temperature_celsius", "61"),
        ("power_watts", "412.25"),
        ("power_limit_watts", "700"),
        ("energy_joules_total", "5000.125"),
        ("graphics_clock_hertz", "1980000000"),
        ("sm_clock_hertz", "1981000000"),
        ("memory_clock_hertz", "2619000000"),
        ("video_clock_hertz", "1545000000"),
        ("nvlink_sent_bytes_total", "3072"),
        ("nvlink_received_bytes_total", "5120"),
        ("pcie_sent_bytes_total", "7"),
        ("pcie_received_bytes_total", "11"),
        ("ecc_corrected_errors_total", "2"),
        ("ecc_uncorrected_errors_total", "0"),
        ("slowed_by_power_ratio", "1"),
        ("slowed_by_heat_ratio", "0"),
        ("memory_used_bytes", "104857600"),
        ("memory_total_bytes", "85520809984"),
        // Cooled passively; and not counted by this driver.
        ("fan_ratio", "absent"),
        ("slowed_by_heat_seconds_total", "absent"),
    ] {
        assert_eq!(text(first, name), value, "{name}");
    }
    assert!(
        of(&samples, &uuid("g1")).is_none(),
        "a lost one is not measured"
    );
    let third = of(&samples, &uuid("g2")).unwrap();
    assert_eq!(text(third, "temperature_celsius"), "absent");
    let fourth = of(&samples, &uuid("g3")).unwrap();
    assert_eq!(text(fourth, "power_watts"), "absent");
    assert_ne!(text(fourth, "energy_joules_total"), "absent");
    let page = agent.metrics();
    let line = format!(
        "divvy_device_power_watts{{device=\"cuda/{}\",plugin=\"cuda\"}} 412.25",
        uuid("g0")
    );
    assert!(page.contains(&line), "{page}");
}

#[test]
fn a_gpus_figure_is_never_a_slices() {
    requires!(root);
    let nvidia = Nvidia::ready("t4");
    let agent = nvidia.agent("");
    for name in ["a", "b"] {
        let run = format!("run -d --name {name} --cpu 0.1 --mem 64MiB --gpu 0.5 -- sleep 600");
        nvidia.machine.divvy(&run).run().succeeds();
    }
    let pid =
        |name: &str| u32::try_from(record(&nvidia.machine, name)["pid"].as_u64().unwrap()).unwrap();
    let process = |pid, memory_mib, utilization| Process {
        pid,
        memory_mib: Some(memory_mib),
        graphics: false,
        utilization: Some(utilization),
    };
    let processes = vec![
        process(pid("a"), 1000, 40),
        process(pid("b"), 500, 15),
        process(std::process::id(), 250, 5),
    ];
    nvidia.change(|machine| {
        let gpu = machine.gpu.values_mut().next().unwrap();
        gpu.utilization = Some([60, 20]);
        gpu.process = processes;
        gpu.used_mib = 0;
    });
    let mib = |count: u64| (count << 20).to_string();
    let right = || {
        let samples = samples(&agent);
        let used = |name: &str, measure: &str| {
            let workload = samples
                .workloads
                .iter()
                .find(|workload| workload.name == name)?;
            Some(text(&workload.devices.first()?.measures, measure))
        };
        let foreign = samples
            .foreign
            .iter()
            .map(|f| (f.pid, text(&f.measures, "memory_used_bytes")));
        used("a", "memory_used_bytes") == Some(mib(1000))
            && used("a", "utilization_ratio").as_deref() == Some("0.4")
            && used("b", "memory_used_bytes") == Some(mib(500))
            && used("b", "utilization_ratio").as_deref() == Some("0.15")
            && foreign.eq([(std::process::id(), mib(250))])
    };
    assert!(eventually(right), "{:#?}", samples(&agent));
}

#[test]
fn instances_have_their_own_memory() {
    requires!(root);
    let nvidia = Nvidia::ready("a100-mig");
    let agent = nvidia.agent("");
    let machine = description("a100-mig");
    let instance = &machine.gpu["divided"].instance[2];
    let mine = || {
        let samples = samples(&agent);
        let measures = of(&samples, &instance.uuid)?;
        Some((
            text(measures, "memory_used_bytes"),
            text(measures, "utilization_ratio"),
        ))
    };
    let used = (instance.used_mib << 20).to_string();
    assert!(
        eventually(|| mine() == Some((used.clone(), "absent".into()))),
        "{:?}",
        mine()
    );
}
