//! Functions of the device: what is known of them, and launches.

use std::ffi::{c_int, c_uint, c_void};

use cudarc::driver::sys::{
    CUDA_LAUNCH_PARAMS, CUdevice, CUfunc_cache, CUfunction, CUfunction_attribute,
    CUfunctionLoadingState, CUkernel, CUlaunchConfig, CUoccupancyB2DSize, CUsharedconfig, CUstream,
};

use crate::{
    abi::Of,
    attributes,
    call::{id, out, out_if, read},
    capture::captured,
    code::{Code, Done, INVALID_HANDLE, INVALID_VALUE},
    context::{Here, here},
    driver::{self, Driver},
    memory::narrow,
    state::{State, of, of_mut},
    stream,
    work::{Work, perform},
};

/// Registers of a thread.
const REGISTERS: c_int = 32;
const MOST_THREADS: c_int = 1024;

fn attribute(device: usize, number: u32, function: usize) -> Done<c_int> {
    let driver = driver::get()?;
    let state = driver.state();
    let function = of(&state.functions, function)?;
    if let Some(set) = function.attributes.get(&number) {
        return Ok(*set);
    }
    let device = driver.devices.get(device).ok_or(INVALID_VALUE)?;
    let capability = device.capability.0 * 10 + device.capability.1;
    Ok(match number {
        0 => MOST_THREADS,
        4 => REGISTERS,
        5 | 6 => capability,
        // Dynamic shared memory, at first.
        8 => 48 << 10,
        9 => -1,
        1..=3 | 7 | 10..=15 => 0,
        _ => return Err(INVALID_VALUE),
    })
}

fn set_attribute(number: u32, value: c_int, function: usize, device: usize) -> Done {
    let driver = driver::get()?;
    let device = driver.devices.get(device).ok_or(INVALID_VALUE)?;
    let most = match number {
        8 => attributes::of(device, 97).unwrap_or(0),
        9 => 100,
        10..=15 => c_int::MAX,
        _ => return Err(INVALID_VALUE),
    };
    if value > most || value < -1 {
        return Err(INVALID_VALUE);
    }
    of_mut(&mut driver.state().functions, function)?
        .attributes
        .insert(number, value);
    Ok(())
}

/// How long a function takes, as work.
fn kernel(driver: &Driver, state: &State, function: usize) -> Done<Work> {
    let name = of(&state.functions, function)?
        .name
        .to_string_lossy()
        .into_owned();
    let description = driver.description();
    let times = &description.kernel_us;
    let us = times
        .get(&name)
        .or_else(|| times.get("default"))
        .copied()
        .unwrap_or(0);
    Ok(Work::Kernel {
        nanoseconds: us.saturating_mul(1000),
    })
}

/// What is launched of it.
struct Launch {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared: c_uint,
}

impl Launch {
    /// Can the device do it?
    fn check(&self, here: &Here, function: usize) -> Done {
        let threads = self
            .block
            .iter()
            .try_fold(1_u32, |all, n| all.checked_mul(*n));
        let threads = threads.filter(|n| (1..=1024).contains(n));
        let [_, grid_y, grid_z] = self.grid;
        let [.., block_z] = self.block;
        let empty = self.grid.contains(&0) || threads.is_none();
        if empty || grid_y > 65_535 || grid_z > 65_535 || block_z > 64 {
            return Err(INVALID_VALUE);
        }
        let most = attribute(here.device, 8, function)?;
        if c_int::try_from(self.shared).map_err(|_| INVALID_VALUE)? > most {
            return Err(INVALID_VALUE);
        }
        Ok(())
    }
}

/// A checked launch as work.
pub(crate) fn launched(
    here: &Here,
    function: CUfunction,
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared: c_uint,
) -> Done<Work> {
    if function.is_null() {
        return Err(INVALID_HANDLE);
    }
    Launch {
        grid,
        block,
        shared,
    }
    .check(here, id(function))?;
    kernel(here.driver, &here.driver.state(), id(function))
}

fn launch(
    function: CUfunction,
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared: c_uint,
    stream: CUstream,
) -> Done {
    let here = here()?;
    let work = launched(&here, function, grid, block, shared)?;
    let mut state = here.driver.state();
    let number = stream::number(&state, stream)?;
    if captured(&mut state, number, work.clone())?.is_some() {
        return Ok(());
    }
    perform(here.driver, &mut state, number, &work)
}

/// Blocks of so many threads on a multiprocessor at once.
fn blocks(threads: c_int, shared: usize) -> Done<c_int> {
    if !(1..=MOST_THREADS).contains(&threads) {
        return Err(INVALID_VALUE);
    }
    let here = here()?;
    let device = here.driver.devices.get(here.device).ok_or(INVALID_VALUE)?;
    let of = |number| attributes::of(device, number).unwrap_or(0);
    let warps = threads.div_euclid(32) + c_int::from(threads % 32 > 0);
    let by_threads = of(39) / (warps * 32);
    let by_registers = of(82) / (warps * 32 * REGISTERS);
    let taken = c_int::try_from(shared)
        .unwrap_or(c_int::MAX)
        .saturating_add(of(111));
    let by_shared = of(81).checked_div(taken).unwrap_or(c_int::MAX);
    Ok(by_threads.min(by_registers).min(by_shared).min(of(106)))
}

