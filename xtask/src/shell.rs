//! Running other programs, and saying what happens.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A progress line.
pub(crate) fn say(line: impl std::fmt::Display) {
    eprintln!("xtask: {line}");
}

/// The last line of a chore that failed.
pub(crate) fn fail(error: &anyhow::Error) {
    eprintln!("xtask: error: {error:#}");
}

/// The root of the repository: chores mean the same from every folder of it.
pub(crate) fn root() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .filter(|root| root.join("Cargo.toml").is_file())
        .map(Path::to_owned)
        .with_context(|| {
            format!(
                "{} is gone; run `cargo xtask` in the repository that it was built in",
                here.display()
            )
        })
}

/// A program, in the root of the repository, without what `cargo run` put into
/// our environment: it must see what a person's shell would give it.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Result<Command> {
    let mut command = Command::new(program);
    command.current_dir(root()?);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let package = ["CARGO_PKG_", "CARGO_MANIFEST_"]
            .iter()
            .any(|p| text.starts_with(p));
        if package || ["LD_LIBRARY_PATH", "RUST_RECURSION_COUNT"].contains(&&*text) {
            command.env_remove(&name);
        }
    }
    Ok(command)
}

/// The cargo that runs us.
pub(crate) fn cargo<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Result<Command> {
    let mut command = command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))?;
    command.args(args);
    Ok(command)
}

/// Runs a program with our own standard streams; an error if it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run `{}`", show(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", show(command));
    }
    Ok(())
}

/// Does it run and succeed? Its words are dropped.
pub(crate) fn works(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// As a person would type it.
pub(crate) fn show(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    let words = std::iter::once(name).chain(command.get_args());
    words
        .map(|word| quoted(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_command_can_be_pasted() {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", "print('a b')", "--cpu=0.5", ""]);
        assert_eq!(
            show(&command),
            r#"python3 -c 'print('\''a b'\'')' --cpu=0.5 ''"#
        );
    }
}
