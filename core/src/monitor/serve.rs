//! Whoever comes to a workload: attaches to it, stops it, or runs another
//! command in it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::exec;
use super::hub::Hub;
use super::process::DRAIN;
use super::protocol::{Ask, Event, ExecRequest, Input};
use super::streams::Writer;
use crate::frames;
use crate::launch::{self, Container, Folder};

/// What clients act on.
pub(super) struct Workload {
    pub(super) folder: Folder,
    pub(super) container: Container,
    /// The name by which its cgroup is told from others'.
    pub(super) cgroup_name: String,
    /// The word to start was said: other commands may run in it.
    pub(super) runs: AtomicBool,
    pub(super) pidfd: OwnedFd,
    pub(super) hub: Arc<Hub>,
    pub(super) writer: Mutex<Writer>,
}

pub(super) type Clients = Arc<Mutex<Vec<tokio::task::JoinHandle<()>>>>;

/// Serves clients, each in a task of its own.
pub(super) async fn serve(listener: UnixListener, workload: Arc<Workload>, clients: Clients) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, say: later is better than never.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let task = tokio::spawn(client(stream, Arc::clone(&workload)));
        let mut clients = clients.lock().await;
        clients.retain(|c| !c.is_finished());
        clients.push(task);
    }
}

async fn client(stream: UnixStream, workload: Arc<Workload>) {
    let (mut read, write) = stream.into_split();
    let ask = timeout(DRAIN, frames::receive_json::<Ask>(&mut read)).await;
    let Ok(Ok(Some(ask))) = ask else { return };
    match ask {
        Ask::Attach => {
            let input = Arc::clone(&workload);
            watch(write, &workload, || {
                tokio::spawn(take_input(read, input));
            })
            .await;
        }
        Ask::Stop { grace_ms } => {
            let grace = Duration::from_millis(grace_ms);
            let stopped = Arc::clone(&workload);
            watch(write, &workload, || {
                tokio::spawn(stop(stopped, grace));
            })
            .await;
        }
        Ask::Exec(request) => run(read, write, &workload, request).await,
    }
}

/// Shows a client the workload's output from now on, and its end; `joined` is
/// called once it will miss nothing, and before it is told so: whoever asked for
/// a stop may be gone, and meant it.
async fn watch(mut to: OwnedWriteHalf, workload: &Workload, joined: impl FnOnce()) {
    let mut events = workload.hub.join().await;
    joined();
    if send(&mut to, &Event::Joined).await.is_err() {
        return;
    }
    while let Some(event) = events.recv().await {
        let Ok(frame) = frames::frame(&event) else {
            return;
        };
        if to.write_all(&frame).await.is_err() {
            return;
        }
    }
}

async fn take_input(mut from: OwnedReadHalf, workload: Arc<Workload>) {
    while let Ok(Some(frame)) = frames::receive(&mut from).await {
        workload.input(Input::decode(&frame)).await;
    }
    // Whoever gave it input is gone: no more will come.
    workload.writer.lock().await.end().await;
}

async fn stop(workload: Arc<Workload>, grace: Duration) {
    let signal = &workload.container.stop_signal;
    workload.signal(launch::signal_number(signal).unwrap_or(Signal::TERM.as_raw()));
    tokio::time::sleep(grace).await;
    workload.signal(Signal::KILL.as_raw());
}

/// Runs another command for a client.
async fn run(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    workload: &Workload,
    request: ExecRequest,
) {
    let mut running = match exec::start(workload, request).await {
        Ok(running) => running,
        Err(error) => {
            let refused = Event::Refused {
                code: error.code().into(),
                message: error.to_string(),
            };
            let _ = send(&mut to, &refused).await;
            return;
        }
    };
    if send(&mut to, &Event::Joined).await.is_err() {
        return;
    }
    let input = running.input;
    let reader = tokio::spawn(async move {
        while let Ok(Some(frame)) = frames::receive(&mut from).await {
            if let Some(heard) = Input::decode(&frame)
                && input.send(heard).await.is_err()
            {
                return;
            }
        }
        // The sender goes: no more will come.
    });
    let mut listening = true;
    while let Some(event) = running.events.recv().await {
        // Without a listener it goes on, unheard, as it would under Docker.
        listening = listening && send(&mut to, &event).await.is_ok();
    }
    reader.abort();
}

async fn send(to: &mut OwnedWriteHalf, event: &Event) -> std::io::Result<()> {
    to.write_all(&frames::frame(&event.encode())?).await
}

impl Workload {
    async fn input(&self, input: Option<Input>) {
        match input {
            Some(Input::Data(data)) => {
                // It may not want to read any more.
                let _ = self.writer.lock().await.write(&data).await;
            }
            Some(Input::End) => self.writer.lock().await.end().await,
            Some(Input::Resize(columns, rows)) => {
                self.writer.lock().await.resize(columns, rows).await;
            }
            Some(Input::Signal(number)) => self.signal(number),
            None => {}
        }
    }

    fn signal(&self, number: i32) {
        // It may be gone already.
        if let Some(signal) = Signal::from_named_raw(number) {
            let _ = pidfd_send_signal(&self.pidfd, signal);
        }
    }
}
