//! Programs that use the stand-in driver through the bindings of `cudarc`.
//!
//! Each test runs twice: here it makes a machine and starts itself again with that machine's
//! libraries; there it is the program.

#![allow(clippy::unwrap_used)] // a test says what failed by failing

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    io::{BufRead, BufReader, Write},
    mem::MaybeUninit,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    ptr,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use cudarc::driver::{
    CudaContext, DriverError, LaunchConfig, PushKernelArg, result,
    sys::{self, CUresult, CUstream},
};
use divvy_nvidia_machine::{Description, Libraries, Machine, memory, stage};

const MIB: u64 = 1 << 20;
const CONTEXT: u64 = 256 * MIB;

const HEAD: &str = r#"
    summary = "a test's"
    driver = "580.105.08"
    cuda = "13.0"
"#;

const TWO: &str = r#"
    cuda_order = ["b", "a"]
    [kernel_us]
    slow = 150000
    default = 1000
    [gpu.a]
    uuid = "GPU-aaaaaaaa-0000-0000-0000-00000000000a"
    pci = "0000:53:00.0"
    pci_id = "0x2330"
    minor = 0
    name = "NVIDIA H100 80GB HBM3"
    compute_capability = "9.0"
    sms = 132
    memory_mib = 1100
    reserved_mib = 76
    nvlink = [{ switch = "s" }]
    [gpu.b]
    uuid = "GPU-bbbbbbbb-0000-0000-0000-00000000000b"
    pci = "0000:64:00.0"
    pci_id = "0x20b2"
    minor = 1
    name = "NVIDIA A100-SXM4-80GB"
    compute_capability = "8.0"
    sms = 108
    memory_mib = 81920
    nvlink = [{ switch = "s" }]
"#;

const MIG: &str = r#"
    [gpu.c]
    uuid = "GPU-cccccccc-0000-0000-0000-00000000000c"
    pci = "0000:75:00.0"
    pci_id = "0x2330"
    minor = 2
    name = "NVIDIA H100 80GB HBM3"
    compute_capability = "9.0"
    sms = 132
    memory_mib = 81559
    mig = true
    [gpu.c.profile."1g.10gb"]
    id = 19
    compute = 1
    memory = 1
    starts = [0, 1, 2]
    memory_mib = 9984
    sms = 16
    max = 7
    [[gpu.c.instance]]
    uuid = "MIG-11111111-0000-0000-0000-000000000001"
    profile = "1g.10gb"
    gi = 7
    start = 0
    [[gpu.c.instance]]
    uuid = "MIG-22222222-0000-0000-0000-000000000002"
    profile = "1g.10gb"
    gi = 8
    start = 1
"#;

const INSIDE: &str = "STANDIN_FOLDER";

/// The machine's folder, in the program.
fn folder() -> Option<PathBuf> {
    std::env::var_os(INSIDE).map(PathBuf::from)
}

/// Runs the body as a program on such a machine.
fn program(name: &str, machine: &str, variables: &[(&str, &str)], body: impl FnOnce()) {
    if folder().is_some() {
        return body();
    }
    let folder = tempfile::tempdir().unwrap();
    staged(machine, folder.path());
    let status = command(name, folder.path())
        .envs(variables.iter().copied())
        .status();
    assert!(status.unwrap().success(), "the program failed");
}

fn staged(machine: &str, folder: &Path) -> Machine {
    let here = std::env::current_exe().unwrap();
    let library = here.parent().unwrap().join("libdivvy_nvidia_cuda.so");
    let description = Description::parse(&format!("{HEAD}{machine}")).unwrap();
    let libraries = Libraries {
        nvml: library.clone(),
        cuda: library,
    };
    stage(&description, &libraries, folder).unwrap()
}

/// This test program, to run the test of that name on the machine in the folder.
fn command(name: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]);
    command.env(INSIDE, folder);
    command.env(
        "LD_LIBRARY_PATH",
        folder.join("root/usr/lib/x86_64-linux-gnu"),
    );
    command
        .env_remove("CUDA_VISIBLE_DEVICES")
        .env_remove("CUDA_DEVICE_ORDER");
    command
}

fn check(code: CUresult) -> Result<(), CUresult> {
    match code {
        CUresult::CUDA_SUCCESS => Ok(()),
        code => Err(code),
    }
}

/// `cuda!(cuInit(0))`: calls it.
macro_rules! cuda {
    ($name:ident($($arg:expr),* $(,)?)) => {{
        #[allow(unused_unsafe)]
        // SAFETY: the arguments are as the driver's API says, or it refuses them.
        let code = unsafe { sys::$name($($arg),*) };
        check(code)
    }};
}

/// The first byte of a UUID.
fn first(uuid: &sys::CUuuid) -> u8 {
    u8::from_ne_bytes(uuid.bytes[0].to_ne_bytes())
}

fn names() -> Vec<String> {
    let mut count = 0;
    cuda!(cuDeviceGetCount(&raw mut count)).unwrap();
    (0..count)
        .map(|device| result::device::get_name(device).unwrap())
        .collect()
}

/// A primary context that is current.
fn context(device: c_int) -> sys::CUcontext {
    cuda!(cuInit(0)).unwrap();
    let mut context = ptr::null_mut();
    cuda!(cuDevicePrimaryCtxRetain(&raw mut context, device)).unwrap();
    cuda!(cuCtxSetCurrent(context)).unwrap();
    context
}

fn free() -> u64 {
    let (mut free, mut total) = (0, 0);
    cuda!(cuMemGetInfo_v2(&raw mut free, &raw mut total)).unwrap();
    free as u64
}

