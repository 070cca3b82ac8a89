//! `cargo xtask dist`: an installed tree.
//!
//! `DIR/bin/divvy` finds its plugins in `DIR/lib/divvy/plugins`. `divvy` refuses
//! plugins that others can write, so modes are set whatever the umask is, and a
//! file is renamed into place: a running `divvy` keeps the one that it has.
//! `DIR/lib/divvy/machines` are machines that are not there, for `divvy --machine`.

use std::fs::{self, DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use divvy_nvidia_machine::{Description, Libraries, stage};

use crate::shell::{self, say};

/// What is installed where.
const FOLDERS: [&str; 7] = [
    "bin",
    "lib",
    "lib/divvy",
    "lib/divvy/plugins",
    "lib/divvy/machines",
    "lib/systemd",
    "lib/systemd/system",
];
/// The agent's systemd unit; `@DIR@` stands for the installed tree.
const UNIT: &str = include_str!("divvy.service");

/// What was built.
#[derive(Debug)]
struct Built {
    divvy: PathBuf,
    plugins: Vec<PathBuf>,
    machines: Vec<(String, Description)>,
    stand_ins: Option<Libraries>,
}

/// The packages that stand in for NVIDIA's libraries on machines that are not there.
const NVML: &str = "divvy-nvidia-nvml";
const CUDA: &str = "divvy-nvidia-cuda";

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

impl Target {
    fn is(&self, kind: &str) -> bool {
        self.kind.iter().any(|k| k == kind)
    }
}

/// One line of `cargo build --message-format=json`.
#[derive(Debug, Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    package_id: String,
    target: Option<Target>,
    #[serde(default)]
    filenames: Vec<PathBuf>,
    executable: Option<PathBuf>,
}

/// Builds and installs.
pub(crate) fn run(out: &Path, debug: bool) -> Result<()> {
    let out = std::path::absolute(out).context("--out")?;
    let built = build(debug)?;
    install(&built, &out)?;
    say(format_args!(
        "installed: {}",
        out.join("bin/divvy").display()
    ));
    Ok(())
}

/// Builds `divvy` and every plugin of the workspace.
fn build(debug: bool) -> Result<Built> {
    let metadata = metadata()?;
    let plugins = plugin_packages(&metadata);
    if plugins.is_empty() {
        bail!(
            "no package under plugins/ has a cdylib target; is its folder in the workspace's `members`?"
        );
    }
    let stand_ins = metadata
        .packages
        .iter()
        .filter(|p| [NVML, CUDA].contains(&p.name.as_str()));
    let packages: Vec<&Package> = plugins.iter().copied().chain(stand_ins).collect();
    let names = packages
        .iter()
        .map(|p| p.name.as_str())
        .collect::<Vec<_>>()
        .join(", ");
    let profile = if debug { "debug" } else { "release" };
    say(format_args!("building divvy and {names} ({profile})"));
    let mut command = shell::cargo([
        "build",
        "--locked",
        "--message-format=json-render-diagnostics",
        "-p",
        "divvy",
    ])?;
    for package in &packages {
        command.args(["-p", &package.name]);
    }
    if !debug {
        command.arg("--release");
    }
    // Cargo's progress stays on stderr; where the results lie is on stdout.
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run `{}`", shell::show(&command)))?;
    if !output.status.success() {
        bail!("divvy does not build; the compiler's reasons are above");
    }
    let built = built(&String::from_utf8_lossy(&output.stdout), &packages)?;
    Ok(Built {
        machines: machines(&metadata.workspace_root)?,
        ..built
    })
}

/// The machines that are described.
fn machines(root: &Path) -> Result<Vec<(String, Description)>> {
    let folder = root.join("tests/nvidia/machines");
    let entries =
        fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut machines = vec![];
    for entry in entries {
        let file = entry?.path();
        let read = || format!("cannot read {}", file.display());
        let text = fs::read_to_string(&file).with_context(read)?;
        let description = Description::parse(&text).with_context(read)?;
        let name = file.file_stem().with_context(read)?.to_string_lossy();
        machines.push((name.into_owned(), description));
    }
    machines.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(machines)
}

fn metadata() -> Result<Metadata> {
    let mut command = shell::cargo(["metadata", "--format-version=1", "--no-deps", "--locked"])?;
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run `cargo metadata`")?;
    if !output.status.success() {
        bail!(
            "`cargo metadata --locked` failed: if Cargo.lock is behind, `cargo metadata` updates it"
        );
    }
    serde_json::from_slice(&output.stdout).context("cargo metadata is not as expected")
}

