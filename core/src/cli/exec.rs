//! `divvy exec`.

use serde_json::Value;

use super::args::{Exec, Global};
use super::output::Failure;
use super::terminal::Terminal;
use super::{agent, need_root};
use crate::agent::AgentError;
use crate::launch::{self, check_workdir};
use crate::model::State;

pub(super) async fn run(global: &Global, args: Exec) -> Result<u8, Failure> {
    need_root("exec")?;
    if args.tty && !Terminal::is_there() {
        return Err(Failure::words(
            "no_terminal",
            "-t needs a terminal on standard input and output".into(),
        ));
    }
    let agent = agent(global)?;
    let record = agent.find(&args.name).await?;
    if record.state != State::Running {
        return Err(AgentError::NotRunning(record.name).into());
    }
    let folder = agent.folder(&record.id);
    let container = folder.container()?;

    // The same process as the workload's, with another command: same user,
    // same rights, same variables.
    let config = folder.bundle().join("config.json");
    let system = |e| AgentError::System("the workload's bundle cannot be read", e);
    let mut process: Value = std::fs::read(&config)
        .and_then(|bytes| Ok(serde_json::from_slice::<Value>(&bytes)?))
        .map_err(system)?
        .get_mut("process")
        .map(Value::take)
        .unwrap_or_default();
    process["args"] = launch::init_args(&args.command).into();
    process["terminal"] = args.tty.into();
    if let Some(dir) = args.workdir {
        check_workdir(&dir)?;
        process["cwd"] = dir.into();
    }
    if !args.env.is_empty() {
        let env = agent.check_env(args.env).await?;
        if let Some(all) = process["env"].as_array_mut() {
            for (name, value) in env {
                let mine = format!("{name}=");
                all.retain(|v| !v.as_str().is_some_and(|v| v.starts_with(&mine)));
                all.push((mine + &value).into());
            }
        }
    }
    let file = folder
        .path
        .join(format!("exec-{}.json", std::process::id()));
    serde_json::to_vec(&process)
        .map_err(std::io::Error::from)
        .and_then(|bytes| crate::sys::write_private(&file, &bytes))
        .map_err(system)?;
    let status = tokio::process::Command::from(container.exec_command(&file, args.tty))
        .status()
        .await;
    let _ = std::fs::remove_file(&file);
    let status = status.map_err(|e| AgentError::System("the runtime cannot be run", e))?;
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    Ok(code
        .and_then(|c| u8::try_from(c).ok())
        .unwrap_or(super::FAILED))
}