fn allocate(bytes: u64) -> Result<u64, CUresult> {
    let mut address = 0;
    cuda!(cuMemAlloc_v2(
        &raw mut address,
        usize::try_from(bytes).unwrap()
    ))?;
    Ok(address)
}

fn function(name: &CStr) -> sys::CUfunction {
    let image = c".version 8.0\n.target sm_80\n.global .b8 table[64];\n\
        .visible .entry slow() { ret; }\n.visible .entry quick() { ret; }\n";
    let (mut module, mut function) = (ptr::null_mut(), ptr::null_mut());
    cuda!(cuModuleLoadData(&raw mut module, image.as_ptr().cast())).unwrap();
    cuda!(cuModuleGetFunction(
        &raw mut function,
        module,
        name.as_ptr()
    ))
    .unwrap();
    function
}

fn launch(function: sys::CUfunction, stream: CUstream) -> Result<(), CUresult> {
    let none = ptr::null_mut();
    cuda!(cuLaunchKernel(
        function, 1, 1, 1, 32, 1, 1, 0, stream, none, none
    ))
}

fn stream() -> CUstream {
    let mut stream = ptr::null_mut();
    cuda!(cuStreamCreate(&raw mut stream, 1)).unwrap();
    stream
}

fn event() -> sys::CUevent {
    let mut event = ptr::null_mut();
    cuda!(cuEventCreate(&raw mut event, 0)).unwrap();
    event
}

fn ms(took: Duration, least: u64, most: u64) {
    let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
    assert!(took >= least && took < most, "{took:?}");
}

#[test]
fn devices_are_the_described() {
    program("devices_are_the_described", TWO, &[], || {
        assert_eq!(CudaContext::device_count().unwrap(), 2);
        assert_eq!(names(), ["NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3"]);
        let context = CudaContext::new(1).unwrap();
        assert_eq!(context.compute_capability().unwrap(), (9, 0));
        assert_eq!(first(&context.uuid().unwrap()), 0xaa);
        use sys::CUdevice_attribute as A;
        let of = |attribute| context.attribute(attribute).unwrap();
        assert_eq!(of(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), 132);
        assert_eq!(of(A::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID), 0x53);
        assert_eq!(of(A::CU_DEVICE_ATTRIBUTE_INTEGRATED), 0);
        assert_eq!(of(A::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED), 1);
        let mut total = 0;
        cuda!(cuDeviceTotalMem_v2(&raw mut total, 1)).unwrap();
        assert_eq!(total as u64, 1024 * MIB);
        let mut text = [0; 16];
        cuda!(cuDeviceGetPCIBusId(text.as_mut_ptr(), 16, 1)).unwrap();
        let mut device = -1;
        cuda!(cuDeviceGetByPCIBusId(&raw mut device, text.as_ptr())).unwrap();
        assert_eq!(device, 1);
        let mut can = 0;
        cuda!(cuDeviceCanAccessPeer(&raw mut can, 0, 1)).unwrap();
        assert_eq!(can, 1);
        let error = cuda!(cuDeviceTotalMem_v2(&raw mut total, 2));
        assert_eq!(error, Err(CUresult::CUDA_ERROR_INVALID_DEVICE));
    });
}

#[test]
fn all_attributes_have_an_answer() {
    program("all_attributes_have_an_answer", TWO, &[], || {
        cuda!(cuInit(0)).unwrap();
        use sys::CUdevice_attribute as A;
        for number in 1..A::CU_DEVICE_ATTRIBUTE_MAX as u32 {
            // SAFETY: the enum's values are these, without a gap.
            let attribute = unsafe { std::mem::transmute::<u32, A>(number) };
            let mut value = 0;
            assert_eq!(
                cuda!(cuDeviceGetAttribute(&raw mut value, attribute, 0)),
                Ok(())
            );
        }
    });
}

#[test]
fn nothing_is_answered_before_init() {
    program("nothing_is_answered_before_init", TWO, &[], || {
        let mut number = 0;
        cuda!(cuDriverGetVersion(&raw mut number)).unwrap();
        assert_eq!(number, 13000);
        let early = cuda!(cuDeviceGetCount(&raw mut number));
        assert_eq!(early, Err(CUresult::CUDA_ERROR_NOT_INITIALIZED));
        let text = DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        assert_eq!(text.error_string().unwrap(), c"out of memory");
        cuda!(cuInit(0)).unwrap();
        cuda!(cuDeviceGetCount(&raw mut number)).unwrap();
        assert_eq!(number, 2);
    });
}

#[test]
fn without_the_kernels_part_there_is_no_device() {
    let machine = format!("loaded = false\n{TWO}");
    program(
        "without_the_kernels_part_there_is_no_device",
        &machine,
        &[],
        || {
            let mut number = 0;
            cuda!(cuDriverGetVersion(&raw mut number)).unwrap();
            assert_eq!(cuda!(cuInit(0)), Err(CUresult::CUDA_ERROR_NO_DEVICE));
            let count = cuda!(cuDeviceGetCount(&raw mut number));
            assert_eq!(count, Err(CUresult::CUDA_ERROR_NOT_INITIALIZED));
        },
    );
}

#[test]
fn the_kernels_part_may_be_another() {
    let machine = format!("kernel_driver = \"570.1\"\n{TWO}");
    program("the_kernels_part_may_be_another", &machine, &[], || {
        assert_eq!(
            cuda!(cuInit(0)),
            Err(CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH)
        );
    });
}