/// The packages under `plugins/` that make a shared object.
fn plugin_packages(metadata: &Metadata) -> Vec<&Package> {
    let folder = metadata.workspace_root.join("plugins");
    metadata
        .packages
        .iter()
        .filter(|p| p.manifest_path.starts_with(&folder))
        .filter(|p| p.targets.iter().any(|t| t.is("cdylib")))
        .collect()
}

/// Where cargo says that the results are.
fn built(messages: &str, packages: &[&Package]) -> Result<Built> {
    let mut divvy = None;
    let mut objects: Vec<(String, PathBuf)> = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Message = serde_json::from_str(line)
            .with_context(|| format!("not a message of cargo's: {line}"))?;
        let Some(target) = message
            .target
            .filter(|_| message.reason == "compiler-artifact")
        else {
            continue;
        };
        if target.is("bin") && target.name == "divvy" {
            divvy = message.executable;
        } else if target.is("cdylib") && packages.iter().any(|p| p.id == message.package_id) {
            let shared = |f: &PathBuf| f.extension().is_some_and(|e| e == "so");
            objects.extend(
                message
                    .filenames
                    .into_iter()
                    .filter(shared)
                    .map(|f| (message.package_id.clone(), f)),
            );
        }
    }
    if let Some(missing) = packages
        .iter()
        .find(|p| !objects.iter().any(|(id, _)| *id == p.id))
    {
        bail!(
            "cargo built no shared object for {}; Divvy runs on Linux alone",
            missing.name
        );
    }
    let mut take = |name: &str| {
        let id = &packages.iter().find(|p| p.name == name)?.id;
        let at = objects.iter().position(|(of, _)| of == id)?;
        Some(objects.remove(at).1)
    };
    Ok(Built {
        divvy: divvy.context(
            "cargo built no executable `divvy`; core/Cargo.toml should have that [[bin]]",
        )?,
        stand_ins: take(NVML)
            .zip(take(CUDA))
            .map(|(nvml, cuda)| Libraries { nvml, cuda }),
        plugins: objects.into_iter().map(|(_, file)| file).collect(),
        machines: vec![],
    })
}

fn install(built: &Built, out: &Path) -> Result<()> {
    if let Some(parent) = out.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .with_context(|| format!("cannot make {}", parent.display()))?;
    }
    make_folder(out, false)?;
    for folder in FOLDERS {
        make_folder(&out.join(folder), folder.starts_with("lib/divvy"))?;
    }
    let unit = UNIT.replace("@DIR@", &out.display().to_string());
    let folder = tempfile::tempdir().context("a temporary folder")?;
    let file = folder.path().join("divvy.service");
    fs::write(&file, unit).with_context(|| format!("cannot write {}", file.display()))?;
    install_file(&file, &out.join("lib/systemd/system"), 0o644)?;
    for plugin in &built.plugins {
        install_file(plugin, &out.join("lib/divvy/plugins"), 0o644)?;
    }
    for (name, description) in &built.machines {
        let libraries = built
            .stand_ins
            .as_ref()
            .context("nothing stands in for a driver")?;
        let folder = out.join("lib/divvy/machines").join(name);
        make_folder(&folder, true)?;
        stage(description, libraries, &folder)
            .with_context(|| format!("cannot make the machine {name}"))?;
    }
    // Last: from now on it may be run.
    install_file(&built.divvy, &out.join("bin"), 0o755)
}

/// A folder of mode 0755. One that is there and not Divvy's alone (`/usr/bin`)
/// is left as it is.
fn make_folder(folder: &Path, own: bool) -> Result<()> {
    let made = match fs::create_dir(folder) {
        Ok(()) => true,
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && folder.is_dir() => false,
        Err(e) => return Err(e).with_context(|| format!("cannot make {}", folder.display())),
    };
    if made || own {
        fs::set_permissions(folder, Permissions::from_mode(0o755))
            .with_context(|| format!("cannot set the mode of {}", folder.display()))?;
    }
    Ok(())
}

