//! SHA-256 digests: parsed strictly, because they become file names.

use std::fmt;
use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use super::error::{ImageError, shown};

/// A SHA-256 digest (OCI image spec, descriptor.md#sha-256).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Reads `sha256:` and 64 lower-case hex digits; nothing else can become a path.
    pub(super) fn parse(at: &str, text: &str) -> Result<Self, ImageError> {
        let Some((algorithm, hex)) = text.split_once(':') else {
            return Err(Self::malformed(at, text));
        };
        if algorithm != "sha256" {
            let known = !algorithm.is_empty()
                && algorithm.bytes().all(|b| b.is_ascii_alphanumeric())
                && hex.bytes().all(|b| b.is_ascii_alphanumeric());
            if !known {
                return Err(Self::malformed(at, text));
            }
            return Err(ImageError::Unsupported {
                at: at.into(),
                what: format!("digest algorithm {}", shown(algorithm.as_bytes())),
                remedy: "export the image with sha256 digests",
            });
        }
        Self::from_hex(hex).ok_or_else(|| Self::malformed(at, text))
    }

    /// 64 lower-case hex digits.
    pub(super) fn from_hex(hex: &str) -> Option<Self> {
        let mut bytes = [0u8; 32];
        if hex.len() != 64 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let [high, low] = pair else { return None };
            *byte = nibble(*high)? << 4 | nibble(*low)?;
        }
        Some(Self(bytes))
    }

    /// The digest of some bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The hex digits without the algorithm: the name of a layer in the store.
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0
            .iter()
            .fold(String::with_capacity(64), |mut out, byte| {
                let _ = write!(out, "{byte:02x}"); // writing to a String cannot fail
                out
            })
    }

    fn malformed(at: &str, text: &str) -> ImageError {
        ImageError::invalid(
            at,
            format!(
                "{} is not a digest (`sha256:` and 64 hex digits)",
                shown(text.as_bytes())
            ),
        )
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Hashes what passes through, and ends with an error after `limit` bytes.
pub(super) struct Hashing<R> {
    inner: R,
    hasher: Sha256,
    /// Bytes that passed.
    pub(super) count: u64,
    limit: u64,
    /// Set when the limit was hit, so that the caller can name the reason.
    pub(super) over: bool,
}

impl<R: Read> Hashing<R> {
    pub(super) fn new(inner: R, limit: u64) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            count: 0,
            limit,
            over: false,
        }
    }

    /// Reads to the end and gives the digest of everything.
    pub(super) fn finish(&mut self) -> io::Result<Digest> {
        io::copy(self, &mut io::sink())?;
        Ok(Digest(self.hasher.finalize_reset().into()))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hasher.update(buf.get(..n).unwrap_or_default());
        self.count = self.count.saturating_add(n as u64);
        if self.count > self.limit {
            self.over = true;
            return Err(io::Error::other("more data than allowed"));
        }
        Ok(n)
    }
}
