//! Staged machines, opened as any client of NVML would.
#![allow(dead_code, reason = "each test uses some of it")]
#![allow(clippy::unwrap_used, reason = "for tests only")]

use std::env;
use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};

use divvy_nvidia_machine::{Description, Gpu, Libraries, MACHINES, Machine, stage};
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

/// A machine's folder, gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) machine: Machine,
}

/// The stand-in as it was built for this test.
pub(crate) fn library() -> PathBuf {
    let test = env::current_exe().unwrap();
    let built = test.parent().unwrap().join("libdivvy_nvidia_nvml.so");
    assert!(built.exists(), "{}", built.display());
    built
}

/// A description by its file's name.
pub(crate) fn description(name: &str) -> Description {
    let text = fs::read_to_string(Path::new(MACHINES).join(format!("{name}.toml"))).unwrap();
    Description::parse(&text).unwrap()
}

/// Stages a description by its file's name.
pub(crate) fn staged(name: &str) -> Staged {
    staged_as(&description(name))
}

pub(crate) fn staged_as(description: &Description) -> Staged {
    let folder = tempfile::tempdir().unwrap();
    let libraries = Libraries {
        nvml: library(),
        cuda: library(),
    };
    let machine = stage(description, &libraries, folder.path()).unwrap();
    Staged { folder, machine }
}

impl Staged {
    /// Its `libnvidia-ml.so.1`.
    pub(crate) fn path(&self) -> PathBuf {
        self.machine.file().with_file_name("libnvidia-ml.so.1")
    }

    pub(crate) fn try_open(&self) -> Result<Nvml, NvmlError> {
        let path = self.path();
        Nvml::builder().lib_path(OsStr::new(&path)).init()
    }

    pub(crate) fn open(&self) -> Nvml {
        self.try_open().unwrap()
    }

    pub(crate) fn gpu(&self, name: &str, change: impl FnOnce(&mut Gpu)) {
        let change = |description: &mut Description| {
            change(description.gpu.get_mut(name).unwrap());
        };
        self.machine.change(change).unwrap();
    }
}

/// An answer is this one, or "not supported" where there is none.
#[track_caller]
pub(crate) fn same<T: PartialEq + Debug>(got: Result<T, NvmlError>, wanted: Option<T>) {
    match (got, wanted) {
        (Ok(got), Some(wanted)) => assert_eq!(got, wanted),
        (Err(NvmlError::NotSupported), None) => {}
        (got, wanted) => panic!("got {got:?}, wanted {wanted:?}"),
    }
}
