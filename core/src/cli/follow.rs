//! Staying with a workload, or with a command in one: its output, our input,
//! our signals, its end.

use std::io::Read;

use tokio::sync::mpsc;

use super::terminal::{Signals, Terminal, WINCH};
use crate::api::Fault;
use crate::model::Exit;
use crate::monitor::{Attached, Event, Signalled};

/// How it came to an end.
#[derive(Debug)]
pub(super) enum End {
    /// It ended.
    Exit(Box<Exit>),
    /// Its monitor says why not.
    Refused(Box<Fault>),
    /// Its monitor went away.
    Gone,
}

/// Stays to the end. `signals` are ours already: output may be there at once,
/// and whoever reads it may send one.
pub(super) async fn follow(
    mut events: Attached,
    mut input: Signalled,
    mut signals: Signals,
    interactive: bool,
    terminal: bool,
) -> End {
    let sender = tokio::spawn(async move {
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
                    WINCH if terminal => {
                        if let Some((columns, rows)) = Terminal::size() {
                            input.resize(columns, rows).await?;
                        }
                    }
                    WINCH => {}
                    number => input.signal(number).await?,
                },
            }
        }
        #[allow(unreachable_code)]
        Ok::<(), std::io::Error>(())
    });
    let end = loop {
        match events.next().await {
            Ok(Some(Event::Stdout(data))) => write(&mut std::io::stdout(), &data),
            Ok(Some(Event::Stderr(data))) => write(&mut std::io::stderr(), &data),
            Ok(Some(Event::Exit(exit))) => break End::Exit(exit),
            Ok(Some(Event::Refused { code, message })) => {
                break End::Refused(Box::new(Fault {
                    code,
                    message,
                    refusal: None,
                }));
            }
            Ok(Some(Event::Joined)) => {}
            Ok(None) | Err(_) => break End::Gone,
        }
    };
    sender.abort();
    end
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
