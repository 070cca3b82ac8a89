//! The example of a third-party plugin, built as its author would, and machines
//! with its devices.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::machine::{Machine, target_folder};

/// The repository's root.
#[must_use]
pub fn repository() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("a repository").to_owned()
}

/// The example's folder.
#[must_use]
pub fn example() -> PathBuf {
    repository().join("examples/plugin-npu")
}

/// Builds the example by cargo and its own lock file; the shared object. What is
/// built already is not built again.
///
/// # Panics
/// It does not build.
#[must_use]
pub fn built() -> PathBuf {
    build(&example());
    target().join("debug/libdivvy_plugin_npu.so")
}

/// The same with another version, as its author would make it, in a folder of
/// the test's.
///
/// # Panics
/// It does not build.
#[must_use]
pub fn built_as(version: &str, folder: &Path) -> PathBuf {
    let copy = folder.join("npu-next");
    fs::create_dir_all(copy.join("src")).expect("a folder");
    for entry in fs::read_dir(example().join("src")).expect("the example") {
        let file = entry.expect("a file").path();
        let name = file.file_name().expect("a name");
        fs::copy(&file, copy.join("src").join(name)).expect("a copy");
    }
    let api = repository().join("plugins/api");
    for file in ["Cargo.toml", "Cargo.lock"] {
        let text = fs::read_to_string(example().join(file)).expect("a file");
        let text = text
            // Another file name: cargo has one folder for what both build.
            .replace("\"divvy-plugin-npu\"", "\"divvy-plugin-npu-next\"")
            .replace("version = \"0.1.0\"", &format!("version = \"{version}\""))
            .replace("../../plugins/api", &api.display().to_string());
        fs::write(copy.join(file), text).expect("a file");
    }
    build(&copy);
    target().join("debug/libdivvy_plugin_npu_next.so")
}

fn target() -> PathBuf {
    target_folder().join("plugin-npu")
}

fn build(package: &Path) {
    let output = building(&mut Command::new(cargo()))
        .args(["build", "--quiet", "--locked", "--manifest-path"])
        .arg(package.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target())
        .output()
        .expect("cargo");
    let said = String::from_utf8_lossy(&output.stderr);
    let folder = package.display();
    assert!(output.status.success(), "{folder} does not build:\n{said}");
}

/// The cargo that runs the tests.
#[must_use]
pub fn cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}

/// Has cargo keep what the example is built of between builds, wherever the
/// package is; and only that: each test builds in a folder of its own, and what
/// nobody uses again would pile up.
pub fn building(command: &mut Command) -> &mut Command {
    command
        .env("CARGO_BUILD_BUILD_DIR", target())
        .env("CARGO_INCREMENTAL", "0")
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_PROFILE_TEST_DEBUG", "0")
        .env_remove("CARGO_TARGET_DIR")
}

/// A folder that stands for a machine's root, with NPUs in it.
#[derive(Debug)]
pub struct Npus(PathBuf);

impl Npus {
    /// No NPU yet, but their driver.
    ///
    /// # Panics
    /// The disk is full.
    #[must_use]
    pub fn new(machine: &Machine) -> Self {
        let root = machine.path().join("npus");
        fs::create_dir_all(root.join("sys/class/npu")).expect("a folder");
        Self(root)
    }

    /// Plugs one in: eight cores, with a character device of these numbers.
    ///
    /// # Panics
    /// The disk is full.
    pub fn plug(&self, name: &str, id: &str, dev: &str) {
        let folder = self.folder(name);
        // Whole or not at all, as a driver does it.
        let new = self.0.join(format!("{name}.new"));
        fs::create_dir_all(&new).expect("a folder");
        for (file, text) in [
            ("unique_id", id),
            ("dev", dev),
            ("cores", "8"),
            ("health", "healthy"),
        ] {
            fs::write(new.join(file), format!("{text}\n")).expect("a file");
        }
        fs::rename(&new, folder).expect("a folder");
    }

    /// Pulls one out.
    ///
    /// # Panics
    /// It is not there.
    pub fn unplug(&self, name: &str) {
        fs::remove_dir_all(self.folder(name)).expect("a unit");
    }

    /// What the driver says of one's health: `unhealthy: too hot`.
    ///
    /// # Panics
    /// It is not there.
    pub fn health(&self, name: &str, says: &str) {
        fs::write(self.folder(name).join("health"), says).expect("a unit");
    }

    /// The root folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// The setting that makes the plugin read it.
    #[must_use]
    pub fn setting(&self) -> String {
        format!("--set=npu.root={}", self.0.display())
    }

    /// The claims that the plugin keeps.
    #[must_use]
    pub fn claims(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.join("run/npu"));
        let entries = entries.into_iter().flatten().filter_map(Result::ok);
        let text = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
        let mut claims: Vec<String> = entries.map(|e| text(e.path())).collect();
        claims.sort();
        claims
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.0.join("sys/class/npu").join(name)
    }
}
