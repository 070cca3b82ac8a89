//! `divvy run`.

use std::path::{Path, PathBuf};

use super::args::{Global, Launcher, Net, Run};
use super::follow::{End, follow};
use super::output::{Failure, amounts, printable};
use super::terminal::{RawTerminal, Signals, Terminal};
use super::{ask, divvy, fit, pull};
use crate::agent::{AgentError, RootRequest, RunRequest};
use crate::launch::{Identity, Network, Wanted, check_user_mount, docker};
use crate::model::{Amount, Exit, Record, check_workload_name, parse_amount};

pub(super) async fn run(global: &Global, args: Run) -> Result<u8, Failure> {
    if args.dry_run {
        if let Some(name) = &args.name {
            check_workload_name(name).map_err(AgentError::from)?;
        }
        return fit::show(global, &ask::request(&args.ask)?, "run").await;
    }
    let request = request(global, &args)?;
    if args.tty && !Terminal::is_there() && !args.detach {
        return Err(Failure::words(
            "no_terminal",
            "-t needs a terminal on standard input and output".into(),
        ));
    }
    let divvy = divvy(global, "run").await?;
    let mut workload = match &request.root {
        RootRequest::Image { path, .. } => {
            let unpacking = Progress::begin(&format!("unpacking {}", path.display()));
            let workload = divvy.run(request).await;
            unpacking.end();
            workload?
        }
        RootRequest::Engine { image } => {
            pull::pull(&divvy, image).await?;
            divvy.run(request).await?
        }
        _ => divvy.run(request).await?,
    };
    for note in workload.notes() {
        tell!("divvy: note: {}", printable(note));
    }
    let record = workload.record().clone();
    tracing::info!(
        "{}: {} with {}, {}",
        record.name,
        record.launcher,
        record.runtime,
        amounts(&record.asked, None)
    );
    if args.detach {
        workload.start().await?;
        say!("{}", record.name);
        return Ok(0);
    }
    let (events, input) = workload.attach().await?.split();
    let raw = if args.tty {
        Some(RawTerminal::enter()?)
    } else {
        None
    };
    // Before it runs: one that comes from now on is for the job.
    let signals = Signals::new()?;
    workload.start().await?;
    let end = follow(
        events,
        input,
        signals,
        args.interactive || args.tty,
        raw.is_some(),
    )
    .await;
    drop(raw);
    match end {
        End::Exit(exit) => Ok(report(&record, &exit)),
        End::Refused(fault) => Err(AgentError::Remote(fault).into()),
        End::Gone => Err(AgentError::Root(format!(
            "the monitor of {name} went away; the workload may still run: divvy ps, divvy logs {name}",
            name = record.name
        ))
        .into()),
    }
}

/// Words to a request; nothing is opened or taken.
fn request(global: &Global, args: &Run) -> Result<RunRequest, Failure> {
    let (image, command) = split_words(&args.words)?;
    let caller = caller();
    let current = std::env::current_dir()
        .and_then(|d| d.canonicalize())
        .map_err(|e| AgentError::System("the current folder is gone", e))?;
    let root = match (&args.rootfs, image) {
        (Some(folder), image) => {
            no_engine(args, "--rootfs")?;
            // With --rootfs every word is of the command.
            let command: Vec<String> = image.into_iter().chain(command).collect();
            return finish(
                global,
                args,
                caller,
                RootRequest::Folder(folder.clone()),
                command,
            );
        }
        (None, Some(image)) => image_root(global, args, &image)?,
        (None, None) => {
            no_engine(args, "a command without an image")?;
            RootRequest::Host { current }
        }
    };
    finish(global, args, caller, root, command)
}

fn finish(
    global: &Global,
    args: &Run,
    caller: Identity,
    root: RootRequest,
    command: Vec<String>,
) -> Result<RunRequest, Failure> {
    let state = global.settings()?.state;
    let on_host = matches!(root, RootRequest::Host { .. });
    let mut env = Vec::new();
    for text in &args.env {
        match text.split_once('=') {
            Some((name, value)) => env.push((name.to_owned(), value.to_owned())),
            None => match std::env::var(text) {
                Ok(value) => env.push((text.clone(), value)),
                Err(_) => return Err(AgentError::Env(text.clone()).into()),
            },
        }
    }
    if args.tty
        && let Ok(term) = std::env::var("TERM")
        && !env.iter().any(|(name, _)| name == "TERM")
    {
        env.push(("TERM".into(), term));
    }
    let shm_bytes = match &args.shm_size {
        Some(text) => Some(parse_amount(text, "--shm-size", "byte").map_err(AgentError::from)?),
        None => None,
    };
    Ok(RunRequest {
        resources: ask::request(&args.ask)?,
        name: args.name.clone(),
        root,
        command,
        env,
        // On the host's own root the job is the caller's, in the caller's
        // shell; in an image or another root it is not.
        inherited: if on_host {
            std::env::vars().collect()
        } else {
            vec![]
        },
        workdir: args.workdir.clone(),
        user: args.user.clone(),
        caller,
        mounts: args
            .volumes
            .iter()
            .map(|text| check_user_mount(text, &state))
            .collect::<Result<_, _>>()?,
        root_id: None,
        tty: args.tty,
        stdin: args.interactive || args.tty,
        network: match args.net {
            Net::None => Network::None,
            Net::Bridge => Network::Bridge,
            Net::Host => Network::Host,
        },
        shm_bytes: shm_bytes.map(Amount::whole_units),
        remove_on_exit: args.rm,
        runtime: Wanted::from(args.runtime.clone()),
    })
}