/// Copies a file beside its place, then renames it into it.
fn install_file(from: &Path, folder: &Path, mode: u32) -> Result<()> {
    let name = from
        .file_name()
        .with_context(|| format!("{} has no name", from.display()))?;
    let to = folder.join(name);
    let wrong = || format!("cannot install {}", to.display());
    let mut source = File::open(from).with_context(|| format!("cannot read {}", from.display()))?;
    let mut temporary = tempfile::Builder::new()
        .prefix(".divvy-")
        .tempfile_in(folder)
        .with_context(wrong)?;
    std::io::copy(&mut source, &mut temporary).with_context(wrong)?;
    temporary
        .as_file()
        .set_permissions(Permissions::from_mode(mode))
        .with_context(wrong)?;
    temporary.as_file().sync_all().with_context(wrong)?;
    temporary.persist(&to).with_context(wrong)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, folder: &str, kinds: &[&str]) -> Package {
        let kind = kinds.iter().map(|&k| k.to_owned()).collect();
        Package {
            id: format!("path+file:///repo/{folder}#{name}@0.1.0"),
            name: name.into(),
            manifest_path: format!("/repo/{folder}/Cargo.toml").into(),
            targets: vec![Target {
                name: name.replace('-', "_"),
                kind,
            }],
        }
    }

    #[test]
    fn plugins_are_the_shared_objects_under_plugins() {
        let metadata = Metadata {
            workspace_root: "/repo".into(),
            packages: vec![
                package("divvy", "core", &["lib"]),
                package("divvy-plugin", "plugins/api", &["lib"]),
                package("divvy-plugin-cpu", "plugins/cpu", &["cdylib", "rlib"]),
                package("stand-in", "tests/stand-in", &["cdylib"]),
            ],
        };
        let names: Vec<_> = plugin_packages(&metadata)
            .iter()
            .map(|p| p.name.as_str())
            .collect();
        assert_eq!(names, ["divvy-plugin-cpu"]);
    }

    #[test]
    fn cargo_says_where_the_results_are() {
        let cpu = package("divvy-plugin-cpu", "plugins/cpu", &["cdylib", "rlib"]);
        let bin = r#"{"reason":"compiler-artifact","package_id":"d","target":{"name":"divvy","kind":["bin"]},
            "filenames":["/t/divvy"],"executable":"/t/divvy"}"#
            .replace('\n', "");
        let so = format!(
            r#"{{"reason":"compiler-artifact","package_id":"{}","target":{{"name":"divvy_plugin_cpu","kind":["cdylib","rlib"]}},"filenames":["/t/a.so","/t/a.rlib"],"executable":null}}"#,
            cpu.id
        );
        let end = r#"{"reason":"build-finished","success":true}"#;

        let found = built(&format!("{bin}\n{so}\n{end}\n"), &[&cpu]).unwrap();
        assert_eq!(found.divvy, Path::new("/t/divvy"));
        assert_eq!(found.plugins, [Path::new("/t/a.so")]);

        let without = built(&format!("{bin}\n{end}\n"), &[&cpu]).unwrap_err();
        assert!(
            without.to_string().contains("divvy-plugin-cpu"),
            "{without}"
        );
    }

    #[test]
    fn installed_files_replace_and_have_their_modes() {
        let temp = tempfile::tempdir().unwrap();
        let built = Built {
            divvy: temp.path().join("divvy"),
            plugins: vec![temp.path().join("libdivvy_plugin_x.so")],
            machines: vec![],
            stand_ins: None,
        };
        let out = temp.path().join("out");
        let plugins = out.join("lib/divvy/plugins");
        for content in ["old", "new"] {
            fs::write(&built.divvy, content).unwrap();
            fs::write(&built.plugins[0], content).unwrap();
            fs::set_permissions(&built.divvy, Permissions::from_mode(0o777)).unwrap();
            install(&built, &out).unwrap();
            fs::set_permissions(&plugins, Permissions::from_mode(0o775)).unwrap();
        }
        install(&built, &out).unwrap();

        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(fs::read_to_string(out.join("bin/divvy")).unwrap(), "new");
        assert_eq!(mode(&out.join("bin/divvy")), 0o755);
        assert_eq!(mode(&plugins.join("libdivvy_plugin_x.so")), 0o644);
        assert_eq!(mode(&plugins), 0o755);
        let unit = fs::read_to_string(out.join("lib/systemd/system/divvy.service")).unwrap();
        let start = format!("ExecStart={}/bin/divvy agent\n", out.display());
        assert!(unit.contains(&start), "{unit}");
        assert_eq!(
            fs::read_dir(&plugins).unwrap().count(),
            1,
            "nothing temporary is left"
        );
    }
}
