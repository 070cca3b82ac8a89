//! `divvy plugin`: the plugins that are installed, and one in the making.

mod check;
mod dev;
mod list;

use std::collections::BTreeMap;
use std::path::Path;

use super::args::{Global, Plugin, own_exe};
use super::output::Failure;
use crate::agent::AgentError;
use crate::plugin::check::{Interrupts, Subject};
use crate::plugin::{FindError, OpenError, PluginFile, open_file};

pub(super) async fn run(global: &Global, args: &Plugin) -> Result<u8, Failure> {
    match args {
        Plugin::List => list::run(global).await,
        Plugin::Check(args) => check::run(global, args).await,
        Plugin::Dev(args) => dev::run(global, args).await,
    }
}

/// The exit code after Ctrl-C: 128 and SIGINT.
const INTERRUPTED: u8 = 130;

fn interrupts() -> Result<Interrupts, Failure> {
    Ok(Interrupts::new().map_err(|e| AgentError::System("Ctrl-C cannot be waited for", e))?)
}

fn interrupted() -> u8 {
    tell!("divvy: interrupted; what was prepared is released");
    INTERRUPTED
}

/// The plugin that was named, or why its file cannot be trusted.
fn open(path: &Path) -> Result<Result<PluginFile, FindError>, Failure> {
    match open_file(path.to_owned()) {
        Ok(file) => Ok(Ok(file)),
        Err(error @ FindError::Open(..)) => Err(OpenError::from(error).into()),
        Err(error) => Ok(Err(error)),
    }
}

/// It, with the settings that are meant for it.
fn subject(global: &Global, file: PluginFile) -> Result<Subject, Failure> {
    let exe = own_exe()?;
    let machine = global.simulated()?;
    let mut config = machine
        .and_then(|mut m| m.plugins.remove(&file.name()))
        .unwrap_or_default();
    config.extend(settings(&global.set, &file.name())?);
    Ok(Subject::new(file, exe, config)?)
}

/// `KEY=VALUE`, or `NAME.KEY=VALUE` as for every other verb.
fn settings(words: &[String], plugin: &str) -> Result<BTreeMap<String, String>, Failure> {
    let mut settings = BTreeMap::new();
    for word in words {
        let Some((key, value)) = word.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return Err(Failure::words(
                "invalid_setting",
                format!("--set {word:?} is not KEY=VALUE, such as root=/tmp/machine"),
            ));
        };
        let own = key.strip_prefix(plugin).and_then(|k| k.strip_prefix('.'));
        settings.insert(own.unwrap_or(key).to_owned(), value.to_owned());
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_may_name_the_plugin() {
        let words = ["root=/a=b".to_owned(), "npu.deadline_ms=5".to_owned()];
        let settings = settings(&words, "npu").unwrap();
        assert_eq!(settings["root"], "/a=b");
        assert_eq!(settings["deadline_ms"], "5");
        for word in ["root", "=x"] {
            assert!(super::settings(&[word.to_owned()], "npu").is_err());
        }
    }
}
