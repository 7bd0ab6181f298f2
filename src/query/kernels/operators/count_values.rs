//! `count_values`: how many series of a group have each value; the value becomes a label.
//!
//! ```text
//! sample ─▶ (group, value) ─▶ output series, numbered as they appear; text is made once for each
//! end: (series, step) pairs sorted and counted, tiles made one after another
//! ```

use hashbrown::HashMap;
use quiver_model::Labels;
use quiver_model::labels::quoted;

use super::bits;
use super::group::{LabelNumbers, is_metadata_label, pack, unpack};
use super::rows::rows_per_tile;
use super::text::format_f;
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::exec::tile::{Roster, StepGrid, Tile};

/// What to count.
#[derive(Clone, Debug)]
pub struct CountValuesSpec {
    /// Label that takes the value.
    pub label: String,
    /// Labels of `by` or `without`.
    pub grouping: Vec<String>,
    /// `without` instead of `by`.
    pub without: bool,
}

/// See the module.
#[derive(Debug)]
pub struct CountValues {
    label: Option<String>,
    width: usize,
    group: Vec<u32>,
    groups: Vec<Labels>,
    floats: HashMap<(u32, u64), u32>,
    histograms: HashMap<(u32, String), u32>,
    numbers: LabelNumbers,
    /// Output series and step of each sample.
    found: Vec<u64>,
    count: u32,
}

impl CountValues {
    /// The operator; its roster is known at the end.
    pub fn new(spec: &CountValuesSpec, input: &Roster, grid: StepGrid) -> Result<Self, QueryError> {
        if spec.label.is_empty() {
            return Err(QueryError::execution(format!("invalid label name {}", quoted(&spec.label))));
        }
        let listed = |n: &str| spec.grouping.iter().any(|x| x == n);
        let mut ids: HashMap<Vec<u8>, u32> = HashMap::new();
        let (mut groups, mut key) = (Vec::new(), Vec::new());
        let mut id = |labels: &Labels| {
            pack(labels, &mut key, |n| {
                n != spec.label && if spec.without { !listed(n) && !is_metadata_label(n) } else { listed(n) }
            });
            let next = ids.len() as u32;
            let id = *ids.entry_ref(key.as_slice()).or_insert(next);
            if id == next {
                groups.push(unpack(&key));
            }
            id
        };
        let group = input.rows.iter().map(|r| id(&r.labels)).collect();
        let dropped = spec.without && (listed(&spec.label) || is_metadata_label(&spec.label));
        Ok(Self {
            label: (!dropped).then(|| spec.label.clone()),
            width: grid.len,
            group,
            groups,
            floats: HashMap::new(),
            histograms: HashMap::new(),
            numbers: LabelNumbers::default(),
            found: Vec::new(),
            count: 0,
        })
    }

    fn series(&mut self, g: u32, value: &str) -> u32 {
        let group = &self.groups[g as usize];
        match &self.label {
            None => self.numbers.id(group, false),
            Some(name) => {
                let labels = group.to_builder().set(name, value).build().unwrap_or_default();
                self.numbers.id(&labels, false)
            }
        }
    }

    /// Takes a tile.
    pub fn push(&mut self, tile: &Tile, ctx: &QueryContext) -> Result<(), QueryError> {
        for (row, sid) in tile.sids.iter().enumerate() {
            self.count = self.count.wrapping_add(1);
            if self.count & 255 == 0 {
                ctx.check()?;
            }
            let Some(g) = self.group.get(*sid as usize).copied() else { continue };
            let at = row * self.width;
            let hist = if tile.hist.is_empty() { &[][..] } else { tile.row_histograms(row) };
            let mut hist = hist.iter().peekable();
            let mut last: Option<(u64, u32)> = None;
            for w in 0..bits::words(self.width) {
                for i in bits::ones(bits::row_word(&tile.present, at, self.width, w)) {
                    let step = (w << 6) + i;
                    while hist.next_if(|(c, _)| (*c as usize) < at + step).is_some() {}
                    let out = if let Some((_, h)) = hist.next_if(|(c, _)| *c as usize == at + step) {
                        let text = h.to_string();
                        ctx.check_label_bytes("count_values()", self.label.as_deref().unwrap_or_default(), text.len())?;
                        match self.histograms.get(&(g, text.clone())) {
                            Some(out) => *out,
                            None => {
                                let out = self.series(g, &text);
                                self.histograms.insert((g, text), out);
                                out
                            }
                        }
                    } else {
                        let v = tile.values[at + step];
                        let key = if v.is_nan() { f64::NAN.to_bits() } else { v.to_bits() };
                        match last {
                            Some((k, out)) if k == key => out,
                            _ => {
                                let out = match self.floats.get(&(g, key)) {
                                    Some(out) => *out,
                                    None => {
                                        let out = self.series(g, &format_f(v));
                                        self.floats.insert((g, key), out);
                                        out
                                    }
                                };
                                last = Some((key, out));
                                out
                            }
                        }
                    };
                    self.found.push(u64::from(out) << 32 | step as u64);
                }
            }
        }
        Ok(())
    }

