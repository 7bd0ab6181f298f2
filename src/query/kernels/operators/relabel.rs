//! Series under new labels: `label_replace`, `label_join`, names dropped at once or at the end; series that become the
//! same are merged.
//!
//! ```text
//! roster ─▶ new labels ─▶ same order, all different?  yes: rows pass, only renumbered
//!                                                     no:  rows are gathered; two samples at one step are an error
//! ```

use quiver_model::matcher::replace_expression;
use quiver_model::{Labels, METRIC_NAME};
use regex_automata::util::captures::Captures;

use super::group::{LabelNumbers, drop_metadata_labels};
use super::rows::Rows;
use crate::context::QueryContext;
use crate::error::QueryError;
use crate::exec::tile::{Roster, RosterRow, StepGrid, Tile};

/// What becomes of labels.
#[derive(Clone, Debug)]
pub enum RelabelSpec {
    /// `label_replace(v, dst, replacement, src, regex)`
    Replace {
        /// Label to set.
        dst: String,
        /// Template.
        replacement: String,
        /// Label to look at.
        src: String,
        /// Expression, anchored by the operator.
        regex: String,
    },
    /// `label_join(v, dst, separator, src…)`
    Join {
        /// Label to set.
        dst: String,
        /// Between the values.
        separator: String,
        /// Labels to join.
        src: Vec<String>,
    },
    /// A function whose result is another metric: name, type and unit go, at once or (with delayed name removal) by a
    /// mark.
    DropName,
    /// The end of a query with delayed name removal: marked series lose name, type and unit.
    Cleanup,
}

/// See the module.
#[derive(Debug)]
pub struct Relabel {
    out: Vec<u32>,
    plain: bool,
    width: usize,
    rows: Rows,
    count: u32,
}

impl Relabel {
    /// The operator and its output roster.
    pub fn new(
        spec: &RelabelSpec,
        input: &Roster,
        grid: StepGrid,
        ctx: &QueryContext,
    ) -> Result<(Self, Roster), QueryError> {
        let rows = relabelled(spec, input, ctx)?;
        // Where no two series become one, order stays: a function may have sorted them.
        let ascending = rows.windows(2).all(|w| w[0].labels < w[1].labels) || all_different(&rows);
        let (roster, out) = if ascending {
            (Roster { rows }, (0..input.rows.len() as u32).collect())
        } else {
            let mut numbers = LabelNumbers::default();
            let ids: Vec<u32> = rows.iter().map(|r| numbers.id(&r.labels, r.drop_name)).collect();
            // An answer at one step keeps its order: a function may have sorted it.
            let (roster, new) = if grid.len == 1 { numbers.unsorted() } else { numbers.finish() };
            (roster, ids.into_iter().map(|i| new[i as usize]).collect())
        };
        let rows = Rows::new(if ascending { 0 } else { roster.rows.len() }, grid.len);
        Ok((Self { out, plain: ascending, width: grid.len, rows, count: 0 }, roster))
    }

    /// Do sids stay as they are? Then only the roster changes, and tiles need not pass through here.
    pub fn is_identity(&self) -> bool {
        self.plain
    }

    /// The output series of each input series.
    pub fn mapping(&self) -> &[u32] {
        &self.out
    }

    /// Takes a tile; gives it back where nothing must be gathered.
    pub fn push(&mut self, tile: &Tile, ctx: &QueryContext) -> Result<Option<Tile>, QueryError> {
        if self.plain {
            return Ok(Some(tile.clone()));
        }
        debug_assert_eq!(tile.width, self.width);
        for (row, sid) in tile.sids.iter().enumerate() {
            self.count = self.count.wrapping_add(1);
            if self.count & 255 == 0 {
                ctx.check()?;
            }
            if let Some(out) = self.out.get(*sid as usize) {
                self.rows.put_row(*out, tile, row, |_| u64::MAX);
            }
        }
        Ok(None)
    }

    /// What was gathered.
    pub fn finish(self) -> Result<Vec<Tile>, QueryError> {
        if self.rows.overlap().is_some() {
            return Err(super::same_labelset());
        }
        Ok(self.rows.finish())
    }
}

fn all_different(rows: &[RosterRow]) -> bool {
    let mut seen = hashbrown::HashSet::with_capacity(rows.len());
    rows.iter().all(|r| seen.insert(&r.labels))
}

