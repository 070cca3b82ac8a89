//! Reads tar streams (POSIX ustar and pax, GNU long names) one member at a time.
//!
//! The `tar` crate supplies the header block; its iterator is not used because it
//! reads name records of any size into memory and splits pax records at newlines,
//! which breaks binary attributes such as `security.capability`.

use std::io::{self, BufReader, Read, Seek};

use tar::{EntryType, Header};

use super::limits::{MAX_PATH_BYTES, MAX_TAR_RECORD_BYTES};

/// Size of headers and granularity of content (POSIX pax, "ustar Interchange Format").
const BLOCK: usize = 512;
const BLOCK_BYTES: u64 = 512;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    Symlink,
    HardLink,
    Fifo,
    /// Character or block device.
    Device,
}

/// One member, names exactly as in the archive: nothing is checked yet.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) size: u64,
    /// Permission bits with setuid, setgid and sticky.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub(super) mtime: (i64, u32),
    /// From `SCHILY.xattr.*` pax records.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the content starts in the stream.
    pub(super) offset: u64,
}

/// Why a tar cannot be read on.
#[derive(Debug)]
pub(super) enum TarError {
    /// Damage, in words.
    Damaged(String),
    /// A feature, in words.
    Unsupported(String),
    /// A record larger than [`MAX_TAR_RECORD_BYTES`].
    Record(u64),
    Io(io::Error),
}

impl From<io::Error> for TarError {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

fn damaged<T>(what: impl Into<String>) -> Result<T, TarError> {
    Err(TarError::Damaged(what.into()))
}

/// A reader that can pass over bytes; files do it without reading.
pub(super) trait Forward: Read {
    fn forward(&mut self, bytes: u64) -> io::Result<()>;
}

/// A reader that can only read.
pub(super) struct Stream<R>(pub(super) R);

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl<R: Read> Forward for Stream<R> {
    fn forward(&mut self, bytes: u64) -> io::Result<()> {
        if io::copy(&mut (&mut self.0).take(bytes), &mut io::sink())? < bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

impl<R: Read + Seek> Forward for BufReader<R> {
    fn forward(&mut self, bytes: u64) -> io::Result<()> {
        let step = i64::try_from(bytes).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        self.seek_relative(step)
    }
}

/// A tar stream: call [`Tar::next`], then read the member's content from the `Tar` itself.
pub(super) struct Tar<R> {
    source: R,
    position: u64,
    /// Content of the current member that was not read.
    remaining: u64,
    /// Zero bytes after it up to the next block.
    padding: u64,
}

impl<R: Forward> Tar<R> {
    pub(super) fn new(source: R) -> Self {
        Self {
            source,
            position: 0,
            remaining: 0,
            padding: 0,
        }
    }

    pub(super) fn into_inner(self) -> R {
        self.source
    }

    /// The next member, or none at the end.
    pub(super) fn next(&mut self) -> Result<Option<Member>, TarError> {
        let mut extra = Extra::default();
        loop {
            self.pass_content()?;
            let Some(header) = self.header()? else {
                return if extra.seen {
                    damaged("the archive ends after a name record")
                } else {
                    Ok(None)
                };
            };
            let size = header.entry_size().map_err(|_| bad("size"))?;
            match header.entry_type() {
                EntryType::XGlobalHeader => self.begin(size)?,
                EntryType::XHeader => {
                    let record = self.record(size)?;
                    extra.pax(&record)?;
                }
                EntryType::GNULongName => extra.gnu_name = Some(trim_nul(self.record(size)?)),
                EntryType::GNULongLink => extra.gnu_link = Some(trim_nul(self.record(size)?)),
                _ => return self.member(&header, size, extra).map(Some),
            }
            extra.seen |= header.entry_type() != EntryType::XGlobalHeader;
        }
    }

    fn member(&mut self, header: &Header, size: u64, extra: Extra) -> Result<Member, TarError> {
        let name = extra
            .name
            .or(extra.gnu_name)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = extra
            .link
            .or(extra.gnu_link)
            .or_else(|| header.link_name_bytes().map(|l| l.into_owned()))
            .unwrap_or_default();
        let kind = match header.entry_type() {
            EntryType::Regular if name.ends_with(b"/") => Kind::Folder, // pre-POSIX tars
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Directory => Kind::Folder,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Link => Kind::HardLink,
            EntryType::Fifo => Kind::Fifo,
            EntryType::Char | EntryType::Block => Kind::Device,
            EntryType::GNUSparse => return Err(TarError::Unsupported("a sparse file".into())),
            other => {
                return Err(TarError::Unsupported(format!(
                    "a tar entry of type {:?}",
                    other.as_byte()
                )));
            }
        };
        // Only files have content; some writers note a size on links (POSIX: to be ignored).
        let size = if kind == Kind::File {
            extra.size.unwrap_or(size)
        } else {
            0
        };
        self.begin(size)?;
        let id = |pax: Option<u64>, field: io::Result<u64>, what: &str| {
            let id = match pax {
                Some(id) => id,
                None => field.map_err(|_| bad(what))?,
            };
            // chown(2) takes u32::MAX for "leave as it is".
            u32::try_from(id)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| bad(what))
        };
        Ok(Member {
            uid: id(extra.uid, header.uid(), "uid")?,
            gid: id(extra.gid, header.gid(), "gid")?,
            mode: header.mode().map_err(|_| bad("mode"))? & 0o7777,
            mtime: match extra.mtime {
                Some(time) => time,
                None => (
                    i64::try_from(header.mtime().map_err(|_| bad("mtime"))?).unwrap_or(0),
                    0,
                ),
            },
            xattrs: extra.xattrs,
            offset: self.position,
            name,
            link,
            kind,
            size,
        })
    }

    /// The next header block; none at the end of the archive.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        let mut block = [0u8; BLOCK];
        let mut have = 0;
        while let Some(rest) = block.get_mut(have..).filter(|rest| !rest.is_empty()) {
            match self.source.read(rest) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return damaged("the archive is cut off"),
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.position += BLOCK_BYTES;
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        // The checksum counts its own field as blanks.
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(i, b)| {
                if (148..156).contains(&i) {
                    32
                } else {
                    u32::from(*b)
                }
            })
            .sum();
        match header.cksum() {
            Ok(expected) if expected == sum => Ok(Some(header)),
            _ => damaged("not a tar header where one must be"),
        }
    }

    fn begin(&mut self, size: u64) -> Result<(), TarError> {
        self.remaining = size;
        self.padding = (BLOCK_BYTES - size % BLOCK_BYTES) % BLOCK_BYTES;
        Ok(())
    }

    fn pass_content(&mut self) -> Result<(), TarError> {
        let Some(bytes) = self.remaining.checked_add(self.padding) else {
            return damaged("an impossible size");
        };
        let Some(position) = self.position.checked_add(bytes) else {
            return damaged("an impossible size");
        };
        if bytes > 0 {
            self.source.forward(bytes).map_err(cut_off)?;
        }
        self.position = position;
        (self.remaining, self.padding) = (0, 0);
        Ok(())
    }

    fn record(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_TAR_RECORD_BYTES {
            return Err(TarError::Record(size));
        }
        self.begin(size)?;
        let mut record = Vec::new();
        self.read_to_end(&mut record).map_err(cut_off)?;
        Ok(record)
    }
}

impl<R: Forward> Read for Tar<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.remaining)
            .unwrap_or(usize::MAX)
            .min(buf.len());
        if want == 0 {
            return Ok(0);
        }
        let n = self.source.read(buf.get_mut(..want).unwrap_or_default())?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.remaining = self.remaining.saturating_sub(n as u64);
        self.position = self.position.saturating_add(n as u64);
        Ok(n)
    }
}

