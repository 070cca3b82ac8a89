//! A record's bytes: `DV`, schema version (u16 LE), CRC-32 (u32 LE) of the
//! key and the document, then the document as JSON. The key is part of the
//! sum, so that a record cannot be read under another's name.

use super::SCHEMA;
use crate::model::Record;

const MAGIC: [u8; 2] = *b"DV";
const HEADER: usize = 8;

/// Why bytes are no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CodecError {
    #[error("it is damaged ({0})")]
    Damaged(&'static str),
    #[error("it was written by another version of divvy (schema {0}, this one reads {SCHEMA})")]
    Schema(u16),
    #[error("it cannot be read: {0}")]
    Document(String),
}

pub(super) fn encode(record: &Record) -> Result<Vec<u8>, CodecError> {
    let document = serde_json::to_vec(record).map_err(|e| CodecError::Document(e.to_string()))?;
    let mut bytes = Vec::with_capacity(HEADER + document.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&SCHEMA.to_le_bytes());
    bytes.extend_from_slice(&checksum(&record.id, &document).to_le_bytes());
    bytes.extend_from_slice(&document);
    Ok(bytes)
}

pub(super) fn decode(key: &str, bytes: &[u8]) -> Result<Record, CodecError> {
    let (header, document) = bytes
        .split_at_checked(HEADER)
        .ok_or(CodecError::Damaged("too short"))?;
    let &[m0, m1, s0, s1, c0, c1, c2, c3] = header else {
        return Err(CodecError::Damaged("header"));
    };
    if [m0, m1] != MAGIC {
        return Err(CodecError::Damaged("magic"));
    }
    let schema = u16::from_le_bytes([s0, s1]);
    if schema != SCHEMA {
        return Err(CodecError::Schema(schema));
    }
    if u32::from_le_bytes([c0, c1, c2, c3]) != checksum(key, document) {
        return Err(CodecError::Damaged("checksum"));
    }
    let record: Record =
        serde_json::from_slice(document).map_err(|e| CodecError::Document(e.to_string()))?;
    if record.id == key {
        Ok(record)
    } else {
        Err(CodecError::Damaged("key"))
    }
}

fn checksum(key: &str, document: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key.as_bytes());
    hasher.update(document);
    hasher.finalize()
}
