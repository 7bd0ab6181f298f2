//! Tables for people: one ruler below the head, numbers to the right.
//!
//! On a terminal a table is as wide as that: long texts are cut with `…`, and if that is not enough, columns are left out: those
//! without a value, those that say least, then those in the middle. Numbers and times are never cut, since a part of one reads as
//! another. Elsewhere nothing is cut: columns are as wide as their cells, and a long answer is printed part by part.

use unicode_width::UnicodeWidthStr;

use super::terminal;

/// Blanks between columns.
const GAP: usize = 2;
/// A text is not cut to less, as long as columns can be left out instead.
const TEXT_MIN: usize = 20;
/// Without a terminal, a longer text does not make its column wider: it shifts the rest of its own line only.
const PIPE_TEXT_MAX: usize = 1000;

/// Columns that say least of a sample: left out before others.
const LEAST: [&str; 4] = ["series_id", "labels_json", "start_ts", "histogram"];
/// The text of a cell without a value.
pub const NULL: &str = "NULL";

/// How a column is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To the left; may be cut.
    Text,
    /// To the left; is not cut.
    Fixed,
    /// To the right; is not cut.
    Number,
}

/// A column's head.
#[derive(Clone, Debug)]
pub struct Column {
    name: String,
    kind: Kind,
    widest: usize,
}

/// Rows of cells.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
    has_head: bool,
}

/// A table as text.
#[derive(Debug, PartialEq)]
pub struct Shown {
    /// Head, ruler, rows.
    pub text: String,
    /// Columns that were left out.
    pub left_out: Vec<String>,
}

impl Table {
    /// Without rows.
    pub fn new<N: Into<String>>(columns: impl IntoIterator<Item = (N, Kind)>) -> Self {
        let column = |(name, kind): (N, Kind)| {
            let name = terminal::printable(&name.into()).into_owned();
            Column { widest: name.width(), name, kind }
        };
        Self { columns: columns.into_iter().map(column).collect(), rows: Vec::new(), has_head: true }
    }

