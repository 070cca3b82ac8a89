//! What the tests need of the machine, and getting it.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{Rules, Steps};
use crate::find;
use crate::shell::{self, say};

/// A program that tests use, where it comes from, and what is not tested
/// without it.
#[derive(Debug)]
struct Need {
    program: &'static str,
    /// Debian's and Ubuntu's package.
    debian: &'static str,
    /// Fedora's, openSUSE's, Arch's: where the name is another one.
    elsewhere: &'static str,
    without: &'static str,
    is_met: fn() -> bool,
}

const NEEDS: [Need; 5] = [
    Need {
        program: "runc",
        debian: "runc",
        elsewhere: "runc",
        without: "tests of the oci launcher with runc (those with the built-in runtime stay)",
        is_met: || find::program("runc").is_some(),
    },
    Need {
        program: "a static busybox",
        debian: "busybox-static",
        elsewhere: "busybox",
        without: "tests that start containers with their own root filesystem",
        // A dynamic one finds no C library in a root filesystem of its own.
        is_met: || {
            let file = find::program("busybox").and_then(|path| std::fs::read(path).ok());
            file.is_some_and(|bytes| find::is_static(&bytes))
        },
    },
    Need {
        program: "dockerd",
        debian: "docker.io",
        elsewhere: "docker or moby-engine",
        without: "tests of the docker launcher, which start engines of their own",
        is_met: || find::program("dockerd").is_some(),
    },
    Need {
        program: "Debian's Python",
        debian: "python3",
        elsewhere: "python3",
        without: "tests in which NVIDIA's Python clients look at GPUs",
        is_met: || Path::new(PYTHON).is_file(),
    },
    Need {
        program: "pip",
        debian: "python3-pip",
        elsewhere: "python3-pip or python-pip",
        without: "the packages of those tests, which are fetched once",
        // Of any Python: the packages are fetched for Debian's.
        is_met: || {
            [PYTHON, "python3"]
                .into_iter()
                .any(|python| shell::works(Command::new(python).args(["-m", "pip", "--version"])))
        },
    },
];

/// What `tests/src/clients.rs` copies into a root filesystem.
const PYTHON: &str = "/usr/bin/python3";

/// What a package manager of Debian's asks before it starts a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs what is missing where that is possible, and says what is not.
pub(super) fn install(rules: Rules, steps: &mut Steps) -> Result<()> {
    let root = rustix::process::geteuid().is_root();
    let missing = missing();
    if !missing.is_empty() && root && find::program("apt-get").is_some() {
        // What could not be installed is found missing below.
        let _ = steps
            .time("packages", || apt(&missing))
            .inspect_err(|why| say(format_args!("{why:#}")));
    }
    for need in self::missing() {
        steps.missing(rules, need.program, need.remedy())?;
    }
    if !root {
        let why =
            "not root: tests that start containers; sudo -E env PATH=$PATH cargo xtask test".into();
        steps.missing(rules, "containers", why)?;
    }
    Ok(())
}

fn missing() -> Vec<&'static Need> {
    NEEDS.iter().filter(|need| !(need.is_met)()).collect()
}

fn apt(missing: &[&Need]) -> Result<()> {
    let packages: Vec<&str> = missing.iter().map(|need| need.debian).collect();
    say(format_args!(
        "installing what the tests need: {}",
        packages.join(" ")
    ));
    let apt = |args: &[&str]| -> Result<Command> {
        let mut command = shell::command("apt-get")?;
        command.env("DEBIAN_FRONTEND", "noninteractive").args(args);
        Ok(command)
    };
    // A fresh machine has no lists. Old ones may do, so a failure goes on.
    if let Err(why) = shell::run(&mut apt(&["--quiet", "update"])?) {
        say(format_args!("{why:#}"));
    }
    let _services_stay_off = NoServices::begin();
    let install = ["--quiet", "install", "--yes", "--no-install-recommends"];
    shell::run(&mut apt(&[&install[..], &packages].concat())?)
}

/// While it lives, installing a package starts no service: the tests start what
/// they need themselves, and leave nothing running.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn begin() -> Self {
        use std::os::unix::fs::OpenOptionsExt;
        let made = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(POLICY)
            .and_then(|mut file| {
                // 101: not allowed, which is no failure (invoke-rc.d(8)).
                std::io::Write::write_all(&mut file, b"#!/bin/sh\nexit 101\n")
            });
        Self { ours: made.is_ok() }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            let _ = std::fs::remove_file(POLICY);
        }
    }
}

// === impl Need ===

impl Need {
    fn remedy(&self) -> String {
        format!(
            "{}; `apt-get install {}` (Debian, Ubuntu), elsewhere the package `{}`",
            self.without, self.debian, self.elsewhere
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_need_says_what_is_lost_and_how_to_get_it() {
        for need in &NEEDS {
            let remedy = need.remedy();
            assert!(
                remedy.contains("apt-get install") && remedy.contains(need.without),
                "{remedy}"
            );
        }
    }
}