    /// The roster, and the tiles as they are asked for: they may be much larger than what they are made of.
    pub fn finish(mut self) -> (Roster, impl Iterator<Item = Tile>) {
        let (roster, new) = self.numbers.finish();
        for f in &mut self.found {
            *f = u64::from(new[(*f >> 32) as usize]) << 32 | (*f & 0xffff_ffff);
        }
        self.found.sort_unstable();
        let (found, width) = (self.found, self.width);
        let mut next = 0;
        let tiles = std::iter::from_fn(move || {
            let mut tile = Tile { width, ..Tile::default() };
            while let Some(f) = found.get(next) {
                let sid = (*f >> 32) as u32;
                if tile.sids.last() != Some(&sid) {
                    if tile.rows() == rows_per_tile(width) {
                        break;
                    }
                    tile.push_row(sid);
                }
                let cell = (tile.rows() - 1) * width + (*f & 0xffff_ffff) as usize;
                let v = tile.values[cell] + 1.0;
                tile.set(cell, v);
                next += 1;
            }
            // Rows were added one by one: what was kept free for more would be held for long.
            tile.values.shrink_to_fit();
            (tile.rows() > 0).then_some(tile)
        });
        (roster, tiles)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::operators::testing::{cells, context, floats, grid, roster};

    fn run(label: &str, by: &[&str], without: bool) -> Vec<String> {
        let r = roster(&["__name__=v,i=0,j=a", "__name__=v,i=1,j=a", "__name__=v,i=2,j=b"]);
        let spec =
            CountValuesSpec { label: label.into(), grouping: by.iter().map(|s| (*s).to_owned()).collect(), without };
        let ctx = context();
        let mut op = CountValues::new(&spec, &r, grid(2)).unwrap();
        let rows = [vec![Some(6.0), Some(1e6)], vec![Some(6.0), None], vec![Some(6.0), Some(f64::NAN)]];
        op.push(&floats(0, &rows), &ctx).unwrap();
        let (out, tiles) = op.finish();
        let got = cells(&out, &tiles.collect::<Vec<_>>());
        got.into_iter().map(|((l, s), (_, v))| format!("{l} {s} {}", f64::from_bits(v))).collect()
    }

    #[test]
    fn values_become_labels() {
        assert_eq!(run("v", &[], false), [r#"{v="1000000"} 1 1"#, r#"{v="6"} 0 3"#, r#"{v="NaN"} 1 1"#]);
        assert_eq!(
            run("v", &["i"], true),
            [
                r#"{j="a", v="1000000"} 1 1"#,
                r#"{j="a", v="6"} 0 2"#,
                r#"{j="b", v="6"} 0 1"#,
                r#"{j="b", v="NaN"} 1 1"#
            ]
        );
        assert_eq!(run("j", &["i", "j"], true), ["{} 0 3", "{} 1 2"]);
        assert_eq!(run("i", &["i"], false), [r#"{i="1000000"} 1 1"#, r#"{i="6"} 0 3"#, r#"{i="NaN"} 1 1"#]);
        let bad = CountValuesSpec { label: String::new(), grouping: vec![], without: false };
        let e = CountValues::new(&bad, &Roster::default(), grid(1)).unwrap_err();
        assert_eq!(e.to_string(), "invalid label name \"\"");
    }
}
