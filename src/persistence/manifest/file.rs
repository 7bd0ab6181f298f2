//! The manifest as a file: a line that says what it is and vouches for the rest, then JSON.
//!
//! ```text
//! quiver manifest 1 crc32c 89abcdef bytes 1234\n      the checksum covers "quiver manifest 1" and the JSON
//! {"generation":7,"id_next":12,"entries":[…],"log_floor":{"0":5,"1":4}}
//! ```

use std::fmt;

use crate::crc32c_salted;
use crate::disk::{Disk, DiskErrorKind};

use super::{MANIFEST_VERSION, Manifest, ManifestError};

/// First words of every manifest, before the version.
const MAGIC: &str = "quiver manifest";

/// What is there.
#[derive(Debug)]
pub(super) enum FileState {
    Good(Manifest),
    Missing,
    Damaged(String),
}

impl fmt::Display for FileState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileState::Good(manifest) => write!(f, "generation {}", manifest.generation),
            FileState::Missing => f.write_str("missing"),
            FileState::Damaged(what) => f.write_str(what),
        }
    }
}

pub(super) fn encode(manifest: &Manifest) -> Vec<u8> {
    // Maps have string keys and numbers are integers: there is nothing in a manifest that JSON cannot say.
    let body = serde_json::to_vec(manifest).unwrap_or_default();
    let start = format!("{MAGIC} {MANIFEST_VERSION}");
    let crc = crc32c_salted(start.as_bytes(), &body);
    let mut bytes = format!("{start} crc32c {crc:08x} bytes {}\n", body.len()).into_bytes();
    bytes.extend_from_slice(&body);
    bytes
}

pub(super) fn read(disk: &dyn Disk, path: &str) -> Result<FileState, ManifestError> {
    match disk.read(path) {
        Ok(bytes) => match decode(&bytes) {
            Ok(manifest) => Ok(FileState::Good(manifest)),
            Err(Refused::OtherVersion(found)) => {
                Err(ManifestError::OtherVersion { file: path.to_owned(), found, known: MANIFEST_VERSION })
            }
            Err(Refused::Damaged(what)) => Ok(FileState::Damaged(what.to_owned())),
        },
        Err(e) if e.is_not_found() => Ok(FileState::Missing),
        Err(e) if e.kind == DiskErrorKind::Media => Ok(FileState::Damaged(e.text)),
        Err(e) => Err(e.into()),
    }
}

pub(super) fn parse(name: &str, bytes: &[u8]) -> Result<Manifest, ManifestError> {
    decode(bytes).map_err(|e| match e {
        Refused::OtherVersion(found) => {
            ManifestError::OtherVersion { file: name.to_owned(), found, known: MANIFEST_VERSION }
        }
        Refused::Damaged(what) => ManifestError::Damaged { file: name.to_owned(), what: what.to_owned() },
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Refused {
    OtherVersion(u32),
    Damaged(&'static str),
}

fn decode(bytes: &[u8]) -> Result<Manifest, Refused> {
    let damaged = Refused::Damaged;
    let line_end = bytes.iter().take(200).position(|b| *b == b'\n').ok_or(damaged("no header line"))?;
    let (line, body) = (bytes.get(..line_end).unwrap_or_default(), bytes.get(line_end + 1..).unwrap_or_default());
    let line = std::str::from_utf8(line).map_err(|_| damaged("bad header line"))?;
    let rest = line.strip_prefix(MAGIC).ok_or(damaged("not a manifest"))?;
    let mut words = rest.split_ascii_whitespace();
    let version: u32 = words.next().and_then(|w| w.parse().ok()).ok_or(damaged("bad version"))?;
    let (Some("crc32c"), Some(crc), Some("bytes"), Some(len), None) =
        (words.next(), words.next(), words.next(), words.next(), words.next())
    else {
        return Err(damaged("bad header line"));
    };
    let crc = u32::from_str_radix(crc, 16).map_err(|_| damaged("bad header line"))?;
    if len.parse() != Ok(body.len()) {
        return Err(damaged("wrong length"));
    }
    if crc32c_salted(format!("{MAGIC} {version}").as_bytes(), body) != crc {
        return Err(damaged("wrong checksum"));
    }
    if version != MANIFEST_VERSION {
        return Err(Refused::OtherVersion(version));
    }
    serde_json::from_slice(body).map_err(|_| damaged("unreadable content"))
}

#[cfg(test)]
mod tests {
    use super::super::{EntryKind, ManifestEntry};
    use super::*;
    use crate::log::LogFloor;

    fn sample() -> Manifest {
        let entry = ManifestEntry {
            kind: EntryKind::Spans,
            id: 11,
            level: 2,
            min_ts: i64::MIN,
            max_ts: i64::MAX,
            series: 3,
            samples: u64::MAX,
            bytes: 1 << 40,
            file: "blocks/ä\"11".to_owned(),
            created_ms: -5,
            sources: vec![1, 2],
            extra: [("tier".to_owned(), serde_json::json!({"at": "s3"}))].into(),
        };
        Manifest {
            generation: 7,
            id_next: 12,
            entries: vec![entry, ManifestEntry::default()],
            log_floor: LogFloor([(0, 5), (7, u64::MAX)].into()),
            tombstones: vec![super::super::Tombstone {
                id: 3,
                matchers: vec![("=~".to_owned(), "job".to_owned(), "a|\"b\n".to_owned())],
                min_ts: i64::MIN,
                max_ts: 7,
                blocks: vec![11],
                created_ms: 9,
            }],
            tombstone_next: 4,
            extra: [("marks".to_owned(), serde_json::json!([1, 2]))].into(),
        }
    }

    #[test]
    fn a_manifest_reads_back() {
        for manifest in [sample(), Manifest::default()] {
            assert_eq!(decode(&encode(&manifest)), Ok(manifest));
        }
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_seen() {
        let bytes = encode(&sample());
        for len in 0..bytes.len() {
            assert!(matches!(decode(&bytes[..len]), Err(Refused::Damaged(_))), "cut at {len}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            match decode(&bad) {
                Err(Refused::Damaged(_)) => {}
                Err(e) => panic!("bit {bit}: {e:?}"),
                // Upper and lower case of a hexadecimal digit are the same number, and all spaces are spaces.
                Ok(same) => assert_eq!(same, sample(), "bit {bit}"),
            }
        }
    }

    #[test]
    fn a_newer_version_is_named() {
        let crc = crc32c_salted(b"quiver manifest 2", b"[new]");
        let text = format!("quiver manifest 2 crc32c {crc:08x} bytes 5\n[new]");
        assert_eq!(decode(text.as_bytes()), Err(Refused::OtherVersion(2)));
    }
}