#[test]
fn nodes_may_be_missing() {
    let machine = format!("missing = [\"dev/nvidia-uvm\"]\n{TWO}");
    program("nodes_may_be_missing", &machine, &[], || {
        assert_eq!(cuda!(cuInit(0)), Err(CUresult::CUDA_ERROR_UNKNOWN));
    });
}

#[test]
fn a_gpu_without_a_node_is_not_there() {
    let machine = format!("missing = [\"dev/nvidia1\"]\n{TWO}");
    program("a_gpu_without_a_node_is_not_there", &machine, &[], || {
        cuda!(cuInit(0)).unwrap();
        assert_eq!(names(), ["NVIDIA H100 80GB HBM3"]);
    });
}

#[test]
fn a_lost_gpu_is_not_there() {
    let machine = TWO.replace("sms = 132", "sms = 132\nlost = true");
    program("a_lost_gpu_is_not_there", &machine, &[], || {
        cuda!(cuInit(0)).unwrap();
        assert_eq!(names(), ["NVIDIA A100-SXM4-80GB"]);
    });
}

#[test]
fn nothing_goes_on_a_gpu_that_is_lost_later() {
    program("nothing_goes_on_a_gpu_that_is_lost_later", TWO, &[], || {
        context(1);
        allocate(1).unwrap();
        let machine = Machine::at(&folder().unwrap()).unwrap();
        machine
            .change(|all| all.gpu.get_mut("a").unwrap().lost = true)
            .unwrap();
        assert_eq!(allocate(1), Err(CUresult::CUDA_ERROR_UNKNOWN));
    });
}

/// The first letters of the UUIDs that are visible so, on a machine of two whole GPUs and
/// one with MIG.
fn seen(name: &str, variables: &[(&str, &str)], expected: Result<&[u8], CUresult>) {
    program(name, &format!("{TWO}{MIG}"), variables, || {
        let uuids = cuda!(cuInit(0)).map(|()| {
            let count = result::device::get_count().unwrap();
            let uuid = |device| first(&result::device::get_uuid(device).unwrap());
            (0..count).map(uuid).collect::<Vec<u8>>()
        });
        assert_eq!(uuids.as_deref(), expected.as_ref().copied());
    });
}

macro_rules! visible {
    ($($name:ident: $variables:expr => $expected:expr;)*) => {
        $(
            #[test]
            fn $name() {
                seen(stringify!($name), &$variables, $expected);
            }
        )*
    };
}

const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";
const NONE: CUresult = CUresult::CUDA_ERROR_NO_DEVICE;

visible! {
    a_mig_device_is_alone: [] => Ok(&[0x11]);
    numbers_choose: [(VISIBLE, "1,0")] => Ok(&[0xaa, 0xbb]);
    numbers_follow_the_order: [(VISIBLE, "0"), ("CUDA_DEVICE_ORDER", "PCI_BUS_ID")] => Ok(&[0xaa]);
    the_number_of_a_gpu_with_mig_is_its_first: [(VISIBLE, "2")] => Ok(&[0x11]);
    uuids_choose: [(VISIBLE, "GPU-aaaaaaaa-0000-0000-0000-00000000000a")] => Ok(&[0xaa]);
    beginnings_of_uuids_choose: [(VISIBLE, "GPU-b,GPU-a")] => Ok(&[0xbb, 0xaa]);
    mig_devices_are_chosen: [(VISIBLE, "MIG-22222222-0000-0000-0000-000000000002")] => Ok(&[0x22]);
    only_one_of_them: [(VISIBLE, "MIG-2,MIG-1")] => Ok(&[0x22]);
    a_mig_parent_is_not_there: [(VISIBLE, "GPU-c")] => Err(NONE);
    what_is_wrong_ends_the_list: [(VISIBLE, "1,7,0")] => Ok(&[0xaa]);
    numbers_and_uuids_do_not_mix: [(VISIBLE, "GPU-a,0")] => Ok(&[0xaa]);
    minus_one_is_none: [(VISIBLE, "-1")] => Err(NONE);
    nothing_is_none: [(VISIBLE, "")] => Err(NONE);
    twice_is_none: [(VISIBLE, "0,0")] => Err(NONE);
}

#[test]
fn a_mig_device_is_a_part() {
    program("a_mig_device_is_a_part", MIG, &[], || {
        context(0);
        assert_eq!(names(), ["NVIDIA H100 80GB HBM3 MIG 1g.10gb"]);
        assert_eq!(free(), 9984 * MIB - CONTEXT);
        let mut sms = 0;
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        cuda!(cuDeviceGetAttribute(&raw mut sms, attribute, 0)).unwrap();
        assert_eq!(sms, 16);
        // Before: to read the description closes it, and with that the process is unknown.
        let machine = Machine::at(&folder().unwrap()).unwrap();
        allocate(100 * MIB).unwrap();
        let used = |gi| memory::used(&machine, "c", gi).unwrap();
        assert_eq!(
            used(Some(7)),
            [(Some(std::process::id()), 100 * MIB + CONTEXT)]
        );
        assert_eq!(used(Some(8)), []);
        assert_eq!(used(None), []);
    });
}