fn bad(field: &str) -> TarError {
    TarError::Damaged(format!("an entry with an impossible {field}"))
}

fn cut_off(e: io::Error) -> TarError {
    if e.kind() == io::ErrorKind::UnexpectedEof {
        return TarError::Damaged("the archive is cut off".into());
    }
    TarError::Io(e)
}

fn trim_nul(mut name: Vec<u8>) -> Vec<u8> {
    if name.last() == Some(&0) {
        name.pop();
    }
    name
}

/// What records before a member say about it.
#[derive(Default)]
struct Extra {
    seen: bool,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    gnu_name: Option<Vec<u8>>,
    gnu_link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Extra {
    /// Takes `LENGTH KEY=VALUE\n` records (POSIX pax, "pax Extended Header").
    fn pax(&mut self, mut data: &[u8]) -> Result<(), TarError> {
        while !data.is_empty() {
            let Some((key, value, rest)) = pax_record(data) else {
                return damaged("a malformed pax record");
            };
            data = rest;
            self.take(key, value)?;
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        let number = |what| {
            std::str::from_utf8(value)
                .ok()
                .and_then(|v| v.parse().ok())
                .ok_or_else(|| bad(what))
        };
        match key {
            b"path" => self.name = Some(path_value(value)?),
            b"linkpath" => self.link = Some(path_value(value)?),
            b"size" => self.size = Some(number("size")?),
            b"uid" => self.uid = Some(number("uid")?),
            b"gid" => self.gid = Some(number("gid")?),
            b"mtime" => self.mtime = Some(pax_time(value).ok_or_else(|| bad("mtime"))?),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                } else if key.starts_with(b"GNU.sparse.") {
                    return Err(TarError::Unsupported("a sparse file".into()));
                }
            }
        }
        Ok(())
    }
}

fn path_value(value: &[u8]) -> Result<Vec<u8>, TarError> {
    if value.len() > MAX_PATH_BYTES {
        return damaged("a name longer than 4096 bytes");
    }
    Ok(value.to_vec())
}

fn pax_record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().take(20).position(|b| *b == b' ')?;
    let length: usize = std::str::from_utf8(data.get(..space)?).ok()?.parse().ok()?;
    let record = data.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|b| *b == b'=')?;
    Some((
        record.get(..equals)?,
        record.get(equals + 1..)?,
        data.get(length..)?,
    ))
}

/// `[-]SECONDS[.FRACTION]`.
fn pax_time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nine: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nanos: u32 = nine.parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}