fn relabelled(spec: &RelabelSpec, input: &Roster, ctx: &QueryContext) -> Result<Vec<RosterRow>, QueryError> {
    let bad = |text: String| Err(QueryError::Execution(text));
    // Labels may grow at will here: they are charged as they are made.
    let set = |row: &RosterRow, dst: &str, value: &str| {
        ctx.keep_bytes(row.labels.packed().len() + dst.len() + value.len())?;
        let labels = row.labels.to_builder().set(dst, value).build().unwrap_or_else(|_| row.labels.clone());
        Ok(RosterRow { labels, drop_name: row.drop_name && dst != METRIC_NAME })
    };
    let mut work = 0;
    let mut tick = |bytes: usize| {
        work += 64 + bytes;
        if work > 64 << 10 {
            work = 0;
            return ctx.check();
        }
        Ok(())
    };
    Ok(match spec {
        RelabelSpec::Replace { dst, replacement, src, regex } => {
            let Ok((re, names)) = replace_expression(regex, ctx.limits.regex_bytes_max) else {
                return bad(format!("invalid regular expression in label_replace(): {regex}"));
            };
            if dst.is_empty() {
                return bad(format!("invalid destination label name in label_replace(): {dst}"));
            }
            let mut caps = re.create_captures();
            let one = |row: &RosterRow| {
                let value = row.labels.get(src);
                tick(value.len())?;
                re.captures(value, &mut caps);
                if !caps.is_match() {
                    return Ok(row.clone());
                }
                // A template may name groups many times: it is not made longer than it may be.
                let max = ctx.limits.query_label_bytes_max;
                tick(expanded_len(replacement, value).min(max))?;
                let (new, len) = expand(replacement, value, &caps, &names, max);
                ctx.check_label_bytes("label_replace()", dst, len)?;
                set(row, dst, &new)
            };
            input.rows.iter().map(one).collect::<Result<_, QueryError>>()?
        }
        RelabelSpec::Join { dst, separator, src } => {
            if let Some(s) = src.iter().find(|s| s.is_empty()) {
                return bad(format!("invalid source label name in label_join(): {s}"));
            }
            if dst.is_empty() {
                return bad(format!("invalid destination label name in label_join(): {dst}"));
            }
            let one = |row: &RosterRow| {
                let values: Vec<&str> = src.iter().map(|s| row.labels.get(s)).collect();
                let between = separator.len().saturating_mul(values.len().saturating_sub(1));
                let len = values.iter().map(|v| v.len()).fold(between, usize::saturating_add);
                ctx.check_label_bytes("label_join()", dst, len)?;
                tick(len + 16 * values.len())?;
                set(row, dst, &values.join(separator))
            };
            input.rows.iter().map(one).collect::<Result<_, QueryError>>()?
        }
        RelabelSpec::DropName => {
            let delayed = ctx.features.delayed_name_removal;
            let one = |row: &RosterRow| {
                let labels: Labels = if delayed { row.labels.clone() } else { drop_metadata_labels(&row.labels) };
                RosterRow { labels, drop_name: true }
            };
            input.rows.iter().map(one).collect()
        }
        RelabelSpec::Cleanup => {
            let one = |row: &RosterRow| {
                let labels = if row.drop_name { drop_metadata_labels(&row.labels) } else { row.labels.clone() };
                RosterRow { labels, drop_name: false }
            };
            input.rows.iter().map(one).collect()
        }
    })
}

/// At most this long a text comes of a template.
fn expanded_len(template: &str, value: &str) -> usize {
    let groups = template.bytes().filter(|b| *b == b'$').count();
    template.len().saturating_add(groups.saturating_mul(value.len()))
}