#[test]
fn memory_is_counted_exactly() {
    program("memory_is_counted_exactly", TWO, &[], || {
        context(1);
        let all = 1024 * MIB - CONTEXT;
        assert_eq!(free(), all);
        let one = allocate(1000).unwrap();
        assert_eq!(free(), all - 1024);
        assert_eq!(allocate(all), Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY));
        let rest = allocate(all - 1024).unwrap();
        assert_eq!(free(), 0);
        assert_eq!(allocate(1), Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY));
        cuda!(cuMemFree_v2(one)).unwrap();
        assert_eq!(
            cuda!(cuMemFree_v2(one)),
            Err(CUresult::CUDA_ERROR_INVALID_VALUE)
        );
        assert_eq!(
            cuda!(cuMemFree_v2(rest + 512)),
            Err(CUresult::CUDA_ERROR_INVALID_VALUE)
        );
        assert_eq!(free(), 1024);
        assert_eq!(allocate(0), Err(CUresult::CUDA_ERROR_INVALID_VALUE));
        cuda!(cuDevicePrimaryCtxRelease_v2(1)).unwrap();
        let gone = cuda!(cuMemFree_v2(rest));
        assert_eq!(gone, Err(CUresult::CUDA_ERROR_INVALID_VALUE));
        context(1);
        assert_eq!(free(), all);
    });
}

#[test]
fn an_integrated_gpu_has_the_hosts_memory() {
    let machine = TWO
        .replace("memory_mib = 1100", "integrated = true")
        .replace("reserved_mib = 76", "");
    program(
        "an_integrated_gpu_has_the_hosts_memory",
        &machine,
        &[],
        || {
            context(1);
            let mut total = 0;
            cuda!(cuDeviceTotalMem_v2(&raw mut total, 1)).unwrap();
            let said = std::fs::read_to_string("/proc/meminfo").unwrap();
            let kib = said
                .split_whitespace()
                .nth(1)
                .unwrap()
                .parse::<u64>()
                .unwrap();
            assert_eq!(total as u64, kib * 1024);
            assert!(free() < total as u64);
            assert_eq!(
                allocate(total as u64),
                Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY)
            );
            allocate(MIB).unwrap();
        },
    );
}

#[test]
fn a_whole_gpu_costs_nothing_until_it_is_touched() {
    program(
        "a_whole_gpu_costs_nothing_until_it_is_touched",
        TWO,
        &[],
        || {
            context(0);
            let bytes = free();
            let all = allocate(bytes).unwrap();
            assert!(bytes > 79 << 30);
            cuda!(cuMemsetD8_v2(all, 0, usize::try_from(bytes).unwrap())).unwrap();
            let last = all + bytes - 4;
            cuda!(cuMemsetD32_v2(last, 0x0102_0304, 1)).unwrap();
            let mut read = 0_u32;
            cuda!(cuMemcpyDtoH_v2((&raw mut read).cast(), last, 4)).unwrap();
            assert_eq!(read, 0x0102_0304);
            let over = cuda!(cuMemcpyDtoH_v2((&raw mut read).cast(), last + 1, 4));
            assert_eq!(over, Err(CUresult::CUDA_ERROR_INVALID_VALUE));
            let over = cuda!(cuMemsetD8_v2(last, 0, 5));
            assert_eq!(over, Err(CUresult::CUDA_ERROR_INVALID_VALUE));
        },
    );
}

#[test]
fn processes_fill_a_gpu_exactly() {
    let name = "processes_fill_a_gpu_exactly";
    if folder().is_some() {
        context(1);
        println!("\nready");
        std::io::stdin().read_line(&mut String::new()).unwrap();
        let mut total = CONTEXT;
        for bytes in [7 * MIB, MIB, 4096, 512] {
            while allocate(bytes).is_ok() {
                total += bytes;
            }
        }
        println!("\ntook {total}");
        std::io::stdin().read_line(&mut String::new()).unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let machine = staged(TWO, folder.path());
    let start = |_| {
        let mut command = command(name, folder.path());
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        child.unwrap()
    };
    let mut children: Vec<_> = (0..3).map(start).collect();
    let mut outputs: Vec<_> = children
        .iter_mut()
        .map(|child| BufReader::new(child.stdout.take().unwrap()).lines())
        .collect();
    let mut said = |place: usize, word: &str| {
        let mut lines = outputs[place].by_ref().map_while(Result::ok);
        lines
            .find_map(|line| line.strip_prefix(word).map(str::to_owned))
            .unwrap()
    };
    for place in 0..children.len() {
        said(place, "ready");
    }
    for child in &mut children {
        child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }
    let mut expected = Vec::new();
    for (place, child) in children.iter().enumerate() {
        let took: u64 = said(place, "took ").parse().unwrap();
        expected.push((Some(child.id()), took));
    }
    expected.sort_unstable();
    assert_eq!(memory::used(&machine, "a", None).unwrap(), expected);
    assert_eq!(
        expected.iter().map(|(_, bytes)| bytes).sum::<u64>(),
        1024 * MIB
    );
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(memory::used(&machine, "a", None).unwrap(), []);
}

#[test]
fn the_safe_interface_works() {
    program("the_safe_interface_works", TWO, &[], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let ptx = cudarc::nvrtc::Ptx::from_src(".version 8.0\n.visible .entry add() { ret; }");
        let module = context.load_module(ptx).unwrap();
        let function = module.load_function("add").unwrap();
        let mut numbers = stream.clone_htod(&[1.0_f32, 2.0, 3.0]).unwrap();
        let zeros = stream.alloc_zeros::<f32>(3).unwrap();
        let mut launch = stream.launch_builder(&function);
        launch.arg(&mut numbers).arg(&zeros);
        // SAFETY: the stand-in looks at no argument.
        unsafe { launch.launch(LaunchConfig::for_num_elems(3)) }.unwrap();
        assert_eq!(stream.clone_dtoh(&numbers).unwrap(), [1.0, 2.0, 3.0]);
        assert_eq!(stream.clone_dtoh(&zeros).unwrap(), [0.0; 3]);
        stream.synchronize().unwrap();
        assert!(module.load_function("sub").is_err());
    });
}

