//! `cargo xtask fuzz`: coverage-guided fuzzing, with the stable toolchain.
//!
//! What cargo-fuzz does with a nightly one, less the sanitizers: safe Rust has
//! little use for them. The corpus grows in the target folder; `docs/` seeds it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::find;
use crate::shell::{self, say};

/// What libFuzzer needs of the compiler (as cargo-fuzz sets it).
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Ccodegen-units=1";
/// The fuzz targets, each with the longest input that makes sense, bytes.
const TARGETS: [(&str, u32); 2] = [("request", 4096), ("scenario", 65_536)];

/// Fuzzes each target for so many seconds; fails if one finds something.
pub(crate) fn run(seconds: u32) -> Result<()> {
    if find::program("c++").is_none() {
        bail!("libFuzzer is C++: c++ is not on PATH; `apt install g++`, `dnf install gcc-c++`");
    }
    let host = host()?;
    let target = target_folder()?.join("fuzz");
    say("building with coverage instrumentation (minutes, the first time)");
    let mut build = shell::cargo(["build", "--release", "--target", &host, "--target-dir"])?;
    build
        .arg(&target)
        .current_dir(shell::root()?.join("tests/fuzz"));
    shell::run(build.env("RUSTFLAGS", FLAGS))?;
    for (name, longest) in TARGETS {
        let corpus = target.join("corpus").join(name);
        fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
        if name == "scenario" {
            seed(&corpus)?;
        }
        say(format_args!("fuzzing {name} for {seconds} s"));
        let mut fuzz = shell::command(target.join(&host).join("release").join(name))?;
        // A decision that takes a second hangs, for all we care.
        fuzz.arg(&corpus).args([
            format!("-max_total_time={seconds}"),
            format!("-max_len={longest}"),
            "-timeout=10".to_owned(),
            "-print_final_stats=1".to_owned(),
            format!("-artifact_prefix={}/", target.display()),
        ]);
        shell::run(&mut fuzz)?;
    }
    Ok(())
}

/// The documentation's scenarios.
fn seed(corpus: &std::path::Path) -> Result<()> {
    let page = fs::read_to_string(shell::root()?.join("docs/allocation.md"))
        .context("cannot read docs/allocation.md")?;
    let blocks = page.split("```json scenario\n").skip(1);
    for (i, block) in blocks.filter_map(|b| b.split("\n```").next()).enumerate() {
        fs::write(corpus.join(format!("docs-{i}")), block).context("cannot seed the corpus")?;
    }
    Ok(())
}

/// The toolchain's own platform.
fn host() -> Result<String> {
    let output = shell::command("rustc")?
        .arg("-vV")
        .output()
        .context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("`rustc -vV` names no host")
}

/// Cargo's target folder.
fn target_folder() -> Result<PathBuf> {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => std::path::absolute(folder).context("CARGO_TARGET_DIR"),
        None => Ok(shell::root()?.join("target")),
    }
}
