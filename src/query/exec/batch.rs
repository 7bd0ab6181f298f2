//! Tiles as Arrow record batches, and back: the form in which rows of an instant vector leave or enter our own operators.
//!
//! ```text
//! __sid : UInt32                                   index into the roster
//! v     : FixedSizeList<Float64>[W]                null: no float at that step
//! h     : List<Struct{from, len, histogram}>       runs of steps that hold the same histogram
//! ts    : FixedSizeList<Int64>[W]                  only below timestamp()
//! st    : FixedSizeList<Int64>[W]                  only below start_timestamp()
//! ```
//!
//! Float buffers are handed over, not copied: a tile's values and presence words *are* the child array's buffers. Between
//! two of our operators a tile is passed as it is (histograms stay shared pointers); batches are for the edges: stock
//! DataFusion nodes, SQL, other processes.
//!
//! Invariants
//! 1. `to_batch` then `from_batch` gives an equal tile.
//! 2. A step is null in `v` and covered by a run of `h`, or not null in `v`, or neither.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanBufferBuilder, FixedSizeListArray, Float64Array, Int8Array, Int32Array,
    Int64Array, ListArray, RecordBatch, StructArray, UInt8Array, UInt32Array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Float64Type, Int64Type, Schema, SchemaRef, UInt32Type};
use datafusion::common::{DFSchema, DFSchemaRef, DataFusionError, Result as DfResult, exec_err};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::{Partitioning, PlanProperties};
use parking_lot::Mutex;
use quiver_model::{Histogram, ResetHint, Span};

use crate::exec::tile::Tile;

/// Which columns batches of an operator have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Columns {
    /// `__sid`, `v`, `h`.
    Values,
    /// And `ts`.
    Timestamps,
    /// And `st`.
    StartTimestamps,
    /// Raw samples: `__sid`, `t`, `v`, `h`.
    Raw,
}

/// What is shared by all nodes whose batches look alike.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Arrow schema.
    pub schema: SchemaRef,
    /// DataFusion schema.
    pub df_schema: DFSchemaRef,
    /// Properties of a physical node: one partition, batches as they come.
    pub properties: Arc<PlanProperties>,
}

/// Widths seen lately; a server sees few.
const SHAPES_MAX: usize = 256;

/// The shape of batches of a width.
pub fn shape(width: usize, columns: Columns) -> Shape {
    static SHAPES: OnceLock<Mutex<HashMap<(usize, Columns), Shape>>> = OnceLock::new();
    let mut shapes = SHAPES.get_or_init(Default::default).lock();
    if shapes.len() >= SHAPES_MAX {
        shapes.clear();
    }
    shapes.entry((width, columns)).or_insert_with(|| make_shape(width, columns)).clone()
}

/// The DataFusion schema of batches of a width.
pub fn df_schema(width: usize, columns: Columns) -> DFSchemaRef {
    shape(width, columns).df_schema
}

fn make_shape(width: usize, columns: Columns) -> Shape {
    let w = i32::try_from(width).unwrap_or(i32::MAX);
    let lanes = |t: DataType| DataType::FixedSizeList(Arc::new(Field::new_list_field(t, true)), w);
    let mut fields = vec![Field::new("__sid", DataType::UInt32, false)];
    if columns == Columns::Raw {
        let list = |t: DataType| DataType::List(Arc::new(Field::new_list_field(t, false)));
        fields.push(Field::new("t", list(DataType::Int64), false));
        fields.push(Field::new("v", list(DataType::Float64), false));
    } else {
        fields.push(Field::new("v", lanes(DataType::Float64), false));
    }
    fields.push(Field::new("h", DataType::List(run_field()), false));
    match columns {
        Columns::Timestamps => fields.push(Field::new("ts", lanes(DataType::Int64), false)),
        Columns::StartTimestamps => fields.push(Field::new("st", lanes(DataType::Int64), false)),
        Columns::Values | Columns::Raw => {}
    }
    let schema = Arc::new(Schema::new(fields));
    // A schema without duplicate names always converts.
    let df_schema = Arc::new(DFSchema::try_from(Arc::clone(&schema)).unwrap_or_else(|_| DFSchema::empty()));
    let properties = Arc::new(PlanProperties::new(
        EquivalenceProperties::new(Arc::clone(&schema)),
        Partitioning::UnknownPartitioning(1),
        EmissionType::Incremental,
        Boundedness::Bounded,
    ));
    Shape { schema, df_schema, properties }
}