    /// Adds a row; cells that it lacks are empty.
    pub fn push<C: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = C>) {
        let mut row: Vec<String> =
            cells.into_iter().take(self.columns.len()).map(|c| terminal::printable(c.as_ref()).into_owned()).collect();
        row.resize(self.columns.len(), String::new());
        for (column, cell) in self.columns.iter_mut().zip(&row) {
            column.widest = column.widest.max(cell.width());
        }
        self.rows.push(row);
    }

    /// How many columns there are.
    pub fn columns(&self) -> usize {
        self.columns.len()
    }

    /// Columns of a terminal that it takes if nothing is cut.
    pub fn width(&self) -> usize {
        self.columns.iter().map(|c| c.widest).sum::<usize>() + self.columns.len().saturating_sub(1) * GAP
    }

    /// Lays it out in `width` columns of a terminal, or in as many as it takes.
    pub fn show(&self, width: Option<usize>, bold_head: bool) -> Shown {
        let all: Vec<usize> = (0..self.columns.len()).collect();
        if let Some(dropped) = width.and_then(|width| self.dropped(&all, width)) {
            let mut shown = self.without(&dropped).show(width, bold_head);
            let names = dropped.iter().map(|c| self.columns[*c].name.clone());
            shown.left_out = names.chain(shown.left_out).collect();
            return shown;
        }
        let (places, widths) = match width {
            None => (Places::all(all.len()), self.widths(&all, PIPE_TEXT_MAX)),
            Some(width) => self.fit(&all, width),
        };
        let is_cut = width.is_some();
        let mut text = String::new();
        if !self.has_head {
            self.print_rows(&mut text, &places, &widths, is_cut);
            return Shown { text, left_out: Vec::new() };
        }
        let head: Vec<&str> = self.columns.iter().map(|c| c.name.as_str()).collect();
        let head = self.line(&places, &widths, &head, "…", is_cut);
        text.push_str(&if bold_head { format!("\x1b[1m{head}\x1b[0m") } else { head });
        text.push('\n');
        let rules: Vec<String> = widths.iter().map(|w| "─".repeat(*w)).collect();
        text.push_str(&places.join(&rules, "─"));
        text.push('\n');
        self.print_rows(&mut text, &places, &widths, is_cut);
        let shown: Vec<usize> = places.shown().collect();
        let left_out = all.iter().filter(|c| !shown.contains(c)).map(|c| self.columns[*c].name.clone()).collect();
        Shown { text, left_out }
    }

    /// The first column to leave out of a table that is too wide, though not from its middle.
    fn dropped(&self, all: &[usize], width: usize) -> Option<Vec<usize>> {
        if all.len() < 2 || total(&self.widths(all, TEXT_MIN), 0) <= width {
            return None;
        }
        let is_empty = |c: &usize| !self.rows.is_empty() && self.rows.iter().all(|row| row[*c] == NULL);
        let empty = all.iter().rev().find(|c| is_empty(c));
        let least = || LEAST.iter().find_map(|name| all.iter().rev().find(|c| self.columns[**c].name == *name));
        empty.or_else(least).map(|c| vec![*c])
    }

    fn without(&self, dropped: &[usize]) -> Self {
        let is_kept = |(i, _): &(usize, _)| !dropped.contains(i);
        let columns = self.columns.iter().enumerate().filter(|(i, _)| !dropped.contains(i)).map(|(_, c)| c.clone());
        let rows =
            self.rows.iter().map(|row| row.iter().enumerate().filter(is_kept).map(|(_, cell)| cell.clone()).collect());
        Self { columns: columns.collect(), rows: rows.collect(), has_head: self.has_head }
    }

    fn print_rows(&self, text: &mut String, places: &Places, widths: &[usize], is_cut: bool) {
        for row in &self.rows {
            let cells: Vec<&str> = row.iter().map(String::as_str).collect();
            text.push_str(&self.line(places, widths, &cells, "…", is_cut));
            text.push('\n');
        }
    }

    /// Drops the rows, for those that follow below the same head: columns stay as wide as they were.
    pub fn go_on(&mut self) {
        self.rows.clear();
        self.has_head = false;
    }

    /// Widths of some columns whose texts are at most so wide.
    fn widths(&self, columns: &[usize], text_max: usize) -> Vec<usize> {
        let width = |c: &Column| if c.kind == Kind::Text { c.widest.min(text_max) } else { c.widest };
        columns.iter().map(|i| width(&self.columns[*i])).collect()
    }

    /// Which columns are shown in `width`, and how wide.
    fn fit(&self, all: &[usize], width: usize) -> (Places, Vec<usize>) {
        let mut places = Places::all(all.len());
        if total(&self.widths(all, TEXT_MIN), 0) > width {
            let least = self.widths(all, TEXT_MIN);
            let (mut left, mut right) = (0, 0);
            // From both ends, as long as there is room beside the mark of what is left out.
            loop {
                let takes_left = left <= right;
                let next = if takes_left { (left + 1, right) } else { (left, right + 1) };
                let mut shown: Vec<usize> = least[..next.0].to_vec();
                shown.extend(&least[all.len() - next.1..]);
                if next.0 + next.1 >= all.len() || total(&shown, 1) > width {
                    break;
                }
                (left, right) = next;
            }
            // One is shown however narrow the terminal is.
            places = if all.len() == 1 { Places::all(1) } else { Places { left: left.max(1), right, all: all.len() } };
        }
        let shown: Vec<usize> = places.shown().collect();
        let mark = usize::from(shown.len() < all.len());
        let mut text_max = TEXT_MIN;
        let widest = self.columns.iter().map(|c| c.widest).max().unwrap_or(0);
        while text_max < widest && total(&self.widths(&shown, text_max + 1), mark) <= width {
            text_max += 1;
        }
        while text_max > 1 && total(&self.widths(&shown, text_max), mark) > width {
            text_max -= 1;
        }
        (places, self.widths(&shown, text_max))
    }

    fn line(&self, places: &Places, widths: &[usize], cells: &[&str], mark: &str, is_cut: bool) -> String {
        let mut parts = Vec::with_capacity(widths.len());
        for (i, width) in places.shown().zip(widths) {
            let cell = if is_cut { cut(cells[i], *width) } else { cells[i].to_owned() };
            let pad = " ".repeat(width.saturating_sub(cell.width()));
            parts.push(if self.columns[i].kind == Kind::Number { pad + &cell } else { cell + &pad });
        }
        places.join(&parts, mark).trim_end().to_owned()
    }
}

/// Columns shown: some from the left, some from the right.
struct Places {
    left: usize,
    right: usize,
    all: usize,
}

impl Places {
    fn all(n: usize) -> Self {
        Places { left: n, right: 0, all: n }
    }

    fn shown(&self) -> impl Iterator<Item = usize> {
        (0..self.left).chain(self.all - self.right..self.all)
    }

    /// Parts of a line, with a mark where columns are left out.
    fn join(&self, parts: &[String], mark: &str) -> String {
        let gap = " ".repeat(GAP);
        if self.left + self.right == self.all {
            return parts.join(&gap);
        }
        let (left, right) = parts.split_at(self.left);
        let mut all: Vec<&str> = left.iter().map(String::as_str).collect();
        all.push(mark);
        all.extend(right.iter().map(String::as_str));
        all.join(&gap)
    }
}

/// Columns of a terminal that these take, and `more` marks of one column.
fn total(widths: &[usize], more: usize) -> usize {
    widths.iter().sum::<usize>() + (widths.len() + more).saturating_sub(1) * GAP + more
}

