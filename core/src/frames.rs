//! Frames on a stream: a 32-bit little-endian length, then that many bytes.
//! One format for plugin hosts, monitors and whoever is attached to one.

use std::io::{self, Read};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// No message comes near this; a longer one is a fault of the sender. Bytes.
pub(crate) const MAX: usize = 16 << 20;

/// Bytes with their length in front.
pub(crate) fn frame(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(bytes.len())
        .ok()
        .filter(|l| *l as usize <= MAX)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a message over 16 MiB"))?;
    let mut framed = Vec::with_capacity(4 + bytes.len());
    framed.extend_from_slice(&length.to_le_bytes());
    framed.extend_from_slice(bytes);
    Ok(framed)
}

/// A JSON document with its length in front.
pub(crate) fn json_frame(document: &impl Serialize) -> io::Result<Vec<u8>> {
    frame(&serde_json::to_vec(document)?)
}

/// Reads one frame; `None` at the end of the stream.
pub(crate) fn read(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    let mut bytes = vec![0; checked(length)?];
    from.read_exact(&mut bytes)?;
    Ok(Some(bytes))
}

/// Reads one frame; `None` at the end of the stream.
pub(crate) async fn receive(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length).await {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    let mut bytes = vec![0; checked(length)?];
    from.read_exact(&mut bytes).await?;
    Ok(Some(bytes))
}

/// Reads one JSON document; `None` at the end of the stream.
pub(crate) async fn receive_json<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<T>> {
    match receive(from).await? {
        Some(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        None => Ok(None),
    }
}

/// Writes one JSON document.
pub(crate) async fn send_json(
    to: &mut (impl AsyncWrite + Unpin),
    document: &impl Serialize,
) -> io::Result<()> {
    to.write_all(&json_frame(document)?).await
}

/// Checks a length before memory is set aside for it.
fn checked(bytes: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(bytes) as usize;
    if length > MAX {
        let message = format!("a message of {length} bytes, over the limit of {MAX}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip_and_end() {
        let bytes = json_frame(&serde_json::json!({"a": 1})).unwrap();
        let mut from = bytes.as_slice();
        assert_eq!(read(&mut from).unwrap().unwrap(), br#"{"a":1}"#);
        assert!(read(&mut from).unwrap().is_none());
    }

    #[test]
    fn an_absurd_length_is_refused_before_it_is_allocated() {
        let mut from: &[u8] = &[0xff; 8];
        assert!(
            read(&mut from)
                .unwrap_err()
                .to_string()
                .contains("over the limit")
        );
    }
}