#[test]
fn work_takes_its_time() {
    program("work_takes_its_time", TWO, &[], || {
        context(0);
        let slow = function(c"slow");
        let (one, other) = (stream(), stream());
        let (before, between, after) = (event(), event(), event());
        let begin = Instant::now();
        cuda!(cuEventRecord(before, one)).unwrap();
        launch(slow, one).unwrap();
        cuda!(cuEventRecord(between, one)).unwrap();
        launch(slow, other).unwrap();
        cuda!(cuEventRecord(after, other)).unwrap();
        ms(begin.elapsed(), 0, 150);
        let not_yet = Err(CUresult::CUDA_ERROR_NOT_READY);
        assert_eq!(cuda!(cuStreamQuery(one)), not_yet);
        assert_eq!(cuda!(cuEventQuery(between)), not_yet);
        let mut elapsed = 0.0;
        assert_eq!(
            cuda!(cuEventElapsedTime_v2(&raw mut elapsed, before, after)),
            not_yet
        );
        cuda!(cuEventSynchronize(between)).unwrap();
        ms(begin.elapsed(), 150, 2000);
        cuda!(cuStreamSynchronize(other)).unwrap();
        // A device does one thing at a time.
        ms(begin.elapsed(), 300, 3000);
        cuda!(cuEventElapsedTime_v2(&raw mut elapsed, between, after)).unwrap();
        assert!((elapsed - 150.0).abs() < 1.0, "{elapsed}");
        cuda!(cuStreamQuery(one)).unwrap();
        cuda!(cuCtxSynchronize()).unwrap();
    });
}

#[test]
fn host_functions_are_called_in_their_turn() {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    unsafe extern "C" fn called(data: *mut c_void) {
        CALLS.fetch_add(u32::try_from(data.addr()).unwrap(), Ordering::SeqCst);
    }
    program("host_functions_are_called_in_their_turn", TWO, &[], || {
        context(0);
        let stream = stream();
        launch(function(c"slow"), stream).unwrap();
        let seven = ptr::without_provenance_mut(7);
        cuda!(cuLaunchHostFunc(stream, Some(called), seven)).unwrap();
        assert_eq!(CALLS.load(Ordering::SeqCst), 0);
        cuda!(cuStreamSynchronize(stream)).unwrap();
        assert_eq!(CALLS.load(Ordering::SeqCst), 7);
    });
}

