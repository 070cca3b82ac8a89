//! Where a workload's output goes: to its log, and to everyone attached.
//!
//! The log is a file of JSON lines, `{"t": ms, "s": "out"|"err", "m": text}`,
//! with `"b": hex` instead of `m` for what is not UTF-8. It is cut in two
//! generations of 32 MiB, so that a chatty workload cannot fill the disk.
//!
//! A client that reads slowly holds the workload back, as a terminal would;
//! one that goes away is forgotten.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;
use tokio::sync::{Mutex, mpsc};

use super::protocol::Event;

/// A log's generation, bytes.
const GENERATION: u64 = 32 << 20;
/// Messages that may wait for one client.
const QUEUE: usize = 16;

#[derive(Debug)]
pub(super) struct Hub {
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    log: Option<File>,
    written: u64,
    clients: Vec<mpsc::Sender<Arc<Vec<u8>>>>,
    /// The last event, for clients that come after it.
    end: Option<Arc<Vec<u8>>>,
}

impl Hub {
    pub(super) fn new(path: PathBuf) -> Self {
        let log = open(&path);
        let written = log
            .as_ref()
            .and_then(|l| l.metadata().ok())
            .map_or(0, |m| m.len());
        Self {
            path,
            inner: Mutex::new(Inner {
                log,
                written,
                clients: Vec::new(),
                end: None,
            }),
        }
    }

    /// A new client's queue.
    pub(super) async fn join(&self) -> mpsc::Receiver<Arc<Vec<u8>>> {
        let (to, from) = mpsc::channel(QUEUE);
        let mut inner = self.inner.lock().await;
        match &inner.end {
            // The queue is empty: there is room.
            Some(end) => drop(to.try_send(Arc::clone(end))),
            None => inner.clients.push(to),
        }
        from
    }

    /// Output: to the log and to every client.
    pub(super) async fn output(&self, event: Event) {
        let mut inner = self.inner.lock().await;
        if let Event::Stdout(data) | Event::Stderr(data) = &event {
            let stream = if matches!(event, Event::Stderr(_)) {
                "err"
            } else {
                "out"
            };
            self.log(&mut inner, stream, data);
        }
        send(&mut inner, Arc::new(event.encode())).await;
    }

    /// The end: to every client, now or later.
    pub(super) async fn finish(&self, event: Event) {
        let mut inner = self.inner.lock().await;
        let bytes = Arc::new(event.encode());
        send(&mut inner, Arc::clone(&bytes)).await;
        inner.clients.clear();
        inner.end = Some(bytes);
    }

    /// A log that cannot be written (a full disk) must not stop the workload:
    /// what is lost is lost, and the next line is tried again.
    fn log(&self, inner: &mut Inner, stream: &str, data: &[u8]) {
        if inner.written > GENERATION {
            let _ = std::fs::rename(&self.path, self.path.with_extension("jsonl.1"));
            inner.log = open(&self.path);
            inner.written = 0;
        }
        let t = crate::sys::now_ms();
        let mut line = match std::str::from_utf8(data) {
            Ok(text) => json!({ "t": t, "s": stream, "m": text }),
            Err(_) => json!({ "t": t, "s": stream, "b": hex(data) }),
        }
        .to_string();
        line.push('\n');
        if let Some(log) = &mut inner.log
            && log.write_all(line.as_bytes()).is_ok()
        {
            inner.written += line.len() as u64;
        }
    }
}

async fn send(inner: &mut Inner, bytes: Arc<Vec<u8>>) {
    let mut gone = Vec::new();
    for (i, client) in inner.clients.iter().enumerate() {
        if client.send(Arc::clone(&bytes)).await.is_err() {
            gone.push(i);
        }
    }
    for i in gone.into_iter().rev() {
        inner.clients.swap_remove(i);
    }
}

fn open(path: &PathBuf) -> Option<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .ok()
}

fn hex(data: &[u8]) -> String {
    use std::fmt::Write as _;
    data.iter()
        .fold(String::with_capacity(data.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}