/// At most `width` columns of a text; what is cut ends with `…`.
pub fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        let w = unicode_width::UnicodeWidthChar::width(c).unwrap_or(0);
        if used + w >= width {
            break;
        }
        used += w;
        out.push(c);
    }
    if width > 0 {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide() -> Table {
        let mut t = Table::new([
            ("ts", Kind::Fixed),
            ("value", Kind::Number),
            ("instance", Kind::Text),
            ("job", Kind::Text),
            ("path", Kind::Text),
            ("n", Kind::Number),
        ]);
        t.push(["2026-12-01T11:55:12.897Z", "1.5", "node-17.example.com:9100", "node", "/a/very/long/path/of/it", "7"]);
        t.push(["2026-12-01T11:55:27.897Z", "1234.25", "b:1", "node", "NULL", "12"]);
        t
    }

    #[test]
    fn one_ruler_and_numbers_to_the_right() {
        let mut t = Table::new([("job", Kind::Text), ("n", Kind::Number)]);
        t.push(["a", "1"]);
        t.push(["longer", "1000"]);
        let shown = t.show(None, false);
        assert_eq!(shown.text, "job        n\n──────  ────\na          1\nlonger  1000\n");
        assert_eq!(shown.left_out.len(), 0);
    }

    #[test]
    fn every_width_is_kept() {
        let t = wide();
        for width in 30..140 {
            let shown = t.show(Some(width), false);
            for line in shown.text.lines() {
                assert!(line.width() <= width, "{width}: {line}");
            }
            assert!(shown.text.contains("2026-12-01T11:55:12.897Z"), "times are whole:\n{}", shown.text);
            assert_eq!(shown.text.lines().count(), 4);
        }
    }

    #[test]
    fn texts_are_cut_first_then_columns_in_the_middle_left_out() {
        let full = wide().show(Some(200), false);
        assert!(!full.text.contains('…') && full.left_out.is_empty());
        let cut = wide().show(Some(88), false);
        assert!(cut.text.contains("node-17.example.com…") && cut.left_out.is_empty(), "{}", cut.text);
        let left = wide().show(Some(50), false);
        assert!(left.left_out.len() == 3 && left.text.starts_with("ts"), "{}", left.text);
        assert!(left.text.lines().next().unwrap().ends_with(" n"), "the last column stays:\n{}", left.text);
    }

    #[test]
    fn what_says_least_is_left_out_first() {
        let columns = ["metric", "ts", "value", "histogram", "labels", "labels_json", "start_ts", "series_id"];
        let kinds =
            [Kind::Text, Kind::Fixed, Kind::Number, Kind::Text, Kind::Text, Kind::Text, Kind::Fixed, Kind::Number];
        let mut t = Table::new(columns.into_iter().zip(kinds));
        let labels = "{job: shop, instance: 10.0.0.1:9100, path: /a/long/path}";
        t.push(["orders_total", "2026-12-01T18:38:54.180Z", "120", NULL, labels, labels, NULL, "656800437106992272"]);
        let shown = t.show(Some(80), false);
        let head: Vec<&str> = shown.text.lines().next().unwrap().split_whitespace().collect();
        assert_eq!(head, ["metric", "ts", "value", "labels"], "{}", shown.text);
        assert_eq!(shown.left_out, ["start_ts", "histogram", "series_id", "labels_json"]);
        assert_eq!(t.show(Some(300), false).left_out, [""; 0]);
        assert!(shown.text.lines().all(|l| l.width() <= 80), "{}", shown.text);
    }

    #[test]
    fn in_a_pipe_nothing_is_cut_and_columns_do_not_shift() {
        let mut t = Table::new([("name", Kind::Text), ("type", Kind::Text), ("null", Kind::Text)]);
        t.push(["ts", "Timestamp", "NO"]);
        t.push(["histogram".to_owned(), "x".repeat(300), "YES".to_owned()]);
        let text = t.show(None, false).text;
        assert!(text.contains(&"x".repeat(300)));
        let at: Vec<_> = ["null", "NO", "YES"].map(|word| text.lines().find_map(|l| l.find(word))).into();
        assert!(at.iter().all(|place| *place == at[0]), "{text}");
        // What comes later is laid out alike.
        t.go_on();
        t.push(["value", "Float64", "LATER"]);
        assert_eq!(t.show(None, false).text.find("LATER"), at[0]);
    }

    #[test]
    fn wide_characters_and_control_characters_keep_the_columns() {
        let mut t = Table::new([("名前", Kind::Text), ("v", Kind::Number)]);
        t.push(["値\x1b[31m", "1"]);
        t.push(["abc", "22"]);
        let text = t.show(Some(80), false).text;
        let widths: Vec<usize> = text.lines().map(UnicodeWidthStr::width).collect();
        assert_eq!(widths[0], widths[2]);
        assert!(!text.contains('\x1b'));
        assert_eq!(cut("名前です", 5), "名前…");
    }

    #[test]
    fn no_columns_and_one_wide_column() {
        assert_eq!(Table::new(Vec::<(String, Kind)>::new()).show(Some(80), false).text, "\n\n");
        let mut t = Table::new([("text", Kind::Text)]);
        t.push(["y".repeat(100)]);
        assert_eq!(t.show(Some(20), false).text.lines().nth(2).unwrap().width(), 20);
    }
}
