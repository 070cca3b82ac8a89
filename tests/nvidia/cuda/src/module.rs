//! Modules and libraries: programs for the device, and what is in them.

use std::{
    collections::BTreeMap,
    ffi::{CString, c_char, c_int, c_uint, c_void},
    fs, ptr,
};

use cudarc::driver::sys::{
    CUdeviceptr, CUfunction, CUjit_option, CUjitInputType, CUkernel, CUlibrary, CUlibraryOption,
    CUlinkState, CUmodule, CUmoduleLoadingMode,
};

use crate::{
    abi::Of,
    call::{handle, id, out, out_if, text},
    code::{Done, FILE_NOT_FOUND, INVALID_HANDLE, INVALID_VALUE, NOT_FOUND},
    context::here,
    driver,
    image::Image,
    memory::narrow,
    state::{Kind, State, of, of_mut, taken},
};

pub(crate) struct Module {
    /// Its context; a library is of none.
    pub(crate) context: Option<usize>,
    image: Image,
    functions: BTreeMap<String, usize>,
    /// Where its variables are, of a library in each context that asked.
    variables: BTreeMap<(usize, String), u64>,
}

pub(crate) struct Function {
    pub(crate) module: usize,
    pub(crate) name: CString,
    /// Those that were set.
    pub(crate) attributes: BTreeMap<u32, c_int>,
}

/// What is put together to one program.
#[derive(Default)]
pub(crate) struct Linker {
    /// Texts one after the other, or one piece of machine code.
    linked: Vec<u8>,
}

fn load(image: Image, context: Option<usize>) -> Done<usize> {
    let driver = driver::get()?;
    let mut state = driver.state();
    let number = state.number();
    let mut variables = BTreeMap::new();
    if let Some(context) = context {
        for (name, bytes) in &image.variables {
            let address = driver.allocate(&mut state, context, *bytes, Kind::Variable)?;
            variables.insert((context, name.clone()), address);
        }
    }
    let module = Module {
        context,
        image,
        functions: BTreeMap::new(),
        variables,
    };
    state.modules.insert(number, module);
    Ok(number)
}

fn unload(number: usize) -> Done {
    let driver = driver::get()?;
    let mut state = driver.state();
    let module = taken(&mut state.modules, number)?;
    for address in module.variables.values() {
        // Gone already, if its context is.
        let _ = driver.free(&mut state, *address);
    }
    state
        .functions
        .retain(|_, function| function.module != number);
    Ok(())
}

/// # Safety
/// It is null or a C string.
unsafe fn file(name: *const c_char) -> Done<Image> {
    // SAFETY: it is a C string.
    let name = unsafe { text(name)? };
    Ok(Image::of(&fs::read(name).map_err(|_| FILE_NOT_FOUND)?))
}

fn function(state: &mut State, number: usize, name: &str) -> Done<usize> {
    let module = of(&state.modules, number)?;
    if let Some(function) = module.functions.get(name) {
        return Ok(*function);
    }
    if !module.image.has(name) {
        return Err(NOT_FOUND);
    }
    let function = state.number();
    let said = CString::new(name).map_err(|_| INVALID_VALUE)?;
    let attributes = BTreeMap::new();
    state.functions.insert(
        function,
        Function {
            module: number,
            name: said,
            attributes,
        },
    );
    of_mut(&mut state.modules, number)?
        .functions
        .insert(name.to_owned(), function);
    Ok(function)
}

/// All functions that a module is known to have.
fn functions(state: &mut State, number: usize) -> Done<Vec<usize>> {
    let names = of(&state.modules, number)?
        .image
        .functions
        .clone()
        .unwrap_or_default();
    names
        .iter()
        .map(|name| function(state, number, name))
        .collect()
}

fn variable(number: usize, name: &str) -> Done<(u64, u64)> {
    let here = here()?;
    let mut state = here.driver.state();
    let module = of(&state.modules, number)?;
    let key = (module.context.unwrap_or(here.context), name.to_owned());
    let known = module
        .image
        .variables
        .iter()
        .find(|(known, _)| known == name);
    let bytes = known.ok_or(NOT_FOUND)?.1;
    if let Some(address) = module.variables.get(&key) {
        return Ok((*address, bytes));
    }
    let address = here
        .driver
        .allocate(&mut state, key.0, bytes, Kind::Variable)?;
    of_mut(&mut state.modules, number)?
        .variables
        .insert(key, address);
    Ok((address, bytes))
}

/// Writes as many handles as there is room for.
///
/// # Safety
/// There is room for that many.
unsafe fn handles<T>(to: *mut *mut T, room: c_uint, from: &[usize]) -> Done {
    if to.is_null() {
        return Err(INVALID_VALUE);
    }
    for (place, function) in from
        .iter()
        .take(usize::try_from(room).unwrap_or(0))
        .enumerate()
    {
        // SAFETY: there is room.
        unsafe { to.add(place).write(handle(*function)) };
    }
    Ok(())
}

