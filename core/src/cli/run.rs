//! `divvy run`.

use std::io::Read;
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use super::args::{Global, Launcher, Net, Run};
use super::output::{Failure, amounts, printable};
use super::terminal::{RawTerminal, Signals, Terminal};
use super::{ask, divvy, fit};
use crate::agent::{AgentError, RootRequest, RunRequest};
use crate::launch::{Identity, Network, Wanted, check_user_mount};
use crate::model::{Amount, Exit, Record, parse_amount};
use crate::monitor::{Attached, Event, Signalled};

pub(super) async fn run(global: &Global, args: Run) -> Result<u8, Failure> {
    if args.dry_run {
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
    workload.start().await?;
    let end = follow(events, input, args.interactive || args.tty, raw.is_some()).await;
    drop(raw);
    match end {
        Some(exit) => Ok(report(&record, &exit)),
        None => Err(AgentError::Root(format!(
            "the monitor of {name} went away; the workload may still run: divvy ps, divvy logs {name}",
            name = record.name
        ))
        .into()),
    }
}

/// Words to a request; nothing is opened or taken.
fn request(global: &Global, args: &Run) -> Result<RunRequest, Failure> {
    let (image, command) = split_words(&args.words)?;
    let (Launcher::Auto | Launcher::Oci) = args.launcher;
    let caller = caller();
    let current = std::env::current_dir()
        .and_then(|d| d.canonicalize())
        .map_err(|e| AgentError::System("the current folder is gone", e))?;
    let root = match (&args.rootfs, image) {
        (Some(folder), image) => {
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
        (None, Some(image)) => image_root(&image)?,
        (None, None) => RootRequest::Host { current },
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
        tty: args.tty,
        stdin: args.interactive || args.tty,
        network: match args.net {
            Net::None => Network::None,
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

fn image_root(image: &str) -> Result<RootRequest, Failure> {
    let as_is = Path::new(image);
    if as_is.exists() {
        return Ok(RootRequest::Image {
            path: as_is.to_owned(),
            reference: None,
        });
    }
    // PATH:REFERENCE picks one of several images in a file.
    if let Some((path, reference)) = image.split_once(':')
        && Path::new(path).exists()
    {
        let reference = Some(reference.to_owned());
        return Ok(RootRequest::Image {
            path: PathBuf::from(path),
            reference,
        });
    }
    Err(AgentError::Root(format!(
        "there is no file or folder {image:?}. This launcher takes a local OCI layout or `docker save` archive; to run a command on the host's own root, write -- before it: divvy run -- {image}"
    ))
    .into())
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

/// Stays with a workload: its output, our input, our signals, its end.
async fn follow(
    mut events: Attached,
    mut input: Signalled,
    interactive: bool,
    terminal: bool,
) -> Option<Exit> {
    let sender = tokio::spawn(async move {
        let mut signals = Signals::new()?;
        let mut stdin = if interactive {
            Some(read_stdin())
        } else {
            None
        };
        if terminal && let Some((columns, rows)) = Terminal::size() {
            input.resize(columns, rows).await?;
        }
        loop {
            tokio::select! {
                data = next(&mut stdin) => match data {
                    Some(data) => input.data(&data).await?,
                    None => {
                        stdin = None;
                        input.end().await?;
                    }
                },
                signal = signals.next() => match signal {
                    crate::cli::terminal::WINCH if terminal => {
                        if let Some((columns, rows)) = Terminal::size() {
                            input.resize(columns, rows).await?;
                        }
                    }
                    crate::cli::terminal::WINCH => {}
                    number => input.signal(number).await?,
                },
            }
        }
        #[allow(unreachable_code)]
        Ok::<(), std::io::Error>(())
    });
    let exit = loop {
        match events.next().await {
            Ok(Some(Event::Stdout(data))) => write(&mut std::io::stdout(), &data),
            Ok(Some(Event::Stderr(data))) => write(&mut std::io::stderr(), &data),
            Ok(Some(Event::Exit(exit))) => break Some(*exit),
            Ok(Some(Event::Joined)) => {}
            Ok(None) | Err(_) => break None,
        }
    };
    sender.abort();
    exit
}

/// Standard input, read on a thread of its own: a read that waits for a person
/// must not keep this process from ending.
fn read_stdin() -> mpsc::Receiver<Vec<u8>> {
    let (to, from) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(n @ 1..) = std::io::stdin().read(&mut buffer) {
            if to.blocking_send(buffer[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    from
}

/// The next piece of input; never, once it has ended.
async fn next(stdin: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match stdin {
        Some(stdin) => stdin.recv().await,
        None => std::future::pending().await,
    }
}

/// Writes through; if nobody reads us any more, the workload still runs on.
fn write(to: &mut impl std::io::Write, data: &[u8]) {
    let _ = to.write_all(data).and_then(|()| to.flush());
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
