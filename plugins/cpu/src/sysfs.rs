//! Reads small files of `/sys` and `/proc` under a root folder, and remembers
//! what could not be read.
//!
//! A file that is not there is nothing odd: kernels differ in what they show.
//! A file that is there and cannot be read, or says something that makes no
//! sense, becomes one warning; the reader then goes on as if it were absent.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::cpulist::CpuSet;

/// Read no more than this of any file: `/proc/stat` of a large machine has
/// 200 KB, all others a page or two.
const FILE_LIMIT: u64 = 4 << 20;

/// More warnings than this are counted, not listed.
const WARNING_LIMIT: usize = 24;

/// A view of one machine's `/sys` and `/proc`.
#[derive(Debug)]
pub(crate) struct Reader {
    root: PathBuf,
    warnings: RefCell<Vec<String>>,
}

impl Reader {
    /// A reader of the machine whose root folder is `root`.
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            warnings: RefCell::default(),
        }
    }

    /// The file's text, without NULs and white space at its end; `None` if it
    /// is not there or (with a warning) cannot be read.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        self.start_of(path, FILE_LIMIT)
    }

    /// The first `limit` bytes of a file. `/proc/cpuinfo` interrupts every
    /// CPU that it is read as far as, so only its start is wanted.
    pub(crate) fn start_of(&self, path: &str, limit: u64) -> Option<String> {
        let mut bytes = Vec::new();
        let read =
            File::open(self.under(path)).and_then(|file| file.take(limit).read_to_end(&mut bytes));
        match read {
            Ok(_) => Some(
                String::from_utf8_lossy(&bytes)
                    .trim_matches(|c: char| c.is_ascii_whitespace() || c == '\0')
                    .to_owned(),
            ),
            Err(error) => {
                self.unreadable(path, &error);
                None
            }
        }
    }

    /// A file that holds one number.
    pub(crate) fn number(&self, path: &str) -> Option<i64> {
        let text = self.text(path)?;
        let number = text.parse().ok();
        if number.is_none() && !text.is_empty() {
            self.warn(format!("{}: {text:?} is not a number", self.shown(path)));
        }
        number
    }

    /// A file that holds one number that counts or names something; the
    /// kernel writes -1 for "not known".
    pub(crate) fn natural(&self, path: &str) -> Option<u32> {
        self.number(path).and_then(|n| u32::try_from(n).ok())
    }

    /// A file in list form (`0-3,8`).
    pub(crate) fn list(&self, path: &str) -> Option<CpuSet> {
        let text = self.text(path)?;
        self.sense(path, CpuSet::parse_list(&text))
    }

    /// A file in mask form (`0000,00ff`).
    pub(crate) fn mask(&self, path: &str) -> Option<CpuSet> {
        let text = self.text(path)?;
        self.sense(path, CpuSet::parse_mask(&text))
    }

    /// The names in a folder, in order.
    pub(crate) fn names(&self, path: &str) -> BTreeSet<String> {
        let listed = fs::read_dir(self.under(path)).and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect::<io::Result<_>>()
        });
        listed.unwrap_or_else(|error| {
            self.unreadable(path, &error);
            BTreeSet::new()
        })
    }

    /// The numbers N of the entries `prefixN` in a folder.
    pub(crate) fn numbered(&self, path: &str, prefix: &str) -> CpuSet {
        self.names(path)
            .iter()
            .filter_map(|name| name.strip_prefix(prefix)?.parse().ok())
            .collect()
    }

    /// Is there such a file or folder?
    pub(crate) fn exists(&self, path: &str) -> bool {
        self.under(path).exists()
    }

    /// Remembers something odd, once.
    pub(crate) fn warn(&self, warning: String) {
        let mut warnings = self.warnings.borrow_mut();
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// What was odd, one sentence each.
    pub(crate) fn into_warnings(self) -> Vec<String> {
        let mut warnings = self.warnings.into_inner();
        if warnings.len() > WARNING_LIMIT {
            let more = warnings.len() - WARNING_LIMIT;
            warnings.truncate(WARNING_LIMIT);
            warnings.push(format!("{more} more files could not be read"));
        }
        warnings
    }

    fn under(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn shown(&self, path: &str) -> String {
        self.under(path).display().to_string()
    }

    fn unreadable(&self, path: &str, error: &io::Error) {
        use io::ErrorKind::{NotADirectory, NotFound};
        if !matches!(error.kind(), NotFound | NotADirectory) {
            self.warn(format!("{} cannot be read: {error}", self.shown(path)));
        }
    }

    fn sense<T, E: std::fmt::Display>(&self, path: &str, value: Result<T, E>) -> Option<T> {
        value
            .map_err(|error| self.warn(format!("{}: {error}", self.shown(path))))
            .ok()
    }
}