fn span_list() -> DataType {
    let span =
        Fields::from(vec![Field::new("offset", DataType::Int32, false), Field::new("length", DataType::UInt32, false)]);
    DataType::List(Arc::new(Field::new_list_field(DataType::Struct(span), false)))
}

fn float_list() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Float64, false)))
}

/// Fields of a native histogram.
pub fn histogram_fields() -> Fields {
    Fields::from(vec![
        Field::new("reset_hint", DataType::UInt8, false),
        Field::new("schema", DataType::Int8, false),
        Field::new("zero_threshold", DataType::Float64, false),
        Field::new("zero_count", DataType::Float64, false),
        Field::new("count", DataType::Float64, false),
        Field::new("sum", DataType::Float64, false),
        Field::new("positive_spans", span_list(), false),
        Field::new("negative_spans", span_list(), false),
        Field::new("positive_buckets", float_list(), false),
        Field::new("negative_buckets", float_list(), false),
        Field::new("custom_values", float_list(), false),
    ])
}

fn run_fields() -> Fields {
    Fields::from(vec![
        Field::new("from", DataType::UInt32, false),
        Field::new("len", DataType::UInt32, false),
        Field::new("histogram", DataType::Struct(histogram_fields()), false),
    ])
}

fn run_field() -> FieldRef {
    Arc::new(Field::new_list_field(DataType::Struct(run_fields()), false))
}

/// Histograms as a struct array.
pub fn histogram_array(histograms: &[&Histogram]) -> DfResult<StructArray> {
    let floats = |get: fn(&Histogram) -> f64| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values(histograms.iter().map(|h| get(h))))
    };
    let lists = |get: fn(&Histogram) -> &Vec<f64>| -> DfResult<ArrayRef> {
        let offsets = OffsetBuffer::from_lengths(histograms.iter().map(|h| get(h).len()));
        let values: Vec<f64> = histograms.iter().flat_map(|h| get(h).iter().copied()).collect();
        let item = Arc::new(Field::new_list_field(DataType::Float64, false));
        Ok(Arc::new(ListArray::try_new(item, offsets, Arc::new(Float64Array::from(values)), None)?))
    };
    let spans = |get: fn(&Histogram) -> &Vec<Span>| -> DfResult<ArrayRef> {
        let offsets = OffsetBuffer::from_lengths(histograms.iter().map(|h| get(h).len()));
        let all = || histograms.iter().flat_map(|h| get(h).iter());
        let DataType::List(item) = span_list() else { return exec_err!("span_list is a list") };
        let DataType::Struct(fields) = item.data_type() else { return exec_err!("spans are structs") };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int32Array::from_iter_values(all().map(|s| s.offset))),
            Arc::new(UInt32Array::from_iter_values(all().map(|s| s.length))),
        ];
        let values = StructArray::try_new_with_length(fields.clone(), columns, None, all().count())?;
        Ok(Arc::new(ListArray::try_new(item, offsets, Arc::new(values), None)?))
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt8Array::from_iter_values(histograms.iter().map(|h| h.reset_hint as u8))),
        Arc::new(Int8Array::from_iter_values(histograms.iter().map(|h| h.schema as i8))),
        floats(|h| h.zero_threshold),
        floats(|h| h.zero_count),
        floats(|h| h.count),
        floats(|h| h.sum),
        spans(|h| &h.positive_spans)?,
        spans(|h| &h.negative_spans)?,
        lists(|h| &h.positive_buckets)?,
        lists(|h| &h.negative_buckets)?,
        lists(|h| &h.custom_values)?,
    ];
    Ok(StructArray::try_new_with_length(histogram_fields(), columns, None, histograms.len())?)
}

/// Histogram `i` of an array made by [`histogram_array`].
pub fn histogram_at(array: &StructArray, i: usize) -> Histogram {
    let float = |c: usize| array.column(c).as_primitive::<Float64Type>().value(i);
    let floats = |c: usize| -> Vec<f64> {
        array.column(c).as_list::<i32>().value(i).as_primitive::<Float64Type>().values().to_vec()
    };
    let spans = |c: usize| -> Vec<Span> {
        let list = array.column(c).as_list::<i32>().value(i);
        let list = list.as_struct();
        let offsets = list.column(0).as_primitive::<arrow::datatypes::Int32Type>();
        let lengths = list.column(1).as_primitive::<UInt32Type>();
        (0..list.len()).map(|k| Span { offset: offsets.value(k), length: lengths.value(k) }).collect()
    };
    let hint = match array.column(0).as_primitive::<arrow::datatypes::UInt8Type>().value(i) {
        1 => ResetHint::Yes,
        2 => ResetHint::No,
        3 => ResetHint::Gauge,
        _ => ResetHint::Unknown,
    };
    Histogram {
        reset_hint: hint,
        schema: i32::from(array.column(1).as_primitive::<arrow::datatypes::Int8Type>().value(i)),
        zero_threshold: float(2),
        zero_count: float(3),
        count: float(4),
        sum: float(5),
        positive_spans: spans(6),
        negative_spans: spans(7),
        positive_buckets: floats(8),
        negative_buckets: floats(9),
        custom_values: floats(10),
    }
}

