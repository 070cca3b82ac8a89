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
use std::path::{Path, PathBuf};
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

/// How much of each stream was had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    out: usize,
    err: usize,
}

#[derive(Debug)]
struct Inner {
    log: Option<File>,
    written: u64,
    /// What is in the log, of each stream; `None` once a part of it is gone.
    counts: Option<Counts>,
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
        let counts = if written > 0 {
            count(&path)
        } else {
            Some(Counts::default())
        };
        Self {
            path,
            inner: Mutex::new(Inner {
                log,
                written,
                counts,
                clients: Vec::new(),
                end: None,
            }),
        }
    }

    /// How much of each stream is in the log, if all of it is.
    pub(super) async fn counts(&self) -> Option<Counts> {
        self.inner.lock().await.counts
    }

    /// When the log was last written, s since 1970.
    pub(super) async fn last_s(&self) -> i32 {
        let inner = self.inner.lock().await;
        let meta = inner.log.as_ref().and_then(|log| log.metadata().ok());
        let at = meta.map_or(0, |m| std::os::unix::fs::MetadataExt::mtime(&m));
        i32::try_from(at).unwrap_or(0)
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
        if let Some(counts) = &mut inner.counts {
            match stream {
                "err" => counts.err += data.len(),
                _ => counts.out += data.len(),
            }
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

impl Counts {
    /// How many of so many bytes of standard output were had already.
    pub(super) fn skip_out(&mut self, bytes: usize) -> usize {
        skip(&mut self.out, bytes)
    }

    /// The same, of standard error.
    pub(super) fn skip_err(&mut self, bytes: usize) -> usize {
        skip(&mut self.err, bytes)
    }
}

fn skip(had: &mut usize, bytes: usize) -> usize {
    let skipped = (*had).min(bytes);
    *had -= skipped;
    skipped
}

/// Counts what a log holds; `None` if it is not all there is.
fn count(path: &Path) -> Option<Counts> {
    if path.with_extension("jsonl.1").exists() {
        return None;
    }
    let mut counts = Counts::default();
    for line in std::fs::read_to_string(path).ok()?.lines() {
        let piece: serde_json::Value = serde_json::from_str(line).ok()?;
        let bytes = match (piece["m"].as_str(), piece["b"].as_str()) {
            (Some(text), _) => text.len(),
            (None, hex) => hex?.len() / 2,
        };
        match piece["s"].as_str()? {
            "err" => counts.err += bytes,
            _ => counts.out += bytes,
        }
    }
    Some(counts)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_in_the_log_is_known_to_whoever_opens_it_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let hub = Hub::new(path.clone());
        hub.output(Event::Stdout(b"four".to_vec())).await;
        hub.output(Event::Stderr(vec![0xff, 0xfe])).await;
        hub.output(Event::Stdout(b"6 \xc3\xa4\n".to_vec())).await;
        let counts = Counts { out: 9, err: 2 };
        assert_eq!(hub.counts().await, Some(counts));
        let mut again = Hub::new(path.clone()).counts().await.unwrap();
        assert_eq!(again, counts);
        assert_eq!(
            (again.skip_out(4), again.skip_out(7), again.skip_out(1)),
            (4, 5, 0)
        );
        assert_eq!((again.skip_err(1), again.skip_err(9)), (1, 1));
        // A part of it is gone: nobody can count it.
        std::fs::write(path.with_extension("jsonl.1"), "").unwrap();
        assert_eq!(Hub::new(path).counts().await, None);
    }
}
