//! Divvy's plugin for NVIDIA GPUs.
//!
//! Finds GPUs and MIG instances through NVML and the kernel's files; hands out whole
//! GPUs, parts of one, and MIG instances, which it makes where it may; and gives containers
//! their device nodes and the driver's libraries, with or without NVIDIA's own toolkit.
//!
//! It promises that a GPU's identity is its UUID and never its place in a list, that
//! what a driver or a GPU does not know lowers the detail and hides nothing, that one
//! lost GPU hides no other, that it keeps no GPU open between two looks, and that it
//! does not start CUDA.
//!
//! It refuses to decide who gets what, to change anything on the machine but MIG, and that
//! only where it is told to, and to call a part of a GPU more firmly limited than it is:
//! parts are advisory, MIG instances and whole GPUs the hardware's.
//!
//! One idea per module: `root`, `libraries`, `nvml`, `kmsg`, `listen`, `heard` and `ffi` read;
//! `identity`, `links`, `mig`, `health`, `xid`, `conditions` and `discover` understand;
//! `watch` waits, `sample` measures; `slots` is what can be asked for; `prepare` and `require` are the way
//! into a container. Of MIG on demand, `layout` and `users` read, `partition` and `manage`
//! understand, `journal` remembers, `carve` acts, and `demand` is the way to it.

#![deny(unsafe_code)]

mod carve;
mod conditions;
mod config;
mod demand;
mod discover;
mod error;
mod ffi;
mod health;
mod heard;
mod identity;
mod journal;
mod kmsg;
mod layout;
mod libraries;
mod links;
mod listen;
mod manage;
mod mig;
mod nvml;
mod partition;
mod prepare;
mod require;
mod root;
mod sample;
mod slots;
mod users;
mod watch;
mod xid;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use divvy_plugin::{
    Discovery, Edits, Manifest, OpenRequest, Plugin, PluginError, PrepareRequest, ReleaseRequest,
    RestoreRequest, Samples, WatchReply, WatchRequest,
};
use nvml_wrapper::Nvml;

use conditions::Kept;
use config::Config;
use demand::Demand;
use discover::{Machine, Unit};
use error::Error;
use journal::{Entry, Store};
use manage::Written;
use nvml::Silent;
use prepare::Grant;
use root::Root;
use sample::Names;
use watch::Watching;

/// The plugin, opened.
#[derive(Debug)]
pub struct CudaPlugin {
    config: Config,
    root: Root,
    /// The plugin's own folder.
    state: Option<String>,
    kept: Kept,
    watching: Mutex<Watching>,
    names: Mutex<Option<Names>>,
    silent: Silent,
    demand: Demand,
}

/// The driver's libraries, as they are now.
struct Libraries {
    nvml: PathBuf,
    cuda: Option<PathBuf>,
}

impl CudaPlugin {
    fn libraries(&self) -> Result<Libraries, Error> {
        let named_or_found = |named: &Option<PathBuf>, name: &str| {
            named.clone().or_else(|| libraries::find(&self.root, name))
        };
        let nvml = named_or_found(&self.config.nvml, "libnvidia-ml.so.1");
        Ok(Libraries {
            nvml: nvml.ok_or_else(|| Error::NoLibrary(self.root.path().display().to_string()))?,
            cuda: named_or_found(&self.config.cuda, "libcuda.so.1"),
        })
    }

    /// Looks at the machine, now.
    ///
    /// NVML is started for each look and ended after it. While it runs it has every GPU
    /// open, and a GPU that is open can be neither reset nor cut by anybody.
    fn machine(&self, libraries: &Libraries) -> Result<Machine, Error> {
        self.same_version(libraries)?;
        let store = self.demand.managing();
        // Who waits too long looks anyway: it is the change that is refused then.
        let _look = store.and_then(|store| store.look(journal::LOOK).ok());
        let entries = store.map_or(Ok(vec![]), Store::entries);
        let nvml = nvml::start(&self.root, &libraries.nvml)?;
        self.read(&nvml, entries)
    }

    /// What NVML says of the machine; `entries` is what is written.
    fn read(&self, nvml: &Arc<Nvml>, entries: Result<Vec<Entry>, Error>) -> Result<Machine, Error> {
        let mut reading = nvml::read(nvml, &self.silent)?;
        let (entries, damage) = match entries {
            Ok(entries) => (entries, None),
            Err(error) => (vec![], Some(error.to_string())),
        };
        reading.warnings.extend(damage);
        let (boot, _) = self.root.boot();
        let written = Written {
            entries: &entries,
            boot: &boot,
            is_held: &|entry| self.demand.is_held(entry),
        };
        manage::read(
            nvml,
            &self.silent,
            &mut reading,
            self.demand.manage(),
            written,
        );
        Ok(discover::machine(&self.root, reading, &self.kept))
    }

