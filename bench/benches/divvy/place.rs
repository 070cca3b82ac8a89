//! What is measured, and where: the release binaries, and folders of our own.

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use divvy_nvidia_machine::{Libraries, stage};
use tempfile::TempDir;

/// Built binaries and a temporary folder, removed when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    /// Cargo's target folder.
    pub(crate) target: PathBuf,
    /// The `divvy` executable.
    pub(crate) divvy: PathBuf,
    /// A plugin folder with the CPU plugin alone.
    pub(crate) cpu: PathBuf,
    /// A plugin folder with the CUDA plugin alone.
    pub(crate) cuda: PathBuf,
    /// A machine with eight GPUs that are not there.
    pub(crate) gpus: PathBuf,
    /// A plugin folder with the plugin that does nothing alone.
    pub(crate) tick: PathBuf,
    /// Owned by us, writable by nobody else, on a disk.
    folder: TempDir,
}

impl Place {
    /// Builds what is measured and lays it out.
    pub(crate) fn build() -> Result<Self, Box<dyn Error>> {
        // target/release/deps/divvy-HASH is what runs now.
        let exe = std::env::current_exe()?;
        let target = exe.ancestors().nth(3).ok_or("no target folder")?.to_owned();
        println!("building divvy and its plugins in release (minutes, the first time)");
        build(
            &[
                "divvy",
                "divvy-plugin-cpu",
                "divvy-plugin-cuda",
                "divvy-plugin-tick",
                "divvy-nvidia-nvml",
                "divvy-nvidia-cuda",
            ],
            &target,
        )?;
        // /tmp may be memory, which makes every commit free: /var/tmp is a disk.
        let base = std::env::var_os("DIVVY_BENCH_DIR").unwrap_or_else(|| "/var/tmp".into());
        let folder = tempfile::Builder::new()
            .prefix("divvy-bench-")
            .tempdir_in(base)?;
        let release = target.join("release");
        Ok(Self {
            divvy: release.join("divvy"),
            cpu: plugin_folder(&release, folder.path(), "cpu")?,
            cuda: plugin_folder(&release, folder.path(), "cuda")?,
            gpus: gpus(&release, folder.path())?,
            tick: plugin_folder(&release, folder.path(), "tick")?,
            target,
            folder,
        })
    }

    /// A new folder.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf, Box<dyn Error>> {
        let path = self.folder.path().join(name);
        fs::create_dir(&path)?;
        Ok(path)
    }
}

fn build(packages: &[&str], target: &Path) -> Result<(), Box<dyn Error>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let status = Command::new(cargo)
        .args(["build", "--release", "--target-dir"])
        .arg(target)
        .arg("--manifest-path")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("Cargo.toml"))
        .args(packages.iter().flat_map(|name| ["--package", name]))
        .status()?;
    if !status.success() {
        return Err(format!("{} could not be built", packages.join(" and ")).into());
    }
    Ok(())
}

fn plugin_folder(release: &Path, folder: &Path, name: &str) -> Result<PathBuf, Box<dyn Error>> {
    let to = folder.join(format!("plugin-{name}"));
    fs::create_dir(&to)?;
    let file = format!("libdivvy_plugin_{name}.so");
    fs::copy(release.join(&file), to.join(&file))?;
    Ok(to)
}

/// Eight H100; what stands for their `/`.
fn gpus(release: &Path, folder: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let libraries = Libraries {
        nvml: release.join("libdivvy_nvidia_nvml.so"),
        cuda: release.join("libdivvy_nvidia_cuda.so"),
    };
    let at = folder.join("h100x8");
    fs::create_dir(&at)?;
    stage(&divvy_tests::nvidia::description("h100x8"), &libraries, &at)?;
    Ok(at.join("root"))
}