#[test]
fn pools_keep_what_is_freed_until_all_is_synchronised() {
    program(
        "pools_keep_what_is_freed_until_all_is_synchronised",
        TWO,
        &[],
        || {
            context(1);
            let all = free();
            let stream = stream();
            let mut address = 0;
            cuda!(cuMemAllocAsync(&raw mut address, 1 << 20, stream)).unwrap();
            assert_eq!(free(), all - MIB);
            cuda!(cuMemFreeAsync(address, stream)).unwrap();
            assert_eq!(free(), all - MIB);
            cuda!(cuStreamSynchronize(stream)).unwrap();
            assert_eq!(free(), all);
            let mut pool = ptr::null_mut();
            cuda!(cuDeviceGetDefaultMemPool(&raw mut pool, 1)).unwrap();
            use sys::CUmemPool_attribute as A;
            let mut keep = u64::MAX;
            let threshold = A::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            cuda!(cuMemPoolSetAttribute(
                pool,
                threshold,
                (&raw mut keep).cast()
            ))
            .unwrap();
            cuda!(cuMemAllocAsync(&raw mut address, 3 << 20, stream)).unwrap();
            cuda!(cuMemFreeAsync(address, stream)).unwrap();
            cuda!(cuStreamSynchronize(stream)).unwrap();
            let of = |attribute| {
                let mut value = 0_u64;
                cuda!(cuMemPoolGetAttribute(
                    pool,
                    attribute,
                    (&raw mut value).cast()
                ))
                .unwrap();
                value
            };
            assert_eq!(of(A::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT), 3 * MIB);
            assert_eq!(of(A::CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 0);
            assert_eq!(of(A::CU_MEMPOOL_ATTR_USED_MEM_HIGH), 3 * MIB);
            // Whoever needs it gets it all the same.
            let whole = allocate(all).unwrap();
            assert_eq!(of(A::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT), 0);
            cuda!(cuMemFree_v2(whole)).unwrap();
        },
    );
}

#[test]
fn physical_memory_is_mapped() {
    program("physical_memory_is_mapped", TWO, &[], || {
        context(1);
        let all = free();
        // SAFETY: a C struct for which zeros are a value.
        let mut about: sys::CUmemAllocationProp = unsafe { MaybeUninit::zeroed().assume_init() };
        about.type_ = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        about.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        about.location.id = 1;
        let size = 4 << 20;
        let (mut handle, mut start) = (0, 0);
        let odd = cuda!(cuMemCreate(&raw mut handle, 1 << 20, &raw const about, 0));
        assert_eq!(odd, Err(CUresult::CUDA_ERROR_INVALID_VALUE));
        cuda!(cuMemCreate(&raw mut handle, size, &raw const about, 0)).unwrap();
        assert_eq!(free(), all - 4 * MIB);
        cuda!(cuMemAddressReserve(&raw mut start, 2 * size, 0, 0, 0)).unwrap();
        cuda!(cuMemMap(start, size, 0, handle, 0)).unwrap();
        cuda!(cuMemMap(start + 4 * MIB, size, 0, handle, 0)).unwrap();
        let fill = || cuda!(cuMemsetD8_v2(start, 7, size));
        assert_eq!(fill(), Err(CUresult::CUDA_ERROR_INVALID_VALUE));
        let access = sys::CUmemAccessDesc {
            location: about.location,
            flags: sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
        };
        cuda!(cuMemSetAccess(start, 2 * size, &raw const access, 1)).unwrap();
        fill().unwrap();
        // The same memory is at both addresses.
        let mut byte = 0_u8;
        cuda!(cuMemcpyDtoH_v2((&raw mut byte).cast(), start + 4 * MIB, 1)).unwrap();
        assert_eq!(byte, 7);
        cuda!(cuMemRelease(handle)).unwrap();
        assert_eq!(free(), all - 4 * MIB);
        cuda!(cuMemUnmap(start, 2 * size)).unwrap();
        assert_eq!(free(), all);
        cuda!(cuMemAddressFree(start, 2 * size)).unwrap();
    });
}

#[test]
fn arrays_are_copied_row_by_row() {
    program("arrays_are_copied_row_by_row", TWO, &[], || {
        context(1);
        let all = free();
        let shape = sys::CUDA_ARRAY_DESCRIPTOR {
            Width: 4,
            Height: 2,
            Format: sys::CUarray_format::CU_AD_FORMAT_UNSIGNED_INT8,
            NumChannels: 1,
        };
        let mut array = ptr::null_mut();
        cuda!(cuArrayCreate_v2(&raw mut array, &raw const shape)).unwrap();
        assert_eq!(free(), all - 512);
        let from = *b"abcd..efgh..";
        let mut to = [0; 8];
        // SAFETY: a C struct for which zeros are a value.
        let mut copy: sys::CUDA_MEMCPY2D = unsafe { MaybeUninit::zeroed().assume_init() };
        copy.srcMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_HOST;
        copy.srcHost = from.as_ptr().cast();
        copy.srcPitch = 6;
        copy.dstMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_ARRAY;
        copy.dstArray = array;
        (copy.WidthInBytes, copy.Height) = (4, 2);
        cuda!(cuMemcpy2D_v2(&raw const copy)).unwrap();
        cuda!(cuMemcpyAtoH_v2(to.as_mut_ptr().cast(), array, 0, 8)).unwrap();
        assert_eq!(&to, b"abcdefgh");
        copy.Height = 3;
        let over = cuda!(cuMemcpy2D_v2(&raw const copy));
        assert_eq!(over, Err(CUresult::CUDA_ERROR_INVALID_VALUE));
        cuda!(cuArrayDestroy(array)).unwrap();
        assert_eq!(free(), all);
    });
}

#[test]
fn host_memory_costs_the_device_nothing() {
    program("host_memory_costs_the_device_nothing", TWO, &[], || {
        context(1);
        let all = free();
        let mut memory = ptr::null_mut();
        cuda!(cuMemHostAlloc(&raw mut memory, 4096, 2)).unwrap();
        assert_eq!(free(), all);
        let mut address = 0;
        cuda!(cuMemHostGetDevicePointer_v2(&raw mut address, memory, 0)).unwrap();
        cuda!(cuMemsetD8_v2(address, 5, 4096)).unwrap();
        // SAFETY: it was allocated just now.
        assert_eq!(unsafe { memory.cast::<u8>().add(4095).read() }, 5);
        let mut kind = 0_u32;
        let attribute = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
        let to = (&raw mut kind).cast();
        cuda!(cuPointerGetAttribute(to, attribute, address)).unwrap();
        assert_eq!(kind, 1);
        assert_eq!(
            cuda!(cuMemFree_v2(address)),
            Err(CUresult::CUDA_ERROR_INVALID_VALUE)
        );
        cuda!(cuMemFreeHost(memory)).unwrap();
        let mut managed = 0;
        cuda!(cuMemAllocManaged(&raw mut managed, 4096, 1)).unwrap();
        assert_eq!(free(), all - 4096);
    });
}

#[test]
fn graphs_do_their_work_when_launched() {
    program("graphs_do_their_work_when_launched", TWO, &[], || {
        context(0);
        let address = allocate(64).unwrap();
        let stream = stream();
        let slow = function(c"slow");
        let (mut graph, mut executable) = (ptr::null_mut(), ptr::null_mut());
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
        cuda!(cuStreamBeginCapture_v2(stream, mode)).unwrap();
        launch(slow, stream).unwrap();
        cuda!(cuMemsetD8Async(address, 9, 64, stream)).unwrap();
        cuda!(cuStreamEndCapture(stream, &raw mut graph)).unwrap();
        cuda!(cuStreamQuery(stream)).unwrap();
        let mut count = 0;
        cuda!(cuGraphGetNodes(graph, ptr::null_mut(), &raw mut count)).unwrap();
        assert_eq!(count, 2);
        cuda!(cuGraphInstantiateWithFlags(&raw mut executable, graph, 0)).unwrap();
        let begin = Instant::now();
        cuda!(cuGraphLaunch(executable, stream)).unwrap();
        cuda!(cuGraphLaunch(executable, stream)).unwrap();
        cuda!(cuStreamSynchronize(stream)).unwrap();
        ms(begin.elapsed(), 300, 3000);
        let mut byte = 0_u8;
        cuda!(cuMemcpyDtoH_v2((&raw mut byte).cast(), address + 63, 1)).unwrap();
        assert_eq!(byte, 9);
        cuda!(cuGraphExecDestroy(executable)).unwrap();
        cuda!(cuGraphDestroy(graph)).unwrap();
    });
}

#[test]
fn a_forked_child_has_no_cuda() {
    program("a_forked_child_has_no_cuda", TWO, &[], || {
        context(0);
        // SAFETY: the child calls the driver and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let mut count = 0;
            let count = cuda!(cuDeviceGetCount(&raw mut count));
            let init = cuda!(cuInit(0));
            let right = Err(CUresult::CUDA_ERROR_NOT_INITIALIZED);
            // SAFETY: it ends this process at once, as a forked one should.
            unsafe { libc::_exit(i32::from(count != right || init != right)) };
        }
        let mut status = -1;
        // SAFETY: it waits for the child.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(status, 0);
        cuda!(cuCtxSynchronize()).unwrap();
    });
}