    /// Libraries of another version than the kernel's part fail in the container,
    /// and may be there while an NVML that was loaded before still works.
    fn same_version(&self, found: &Libraries) -> Result<(), Error> {
        let Some(kernel) = self.root.driver_version() else {
            return Ok(());
        };
        for path in [Some(&found.nvml), found.cuda.as_ref()]
            .into_iter()
            .flatten()
        {
            match libraries::version(path) {
                Some(libraries) if libraries != kernel => {
                    return Err(Error::Mismatch { libraries, kernel });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Checks what is asked for against what the image needs and the driver has; the
    /// libraries, and `nvidia-smi` where it is wanted.
    fn suits(
        &self,
        request: &PrepareRequest,
        machine: &Machine,
        units: &[&Unit],
        found: &Libraries,
    ) -> Result<(PathBuf, Option<PathBuf>), Error> {
        if self.config.require {
            let facts = require::Facts {
                driver: machine.driver.as_deref(),
                cuda: machine.cuda.as_deref(),
                units,
            };
            require::check(&request.image_env, &facts)?;
        }
        let driver = || machine.driver.clone().unwrap_or_else(|| "unknown".into());
        let cuda = found.cuda.clone().ok_or_else(|| Error::NoCuda(driver()))?;
        let smi = self.config.nvidia_smi.then(|| self.smi()).transpose()?;
        Ok((cuda, smi))
    }

    /// What a container needs of the machine as it is.
    fn edits(
        &self,
        request: &PrepareRequest,
        machine: &Machine,
        found: &Libraries,
    ) -> Result<Edits, Error> {
        let grant = Grant::check(&request.slices, machine)?;
        let (cuda, smi) = self.suits(request, machine, &grant.units(), found)?;
        let libraries = libraries::driver(&self.root, &[&cuda, &found.nvml]);
        Ok(prepare::edits(&grant, self.root.access(), libraries, smi))
    }

    fn smi(&self) -> Result<PathBuf, Error> {
        let path = self.root.under("usr/bin/nvidia-smi");
        let file = path.canonicalize().ok().filter(|file| file.is_file());
        file.ok_or_else(|| Error::NoSmi(path.display().to_string()))
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
                "CUDA_MPS_*",
                "DIVVY_CUDA_*",
            ]
            .map(Into::into)
            .into(),
            config: config::keys(),
        }
    }

    /// Touches nothing: what is held must be released even where the driver is gone.
    fn open(request: &OpenRequest) -> Result<Self, PluginError> {
        let config = Config::parse(&request.config)?;
        let root = Root::new(&config.root);
        Ok(Self {
            demand: Demand::new(&config, &root, request.state.as_deref())?,
            root,
            config,
            state: request.state.clone(),
            kept: Kept::in_folder(request.state.as_deref()),
            watching: Mutex::default(),
            names: Mutex::default(),
            silent: Silent::default(),
        })
    }

    fn discover(&self) -> Result<Discovery, PluginError> {
        Ok(self.machine(&self.libraries()?)?.discovery())
    }

    fn watch(&self, request: &WatchRequest) -> Result<WatchReply, PluginError> {
        let watching = self.watching.lock();
        let mut watching = watching.unwrap_or_else(PoisonError::into_inner);
        Ok(self.wait(&mut watching, request)?)
    }

    /// Reads the machine anew: instances come and go.
    fn prepare(&self, request: &PrepareRequest) -> Result<Edits, PluginError> {
        if let Some(store) = self.demand.managing() {
            return Ok(self.make(request, store)?);
        }
        let found = self.libraries()?;
        let machine = self.machine(&found)?;
        Ok(self.edits(request, &machine, &found)?)
    }

    /// Undoes what `prepare` changed on the machine, in whichever host that was.
    fn release(&self, request: &ReleaseRequest) -> Result<(), PluginError> {
        Ok(self.unmake(request)?)
    }

    /// Whoever is not among these, and was not prepared since, holds nothing.
    fn restore(&self, request: &RestoreRequest) -> Result<(), PluginError> {
        let allocations = request.allocations.iter();
        self.demand.learn(allocations.map(|held| &held.allocation));
        Ok(())
    }

    fn sample(&self) -> Result<Samples, PluginError> {
        let names = self.names.lock();
        let mut names = names.unwrap_or_else(PoisonError::into_inner);
        Ok(self.measure(&mut names)?)
    }
}

/// The one symbol that the plugin host looks for.
#[allow(unsafe_code)] // what the macro expands to
mod export {
    divvy_plugin::export_plugin!(super::CudaPlugin);
}
