//! Machines with NVIDIA GPUs that are not there, for the tests' own `divvy`.

use std::fs;
use std::path::{Path, PathBuf};

use divvy_nvidia_machine::{Description, Libraries, Machine as Simulated, stage};
use serde_json::Value;

use crate::machine::{Machine, test_folder};
use crate::npu::repository;
use crate::{Agent, Divvy, rootfs};

/// A machine with these GPUs instead of the real one's.
#[derive(Debug)]
pub struct Nvidia {
    /// Plugins `cpu` and `cuda`, and a state.
    pub machine: Machine,
    simulated: Simulated,
    folder: PathBuf,
}

/// The names of the machines that come with Divvy.
///
/// # Panics
/// There are none.
#[must_use]
pub fn ready() -> Vec<String> {
    let files = fs::read_dir(machines()).expect("machines");
    let mut names: Vec<String> = files
        .map(|file| file.expect("a file").path())
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into())
        .collect();
    names.sort();
    names
}

/// The description of one of them.
///
/// # Panics
/// There is none of that name, or it is wrong.
#[must_use]
pub fn description(name: &str) -> Description {
    let file = machines().join(name).with_extension("toml");
    let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    Description::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

fn machines() -> PathBuf {
    repository().join("tests/nvidia/machines")
}

impl Nvidia {
    /// One of the machines that come with Divvy.
    #[must_use]
    pub fn ready(name: &str) -> Self {
        Self::of(&description(name))
    }

    /// The machine of this description.
    ///
    /// # Panics
    /// It cannot be made.
    #[must_use]
    pub fn of(description: &Description) -> Self {
        let machine = rootfs::machine();
        let plugin = test_folder().join("libdivvy_plugin_cuda.so");
        machine.install("cuda", &fs::read(plugin).expect("the plugin"));
        let folder = machine.path().join("nvidia");
        fs::create_dir(&folder).expect("a folder");
        let simulated = stage(description, &libraries(), &folder).expect("a machine");
        Self {
            machine,
            simulated,
            folder,
        }
    }

    /// What stands for `/`.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    /// The folder of its libraries.
    ///
    /// # Panics
    /// It has none.
    #[must_use]
    pub fn libraries(&self) -> PathBuf {
        let folders =
            ["x86_64", "aarch64"].map(|a| self.root().join(format!("usr/lib/{a}-linux-gnu")));
        folders
            .into_iter()
            .find(|f| f.is_dir())
            .expect("a folder of libraries")
    }

    /// The setting that has the plugin look at it.
    #[must_use]
    pub fn setting(&self) -> String {
        format!("--set=cuda.root={}", self.root().display())
    }

    /// Changes it, while programs use it.
    ///
    /// # Panics
    /// It cannot be changed so.
    pub fn change(&self, change: impl FnOnce(&mut Description)) {
        self.simulated.change(change).expect("another machine");
    }

    /// A command on it.
    #[must_use]
    pub fn divvy(&self, words: &str) -> Divvy {
        let mut words: Vec<&str> = words.split_whitespace().collect();
        let setting = self.setting();
        // Behind the verb: a setting before it gives way to those behind it.
        let verb = words.iter().position(|word| !word.starts_with('-'));
        words.insert(verb.map_or(0, |at| at + 1), &setting);
        self.machine.divvy(&words.join(" "))
    }

    /// An agent on it, with these lines in its configuration besides.
    ///
    /// # Panics
    /// It does not answer.
    #[track_caller]
    #[must_use]
    pub fn agent(&self, lines: &str) -> Agent {
        let root = self.root().display().to_string();
        self.machine
            .agent(&format!("[plugins.cuda]\nroot = {root:?}\n{lines}"))
    }

    /// Its GPUs and instances, as `divvy devices --json` shows them.
    ///
    /// # Panics
    /// It does not.
    #[track_caller]
    #[must_use]
    pub fn devices(&self) -> Vec<Value> {
        let answer = self.divvy("--json devices").run().succeeds().json();
        let devices = answer["devices"].as_array().expect("devices").iter();
        devices.filter(|d| d["plugin"] == "cuda").cloned().collect()
    }

    /// What the plugin found odd.
    ///
    /// # Panics
    /// There is no answer.
    #[track_caller]
    #[must_use]
    pub fn warnings(&self) -> String {
        let answer = self.divvy("--json plugin list").run().json();
        let plugins = answer["plugins"].as_array().expect("plugins").iter();
        let cuda = plugins.filter(|plugin| plugin["name"] == "cuda");
        cuda.map(|plugin| plugin["warnings"].to_string()).collect()
    }
}

/// The libraries' stand-ins, as cargo built them for these tests.
#[must_use]
pub fn libraries() -> Libraries {
    let built = |name: &str| -> PathBuf { Path::new(&test_folder()).join(name) };
    Libraries {
        nvml: built("libdivvy_nvidia_nvml.so"),
        cuda: built("libdivvy_nvidia_cuda.so"),
    }
}