#[test]
fn faults_happen() {
    let machine = format!(
        "{TWO}\n[[fault]]\ncall = \"cuMemAlloc_v2\"\nnth = 2\nanswer = {{ code = 719 }}\n\
         [[fault]]\ncall = \"cuDeviceGetName\"\ngpu = \"a\"\nanswer = {{ code = 999 }}\n"
    );
    program("faults_happen", &machine, &[], || {
        context(0);
        allocate(1).unwrap();
        assert_eq!(allocate(1), Err(CUresult::CUDA_ERROR_LAUNCH_FAILED));
        allocate(1).unwrap();
        result::device::get_name(0).unwrap();
        let error = result::device::get_name(1).unwrap_err();
        assert_eq!(error.0, CUresult::CUDA_ERROR_UNKNOWN);
    });
}

#[test]
fn an_exclusive_gpu_has_one_process() {
    let machine = TWO.replace(
        "memory_mib = 1100",
        "memory_mib = 1100\ncompute_mode = \"Exclusive_Process\"",
    );
    let name = "an_exclusive_gpu_has_one_process";
    program(name, &machine, &[], || {
        cuda!(cuInit(0)).unwrap();
        let mut context = ptr::null_mut();
        let retained = cuda!(cuDevicePrimaryCtxRetain(&raw mut context, 1));
        if std::env::var_os("SECOND").is_some() {
            assert_eq!(retained, Err(CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE));
            return;
        }
        retained.unwrap();
        let mut second = command(name, &folder().unwrap());
        assert!(second.env("SECOND", "1").status().unwrap().success());
    });
}

#[test]
fn changes_are_seen() {
    program("changes_are_seen", TWO, &[], || {
        context(1);
        let before = free();
        allocate(MIB).unwrap();
        let machine = Machine::at(&folder().unwrap()).unwrap();
        machine
            .change(|all| all.gpu.get_mut("a").unwrap().used_mib = 100)
            .unwrap();
        let _ = machine.current();
        assert_eq!(free(), before - 101 * MIB);
        // It is still known whose memory it is.
        let used = memory::used(&machine, "a", None).unwrap();
        assert_eq!(used, [(Some(std::process::id()), CONTEXT + MIB)]);
    });
}

type Lookup4 = unsafe extern "C" fn(*const c_char, *mut *mut c_void, c_int, u64) -> u32;
type Lookup5 = unsafe extern "C" fn(*const c_char, *mut *mut c_void, c_int, u64, *mut u32) -> u32;

#[test]
fn functions_are_found_by_name_and_version() {
    program("functions_are_found_by_name_and_version", TWO, &[], || {
        // SAFETY: the library of this test's machine; the types are the header's.
        let library = unsafe { libloading::Library::new("libcuda.so.1") }.unwrap();
        let symbol = |name: &str| {
            // SAFETY: only its address is used.
            let found = unsafe { library.get::<fn()>(name) };
            found.map(|found| (*found as *const ()).addr()).unwrap()
        };
        // SAFETY: that is the type of the older one.
        let old = unsafe { library.get::<Lookup4>("cuGetProcAddress") }.unwrap();
        // SAFETY: that is the type of the newer one.
        let new = unsafe { library.get::<Lookup5>("cuGetProcAddress_v2") }.unwrap();
        let find = |name: &CStr, version| {
            let (mut found, mut status) = (ptr::null_mut(), 9);
            let to = (&raw mut found, &raw mut status);
            // SAFETY: places for the answers.
            let code = unsafe { new(name.as_ptr(), to.0, version, 0, to.1) };
            (code, status, found.addr())
        };
        let is = |name: &str| (0, 0, symbol(name));
        assert_eq!(find(c"cuMemAlloc", 12000), is("cuMemAlloc_v2"));
        assert_eq!(find(c"cuGetProcAddress", 11030), is("cuGetProcAddress"));
        assert_eq!(find(c"cuGetProcAddress", 13000), is("cuGetProcAddress_v2"));
        assert_eq!(find(c"cuCtxCreate", 11030), is("cuCtxCreate_v2"));
        assert_eq!(find(c"cuCtxCreate", 11080), is("cuCtxCreate_v3"));
        assert_eq!(find(c"cuCtxCreate", 13000), is("cuCtxCreate_v4"));
        assert_eq!(find(c"cuEventElapsedTime", 12000), is("cuEventElapsedTime"));
        assert_eq!(
            find(c"cuEventElapsedTime", 12080),
            is("cuEventElapsedTime_v2")
        );
        assert_eq!(find(c"cuMemAllocAsync", 11010), (0, 2, 0));
        assert_eq!(find(c"cuNothing", 12000), (0, 1, 0));
        assert_eq!(find(c"cuMemAlloc", 13010).0, 1);
        let mut found = ptr::null_mut();
        // SAFETY: a place for the answer.
        let code = unsafe { old(c"cuMemAlloc".as_ptr(), &raw mut found, 11080, 0) };
        assert_eq!((code, found.addr()), (0, symbol("cuMemAlloc_v2")));
        // SAFETY: a place for the answer.
        let code = unsafe { old(c"cuNothing".as_ptr(), &raw mut found, 11080, 0) };
        assert_eq!((code, found.addr()), (500, 0));
    });
}