driver! {
    fn cuModuleLoad(module: *mut CUmodule, fname: *const c_char) {
        let here = here()?;
        out(module, handle(load(file(fname)?, Some(here.context))?))?;
    }

    fn cuModuleLoadData(module: *mut CUmodule, image: *const c_void) {
        let here = here()?;
        out(module, handle(load(Image::at(image)?, Some(here.context))?))?;
    }

    fn cuModuleLoadDataEx(
        module: *mut CUmodule,
        image: *const c_void,
        numOptions: c_uint,
        options: *mut CUjit_option,
        optionValues: *mut *mut c_void,
    ) {
        let _ = (numOptions, options, optionValues);
        let here = here()?;
        out(module, handle(load(Image::at(image)?, Some(here.context))?))?;
    }

    fn cuModuleLoadFatBinary(module: *mut CUmodule, fatCubin: *const c_void) {
        let here = here()?;
        out(module, handle(load(Image::at(fatCubin)?, Some(here.context))?))?;
    }

    fn cuModuleUnload(hmod: CUmodule) {
        unload(id(hmod))?;
    }

    fn cuModuleGetLoadingMode(mode: *mut CUmoduleLoadingMode) {
        out(mode, CUmoduleLoadingMode::CU_MODULE_LAZY_LOADING)?;
    }

    fn cuModuleGetFunction(hfunc: *mut CUfunction, hmod: CUmodule, name: *const c_char) {
        let name = text(name)?;
        out(hfunc, handle(function(&mut driver::get()?.state(), id(hmod), &name)?))?;
    }

    fn cuModuleGetFunctionCount(count: *mut c_uint, mod_: CUmodule) {
        let all = functions(&mut driver::get()?.state(), id(mod_))?;
        out(count, c_uint::try_from(all.len()).unwrap_or(0))?;
    }

    fn cuModuleEnumerateFunctions(
        functions: *mut CUfunction,
        numFunctions: c_uint,
        mod_: CUmodule,
    ) {
        let all = self::functions(&mut driver::get()?.state(), id(mod_))?;
        handles(functions, numFunctions, &all)?;
    }

    fn cuModuleGetGlobal_v2(
        dptr: *mut CUdeviceptr,
        bytes: *mut usize,
        hmod: CUmodule,
        name: *const c_char,
    ) {
        let (address, size) = variable(id(hmod), &text(name)?)?;
        out_if(dptr, address);
        out_if(bytes, narrow(size));
    }

    fn cuLibraryLoadData(
        library: *mut CUlibrary,
        code: *const c_void,
        jitOptions: *mut CUjit_option,
        jitOptionsValues: *mut *mut c_void,
        numJitOptions: c_uint,
        libraryOptions: *mut CUlibraryOption,
        libraryOptionValues: *mut *mut c_void,
        numLibraryOptions: c_uint,
    ) {
        let _ = (jitOptions, jitOptionsValues, numJitOptions);
        let _ = (libraryOptions, libraryOptionValues, numLibraryOptions);
        out(library, handle(load(Image::at(code)?, None)?))?;
    }

    fn cuLibraryLoadFromFile(
        library: *mut CUlibrary,
        fileName: *const c_char,
        jitOptions: *mut CUjit_option,
        jitOptionsValues: *mut *mut c_void,
        numJitOptions: c_uint,
        libraryOptions: *mut CUlibraryOption,
        libraryOptionValues: *mut *mut c_void,
        numLibraryOptions: c_uint,
    ) {
        let _ = (jitOptions, jitOptionsValues, numJitOptions);
        let _ = (libraryOptions, libraryOptionValues, numLibraryOptions);
        out(library, handle(load(file(fileName)?, None)?))?;
    }

    fn cuLibraryUnload(library: CUlibrary) {
        unload(id(library))?;
    }

    fn cuLibraryGetKernel(pKernel: *mut CUkernel, library: CUlibrary, name: *const c_char) {
        let name = text(name)?;
        out(pKernel, handle(function(&mut driver::get()?.state(), id(library), &name)?))?;
    }

    fn cuLibraryGetKernelCount(count: *mut c_uint, lib: CUlibrary) {
        let all = functions(&mut driver::get()?.state(), id(lib))?;
        out(count, c_uint::try_from(all.len()).unwrap_or(0))?;
    }

    fn cuLibraryEnumerateKernels(kernels: *mut CUkernel, numKernels: c_uint, lib: CUlibrary) {
        let all = functions(&mut driver::get()?.state(), id(lib))?;
        handles(kernels, numKernels, &all)?;
    }

    fn cuLibraryGetModule(pMod: *mut CUmodule, library: CUlibrary) {
        of(&driver::get()?.state().modules, id(library))?;
        out(pMod, handle(id(library)))?;
    }

    fn cuLibraryGetGlobal(
        dptr: *mut CUdeviceptr,
        bytes: *mut usize,
        library: CUlibrary,
        name: *const c_char,
    ) {
        let (address, size) = variable(id(library), &text(name)?)?;
        out_if(dptr, address);
        out_if(bytes, narrow(size));
    }

    fn cuKernelGetFunction(pFunc: *mut CUfunction, kernel: CUkernel) {
        of(&driver::get()?.state().functions, id(kernel))?;
        out(pFunc, handle(id(kernel)))?;
    }

    fn cuKernelGetLibrary(pLib: *mut CUlibrary, kernel: CUkernel) {
        out(pLib, handle(of(&driver::get()?.state().functions, id(kernel))?.module))?;
    }

    fn cuKernelGetName(name: *mut *const c_char, hfunc: CUkernel) {
        out(name, of(&driver::get()?.state().functions, id(hfunc))?.name.as_ptr())?;
    }

    fn cuFuncGetName(name: *mut *const c_char, hfunc: CUfunction) {
        out(name, of(&driver::get()?.state().functions, id(hfunc))?.name.as_ptr())?;
    }

    fn cuFuncGetModule(hmod: *mut CUmodule, hfunc: CUfunction) {
        out(hmod, handle(of(&driver::get()?.state().functions, id(hfunc))?.module))?;
    }

    fn cuLinkCreate_v2(
        numOptions: c_uint,
        options: *mut CUjit_option,
        optionValues: *mut *mut c_void,
        stateOut: *mut CUlinkState,
    ) {
        let _ = (numOptions, options, optionValues);
        let driver = driver::get()?;
        let mut state = driver.state();
        let number = state.number();
        state.linkers.insert(number, Linker::default());
        out(stateOut, handle(number))?;
    }

    fn cuLinkAddData_v2(
        state: CUlinkState,
        type_: Of<CUjitInputType>,
        data: *mut c_void,
        size: usize,
        name: *const c_char,
        numOptions: c_uint,
        options: *mut CUjit_option,
        optionValues: *mut *mut c_void,
    ) {
        let _ = (type_, name, numOptions, options, optionValues);
        if data.is_null() || isize::try_from(size).is_err() {
            return Err(INVALID_VALUE);
        }
        let more = std::slice::from_raw_parts(data.cast::<u8>(), size);
        let more = more.strip_suffix(&[0]).unwrap_or(more);
        let driver = driver::get()?;
        let mut all = driver.state();
        let linker = all.linkers.get_mut(&id(state)).ok_or(INVALID_HANDLE)?;
        linker.linked.extend_from_slice(more);
        linker.linked.push(b'\n');
    }

    fn cuLinkAddFile_v2(
        state: CUlinkState,
        type_: Of<CUjitInputType>,
        path: *const c_char,
        numOptions: c_uint,
        options: *mut CUjit_option,
        optionValues: *mut *mut c_void,
    ) {
        let _ = (type_, numOptions, options, optionValues);
        let more = fs::read(text(path)?).map_err(|_| FILE_NOT_FOUND)?;
        let driver = driver::get()?;
        let mut all = driver.state();
        let linker = all.linkers.get_mut(&id(state)).ok_or(INVALID_HANDLE)?;
        linker.linked.extend_from_slice(&more);
        linker.linked.push(b'\n');
    }

    fn cuLinkComplete(state: CUlinkState, cubinOut: *mut *mut c_void, sizeOut: *mut usize) {
        let driver = driver::get()?;
        let mut all = driver.state();
        let linker = all.linkers.get_mut(&id(state)).ok_or(INVALID_HANDLE)?;
        linker.linked.push(0);
        // It lives until the linker is destroyed.
        out(cubinOut, linker.linked.as_mut_ptr().cast())?;
        out_if(sizeOut, linker.linked.len());
    }

    fn cuLinkDestroy(state: CUlinkState) {
        taken(&mut driver::get()?.state().linkers, id(state))?;
    }

    fn cuLibraryGetManaged(
        dptr: *mut CUdeviceptr,
        bytes: *mut usize,
        library: CUlibrary,
        name: *const c_char,
    ) {
        let _ = (bytes, library, name);
        out_if(dptr, 0);
        return Err(NOT_FOUND);
    }

    fn cuLibraryGetUnifiedFunction(
        fptr: *mut *mut c_void,
        library: CUlibrary,
        symbol: *const c_char,
    ) {
        let _ = (library, symbol);
        out_if(fptr, ptr::null_mut());
        return Err(NOT_FOUND);
    }
}
