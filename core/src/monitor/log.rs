//! Reading what a workload printed: its log's older generation, then the one
//! that is written.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::launch::Folder;

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// A line of the log: what was printed at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When, ms since 1970.
    pub t: u64,
    /// `out` or `err`.
    pub s: String,
    /// The text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub m: Option<String>,
    /// What is no text, in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub b: Option<String>,
}

impl LogLine {
    /// What was printed.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        match (&self.m, &self.b) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(digits)) => unhex(digits).unwrap_or_default(),
            (None, None) => vec![],
        }
    }
}

/// The log of one workload, from its beginning.
#[derive(Debug)]
pub struct Log {
    folder: Folder,
    files: Vec<BufReader<File>>,
    follow: bool,
    /// A line whose end is not written yet.
    partial: String,
}

impl Log {
    /// Opens it; with `follow` it goes on until the workload ends.
    ///
    /// # Errors
    /// It cannot be read. That there is none is an empty log.
    pub fn open(folder: Folder, follow: bool) -> io::Result<Self> {
        let mut files = Vec::new();
        // The last is read first.
        for path in [folder.log(), folder.log().with_extension("jsonl.1")] {
            match File::open(path) {
                Ok(file) => files.push(BufReader::new(file)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Self {
            folder,
            files,
            follow,
            partial: String::new(),
        })
    }

    /// The next line as it is written; `None` at the end.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            // Looked up before the log is read: what it printed last is not
            // missed.
            let over = !self.follow || self.folder.try_lock().map_or(true, |lock| lock.is_some());
            while let Some(file) = self.files.last_mut() {
                file.read_line(&mut self.partial)?;
                if self.partial.ends_with('\n') {
                    self.partial.pop();
                    return Ok(Some(std::mem::take(&mut self.partial)));
                }
                if self.files.len() == 1 {
                    break;
                }
                self.files.pop();
                self.partial.clear();
            }
            if over {
                return Ok(None);
            }
            tokio::time::sleep(LOOK).await;
            if self.files.is_empty()
                && let Ok(file) = File::open(self.folder.log())
            {
                self.files.push(BufReader::new(file));
            }
        }
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}
