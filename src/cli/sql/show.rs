//! Answers as tables, made of the Arrow stream: types are known, and no more than the rows that are shown is kept. Without a
//! terminal all rows are printed, part by part.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, SchemaRef};
use arrow::ipc::reader::StreamDecoder;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use http_body_util::BodyExt;

use super::AnyBody;
use crate::cli::table::{Kind, Table};
use quiver_model::number::grouped;

use crate::cli::terminal::{self, plural};

/// Rows of a table, unless all are asked for.
const ROWS_DEFAULT: usize = 100;
/// Rows that are read to be counted; a table that has more is not read to its end.
const ROWS_COUNTED: usize = 1_000_000;
/// Rows and bytes that are laid out together if all are printed.
const PART_ROWS: usize = 10_000;
const PART_BYTES: usize = 32 << 20;
/// Characters of a cell at most, unless all is asked for: a list may have a million values.
const CELL_MAX: usize = 2000;

/// Columns left out that are named.
const NAMES_LEFT_OUT: usize = 5;

/// How a table is laid out.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Columns of the terminal; none for a pipe.
    pub width: Option<usize>,
    /// All rows.
    pub all: bool,
    /// With a bold head.
    pub colour: bool,
    /// The flag or command that prints all rows.
    pub all_by: &'static str,
}

/// Reads an answer and prints it as a table; gives what is to be said of it, such as the number of its rows.
pub async fn table(mut body: AnyBody, layout: Layout, print: &mut dyn FnMut(&str)) -> Result<String, String> {
    let mut decoder = StreamDecoder::new();
    let is_piped = layout.width.is_none();
    let layout = Layout { all: layout.all || is_piped, ..layout };
    let mut shown = Rows { batches: Vec::new(), kept: 0, bytes: 0, total: 0, is_whole: true, table: None };
    let rows_max = if layout.all { usize::MAX } else { ROWS_DEFAULT };
    'read: while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| {
            if shown.total > 0 { format!("{e}, after {} rows", grouped(shown.total as u64)) } else { e }
        })?;
        let Ok(data) = frame.into_data() else { continue };
        // Bytes are taken as they are, without a copy.
        let mut buffer = Buffer::from(data);
        while !buffer.is_empty() {
            let batch = decoder.decode(&mut buffer).map_err(|e| format!("the answer is not an Arrow stream: {e}"))?;
            let Some(batch) = batch else { continue };
            shown.add(batch, rows_max);
            if is_piped && (shown.kept >= PART_ROWS || shown.bytes >= PART_BYTES) {
                shown.print(layout, print)?;
            }
            if !layout.all && shown.total >= ROWS_COUNTED {
                shown.is_whole = false;
                break 'read;
            }
        }
    }
    if shown.is_whole {
        decoder.finish().map_err(|_| "the answer ends too early; the server may have stopped".to_owned())?;
    }
    let schema = decoder.schema().ok_or("the answer has no columns")?;
    shown.end(&schema, layout, print)
}

struct Rows {
    batches: Vec<RecordBatch>,
    kept: usize,
    bytes: usize,
    total: usize,
    is_whole: bool,
    /// The table whose first rows are printed already.
    table: Option<Table>,
}

impl Rows {
    fn add(&mut self, batch: RecordBatch, rows_max: usize) {
        let keep = batch.num_rows().min(rows_max - self.kept);
        self.total += batch.num_rows();
        if keep > 0 {
            self.kept += keep;
            self.bytes += batch.get_array_memory_size();
            self.batches.push(batch.slice(0, keep));
        }
    }

    /// Lays out the rows that were kept.
    fn fill(&mut self, schema: &SchemaRef, layout: Layout) -> Result<Table, String> {
        let mut t = match self.table.take() {
            Some(t) => t,
            None => Table::new(schema.fields().iter().map(|f| (f.name().as_str(), kind(f)))),
        };
        for batch in self.batches.drain(..) {
            let cells = Cells::new(&batch, layout.all)?;
            for row in 0..batch.num_rows() {
                t.push(cells.row(row));
            }
        }
        Ok(t)
    }

    /// Prints the rows that were kept, to be followed by others.
    fn print(&mut self, layout: Layout, print: &mut dyn FnMut(&str)) -> Result<(), String> {
        let Some(schema) = self.batches.first().map(RecordBatch::schema) else { return Ok(()) };
        let mut t = self.fill(&schema, layout)?;
        print(&t.show(None, layout.colour).text);
        t.go_on();
        (self.table, self.kept, self.bytes) = (Some(t), 0, 0);
        Ok(())
    }

