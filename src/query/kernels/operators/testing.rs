//! Short ways to write rosters and tiles in tests, and a per-step view of tiles to compare with.

use std::collections::BTreeMap;
use std::sync::Arc;

use quiver_model::{Histogram, Labels, Limits};

use crate::context::{Features, QueryContext};
use crate::exec::tile::{Roster, RosterRow, StepGrid, Tile};

/// `a=1,b=2`
pub fn labels(text: &str) -> Labels {
    Labels::from_pairs(text.split(',').filter_map(|p| p.split_once('='))).unwrap()
}

/// One row a text.
pub fn roster(rows: &[&str]) -> Roster {
    Roster { rows: rows.iter().map(|t| RosterRow { labels: labels(t), drop_name: false }).collect() }
}

/// A context without limits.
pub fn context() -> QueryContext {
    QueryContext::new("query", Limits::default(), Features::default())
}

/// A grid of `len` steps of a minute.
pub fn grid(len: usize) -> StepGrid {
    StepGrid { start: 0, step: 60_000, len }
}

/// A cell of a test.
#[derive(Clone, Debug)]
pub enum Cell {
    /// A float.
    F(f64),
    /// A histogram.
    H(Arc<Histogram>),
}

/// A tile of rows of optional cells; sids from `first` on.
pub fn tile(first: u32, rows: &[Vec<Option<Cell>>]) -> Tile {
    let width = rows.first().map_or(1, Vec::len);
    let mut t = Tile { width, ..Tile::default() };
    for (i, r) in rows.iter().enumerate() {
        let row = t.push_row(first + i as u32);
        for (s, c) in r.iter().enumerate() {
            match c {
                Some(Cell::F(v)) => t.set(row * width + s, *v),
                Some(Cell::H(h)) => t.set_histogram(row * width + s, h.clone()),
                None => {}
            }
        }
    }
    t
}

/// A tile of floats.
pub fn floats(first: u32, rows: &[Vec<Option<f64>>]) -> Tile {
    let rows: Vec<Vec<Option<Cell>>> = rows.iter().map(|r| r.iter().map(|c| c.map(Cell::F)).collect()).collect();
    tile(first, &rows)
}

/// Float cells by (labels, step), as bits; histograms as their sum's bits with the top bit of a pair set.
pub fn cells(roster: &Roster, tiles: &[Tile]) -> BTreeMap<(Labels, usize), (bool, u64)> {
    let mut out = BTreeMap::new();
    for t in tiles {
        for (row, sid) in t.sids.iter().enumerate() {
            for s in 0..t.width {
                let cell = row * t.width + s;
                if t.is_present(cell) {
                    let v = match t.histogram(cell) {
                        Some(h) => (true, h.sum.to_bits()),
                        None if t.values[cell].is_nan() => (false, f64::NAN.to_bits()),
                        None => (false, t.values[cell].to_bits()),
                    };
                    let old = out.insert((roster.rows[*sid as usize].labels.clone(), s), v);
                    assert!(old.is_none(), "cell twice");
                } else {
                    assert_eq!(t.values[cell].to_bits(), 0, "absent cell with a value");
                }
            }
        }
    }
    out
}

/// The texts of all annotations.
pub fn notes(ctx: &QueryContext) -> Vec<String> {
    ctx.annotations().iter().map(|a| a.text.clone()).collect()
}