/// Go's template: `$1`, `$name`, `${name}`, `$$`; an unknown group is empty, a `$` before anything else stands for itself. Gives the
/// text and its length; it is cut where it is longer than `max`.
fn expand(template: &str, value: &str, caps: &Captures, names: &[(String, u32)], max: usize) -> (String, usize) {
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('$') {
        if out.len() > max {
            break;
        }
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(r) = rest.strip_prefix('$') {
            out.push('$');
            rest = r;
            continue;
        }
        let word = |s: &str| s.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(s.len());
        let (name, after) = match rest.strip_prefix('{') {
            Some(r) => {
                let n = word(r);
                if n > 0 && r[n..].starts_with('}') { (&r[..n], &r[n + 1..]) } else { ("", rest) }
            }
            None => rest.split_at(word(rest)),
        };
        if name.is_empty() {
            out.push('$');
            continue;
        }
        rest = after;
        let span = if name.bytes().all(|b| b.is_ascii_digit()) && (name == "0" || !name.starts_with('0')) {
            name.parse::<usize>().ok().filter(|n| *n < 100_000_000).and_then(|n| caps.get_group(n))
        } else {
            // Of several groups of one name the first that matched.
            names.iter().filter(|(n, _)| n == name).find_map(|(_, i)| caps.get_group(*i as usize))
        };
        out.push_str(span.and_then(|s| value.get(s.start..s.end)).unwrap_or(""));
    }
    out.push_str(rest);
    let len = out.len();
    (out, len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::operators::testing::{cells, context, floats, grid, labels, roster};

    fn replace(dst: &str, replacement: &str, src: &str, regex: &str) -> RelabelSpec {
        RelabelSpec::Replace { dst: dst.into(), replacement: replacement.into(), src: src.into(), regex: regex.into() }
    }

    #[test]
    fn label_replace() {
        let r = roster(&["__name__=m,src=source-value-10", "__name__=m,src=source-value-20"]);
        let ctx = context();
        let new = |s: &RelabelSpec| Relabel::new(s, &r, grid(1), &ctx).map(|(_, r)| r.rows[0].labels.clone());
        let m = |l: &str| Ok(labels(l));
        let src = "__name__=m,src=source-value-10";
        assert_eq!(new(&replace("dst", "dest-$1", "src", "source-value-(.*)")), m(&format!("{src},dst=dest-10")));
        assert_eq!(new(&replace("dst", "${1}x$$", "src", "value-(.*)")), m(src));
        assert_eq!(new(&replace("dst", "${n}x$$-$2-$", "src", ".*-(?P<n>.*)")), m(&format!("{src},dst=10x$--$")));
        assert_eq!(new(&replace("src", "", "src", ".*")), m("__name__=m"));
        assert_eq!(
            new(&replace("dst", "", "src", "(.*")).unwrap_err().to_string(),
            "invalid regular expression in label_replace(): (.*"
        );
        let to_name = Relabel::new(&replace("__name__", "n", "src", ".*10"), &r, grid(1), &ctx).unwrap();
        assert!(to_name.0.is_identity(), "no two become one: order stays, whatever the labels");
        assert_eq!(to_name.0.mapping(), [0, 1]);
    }

    #[test]
    fn series_that_become_equal_are_merged_unless_they_overlap() {
        let r = roster(&["__name__=a,i=1", "__name__=b,i=1", "__name__=b,i=2"]);
        let ctx = context();
        let run = |rows: &[Vec<Option<f64>>]| {
            let (mut op, out) = Relabel::new(&RelabelSpec::DropName, &r, grid(2), &ctx).unwrap();
            assert_eq!(op.push(&floats(0, rows), &ctx).unwrap(), None);
            op.finish().map(|t| cells(&out, &t).into_iter().map(|((l, s), _)| (l, s)).collect::<Vec<_>>())
        };
        let ok = run(&[vec![Some(1.0), None], vec![None, Some(2.0)], vec![Some(3.0), None]]).unwrap();
        assert_eq!(ok, [(labels("i=1"), 0), (labels("i=1"), 1), (labels("i=2"), 0)]);
        let bad = run(&[vec![Some(1.0), None], vec![Some(1.0), Some(2.0)], vec![None, None]]).unwrap_err();
        assert_eq!(bad.to_string(), "vector cannot contain metrics with the same labelset");
    }

    #[test]
    fn a_value_is_no_longer_than_it_may_be() {
        let r = roster(&["__name__=m,i=12345678"]);
        let mut ctx = context();
        std::sync::Arc::make_mut(&mut ctx.limits).query_label_bytes_max = 16;
        let join = |n: usize| RelabelSpec::Join { dst: "j".into(), separator: String::new(), src: vec!["i".into(); n] };
        let new = |s: &RelabelSpec| Relabel::new(s, &r, grid(1), &ctx).map(|(_, r)| r.rows[0].labels.clone());
        let two = Ok(labels("__name__=m,i=12345678,j=1234567812345678"));
        assert_eq!(new(&replace("j", "$1$1", "i", "(.*)")), two);
        assert_eq!(new(&join(2)), two);
        for (spec, what) in [
            (replace("j", "$1$1-", "i", "(.*)"), "label_replace()"),
            (replace("j", &"$1".repeat(400_000), "i", "(.*)"), "label_replace()"),
            (join(3), "label_join()"),
        ] {
            let text =
                format!("{what} would make a value of the label \"j\" longer than query_label_bytes_max, 16 bytes");
            assert_eq!(new(&spec), Err(QueryError::CostLimit(text)));
        }
    }

    #[test]
    fn an_answer_at_one_step_keeps_its_order() {
        let mut r = roster(&["__name__=b,i=2", "__name__=b,i=1", "__name__=c,i=2"]);
        r.rows.iter_mut().for_each(|row| row.drop_name = true);
        let order = |width: usize| {
            let (op, out) = Relabel::new(&RelabelSpec::Cleanup, &r, grid(width), &context()).unwrap();
            (out.rows.iter().map(|r| r.labels.clone()).collect::<Vec<_>>(), op.mapping().to_vec())
        };
        assert_eq!(order(1), (vec![labels("i=2"), labels("i=1")], vec![0, 1, 0]));
        assert_eq!(order(2), (vec![labels("i=1"), labels("i=2")], vec![1, 0, 1]));
    }

    #[test]
    fn one_metric_only_changes_the_roster() {
        let r = roster(&["__name__=a,i=1", "__name__=a,i=2"]);
        let ctx = context();
        let (mut op, out) = Relabel::new(&RelabelSpec::DropName, &r, grid(1), &ctx).unwrap();
        assert!(op.is_identity() && out.rows[1].labels == labels("i=2") && out.rows[1].drop_name);
        let t = floats(0, &[vec![Some(1.0)]]);
        assert_eq!(op.push(&t, &ctx).unwrap(), Some(t));
        let join = RelabelSpec::Join { dst: "j".into(), separator: "-".into(), src: vec!["i".into(), "x".into()] };
        let (_, out) = Relabel::new(&join, &r, grid(1), &ctx).unwrap();
        assert_eq!(out.rows[0].labels, labels("__name__=a,i=1,j=1-"));
    }
}
