//! Line charts in the terminal, in braille dots: two by four to a character.

/// One line of a chart.
pub struct Line {
    /// Name for the legend.
    pub name: String,
    /// (x, y)
    pub points: Vec<(f64, f64)>,
}

/// Colours of lines, as ANSI numbers; the legend uses the same.
const COLOURS: [u8; 12] = [36, 33, 35, 32, 34, 31, 96, 93, 95, 92, 94, 91];
/// Characters of a line that stands within a table.
const SPARKS: usize = 20;

struct Canvas {
    columns: usize,
    rows: usize,
    dots: Vec<u8>,
    owner: Vec<usize>,
}

impl Canvas {
    fn set(&mut self, x: usize, y: usize, line: usize) {
        const BITS: [[u8; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];
        let (column, row) = (x / 2, y / 4);
        if column < self.columns && row < self.rows {
            let cell = row * self.columns + column;
            self.dots[cell] |= BITS[x % 2][y % 4];
            self.owner[cell] = line;
        }
    }

    /// Bresenham's line.
    fn stroke(&mut self, from: (usize, usize), to: (usize, usize), line: usize) {
        let (mut x, mut y) = (from.0 as i64, from.1 as i64);
        let (tx, ty) = (to.0 as i64, to.1 as i64);
        let (dx, dy) = ((tx - x).abs(), -(ty - y).abs());
        let (sx, sy) = ((tx - x).signum(), (ty - y).signum());
        let mut error = dx + dy;
        loop {
            self.set(x as usize, y as usize, line);
            if x == tx && y == ty {
                return;
            }
            let twice = 2 * error;
            if twice >= dy {
                error += dy;
                x += sx;
            }
            if twice <= dx {
                error += dx;
                y += sy;
            }
        }
    }
}

/// A number for an axis.
fn short(v: f64) -> String {
    let a = v.abs();
    match a {
        _ if a >= 1e12 => format!("{:.1}T", v / 1e12),
        _ if a >= 1e9 => format!("{:.1}G", v / 1e9),
        _ if a >= 1e6 => format!("{:.1}M", v / 1e6),
        _ if a >= 1e4 => format!("{:.1}k", v / 1e3),
        _ if a >= 100.0 || v == v.trunc() => format!("{v:.0}"),
        _ if a >= 0.01 => format!("{v:.3}"),
        _ => format!("{v:.1e}"),
    }
}

/// Six digits of a number.
pub fn figure(v: f64) -> String {
    if !v.is_finite() {
        return if v.is_nan() {
            "NaN"
        } else if v > 0.0 {
            "+Inf"
        } else {
            "-Inf"
        }
        .to_owned();
    }
    let magnitude = if v == 0.0 { 0 } else { v.abs().log10().floor() as i32 };
    if !(-5..15).contains(&magnitude) {
        return format!("{v:.5e}");
    }
    let text = format!("{v:.*}", usize::try_from(5 - magnitude).unwrap_or(0));
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A line of blocks, as high as the values; a missing value is a blank.
pub fn sparkline(points: &[(f64, f64)], (x0, x1): (f64, f64)) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let mut sums = [(0.0, 0u32); SPARKS];
    for (x, y) in points.iter().filter(|p| p.1.is_finite()) {
        let across = if x1 > x0 { (x - x0) / (x1 - x0) } else { 0.5 };
        let (sum, n) = &mut sums[((across * SPARKS as f64) as usize).min(SPARKS - 1)];
        (*sum, *n) = (*sum + y, *n + 1);
    }
    let mean = |(sum, n): &(f64, u32)| (*n > 0).then(|| sum / f64::from(*n));
    let fold = |f: fn(f64, f64) -> f64| sums.iter().filter_map(mean).reduce(f);
    let (Some(low), Some(high)) = (fold(f64::min), fold(f64::max)) else { return String::new() };
    let block = |y: f64| if high > low { ((y - low) / (high - low) * 7.0).round() as usize } else { 3 };
    sums.iter().map(|s| mean(s).map_or(' ', |y| BLOCKS[block(y).min(7)])).collect()
}

/// Draws lines over the range of x into `columns` × `rows` characters; `x_label` names the ends of the x axis. None if there
/// is no point to draw.
pub fn draw(
    lines: &[Line],
    (x0, x1): (f64, f64),
    (columns, rows): (usize, usize),
    colour: bool,
    x_label: impl Fn(f64) -> String,
) -> Option<String> {
    let finite = || lines.iter().flat_map(|l| &l.points).map(|p| p.1).filter(|y| y.is_finite());
    let (y0, y1) = finite().reduce(f64::min).zip(finite().reduce(f64::max))?;
    let (y0, y1) = if y0 == y1 { (y0 - 1.0, y1 + 1.0) } else { (y0, y1) };
    let axis = [y1, (y0 + y1) / 2.0, y0].map(short);
    let margin = axis.iter().map(String::len).max().unwrap_or(0);
    let columns = columns.saturating_sub(margin + 2).max(10);
    let mut canvas = Canvas { columns, rows, dots: vec![0; columns * rows], owner: vec![0; columns * rows] };
    let (w, h) = ((columns * 2 - 1) as f64, (rows * 4 - 1) as f64);
    let place = |(x, y): (f64, f64)| {
        let across = if x1 > x0 { (x - x0) / (x1 - x0) } else { 0.5 };
        ((across * w).round() as usize, (((y1 - y) / (y1 - y0)) * h).round() as usize)
    };
    for (i, line) in lines.iter().enumerate() {
        let mut last: Option<(usize, usize)> = None;
        for p in &line.points {
            if !p.1.is_finite() || !(x0..=x1).contains(&p.0) {
                last = None;
                continue;
            }
            let at = place(*p);
            canvas.stroke(last.unwrap_or(at), at, i);
            last = Some(at);
        }
    }
    let paint = |text: &str, i: usize| {
        if colour { format!("\x1b[{}m{text}\x1b[0m", COLOURS[i % COLOURS.len()]) } else { text.to_owned() }
    };
    let mut out = String::new();
    for row in 0..rows {
        let label = match row {
            0 => &axis[0],
            r if r == rows / 2 => &axis[1],
            r if r == rows - 1 => &axis[2],
            _ => "",
        };
        out.push_str(&format!("{label:>margin$} ┤"));
        for column in 0..columns {
            let cell = row * columns + column;
            match char::from_u32(0x2800 + u32::from(canvas.dots[cell])) {
                Some(c) if canvas.dots[cell] != 0 => out.push_str(&paint(&c.to_string(), canvas.owner[cell])),
                _ => out.push(' '),
            }
        }
        out.push('\n');
    }
    let (left, right) = (x_label(x0), x_label(x1));
    let gap = columns.saturating_sub(left.chars().count() + right.chars().count());
    out.push_str(&format!("{:margin$} └{}\n", "", "─".repeat(columns)));
    out.push_str(&format!("{:margin$}  {left}{}{right}\n", "", " ".repeat(gap)));
    for (i, line) in lines.iter().enumerate() {
        out.push_str(&format!("{:margin$}  {} {}\n", "", paint("━━", i), crate::cli::terminal::printable(&line.name)));
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rising_line_goes_from_the_lower_left_to_the_upper_right() {
        let line = Line { name: "up".into(), points: vec![(0.0, 0.0), (10.0, 10.0)] };
        let text = draw(&[line], (0.0, 10.0), (14, 4), false, short).unwrap();
        let rows: Vec<&str> = text.lines().collect();
        assert!(
            rows[0].starts_with("10 ┤") && rows[0].ends_with('⠁')
                || rows[0].trim_end().ends_with(['⠊', '⠉', '⠈', '⠔', '⠒', '⠑', '⠜', '⡠', '⠎']),
            "{text}"
        );
        assert!(rows[3].starts_with(" 0 ┤") && !rows[3].contains("┤ "), "{text}");
        assert!(text.contains("━━ up"));
    }

    #[test]
    fn without_points_there_is_nothing() {
        assert_eq!(draw(&[], (0.0, 1.0), (40, 5), false, short), None);
        let line = Line { name: "x".into(), points: vec![(0.5, f64::NAN)] };
        assert_eq!(draw(&[line], (0.0, 1.0), (40, 5), false, short), None);
        assert_eq!(sparkline(&[(0.5, f64::INFINITY)], (0.0, 1.0)), "");
    }

    #[test]
    fn a_hole_stays_a_hole() {
        let line = Line { name: "late".into(), points: vec![(90.0, 1.0), (100.0, 2.0)] };
        let text = draw(&[line], (0.0, 100.0), (43, 4), false, short).unwrap();
        for row in text.lines().take(4) {
            let plot: String = row.split('┤').nth(1).unwrap().chars().take(30).collect();
            assert_eq!(plot.trim(), "", "{text}");
        }
        let sparks = sparkline(&[(90.0, 1.0), (100.0, 2.0)], (0.0, 100.0));
        assert_eq!(sparks, format!("{}▁█", " ".repeat(SPARKS - 2)));
    }

    #[test]
    fn figures_have_six_digits() {
        let all = [0.0, 1.0, 0.920_689_655_172, 123_456_789.0, 1e-9, 1.5e300, -2.5, f64::NEG_INFINITY, 0.000_012_3];
        let wanted = ["0", "1", "0.92069", "123456789", "1.00000e-9", "1.50000e300", "-2.5", "-Inf", "0.0000123"];
        assert_eq!(all.map(figure), wanted);
    }
}
