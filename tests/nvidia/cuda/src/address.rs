//! `cuGetProcAddress`: functions by name, in the version that a program was written for.

use std::{
    ffi::{c_char, c_int, c_void},
    ptr,
};

use cudarc::driver::sys::{CUdriverProcAddressQueryResult as Result, cuuint64_t};

use crate::{
    abi::Export,
    absent, array,
    call::{out, out_if, text},
    capture,
    code::{INVALID_VALUE, NOT_FOUND},
    context, copy, device,
    driver::machine,
    errors, event, function, graph, memory, module, per_thread, pointer, pool, stream,
    versions::VERSIONS,
    virtual_memory,
};

/// All that this library exports, as it is staged: without what the driver lacks.
fn exports() -> impl Iterator<Item = &'static Export> {
    let description = machine().map(|machine| machine.current());
    let lacks = move |export: &&Export| {
        let lacks = description.as_ref().map(|all| &all.lacks);
        lacks.is_some_and(|lacks| lacks.iter().any(|name| name == export.name))
    };
    let modules: &[&'static [Export]] = &[
        EXPORTS,
        absent::EXPORTS,
        array::EXPORTS,
        capture::EXPORTS,
        context::EXPORTS,
        copy::EXPORTS,
        device::EXPORTS,
        errors::EXPORTS,
        event::EXPORTS,
        function::EXPORTS,
        graph::EXPORTS,
        memory::EXPORTS,
        module::EXPORTS,
        per_thread::EXPORTS,
        pointer::EXPORTS,
        pool::EXPORTS,
        stream::EXPORTS,
        virtual_memory::EXPORTS,
    ];
    modules
        .iter()
        .copied()
        .flatten()
        .filter(move |export| !lacks(export))
}

enum Found {
    Function(*mut c_void),
    /// There is one, of a later version of CUDA.
    TooNew,
    None,
}

/// The function of that name that a program written for this version of CUDA expects.
fn find(name: &str, version: c_int) -> Found {
    // Before these there was another function of that name.
    let name = match name {
        "cuGraphInstantiate" if version >= 12_000 => "cuGraphInstantiateWithFlags",
        name => name,
    };
    // Programs that have a default stream for each thread may ask by suffix.
    let name = name.trim_end_matches("_ptsz").trim_end_matches("_ptds");
    let listed = VERSIONS.iter().find(|(known, _)| *known == name);
    let Some((_, versions)) = listed else {
        // Not of the API's typedefs; or with its version in its name already.
        return match exports().find(|export| export.name == name) {
            Some(export) => Found::Function(export.code.cast_mut().cast()),
            None => Found::None,
        };
    };
    let ours = device::version();
    let mut best = Found::None;
    for (number, since) in (1..).zip(*versions) {
        let symbol = match number {
            1 => name.to_owned(),
            number => format!("{name}_v{number}"),
        };
        let Some(export) = exports().find(|export| export.name == symbol) else {
            continue;
        };
        if *since <= version && *since <= ours {
            best = Found::Function(export.code.cast_mut().cast());
        } else if matches!(best, Found::None) {
            best = Found::TooNew;
        }
    }
    best
}

driver! {
    [older early]
    fn cuGetProcAddress(
        symbol: *const c_char,
        pfn: *mut *mut c_void,
        cudaVersion: c_int,
        flags: cuuint64_t,
    ) {
        let _ = flags;
        let Found::Function(function) = find(&text(symbol)?, cudaVersion) else {
            out(pfn, ptr::null_mut())?;
            return Err(NOT_FOUND);
        };
        out(pfn, function)?;
    }

    [early]
    fn cuGetProcAddress_v2(
        symbol: *const c_char,
        pfn: *mut *mut c_void,
        cudaVersion: c_int,
        flags: cuuint64_t,
        symbolStatus: *mut Result,
    ) {
        // As documented: a driver refuses versions later than its own.
        if flags > 3 || cudaVersion > device::version() {
            return Err(INVALID_VALUE);
        }
        let (function, status) = match find(&text(symbol)?, cudaVersion) {
            Found::Function(function) => {
                (function, Result::CU_GET_PROC_ADDRESS_SUCCESS)
            }
            Found::TooNew => {
                (ptr::null_mut(), Result::CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT)
            }
            Found::None => (ptr::null_mut(), Result::CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND),
        };
        out_if(symbolStatus, status);
        out(pfn, function)?;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Functions that `cudaTypedefs.h` leaves out.
    const OTHERS: [&str; 3] = ["cuProfilerInitialize", "cuProfilerStart", "cuProfilerStop"];

    #[test]
    fn all_exports_are_of_a_version() {
        let names: BTreeSet<&str> = exports().map(|export| export.name).collect();
        assert_eq!(names.len(), exports().count(), "one is there twice");
        for name in names {
            let base = name.trim_end_matches("_ptsz").trim_end_matches("_ptds");
            let (base, number) = match base.rsplit_once("_v") {
                Some((base, number)) => (base, number.parse().unwrap()),
                None => (base, 1),
            };
            let known = VERSIONS.iter().find(|(known, _)| *known == base);
            let versions = known.map_or(0, |(_, versions)| versions.len());
            assert!(number <= versions || OTHERS.contains(&base), "{name}");
        }
    }

    #[test]
    fn all_functions_are_exported_in_some_version() {
        for (base, versions) in VERSIONS {
            let last = match versions.len() {
                1 => (*base).to_owned(),
                number => format!("{base}_v{number}"),
            };
            let exported = exports().any(|export| export.name == last);
            assert!(exported || *base == "cuGraphInstantiate", "{last}");
        }
    }
}