fn lane_field(t: DataType) -> FieldRef {
    Arc::new(Field::new_list_field(t, true))
}

fn width_i32(width: usize) -> DfResult<i32> {
    i32::try_from(width).map_err(|_| DataFusionError::Execution(format!("{width} steps do not fit a list")))
}

/// A tile as a batch; takes its buffers.
pub fn to_batch(tile: Tile, columns: Columns) -> DfResult<RecordBatch> {
    let Tile { width, sids, values, mut present, hist, orig_ts, start_ts } = tile;
    let rows = sids.len();
    let cells = rows * width;
    let h = run_array(rows, width, &hist)?;
    // A histogram's cell is null in `v`.
    for (c, _) in &hist {
        present[*c as usize >> 6] &= !(1 << (c & 63));
    }
    let w = width_i32(width)?;
    // The bits of little-endian words in memory order are Arrow's bit order.
    let bits = BooleanBuffer::new(Buffer::from_vec(present.iter().map(|x| x.to_le()).collect::<Vec<u64>>()), 0, cells);
    let nulls = NullBuffer::new(bits);
    let child = Float64Array::new(ScalarBuffer::from(values), Some(nulls.clone()));
    let v = FixedSizeListArray::try_new_with_length(lane_field(DataType::Float64), w, Arc::new(child), None, rows)?;
    let mut arrays: Vec<ArrayRef> = vec![Arc::new(UInt32Array::from(sids)), Arc::new(v), Arc::new(h)];
    let mut times = |mut t: Vec<i64>| -> DfResult<()> {
        t.resize(cells, 0);
        let child = Int64Array::new(ScalarBuffer::from(t), None);
        let lanes =
            FixedSizeListArray::try_new_with_length(lane_field(DataType::Int64), w, Arc::new(child), None, rows)?;
        arrays.push(Arc::new(lanes));
        Ok(())
    };
    match columns {
        Columns::Timestamps => times(orig_ts)?,
        Columns::StartTimestamps => times(start_ts)?,
        Columns::Values | Columns::Raw => {}
    }
    let columns = if columns == Columns::Raw { Columns::Values } else { columns };
    Ok(RecordBatch::try_new(shape(width, columns).schema, arrays)?)
}

/// Runs of cells of one row that share a histogram.
fn run_array(rows: usize, width: usize, hist: &[(u32, Arc<Histogram>)]) -> DfResult<ListArray> {
    let mut from = Vec::new();
    let mut len: Vec<u32> = Vec::new();
    let mut histograms: Vec<&Histogram> = Vec::new();
    let mut per_row = vec![0usize; rows];
    let mut last: Option<(u32, &Arc<Histogram>)> = None;
    for (cell, h) in hist {
        let row = *cell as usize / width;
        let continues =
            last.is_some_and(|(c, prev)| c + 1 == *cell && c as usize / width == row && Arc::ptr_eq(prev, h));
        if continues {
            if let Some(n) = len.last_mut() {
                *n += 1;
            }
        } else {
            from.push((*cell as usize % width) as u32);
            len.push(1);
            histograms.push(h);
            per_row[row] += 1;
        }
        last = Some((*cell, h));
    }
    let n = histograms.len();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt32Array::from(from)),
        Arc::new(UInt32Array::from(len)),
        Arc::new(histogram_array(&histograms)?),
    ];
    let runs = StructArray::try_new_with_length(run_fields(), columns, None, n)?;
    Ok(ListArray::try_new(run_field(), OffsetBuffer::from_lengths(per_row), Arc::new(runs), None)?)
}

