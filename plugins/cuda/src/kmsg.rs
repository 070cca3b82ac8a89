//! The driver's lines in the kernel's log.
//!
//! Each XID is printed there, on GPUs that nobody has open as well, and with the
//! process that it hit, which NVML does not say. Format of a record: Documentation/ABI/
//! testing/dev-kmsg; of the line: "Understanding Xid Messages" in NVIDIA's XID guide:
//! `NVRM: Xid (PCI:0000:53:00): 79, pid=1234, name=python, …`; of a MIG instance
//! `NVRM: Xid (PCI:0000:53:00 GPU-I:02 GPU-CI:00): 94, …`.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// The kernel prints no longer record (`CONSOLE_EXT_LOG_MAX`, 8 KiB).
const RECORD: usize = 8192;
/// So much is read at a time at most: a flood of messages holds nobody up.
const MOST: usize = 1 << 20;

/// An XID as the kernel's log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// `0000:53:00`: the GPU's address without the function.
    pub(crate) address: String,
    /// The GPU instance, where it is one's.
    pub(crate) gi: Option<u32>,
    pub(crate) code: u64,
    pub(crate) pid: Option<u32>,
}

/// The log, read from where it was opened on.
#[derive(Debug)]
pub(crate) struct Log {
    file: File,
    /// The beginning of a line of which the end was not read yet.
    rest: Vec<u8>,
}

impl Log {
    /// Opens it at its end; `None` where it may not be read.
    pub(crate) fn open(path: &Path) -> Option<Self> {
        let mut options = OpenOptions::new();
        let flags = OFlags::NONBLOCK.bits() as i32;
        let mut file = options.read(true).custom_flags(flags).open(path).ok()?;
        file.seek(SeekFrom::End(0)).ok()?;
        Some(Self { file, rest: vec![] })
    }

    /// What came since.
    pub(crate) fn news(&mut self) -> Vec<Line> {
        let mut record = [0; RECORD];
        let mut read = 0;
        while read < MOST {
            match self.file.read(&mut record) {
                Ok(0) => break,
                Ok(length) => {
                    self.rest.extend(record.iter().take(length));
                    read += length;
                }
                // Records were overwritten before we came; the next is the oldest left.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let end = self.rest.iter().rposition(|byte| *byte == b'\n');
        let whole: Vec<u8> = self.rest.drain(..end.map_or(0, |end| end + 1)).collect();
        // No line is that long: what never ends is not kept.
        if self.rest.len() > RECORD {
            self.rest.clear();
        }
        let text = String::from_utf8_lossy(&whole);
        text.lines().filter_map(line).collect()
    }
}

/// The XID in a record, if it is one.
fn line(record: &str) -> Option<Line> {
    let (head, message) = record.split_once(';')?;
    // Facility 0 is the kernel's: programs can write here as well, as any but it.
    let priority: u32 = head.split(',').next()?.parse().ok()?;
    if priority >> 3 != 0 {
        return None;
    }
    let rest = message.strip_prefix("NVRM: Xid (")?;
    let (address, rest) = rest.split_once("): ")?;
    let mut words = address.split_ascii_whitespace();
    let address = words.next()?;
    let address = address.strip_prefix("PCI:").unwrap_or(address);
    let gi = words.find_map(|word| word.strip_prefix("GPU-I:"));
    let mut fields = rest.split(',').map(str::trim);
    let code = fields.next()?.parse().ok()?;
    let pid = fields.find_map(|field| field.strip_prefix("pid="));
    Some(Line {
        address: address.to_ascii_lowercase(),
        gi: gi.and_then(|gi| gi.parse().ok()),
        code,
        pid: pid.and_then(|pid| pid.trim_matches('\'').parse().ok()),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn lines_of_the_driver() {
        let read = |record: &str| line(record).map(|l| (l.address, l.code, l.pid));
        let at = |code, pid| Some(("0000:3b:00".to_owned(), code, pid));
        assert_eq!(
            read(
                "4,1099,5021883,-;NVRM: Xid (PCI:0000:3B:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
            ),
            at(79, None)
        );
        assert_eq!(
            read(
                "3,1,2,-;NVRM: Xid (PCI:0000:3b:00): 31, pid=4242, name=python, Ch 00000008, intr 10000000"
            ),
            at(31, Some(4242))
        );
        assert_eq!(
            read("3,1,2,-;NVRM: Xid (0000:3b:00): 13, Graphics Exception"),
            at(13, None)
        );
        assert_eq!(
            read("3,1,2,c;NVRM: Xid (PCI:0000:3b:00): 154, GPU recovery action changed"),
            at(154, None)
        );
        let instance =
            line("4,1,2,-;NVRM: Xid (PCI:0000:3b:00 GPU-I:12 GPU-CI:00): 94, pid=7, name=x");
        assert_eq!(instance.and_then(|line| line.gi), Some(12));
        for other in [
            // Written by a program: facility 1.
            "12,1,2,-;NVRM: Xid (PCI:0000:3b:00): 79, pid=1",
            "4,1,2,-;NVRM: GPU at PCI:0000:3b:00: GPU-1",
            "4,1,2,-;NVRM: Xid (PCI:0000:3b:00): x",
            " SUBSYSTEM=pci",
            "",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn only_what_comes_after_it_was_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kmsg");
        let xid = |code| format!("4,1,2,-;NVRM: Xid (PCI:0000:3b:00): {code}, pid=1\n");
        std::fs::write(&path, xid(13)).unwrap();
        let mut log = Log::open(&path).unwrap();
        assert_eq!(log.news(), []);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        let both = xid(31) + &xid(79);
        let (first, second) = both.split_at(60);
        file.write_all(first.as_bytes()).unwrap();
        assert_eq!(log.news().len(), 1);
        file.write_all(second.as_bytes()).unwrap();
        let news = log.news();
        assert_eq!((news.len(), news[0].code), (1, 79));
        assert_eq!(log.news(), []);
        assert!(Log::open(&folder.path().join("none")).is_none());
    }
}
