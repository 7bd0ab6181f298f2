//! Output rows under construction: each output series gets its cells from one or more input rows, which must not overlap.
//!
//! ```text
//! input row, masked words ──▶ Rows::put(sid, …) ──▶ tiles of ~64 Ki cells, sid order
//!                                  │
//!                                  └─ a cell set twice: the first such step is kept, for the error
//! ```

use std::sync::Arc;

use quiver_model::Histogram;

use super::bits;
use crate::exec::tile::Tile;

/// Cells of a tile an operator makes, about.
pub const TILE_CELLS: usize = 1 << 16;

/// Rows of a tile of `width` steps.
pub fn rows_per_tile(width: usize) -> usize {
    (TILE_CELLS / width.max(1)).clamp(1, 4096)
}

const NONE: u32 = u32::MAX;

/// See the module.
#[derive(Debug)]
pub struct Rows {
    width: usize,
    per_tile: usize,
    slot: Vec<u32>,
    count: u32,
    ascending: bool,
    last: u32,
    tiles: Vec<Tile>,
    hist: Vec<Vec<(u32, Arc<Histogram>)>>,
    overlap: Option<(usize, u32)>,
    /// Bytes of histograms.
    hist_bytes: usize,
}

impl Rows {
    /// For a roster of `series` series (or more) over `width` steps.
    pub fn new(series: usize, width: usize) -> Self {
        Self {
            width,
            per_tile: rows_per_tile(width),
            slot: vec![NONE; series],
            count: 0,
            ascending: true,
            last: 0,
            tiles: Vec::new(),
            hist: Vec::new(),
            overlap: None,
            hist_bytes: 0,
        }
    }

    fn place(&mut self, sid: u32) -> (usize, usize) {
        if sid as usize >= self.slot.len() {
            self.slot.resize(sid as usize + 1, NONE);
        }
        let slot = &mut self.slot[sid as usize];
        if *slot == NONE {
            *slot = self.count;
            self.count += 1;
            self.ascending &= sid >= self.last;
            self.last = sid;
            let t = *slot as usize / self.per_tile;
            if t == self.tiles.len() {
                self.tiles.push(Tile { width: self.width, ..Tile::default() });
                self.hist.push(Vec::new());
            }
            self.tiles[t].push_row(sid);
        }
        let slot = *slot as usize;
        (slot / self.per_tile, slot % self.per_tile)
    }

    /// Sets the cells of word `word` of a row: `values` are the up to 64 values of that word, `on` the cells to set.
    pub fn put(&mut self, sid: u32, word: usize, on: u64, values: &[f64]) {
        if on == 0 {
            return;
        }
        let (t, row) = self.place(sid);
        let at = row * self.width + (word << 6);
        let tile = &mut self.tiles[t];
        let clash = bits::load(&tile.present, at) & on;
        bits::or_at(&mut tile.present, at, on);
        let n = (self.width - (word << 6)).min(64).min(values.len());
        let out = &mut tile.values[at..at + n];
        if on == u64::MAX || on == bits::mask(n, 0) {
            out.copy_from_slice(&values[..n]);
        } else {
            for i in bits::ones(on) {
                out[i] = values[i];
            }
        }
        if clash != 0 {
            self.clash((word << 6) + clash.trailing_zeros() as usize, sid);
        }
    }

    /// Sets one float.
    pub fn set(&mut self, sid: u32, step: usize, v: f64) {
        let (t, row) = self.place(sid);
        let cell = row * self.width + step;
        let clash = self.tiles[t].is_present(cell);
        self.tiles[t].set(cell, v);
        if clash {
            self.clash(step, sid);
        }
    }

    /// Sets a histogram. Steps of one row may come in any order.
    pub fn put_histogram(&mut self, sid: u32, step: usize, h: Arc<Histogram>) {
        let (t, row) = self.place(sid);
        let cell = row * self.width + step;
        if self.tiles[t].is_present(cell) {
            self.clash(step, sid);
            return;
        }
        bits::or_at(&mut self.tiles[t].present, cell, 1);
        self.hist_bytes += 200 + 8 * (h.positive_buckets.len() + h.negative_buckets.len());
        self.hist[t].push((cell as u32, h));
    }

    /// Marks a histogram whose presence bit [`Rows::put`] has set.
    fn attach(&mut self, sid: u32, step: usize, h: Arc<Histogram>) {
        let (t, row) = self.place(sid);
        // Shared with whose row it is.
        self.hist_bytes += 16;
        self.hist[t].push(((row * self.width + step) as u32, h));
    }

    fn clash(&mut self, step: usize, sid: u32) {
        if self.overlap.is_none_or(|(s, _)| step < s) {
            self.overlap = Some((step, sid));
        }
    }

    /// Puts the cells of row `row` of a tile that `mask` accepts (word number to word).
    pub fn put_row(&mut self, sid: u32, tile: &Tile, row: usize, mask: impl Fn(usize) -> u64) {
        let at = row * tile.width;
        for w in 0..bits::words(tile.width) {
            let on = bits::row_word(&tile.present, at, tile.width, w) & mask(w);
            let from = at + (w << 6);
            let n = (tile.width - (w << 6)).min(64);
            self.put(sid, w, on, &tile.values[from..from + n]);
        }
        for (cell, h) in tile.row_histograms(row) {
            let step = *cell as usize - at;
            if mask(step >> 6) >> (step & 63) & 1 != 0 && tile.is_present(*cell as usize) {
                self.attach(sid, step, h.clone());
            }
        }
    }