/// A batch as a tile.
pub fn from_batch(batch: &RecordBatch) -> DfResult<Tile> {
    let rows = batch.num_rows();
    let bad = || DataFusionError::Execution("not a batch of an instant vector".into());
    let sids = batch.column(0).as_primitive_opt::<UInt32Type>().ok_or_else(bad)?.values().to_vec();
    let v = batch.column(1).as_fixed_size_list_opt().ok_or_else(bad)?;
    let width = v.value_length() as usize;
    let cells = rows * width;
    let child = v.values().as_primitive_opt::<Float64Type>().ok_or_else(bad)?;
    let first = v.value_offset(0).max(0) as usize;
    let values: Vec<f64> = if first == 0 && child.len() == cells {
        // Taken over without a copy where nobody else holds the buffer.
        child.values().to_vec()
    } else {
        child.values()[first..first + cells].to_vec()
    };
    let mut present = vec![0u64; cells.div_ceil(64)];
    for (cell, value) in (0..cells).zip(first..) {
        if child.is_valid(value) {
            present[cell >> 6] |= 1 << (cell & 63);
        }
    }
    let mut tile = Tile { width, sids, values, present, ..Tile::default() };
    for cell in 0..cells {
        if !tile.is_present(cell) {
            tile.values[cell] = 0.0;
        }
    }
    let h = batch.column(2).as_list_opt::<i32>().ok_or_else(bad)?;
    for row in 0..rows {
        let runs = h.value(row);
        let runs = runs.as_struct_opt().ok_or_else(bad)?;
        let from = runs.column(0).as_primitive_opt::<UInt32Type>().ok_or_else(bad)?;
        let len = runs.column(1).as_primitive_opt::<UInt32Type>().ok_or_else(bad)?;
        let histograms = runs.column(2).as_struct_opt().ok_or_else(bad)?;
        for run in 0..runs.len() {
            let shared = Arc::new(histogram_at(histograms, run));
            for step in from.value(run)..from.value(run) + len.value(run) {
                let cell = row * width + step as usize;
                if step as usize >= width {
                    return Err(bad());
                }
                tile.set_histogram(cell, Arc::clone(&shared));
            }
        }
    }
    for (i, field) in batch.schema().fields().iter().enumerate().skip(3) {
        let lanes = batch.column(i).as_fixed_size_list_opt().ok_or_else(bad)?;
        let times = lanes.values().as_primitive_opt::<Int64Type>().ok_or_else(bad)?.values().to_vec();
        match field.name().as_str() {
            "ts" => tile.orig_ts = times,
            "st" => tile.start_ts = times,
            _ => {}
        }
    }
    Ok(tile)
}

/// Presence of all cells as booleans, for tests and for readers of batches.
pub fn presence(tile: &Tile) -> BooleanBuffer {
    let mut b = BooleanBufferBuilder::new(tile.rows() * tile.width);
    for c in 0..tile.rows() * tile.width {
        b.append(tile.is_present(c));
    }
    b.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Tile {
        let mut t = Tile::new(3, vec![4, 9]);
        t.set(0, 1.5);
        t.set(2, f64::NAN);
        let h = Arc::new(Histogram {
            schema: 1,
            count: 3.0,
            sum: 7.0,
            positive_spans: vec![Span { offset: -1, length: 2 }],
            positive_buckets: vec![1.0, 2.0],
            ..Histogram::default()
        });
        t.set_histogram(3, Arc::clone(&h));
        t.set_histogram(4, h);
        t
    }

    #[test]
    fn a_tile_survives_the_round_trip() {
        let t = sample();
        let batch = to_batch(t.clone(), Columns::Values).unwrap();
        assert_eq!(batch.num_rows(), 2);
        let runs = batch.column(2).as_list::<i32>();
        assert_eq!(runs.value(1).len(), 1, "two steps that share a histogram are one run");
        let back = from_batch(&batch).unwrap();
        assert_eq!(back.sids, t.sids);
        assert_eq!(back.present, t.present);
        assert_eq!(back.hist, t.hist);
        assert_eq!(back.values[0], 1.5);
        assert!(back.values[2].is_nan());
        assert_eq!(presence(&back).count_set_bits(), 4);
    }

    #[test]
    fn values_are_handed_over_not_copied() {
        let mut t = Tile::new(1024, vec![0]);
        for i in 0..1024 {
            t.set(i, i as f64);
        }
        let at = t.values.as_ptr() as usize;
        let batch = to_batch(t, Columns::Values).unwrap();
        let v = batch.column(1).as_fixed_size_list().values().as_primitive::<Float64Type>().values().as_ptr();
        assert_eq!(v as usize, at);
    }

    #[test]
    fn times_travel_in_a_column_of_their_own() {
        let mut t = sample();
        t.orig_ts = vec![1, 2, 3, 4, 5, 6];
        let batch = to_batch(t, Columns::Timestamps).unwrap();
        assert_eq!(batch.num_columns(), 4);
        assert_eq!(from_batch(&batch).unwrap().orig_ts, vec![1, 2, 3, 4, 5, 6]);
    }
}
