//! Writes the index of a block: dictionaries and postings.
//!
//! ```text
//! dictionary  names: (name, values, bytes, fst bytes, postings bytes) …
//!             per name: u32 × (values + 1) offsets │ values back to back │ FST value → number
//! postings    per name: u32 × (values + 2) offsets │ series with the label │ series with value 0 │ …
//!   a set     0 count, deltas │ 1 first, length │ 2 roaring bitmap
//! ```
//!
//! Values are sorted; a value's number is its rank. An FST is kept only where a walk could be long.

use hashbrown::HashMap;
use quiver_model::LabelsRef;

use super::postings::{Postings, PostingsRef};
use crate::bytes::{put_bytes, put_varint};
use crate::error::StorageError;

/// Labels with at least this many values get an FST.
pub(super) const FST_VALUES_MIN: usize = 256;

#[derive(Default)]
struct Label {
    name: Box<str>,
    numbers: HashMap<Box<str>, u32>,
    postings: Vec<Postings>,
    series: Option<Postings>,
}

/// Collects the labels of series 0, 1, 2, … and numbers names and values in order of appearance.
#[derive(Default)]
pub struct IndexBuilder {
    names: HashMap<Box<str>, u32>,
    labels: Vec<Label>,
    series: u32,
}

/// The finished sections, and the final numbers of names and values.
pub struct BuiltIndex {
    /// Dictionary section.
    pub dictionary: Vec<u8>,
    /// Postings section.
    pub postings: Vec<u8>,
    /// Final number of each name, by number of appearance.
    pub names: Vec<u32>,
    /// Final number of each value, by numbers of appearance of name and value.
    pub values: Vec<Vec<u32>>,
}

fn put_postings(out: &mut Vec<u8>, postings: &PostingsRef<'_>) -> Result<(), StorageError> {
    let bitmap;
    let ids: &[u32] = match postings {
        PostingsRef::Ids(ids) => ids,
        PostingsRef::Bitmap(b) => {
            let (min, max) = (b.min().unwrap_or(0), b.max().unwrap_or(0));
            let width = u64::from(max - min) + 1;
            if width == b.len() {
                out.push(1);
                put_varint(out, u64::from(min));
                put_varint(out, width);
                return Ok(());
            }
            let mut b = (*b).clone();
            b.optimize();
            // A bitmap costs 8 bytes and more for each 65,536 numbers; short lists are smaller as deltas.
            if b.len() > 64 {
                out.push(2);
                b.serialize_into(out).map_err(|_| StorageError::Misuse("a bitmap does not serialize"))?;
                return Ok(());
            }
            bitmap = b.iter().collect::<Vec<u32>>();
            &bitmap
        }
        other => {
            bitmap = other.to_bitmap().iter().collect::<Vec<u32>>();
            &bitmap
        }
    };
    if let (Some(&first), Some(&last)) = (ids.first(), ids.last())
        && (last - first) as usize + 1 == ids.len()
    {
        out.push(1);
        put_varint(out, u64::from(first));
        put_varint(out, ids.len() as u64);
        return Ok(());
    }
    out.push(0);
    put_varint(out, ids.len() as u64);
    let mut before = 0;
    for &id in ids {
        put_varint(out, u64::from(id - before));
        before = id;
    }
    Ok(())
}

fn put_u32(out: &mut Vec<u8>, v: usize) -> Result<(), StorageError> {
    let v = u32::try_from(v).map_err(|_| StorageError::Misuse("an index section of more than 4 GiB"))?;
    out.extend_from_slice(&v.to_le_bytes());
    Ok(())
}

impl IndexBuilder {
    /// Adds the next series; hands out the numbers of each of its names and values.
    pub fn add(&mut self, labels: LabelsRef<'_>, mut numbers: impl FnMut(u32, u32)) {
        let id = self.series;
        self.series += 1;
        for (name, value) in labels.iter() {
            let number = match self.names.get(name) {
                Some(n) => *n,
                None => {
                    let n = self.labels.len() as u32;
                    self.names.insert(name.into(), n);
                    self.labels.push(Label { name: name.into(), ..Label::default() });
                    n
                }
            };
            let label = &mut self.labels[number as usize];
            match &mut label.series {
                Some(all) => all.insert(id),
                none => *none = Some(Postings::One(id)),
            }
            let value_number = match label.numbers.get(value) {
                Some(v) => {
                    label.postings[*v as usize].insert(id);
                    *v
                }
                None => {
                    let v = label.postings.len() as u32;
                    label.numbers.insert(value.into(), v);
                    label.postings.push(Postings::One(id));
                    v
                }
            };
            numbers(number, value_number);
        }
    }

    /// Number of series added.
    pub fn series(&self) -> u32 {
        self.series
    }

    /// Writes the sections.
    pub fn finish(self) -> Result<BuiltIndex, StorageError> {
        let mut by_name: Vec<usize> = (0..self.labels.len()).collect();
        by_name.sort_unstable_by(|a, b| self.labels[*a].name.cmp(&self.labels[*b].name));
        let mut out = BuiltIndex {
            dictionary: Vec::new(),
            postings: Vec::new(),
            names: vec![0; self.labels.len()],
            values: vec![Vec::new(); self.labels.len()],
        };
        let mut regions = Vec::new();
        put_varint(&mut out.dictionary, self.labels.len() as u64);
        for (rank, &k) in by_name.iter().enumerate() {
            let label = &self.labels[k];
            out.names[k] = rank as u32;
            let mut values: Vec<(&str, u32)> = label.numbers.iter().map(|(v, n)| (&**v, *n)).collect();
            values.sort_unstable();
            let mut ranks = vec![0u32; values.len()];
            let bytes: usize = values.iter().map(|(v, _)| v.len()).sum();
            let mut at = 0;
            for (v, _) in &values {
                put_u32(&mut regions, at)?;
                at += v.len();
            }
            put_u32(&mut regions, at)?;
            for (rank, (v, number)) in values.iter().enumerate() {
                regions.extend_from_slice(v.as_bytes());
                ranks[*number as usize] = rank as u32;
            }
            let mut fst_len = 0;
            if values.len() >= FST_VALUES_MIN {
                let pairs = values.iter().enumerate().map(|(rank, (v, _))| (*v, rank as u64));
                let map = fst::Map::from_iter(pairs).map_err(|_| StorageError::Misuse("values are not sorted"))?;
                fst_len = map.as_fst().as_bytes().len();
                regions.extend_from_slice(map.as_fst().as_bytes());
            }
            let before = out.postings.len();
            let mut sets = Vec::new();
            let table = 4 * (values.len() + 2);
            let all = label.series.as_ref().map_or(PostingsRef::EMPTY, Postings::as_ref);
            for set in std::iter::once(all).chain(values.iter().map(|(_, n)| label.postings[*n as usize].as_ref())) {
                put_u32(&mut out.postings, table + sets.len())?;
                put_postings(&mut sets, &set)?;
            }
            put_u32(&mut out.postings, table + sets.len())?;
            out.postings.extend_from_slice(&sets);
            put_bytes(&mut out.dictionary, label.name.as_bytes());
            put_varint(&mut out.dictionary, values.len() as u64);
            put_varint(&mut out.dictionary, bytes as u64);
            put_varint(&mut out.dictionary, fst_len as u64);
            put_varint(&mut out.dictionary, (out.postings.len() - before) as u64);
            out.values[k] = ranks;
        }
        out.dictionary.extend_from_slice(&regions);
        Ok(out)
    }
}