/// The block size that fills a device.
///
/// # Safety
/// The pointers may be written, the function called.
unsafe fn potential(
    grid: *mut c_int,
    block: *mut c_int,
    shared: CUoccupancyB2DSize,
    fixed: usize,
    limit: c_int,
) -> Done {
    let here = here()?;
    let device = here.driver.devices.get(here.device).ok_or(INVALID_VALUE)?;
    let most = if limit <= 0 {
        MOST_THREADS
    } else {
        limit.min(MOST_THREADS)
    };
    let mut best = (0, 0, 0);
    for threads in (32..=most).rev().step_by(32) {
        // SAFETY: the program asked for this call.
        let shared = shared.map_or(fixed, |of| unsafe { of(threads) });
        let blocks = blocks(threads, shared)?;
        if blocks * threads > best.0 {
            best = (blocks * threads, blocks, threads);
        }
    }
    let sms = c_int::try_from(device.sms).unwrap_or(0);
    // SAFETY: they may be written.
    unsafe {
        out(grid, best.1 * sms)?;
        out(block, best.2)
    }
}

fn exists(function: usize) -> Done {
    of(&driver::get()?.state().functions, function).map(|_| ())
}

driver! {
    fn cuFuncGetAttribute(
        pi: *mut c_int,
        attrib: Of<CUfunction_attribute>,
        hfunc: CUfunction,
    ) {
        out(pi, attribute(here()?.device, attrib.number(), id(hfunc))?)?;
    }

    fn cuFuncSetAttribute(
        hfunc: CUfunction,
        attrib: Of<CUfunction_attribute>,
        value: c_int,
    ) {
        set_attribute(attrib.number(), value, id(hfunc), here()?.device)?;
    }

    fn cuKernelGetAttribute(
        pi: *mut c_int,
        attrib: Of<CUfunction_attribute>,
        kernel: CUkernel,
        dev: CUdevice,
    ) on dev {
        let (device, _) = driver::get()?.device(dev)?;
        out(pi, attribute(device, attrib.number(), id(kernel))?)?;
    }

    fn cuKernelSetAttribute(
        attrib: Of<CUfunction_attribute>,
        val: c_int,
        kernel: CUkernel,
        dev: CUdevice,
    ) on dev {
        let (device, _) = driver::get()?.device(dev)?;
        set_attribute(attrib.number(), val, id(kernel), device)?;
    }

    fn cuKernelSetCacheConfig(
        kernel: CUkernel,
        config: Of<CUfunc_cache>,
        dev: CUdevice,
    ) on dev {
        let _ = config;
        exists(id(kernel))?;
    }

    fn cuFuncSetCacheConfig(hfunc: CUfunction, config: Of<CUfunc_cache>) {
        let _ = config;
        exists(id(hfunc))?;
    }

    fn cuFuncSetSharedMemConfig(hfunc: CUfunction, config: Of<CUsharedconfig>) {
        let _ = config;
        exists(id(hfunc))?;
    }

    fn cuFuncIsLoaded(state: *mut CUfunctionLoadingState, function: CUfunction) {
        exists(id(function))?;
        out(state, CUfunctionLoadingState::CU_FUNCTION_LOADING_STATE_LOADED)?;
    }

    fn cuFuncLoad(function: CUfunction) {
        exists(id(function))?;
    }

    fn cuLaunchKernel(
        f: CUfunction,
        gridDimX: c_uint,
        gridDimY: c_uint,
        gridDimZ: c_uint,
        blockDimX: c_uint,
        blockDimY: c_uint,
        blockDimZ: c_uint,
        sharedMemBytes: c_uint,
        hStream: CUstream,
        kernelParams: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) {
        let _ = (kernelParams, extra);
        let (grid, block) = ([gridDimX, gridDimY, gridDimZ], [blockDimX, blockDimY, blockDimZ]);
        launch(f, grid, block, sharedMemBytes, hStream)?;
    }

    fn cuLaunchCooperativeKernel(
        f: CUfunction,
        gridDimX: c_uint,
        gridDimY: c_uint,
        gridDimZ: c_uint,
        blockDimX: c_uint,
        blockDimY: c_uint,
        blockDimZ: c_uint,
        sharedMemBytes: c_uint,
        hStream: CUstream,
        kernelParams: *mut *mut c_void,
    ) {
        let _ = kernelParams;
        let (grid, block) = ([gridDimX, gridDimY, gridDimZ], [blockDimX, blockDimY, blockDimZ]);
        // All blocks have to be there at once.
        let here = here()?;
        let threads = block.iter().try_fold(1, |all: c_int, n| {
            all.checked_mul(c_int::try_from(*n).ok()?)
        });
        let at_once = blocks(threads.unwrap_or(0), narrow(sharedMemBytes.into()))?;
        let sms = here.driver.devices.get(here.device).map_or(0, |device| device.sms);
        let most = u64::from(sms) * u64::try_from(at_once).unwrap_or(0);
        let asked: u64 = grid.iter().map(|n| u64::from(*n)).product();
        if asked > most {
            return Err(Code(
                cudarc::driver::sys::CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE as u32,
            ));
        }
        launch(f, grid, block, sharedMemBytes, hStream)?;
    }

    fn cuLaunchCooperativeKernelMultiDevice(
        launchParamsList: *mut CUDA_LAUNCH_PARAMS,
        numDevices: c_uint,
        flags: c_uint,
    ) {
        let _ = flags;
        for place in 0..usize::try_from(numDevices).unwrap_or(0) {
            let one = read(launchParamsList.add(place))?;
            let grid = [one.gridDimX, one.gridDimY, one.gridDimZ];
            let block = [one.blockDimX, one.blockDimY, one.blockDimZ];
            launch(one.function, grid, block, one.sharedMemBytes, one.hStream)?;
        }
    }

    fn cuLaunchKernelEx(
        config: *const CUlaunchConfig,
        f: CUfunction,
        kernelParams: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) {
        let _ = (kernelParams, extra);
        let config = read(config)?;
        let grid = [config.gridDimX, config.gridDimY, config.gridDimZ];
        let block = [config.blockDimX, config.blockDimY, config.blockDimZ];
        launch(f, grid, block, config.sharedMemBytes, config.hStream)?;
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        numBlocks: *mut c_int,
        func: CUfunction,
        blockSize: c_int,
        dynamicSMemSize: usize,
    ) {
        exists(id(func))?;
        out(numBlocks, blocks(blockSize, dynamicSMemSize)?)?;
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        numBlocks: *mut c_int,
        func: CUfunction,
        blockSize: c_int,
        dynamicSMemSize: usize,
        flags: c_uint,
    ) {
        let _ = flags;
        exists(id(func))?;
        out(numBlocks, blocks(blockSize, dynamicSMemSize)?)?;
    }

    fn cuOccupancyMaxPotentialBlockSize(
        minGridSize: *mut c_int,
        blockSize: *mut c_int,
        func: CUfunction,
        blockSizeToDynamicSMemSize: CUoccupancyB2DSize,
        dynamicSMemSize: usize,
        blockSizeLimit: c_int,
    ) {
        exists(id(func))?;
        let shared = blockSizeToDynamicSMemSize;
        potential(minGridSize, blockSize, shared, dynamicSMemSize, blockSizeLimit)?;
    }

    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        minGridSize: *mut c_int,
        blockSize: *mut c_int,
        func: CUfunction,
        blockSizeToDynamicSMemSize: CUoccupancyB2DSize,
        dynamicSMemSize: usize,
        blockSizeLimit: c_int,
        flags: c_uint,
    ) {
        let _ = flags;
        exists(id(func))?;
        let shared = blockSizeToDynamicSMemSize;
        potential(minGridSize, blockSize, shared, dynamicSMemSize, blockSizeLimit)?;
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(
        dynamicSmemSize: *mut usize,
        func: CUfunction,
        numBlocks: c_int,
        blockSize: c_int,
    ) {
        exists(id(func))?;
        if numBlocks < 1 || !(1..=MOST_THREADS).contains(&blockSize) {
            return Err(INVALID_VALUE);
        }
        let here = here()?;
        let device = here.driver.devices.get(here.device).ok_or(INVALID_VALUE)?;
        let of = |number| attributes::of(device, number).unwrap_or(0);
        let each = (of(81) / numBlocks - of(111)).clamp(0, of(97));
        out(dynamicSmemSize, usize::try_from(each).unwrap_or(0))?;
    }

    fn cuOccupancyMaxPotentialClusterSize(
        clusterSize: *mut c_int,
        func: CUfunction,
        config: *const CUlaunchConfig,
    ) {
        let _ = config;
        exists(id(func))?;
        out(clusterSize, 8)?;
    }

    fn cuOccupancyMaxActiveClusters(
        numClusters: *mut c_int,
        func: CUfunction,
        config: *const CUlaunchConfig,
    ) {
        exists(id(func))?;
        let config = read(config)?;
        let threads = config.blockDimX * config.blockDimY * config.blockDimZ;
        let threads = c_int::try_from(threads).map_err(|_| INVALID_VALUE)?;
        let blocks = blocks(threads, narrow(config.sharedMemBytes.into()))?;
        let here = here()?;
        let sms = here.driver.devices.get(here.device).map_or(0, |device| device.sms);
        out_if(numClusters, blocks * c_int::try_from(sms).unwrap_or(0) / 8);
    }
}