    /// Prints what is left; gives what is to be said.
    fn end(&mut self, schema: &SchemaRef, layout: Layout, print: &mut dyn FnMut(&str)) -> Result<String, String> {
        if let Some(plans) = self.plans(schema, layout)? {
            print(&plans);
            return Ok(String::new());
        }
        let t = self.fill(schema, layout)?;
        let columns = t.columns();
        let shown = t.show(layout.width, layout.colour);
        print(&shown.text);
        let mut notes = Vec::new();
        if !layout.all && self.kept < self.total {
            let total = if self.is_whole {
                grouped(self.total as u64)
            } else {
                format!("more than {}", grouped(ROWS_COUNTED as u64))
            };
            notes.push(format!("{} of {total} rows shown; {} prints all", self.kept, layout.all_by));
        } else {
            notes.push(plural(self.total as u64, "row"));
        }
        if !shown.left_out.is_empty() {
            let (left, word) = (columns - shown.left_out.len(), plural(columns as u64, "column"));
            let names = if shown.left_out.len() > NAMES_LEFT_OUT {
                String::new()
            } else {
                format!(" (not {})", shown.left_out.join(", "))
            };
            notes.push(format!("{left} of {word} shown{names}"));
        }
        Ok(notes.join(", "))
    }

    /// The answer of EXPLAIN: plans have lines of their own.
    fn plans(&self, schema: &SchemaRef, layout: Layout) -> Result<Option<String>, String> {
        let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        if names != ["plan_type", "plan"] || self.table.is_some() {
            return Ok(None);
        }
        let mut out = String::new();
        for batch in &self.batches {
            let cells = Cells::new(batch, true)?;
            for row in 0..batch.num_rows() {
                if let [name, plan] = cells.row(row).as_slice() {
                    if !out.is_empty() {
                        out.push('\n');
                    }
                    out.push_str(&format!("{}\n", terminal::printable(&name.replace('_', " "))));
                    plan.lines().for_each(|line| out.push_str(&plan_line(line, layout.width)));
                }
            }
        }
        Ok(Some(out))
    }
}

/// A line of a plan, with its own indentation.
fn plan_line(line: &str, width: Option<usize>) -> String {
    let line = terminal::printable(line.trim_end());
    let text = line.trim_start();
    let indent = line.len() - text.len() + 2;
    terminal::wrap(text, indent, indent + 6, width)
}

fn kind(field: &Field) -> Kind {
    match field.data_type() {
        t if t.is_numeric() => Kind::Number,
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 | DataType::Boolean => Kind::Fixed,
        DataType::Time32(_) | DataType::Time64(_) | DataType::Duration(_) | DataType::Interval(_) => Kind::Fixed,
        _ => Kind::Text,
    }
}

/// Texts of a batch's cells.
struct Cells<'a> {
    columns: Vec<(&'a dyn Array, ArrayFormatter<'a>)>,
    all: bool,
}