/// `IMAGE COMMAND...`, or only a command if `--` came first.
fn split_words(words: &[String]) -> Result<(Option<String>, Vec<String>), Failure> {
    // The words are the end of what was typed; was the one before them `--`?
    let typed: Vec<_> = std::env::args_os().collect();
    let dashes = typed
        .len()
        .checked_sub(words.len() + 1)
        .and_then(|at| typed.get(at))
        .is_some_and(|word| word == "--");
    match words.split_first() {
        Some((option, _)) if !dashes && option.starts_with('-') => Err(Failure::words(
            "unknown_option",
            format!("there is no option {option}; `divvy run --help` lists them"),
        )),
        Some((image, command)) if !dashes => Ok((Some(image.clone()), command.to_vec())),
        _ => Ok((None, words.to_vec())),
    }
}

/// Refuses what only the oci launcher can do, if an engine is asked for.
fn no_engine(args: &Run, what: &str) -> Result<(), AgentError> {
    match args.launcher {
        Launcher::Docker => Err(AgentError::Launcher(format!(
            "--launcher docker runs images that the engine has or can pull; for {what} leave it out"
        ))),
        Launcher::Auto | Launcher::Oci => Ok(()),
    }
}

/// A local file is for the oci launcher, any other image for the engine.
fn image_root(global: &Global, args: &Run, image: &str) -> Result<RootRequest, Failure> {
    let as_is = Path::new(image);
    if as_is.exists() {
        no_engine(args, "a local file (or `docker load` it)")?;
        return Ok(RootRequest::Image {
            path: as_is.to_owned(),
            reference: None,
        });
    }
    // PATH:REFERENCE picks one of several images in a file.
    if let Some((path, reference)) = image.split_once(':')
        && Path::new(path).exists()
    {
        no_engine(args, "a local file (or `docker load` it)")?;
        let reference = Some(reference.to_owned());
        return Ok(RootRequest::Image {
            path: PathBuf::from(path),
            reference,
        });
    }
    let engine = docker::find(global.docker_socket.as_deref());
    let is_path = image.starts_with(['/', '.']);
    match (args.launcher, engine) {
        (Launcher::Docker, Err(error)) => Err(error.into()),
        (Launcher::Auto | Launcher::Docker, Ok(_)) if !is_path => {
            if args.runtime != "auto" {
                return Err(AgentError::Launcher(
                    "--runtime is for the oci launcher; the engine is told to use a plain runtime of its own".into(),
                )
                .into());
            }
            let image = image.to_owned();
            Ok(RootRequest::Engine { image })
        }
        (_, engine) => {
            let engine = match (args.launcher, engine) {
                (Launcher::Auto, Err(error)) if !is_path => format!("; and {error}"),
                _ => String::new(),
            };
            Err(AgentError::Root(format!(
                "there is no file or folder {image:?}{engine}. The oci launcher takes a local OCI layout or `docker save` archive; to run a command on the host's own root, write -- before it: divvy run -- {image}"
            ))
            .into())
        }
    }
}

/// The calling user: behind sudo, who called sudo.
fn caller() -> Identity {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u32>().ok());
    if let (true, Some(uid), Some(gid)) = (
        crate::sys::is_root(),
        number("SUDO_UID"),
        number("SUDO_GID"),
    ) {
        let known = crate::launch::image::lookup_user(Path::new("/"), &uid.to_string());
        let groups = known.map(|u| u.additional_gids).unwrap_or_default();
        return Identity { uid, gid, groups };
    }
    Identity {
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        groups: rustix::process::getgroups()
            .map(|all| all.into_iter().map(rustix::process::Gid::as_raw).collect())
            .unwrap_or_default(),
    }
}

/// Says what its exit code does not, and gives the code.
fn report(record: &Record, exit: &Exit) -> u8 {
    if exit.out_of_memory {
        let limit = record.asked.get("mem").map_or_else(String::new, |m| {
            format!(" of {}", crate::model::format_amount(*m, "byte"))
        });
        tell!(
            "divvy: out of memory: the kernel stopped a process of {} because it exceeded its memory{limit}; ask for more with --mem [out_of_memory]",
            record.name
        );
    }
    if let Some(reason) = &exit.reason {
        tell!("divvy: {}: {reason}", record.name);
    }
    if record.root == "host" && !exit.discarded.is_empty() {
        let names: Vec<String> = exit.discarded.iter().map(|n| printable(n)).collect();
        tell!(
            "divvy: discarded, because written outside the current folder: {}",
            names.join(" ")
        );
    }
    exit.code.unwrap_or(super::FAILED)
}

/// A line on a terminal while something takes long.
struct Progress(Option<indicatif::ProgressBar>);

impl Progress {
    fn begin(what: &str) -> Self {
        if !Terminal::shows_stderr() {
            return Self(None);
        }
        let bar = indicatif::ProgressBar::new_spinner().with_message(what.to_owned());
        bar.enable_steady_tick(std::time::Duration::from_millis(100));
        Self(Some(bar))
    }

    fn end(self) {
        if let Some(bar) = self.0 {
            bar.finish_and_clear();
        }
    }
}