    /// The row of a series, as (tile, row in it).
    pub fn row(&self, sid: u32) -> Option<(&Tile, usize)> {
        let slot = *self.slot.get(sid as usize)?;
        if slot == NONE {
            return None;
        }
        let slot = slot as usize;
        Some((&self.tiles[slot / self.per_tile], slot % self.per_tile))
    }

    /// Bytes it holds, about.
    pub fn bytes(&self) -> usize {
        self.slot.len() * 4 + self.count as usize * (self.width * 8 + self.width / 8 + 4) + self.hist_bytes
    }

    /// The first step at which a cell was set twice, and the series.
    pub fn overlap(&self) -> Option<(usize, u32)> {
        self.overlap
    }

    /// Settles histograms, so that rows can be read through [`Rows::row`].
    pub fn settle(&mut self) {
        for (tile, hist) in self.tiles.iter_mut().zip(&mut self.hist) {
            if !hist.is_empty() {
                tile.hist.append(hist);
                tile.hist.sort_by_key(|(c, _)| *c);
                tile.hist.dedup_by_key(|(c, _)| *c);
            }
        }
    }

    /// The tiles, rows in sid order.
    pub fn finish(mut self) -> Vec<Tile> {
        self.settle();
        if self.ascending {
            return self.tiles;
        }
        let mut order: Vec<(u32, u32)> =
            self.slot.iter().enumerate().filter(|(_, s)| **s != NONE).map(|(i, s)| (i as u32, *s)).collect();
        order.sort_unstable_by_key(|(sid, _)| *sid);
        self.in_order(&order)
    }

    /// The tiles, rows in the order of `sids` and numbered by it.
    pub fn finish_ordered(mut self, sids: &[u32]) -> Vec<Tile> {
        self.settle();
        let slot = |sid: &u32| self.slot.get(*sid as usize).copied().unwrap_or(NONE);
        let order: Vec<(u32, u32)> =
            sids.iter().zip(0..).map(|(s, new)| (new, slot(s))).filter(|(_, s)| *s != NONE).collect();
        self.in_order(&order)
    }

    /// The tiles under new sids, `new` by old sid, in their order.
    pub fn finish_renumbered(mut self, new: &[u32]) -> Vec<Tile> {
        self.settle();
        let mut order: Vec<(u32, u32)> =
            new.iter().zip(&self.slot).filter(|(_, s)| **s != NONE).map(|(n, s)| (*n, *s)).collect();
        order.sort_unstable_by_key(|(sid, _)| *sid);
        self.in_order(&order)
    }

    fn in_order(&self, order: &[(u32, u32)]) -> Vec<Tile> {
        let mut out = Vec::with_capacity(self.tiles.len());
        for chunk in order.chunks(self.per_tile) {
            let mut tile = Tile::new(self.width, chunk.iter().map(|(sid, _)| *sid).collect());
            for (to, (_, slot)) in chunk.iter().enumerate() {
                let (from, row) = (&self.tiles[*slot as usize / self.per_tile], *slot as usize % self.per_tile);
                copy_row(from, row, &mut tile, to);
            }
            out.push(tile);
        }
        out
    }
}

/// Copies a row over an absent one; rows of the target are filled in ascending order.
pub fn copy_row(from: &Tile, row: usize, to: &mut Tile, to_row: usize) {
    let w = from.width;
    let (a, b) = (row * w, to_row * w);
    to.values[b..b + w].copy_from_slice(&from.values[a..a + w]);
    for i in 0..bits::words(w) {
        bits::or_at(&mut to.present, b + (i << 6), bits::row_word(&from.present, a, w, i));
    }
    for (cell, h) in from.row_histograms(row) {
        to.hist.push(((*cell as usize - a + b) as u32, h.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_out_in_sid_order_and_overlaps_are_found() {
        let mut rows = Rows::new(4, 70);
        let vals: Vec<f64> = (0..64).map(f64::from).collect();
        rows.put(3, 0, 0b101, &vals);
        rows.put(1, 1, 0b11, &vals[..6]);
        rows.put(3, 0, 0b010, &vals);
        assert_eq!(rows.overlap(), None);
        rows.put_histogram(1, 3, Arc::new(Histogram::default()));
        rows.put(3, 0, 0b110, &vals);
        assert_eq!(rows.overlap(), Some((1, 3)));
        let tiles = rows.finish();
        assert_eq!(tiles.len(), 1);
        let t = &tiles[0];
        assert_eq!(t.sids, [1, 3]);
        assert!(t.is_present(64) && t.is_present(65) && !t.is_present(66) && t.is_present(70 + 2));
        assert_eq!((t.values[65], t.values[72]), (1.0, 2.0));
        assert!(t.histogram(3).is_some());
        assert_eq!(t.samples(), 6);
    }
}