impl<'a> Cells<'a> {
    fn new(batch: &'a RecordBatch, all: bool) -> Result<Self, String> {
        const OPTIONS: FormatOptions<'static> =
            FormatOptions::new().with_null(crate::cli::table::NULL).with_display_error(true);
        let formatter = |c: &'a arrow::array::ArrayRef| {
            let made = ArrayFormatter::try_new(c.as_ref(), &OPTIONS).map_err(|e| e.to_string())?;
            Ok::<_, String>((c.as_ref(), made))
        };
        Ok(Self { columns: batch.columns().iter().map(formatter).collect::<Result<_, _>>()?, all })
    }

    fn row(&self, row: usize) -> Vec<String> {
        self.columns.iter().map(|(array, f)| self.cell(*array, f, row)).collect()
    }

    fn cell(&self, array: &dyn Array, formatter: &ArrayFormatter<'_>, row: usize) -> String {
        let float = match array.data_type() {
            DataType::Float64 if array.is_valid(row) => Some(array.as_primitive::<Float64Type>().value(row)),
            DataType::Float32 if array.is_valid(row) => Some(f64::from(array.as_primitive::<Float32Type>().value(row))),
            _ => None,
        };
        match float.filter(|v| !v.is_finite()) {
            Some(v) if v.is_nan() => return "NaN".to_owned(),
            Some(v) => return if v > 0.0 { "+Inf" } else { "-Inf" }.to_owned(),
            None => {}
        }
        let text = formatter.value(row).to_string();
        match text.char_indices().nth(CELL_MAX) {
            Some((at, _)) if !self.all => format!("{}…", &text[..at]),
            _ => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray, TimestampMillisecondArray};
    use http_body_util::Full;

    use super::*;

    fn body(batches: &[RecordBatch], cut: usize) -> AnyBody {
        let mut w = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &batches[0].schema()).unwrap();
        batches.iter().for_each(|b| w.write(b).unwrap());
        let mut bytes = w.into_inner().unwrap();
        bytes.truncate(bytes.len() - cut);
        Full::new(hyper::body::Bytes::from(bytes)).map_err(|e| match e {}).boxed_unsync()
    }

    fn show(batches: &[RecordBatch], cut: usize, width: Option<usize>, all: bool) -> Result<String, String> {
        let rt = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut text = String::new();
        let layout = Layout { width, all, colour: false, all_by: "--all" };
        let note = rt.block_on(table(body(batches, cut), layout, &mut |part| text.push_str(part)))?;
        Ok(if note.is_empty() { text } else { format!("{text}{note}\n") })
    }

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter(columns).unwrap()
    }

    #[test]
    fn values_of_all_kinds_have_their_text() {
        let b = batch(vec![
            ("ts", Arc::new(TimestampMillisecondArray::from(vec![1_796_127_000_000, 0, 1]).with_timezone("UTC"))),
            ("v", Arc::new(Float64Array::from(vec![Some(f64::NAN), Some(f64::NEG_INFINITY), None]))),
            ("n", Arc::new(Int64Array::from(vec![1, i64::MIN, 3]))),
            ("s", Arc::new(StringArray::from(vec!["a\nb", "", "c"]))),
        ]);
        let text = show(&[b], 0, None, false).unwrap();
        assert!(text.contains("2026-12-01T12:10:00Z") && text.contains("NaN") && text.contains("-Inf"), "{text}");
        assert!(text.contains("NULL") && text.contains("-9223372036854775808") && text.contains("a\\nb"), "{text}");
        assert!(text.ends_with("3 rows\n"), "{text}");
    }

    #[test]
    fn long_answers_are_cut_and_counted() {
        let b = batch(vec![("n", Arc::new(Int64Array::from_iter_values(0..150)))]);
        let text = show(&[b.clone(), b.clone()], 0, Some(80), false).unwrap();
        assert!(text.ends_with("100 of 300 rows shown; --all prints all\n"), "{text}");
        assert_eq!(text.lines().count(), 103);
        assert!(show(&[b.clone(), b.clone()], 0, Some(80), true).unwrap().ends_with("300 rows\n"));
        let wide = batch((0..30).map(|_| ("n", Arc::new(Int64Array::from(vec![12_345])) as ArrayRef)).collect());
        let text = show(&[wide], 0, Some(40), false).unwrap();
        assert!(text.ends_with("1 row, 5 of 30 columns shown\n"), "{text}");
        let said = show(&[b.clone(), b], 1000, Some(80), false).unwrap_err();
        assert!(said.contains("ends too early"), "{said}");
    }

    #[test]
    fn in_a_pipe_all_rows_are_printed_part_by_part() {
        let part = |from: i64| {
            let texts = StringArray::from_iter_values((from..from + 6000).map(|n| format!("row {n}")));
            batch(vec![("s", Arc::new(texts)), ("n", Arc::new(Int64Array::from_iter_values(from..from + 6000)))])
        };
        let text = show(&[part(0), part(6000), part(12_000)], 0, None, false).unwrap();
        assert_eq!(text.lines().count(), 2 + 18_000 + 1, "a head, a ruler, the rows and their number");
        assert!(text.ends_with("row 17999  17999\n18,000 rows\n"), "{}", &text[text.len() - 100..]);
        assert_eq!(text.matches('─').count(), text.lines().nth(1).unwrap().matches('─').count());
    }

    #[test]
    fn plans_have_no_box() {
        let plan = "Projection: a, b\n  Filter: x > 1 AND some_long_name = 'a value that goes on and on and on'";
        let b = batch(vec![
            ("plan_type", Arc::new(StringArray::from(vec!["logical_plan", "physical_plan"]))),
            ("plan", Arc::new(StringArray::from(vec![plan, "Scan"]))),
        ]);
        let text = show(std::slice::from_ref(&b), 0, None, false).unwrap();
        assert!(text.starts_with("logical plan\n  Projection: a, b\n    Filter: x > 1"), "{text}");
        assert!(text.ends_with("\nphysical plan\n  Scan\n") && !text.contains('─'), "{text}");
        let narrow = show(&[b], 0, Some(40), false).unwrap();
        assert!(narrow.lines().all(|l| l.chars().count() <= 40), "{narrow}");
    }
}
