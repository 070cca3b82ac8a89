//! Divvy's plugin for NVIDIA GPUs.
//!
//! Finds GPUs and MIG instances through NVML, asks CUDA what only it knows, and reads
//! the rest from the kernel; hands out whole GPUs, parts of one, and MIG instances
//! that exist; and gives containers their device nodes and the driver's libraries,
//! with or without NVIDIA's own container toolkit.
//!
//! It promises that a GPU's identity is its UUID and never its place in a list, that
//! what a driver or a GPU does not know lowers the detail and hides nothing, that one
//! lost GPU hides no other, and that it makes no CUDA context.
//!
//! It refuses to decide who gets what, to change anything on the machine, and to call
//! a part of a GPU more firmly limited than it is: parts are advisory, MIG instances
//! and whole GPUs the hardware's.
//!
//! One idea per module: `root`, `libraries`, `nvml` and [`ffi`](self) read; `links`
//! and `discover` understand; `slots` is what can be asked for; `prepare` and
//! `require` are the way into a container.

#![deny(unsafe_code)]

mod config;
mod discover;
mod error;
mod ffi;
mod libraries;
mod links;
mod nvml;
mod prepare;
mod require;
mod root;
mod slots;

use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use divvy_plugin::{
    Discovery, Edits, Manifest, OpenRequest, Plugin, PluginError, PrepareRequest, ReleaseRequest,
    RestoreRequest,
};
use nvml_wrapper::Nvml;

use config::Config;
use discover::Machine;
use error::Error;
use ffi::{Cuda, CudaDevice};
use prepare::Grant;
use root::Root;

/// The plugin, opened.
#[derive(Debug)]
pub struct CudaPlugin {
    config: Config,
    root: Root,
    nvml_path: PathBuf,
    cuda_path: Option<PathBuf>,
    nvml: Mutex<Started>,
    cuda: OnceLock<Result<Vec<CudaDevice>, String>>,
}

/// NVML counts GPUs when it starts: it is started again when the kernel has others.
#[derive(Debug)]
struct Started {
    nvml: Nvml,
    addresses: Vec<String>,
}

impl CudaPlugin {
    /// Looks at the machine, now.
    fn machine(&self) -> Result<Machine, Error> {
        let mut started = self.nvml.lock().unwrap_or_else(PoisonError::into_inner);
        let addresses: Vec<String> = self.root.known().into_keys().collect();
        if addresses != started.addresses {
            *started = Started {
                nvml: nvml::start(&self.root, &self.nvml_path)?,
                addresses,
            };
        }
        let mut reading = nvml::read(&started.nvml)?;
        let cuda = self.cuda.get_or_init(|| match &self.cuda_path {
            Some(path) => Ok(Cuda::start(path)?.devices()),
            None => Err("libcuda.so.1 is not to be found".into()),
        });
        if let (Err(why), false) = (cuda, reading.gpus.is_empty()) {
            let warning = format!("CUDA cannot be asked, so some details are missing: {why}");
            reading.warnings.push(warning);
        }
        let cuda = cuda.as_ref().map(Vec::as_slice).unwrap_or_default();
        Ok(discover::machine(&self.root, reading, cuda))
    }
}

impl Plugin for CudaPlugin {
    fn manifest() -> Manifest {
        Manifest {
            name: "cuda".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "NVIDIA GPUs: whole, in parts, and MIG instances".into(),
            slots: slots::slots(),
            reserved_env: [
                "CUDA_VISIBLE_DEVICES",
                "CUDA_DEVICE_ORDER",
                "NVIDIA_VISIBLE_DEVICES",
                "NVIDIA_DRIVER_CAPABILITIES",
                "NVIDIA_REQUIRE_*",
                "NVIDIA_DISABLE_REQUIRE",
                "DIVVY_CUDA_*",
            ]
            .map(Into::into)
            .into(),
            config: config::keys(),
        }
    }

    /// Starts NVML: a driver that is not there is found out here, and asked for again
    /// later.
    fn open(request: &OpenRequest) -> Result<Self, PluginError> {
        let config = Config::parse(&request.config)?;
        let root = Root::new(&config.root);
        let named_or_found = |named: &Option<PathBuf>, name: &str| {
            named.clone().or_else(|| libraries::find(&root, name))
        };
        let nvml_path = named_or_found(&config.nvml, "libnvidia-ml.so.1")
            .ok_or_else(|| Error::NoLibrary(config.root.display().to_string()))?;
        let started = Started {
            nvml: nvml::start(&root, &nvml_path)?,
            addresses: root.known().into_keys().collect(),
        };
        Ok(Self {
            cuda_path: named_or_found(&config.cuda, "libcuda.so.1"),
            nvml: Mutex::new(started),
            cuda: OnceLock::new(),
            config,
            root,
            nvml_path,
        })
    }

    fn discover(&self) -> Result<Discovery, PluginError> {
        Ok(self.machine()?.discovery())
    }

    /// Reads the machine anew: instances come and go.
    fn prepare(&self, request: &PrepareRequest) -> Result<Edits, PluginError> {
        let machine = self.machine()?;
        let grant = Grant::check(&request.slices, &machine)?;
        let units = grant.units();
        if self.config.require {
            let facts = require::Facts {
                driver: machine.driver.as_deref(),
                cuda: machine.cuda.as_deref(),
                units: &units,
            };
            require::check(&request.image_env, &facts)?;
        }
        let driver = || machine.driver.clone().unwrap_or_else(|| "unknown".into());
        let cuda = self
            .cuda_path
            .as_ref()
            .ok_or_else(|| Error::NoCuda(driver()))?;
        let smi = match self.config.nvidia_smi {
            true => self.root.under("usr/bin/nvidia-smi").canonicalize().ok(),
            false => None,
        };
        let libraries = libraries::driver(&self.root, &[cuda, &self.nvml_path]);
        Ok(prepare::edits(&grant, self.root.access(), libraries, smi))
    }

    /// Nothing to undo: `prepare` changes nothing on the machine.
    fn release(&self, _: &ReleaseRequest) -> Result<(), PluginError> {
        Ok(())
    }

    /// Nothing to learn: no state is kept by allocation.
    fn restore(&self, _: &RestoreRequest) -> Result<(), PluginError> {
        Ok(())
    }
}

/// The one symbol that the plugin host looks for.
#[allow(unsafe_code)] // what the macro expands to
mod export {
    divvy_plugin::export_plugin!(super::CudaPlugin);
}