#[test]
fn what_a_driver_lacks_is_not_there() {
    let machine = format!("lacks = [\"cuMemAllocAsync\"]\n{TWO}");
    program("what_a_driver_lacks_is_not_there", &machine, &[], || {
        // SAFETY: the library of this test's machine.
        let library = unsafe { libloading::Library::new("libcuda.so.1") }.unwrap();
        // SAFETY: it is only looked for.
        assert!(unsafe { library.get::<*const c_void>("cuMemAllocAsync") }.is_err());
        // SAFETY: it is only looked for.
        assert!(unsafe { library.get::<*const c_void>("cuMemFreeAsync") }.is_ok());
    });
}

/// May this test make namespaces?
fn namespaces() -> bool {
    let made = Command::new("unshare").args(["-m", "true"]).status();
    made.is_ok_and(|status| status.success())
}

#[test]
fn a_container_has_the_gpus_of_its_nodes() {
    let name = "a_container_has_the_gpus_of_its_nodes";
    if let Some(folder) = folder() {
        assert!(!folder.join("machine.toml").exists());
        let expected: Vec<String> = std::env::var("EXPECTED")
            .unwrap()
            .split(',')
            .map(str::to_owned)
            .collect();
        match cuda!(cuInit(0)) {
            Ok(()) => assert_eq!(names(), expected),
            Err(error) => assert_eq!(error as u32, expected[0].parse().unwrap()),
        }
        return;
    }
    if !namespaces() {
        eprintln!("skipped: this needs mount namespaces");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let machine = format!("{TWO}{MIG}");
    staged(&machine, folder.path());
    std::fs::remove_file(folder.path().join("machine.toml")).unwrap();
    // The container's own /dev, with some of the driver's nodes.
    let script = "mount -t tmpfs none /dev && mkdir /dev/nvidia-caps && \
        mknod -m 666 /dev/null c 1 3 && \
        for node in $NODES; do cp -a \"$STANDIN_FOLDER/root/dev/$node\" \"/dev/$node\" || exit 9; done; \
        exec \"$@\"";
    let capability = |gi, ci| {
        let number = divvy_nvidia_machine::capability(2, gi, ci);
        format!("nvidia-caps/nvidia-cap{number}")
    };
    let mig = format!(
        "nvidiactl nvidia-uvm nvidia2 {} {}",
        capability(8, None),
        capability(8, Some(0))
    );
    let half = format!("nvidiactl nvidia-uvm nvidia2 {}", capability(8, None));
    for (nodes, expected) in [
        ("", "100"),
        ("nvidia0 nvidia1", "100"),
        ("nvidiactl nvidia0", "999"),
        ("nvidiactl nvidia-uvm", "100"),
        ("nvidiactl nvidia-uvm nvidia0", "NVIDIA H100 80GB HBM3"),
        (&mig, "NVIDIA H100 80GB HBM3 MIG 1g.10gb"),
        (&half, "100"),
    ] {
        let inner = command(name, folder.path());
        let mut outer = Command::new("unshare");
        outer.args(["-m", "sh", "-c", script, "sh"]);
        outer.arg(inner.get_program()).args(inner.get_args());
        for (key, value) in inner.get_envs() {
            match value {
                Some(value) => outer.env(key, value),
                None => outer.env_remove(key),
            };
        }
        let status = outer.env("NODES", nodes).env("EXPECTED", expected).status();
        assert!(status.unwrap().success(), "{nodes}");
    }
}

#[test]
fn threads_may_use_it_at_once() {
    program("threads_may_use_it_at_once", TWO, &[], || {
        context(1);
        let all = free();
        let mut current = ptr::null_mut();
        cuda!(cuCtxGetCurrent(&raw mut current)).unwrap();
        let current = current.addr();
        std::thread::scope(|scope| {
            for number in 1..=8_u8 {
                scope.spawn(move || {
                    cuda!(cuCtxSetCurrent(ptr::without_provenance_mut(current))).unwrap();
                    let stream = stream();
                    for round in 0..50 {
                        let bytes = 4096 * (1 + round);
                        let mut address = 0;
                        cuda!(cuMemAllocAsync(&raw mut address, bytes, stream)).unwrap();
                        cuda!(cuMemsetD8Async(address, number, bytes, stream)).unwrap();
                        let mut byte = 0_u8;
                        let to = (&raw mut byte).cast();
                        let last = address + bytes as u64 - 1;
                        cuda!(cuMemcpyDtoHAsync_v2(to, last, 1, stream)).unwrap();
                        assert_eq!(byte, number);
                        cuda!(cuMemFreeAsync(address, stream)).unwrap();
                        cuda!(cuMemFree_v2(allocate(bytes as u64).unwrap())).unwrap();
                    }
                    cuda!(cuStreamSynchronize(stream)).unwrap();
                    cuda!(cuStreamDestroy_v2(stream)).unwrap();
                });
            }
        });
        cuda!(cuCtxSynchronize()).unwrap();
        assert_eq!(free(), all);
    });
}
