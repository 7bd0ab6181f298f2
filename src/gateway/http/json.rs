//! JSON as Prometheus writes it, straight into bytes.

use quiver_model::number::{push_shortest, shortest_scientific};
use std::fmt::Write as _;

use quiver_model::{Histogram, Labels};
use quiver_query::{AnswerSeries, AnswerValue};

/// A growing JSON text.
#[derive(Debug, Default)]
pub struct Json(String);

impl Json {
    /// The bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0.into_bytes()
    }

    /// Makes room for so many bytes more, about.
    pub fn reserve(&mut self, bytes: usize) {
        self.0.reserve(bytes);
    }

    /// Text that is JSON already.
    pub fn raw(&mut self, text: &str) -> &mut Self {
        self.0.push_str(text);
        self
    }

    /// An integer.
    pub fn int(&mut self, n: i64) -> &mut Self {
        let _ = write!(self.0, "{n}");
        self
    }

    /// A quoted string.
    pub fn string(&mut self, text: &str) -> &mut Self {
        self.0.push('"');
        // Nearly all: looked through without a branch per byte.
        if text.bytes().fold(true, |plain, b| plain & (b >= 0x20) & (b != b'"') & (b != b'\\')) {
            self.0.push_str(text);
            self.0.push('"');
            return self;
        }
        let mut from = 0;
        for (i, b) in text.bytes().enumerate() {
            let escape = match b {
                b'"' => "\\\"",
                b'\\' => "\\\\",
                b'\n' => "\\n",
                b'\r' => "\\r",
                b'\t' => "\\t",
                0..0x20 => "",
                _ => continue,
            };
            self.0.push_str(&text[from..i]);
            if escape.is_empty() {
                let _ = write!(self.0, "\\u{b:04x}");
            } else {
                self.0.push_str(escape);
            }
            from = i + 1;
        }
        self.0.push_str(&text[from..]);
        self.0.push('"');
        self
    }

    /// A list of strings.
    pub fn strings<'a>(&mut self, list: impl IntoIterator<Item = &'a str>) -> &mut Self {
        self.0.push('[');
        for (i, s) in list.into_iter().enumerate() {
            if i > 0 {
                self.0.push(',');
            }
            self.string(s);
        }
        self.0.push(']');
        self
    }

    /// A label set as an object.
    pub fn labels(&mut self, labels: &Labels) -> &mut Self {
        self.0.push('{');
        for (i, (n, v)) in labels.iter().enumerate() {
            if i > 0 {
                self.0.push(',');
            }
            self.string(n);
            self.0.push(':');
            self.string(v);
        }
        self.0.push('}');
        self
    }

    /// A time in ms as seconds: whole, or with three decimals.
    pub fn time(&mut self, ms: i64) -> &mut Self {
        let a = ms.unsigned_abs();
        if ms < 0 {
            self.0.push('-');
        }
        let _ = write!(self.0, "{}", a / 1000);
        if !a.is_multiple_of(1000) {
            let _ = write!(self.0, ".{:03}", a % 1000);
        }
        self
    }

    /// A float, quoted.
    pub fn float(&mut self, v: f64) -> &mut Self {
        self.0.push('"');
        push_float(&mut self.0, v);
        self.0.push('"');
        self
    }

    fn point(&mut self, t: i64, v: f64) {
        self.0.push('[');
        self.time(t);
        self.0.push(',');
        self.float(v);
        self.0.push(']');
    }

    fn histogram_point(&mut self, t: i64, h: &Histogram) {
        self.0.push('[');
        self.time(t);
        self.0.push(',');
        self.histogram(h);
        self.0.push(']');
    }

    /// `{count,sum,buckets}`, empty buckets left out.
    pub fn histogram(&mut self, h: &Histogram) -> &mut Self {
        self.raw(r#"{"count":"#).float(h.count).raw(r#","sum":"#).float(h.sum);
        let mut first = true;
        for b in h.all_bucket_iterator() {
            if b.count == 0.0 {
                continue;
            }
            self.raw(if first { r#","buckets":[["# } else { ",[" });
            first = false;
            let rule = match (b.lower_inclusive, b.upper_inclusive) {
                (false, true) => "0",
                (true, false) => "1",
                (false, false) => "2",
                (true, true) => "3",
            };
            self.raw(rule).raw(",").float(b.lower).raw(",").float(b.upper).raw(",").float(b.count).raw("]");
        }
        if !first {
            self.raw("]");
        }
        self.raw("}")
    }

    /// `"resultType":…,"result":…`
    pub fn value(&mut self, value: &AnswerValue) -> &mut Self {
        match value {
            AnswerValue::Scalar(t, v) => {
                self.raw(r#""resultType":"scalar","result":"#);
                self.point(*t, *v);
            }
            AnswerValue::String(t, s) => {
                self.raw(r#""resultType":"string","result":["#).time(*t).raw(",").string(s).raw("]");
            }
            AnswerValue::Vector(list) => {
                self.raw(r#""resultType":"vector","result":["#);
                for (i, s) in list.iter().enumerate() {
                    self.raw(if i > 0 { r#",{"metric":"# } else { r#"{"metric":"# }).labels(&s.labels);
                    if let Some((t, h)) = s.histograms.first() {
                        self.raw(r#","histogram":"#).histogram_point(*t, h);
                    } else if let Some((t, v)) = s.floats.first() {
                        self.raw(r#","value":"#).point(*t, *v);
                    }
                    self.raw("}");
                }
                self.raw("]");
            }
            AnswerValue::Matrix(list) => {
                self.raw(r#""resultType":"matrix","result":["#);
                for (i, s) in list.iter().enumerate() {
                    self.raw(if i > 0 { r#",{"metric":"# } else { r#"{"metric":"# });
                    self.matrix_series(s);
                }
                self.raw("]");
            }
        }
        self
    }

    fn matrix_series(&mut self, s: &AnswerSeries) {
        self.labels(&s.labels);
        if !s.floats.is_empty() {
            self.raw(r#","values":["#);
            for (i, (t, v)) in s.floats.iter().enumerate() {
                if i > 0 {
                    self.0.push(',');
                }
                self.point(*t, *v);
            }
            self.raw("]");
        }
        if !s.histograms.is_empty() {
            self.raw(r#","histograms":["#);
            for (i, (t, h)) in s.histograms.iter().enumerate() {
                if i > 0 {
                    self.0.push(',');
                }
                self.histogram_point(*t, h);
            }
            self.raw("]");
        }
        self.raw("}");
    }
}

/// A float as Prometheus's API writes it: shortest digits that read back, exponents below 1e-6 and from 1e21 on.
pub fn push_float(out: &mut String, v: f64) {
    if v.is_nan() {
        out.push_str("NaN");
    } else if v.is_infinite() {
        out.push_str(if v > 0.0 { "+Inf" } else { "-Inf" });
    } else if v == v.trunc() && v.abs() < 9.0e15 && (v != 0.0 || v.is_sign_positive()) {
        // Most values are whole numbers: the integer path is several times faster.
        let _ = write!(out, "{}", v as i64);
    } else {
        let a = v.abs();
        if a != 0.0 && !(1e-6..1e21).contains(&a) {
            let text = shortest_scientific(v);
            // Go writes at least two digits of exponent, and its sign.
            match text.split_once('e') {
                Some((mantissa, exponent)) => {
                    let (sign, digits) = match exponent.strip_prefix('-') {
                        Some(d) => ('-', d),
                        None => ('+', exponent),
                    };
                    let _ = write!(out, "{mantissa}e{sign}{digits:0>2}");
                }
                None => out.push_str(&text),
            }
        } else {
            push_shortest(out, v);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_as_go_writes_them() {
        let f = |v: f64| {
            let mut s = String::new();
            push_float(&mut s, v);
            s
        };
        assert_eq!(f(1.0), "1");
        assert_eq!(f(-0.0), "-0");
        assert_eq!(f(0.1), "0.1");
        assert_eq!(f(1e21), "1e+21");
        assert_eq!(f(1e20), "100000000000000000000");
        assert_eq!(f(1.5e-7), "1.5e-07");
        assert_eq!(f(1e-6), "0.000001");
        assert_eq!(f(f64::NEG_INFINITY), "-Inf");
        assert_eq!(f(5e-324), "5e-324");
        assert_eq!(f(123456789.125), "123456789.125");
    }

    #[test]
    fn times_have_three_decimals_or_none() {
        let t = |ms| {
            let mut j = Json::default();
            j.time(ms);
            String::from_utf8(j.into_bytes()).unwrap()
        };
        assert_eq!([t(1500), t(2000), t(-1), t(10_007)], ["1.500", "2", "-0.001", "10.007"]);
    }
}
