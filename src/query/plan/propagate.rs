//! Matchers from one side of a binary operation for the other: what a series must look like to find a partner.
//!
//! ```text
//! errors{job=~"a|b"} and on (job) up{zone="x"}     the right side has series of job "a" and "c" only
//! errors{job=~"a|b",job=~"a|c"} and on (job) …     so the left one looks for no others
//! ```
//!
//! The values come from the series that were found, not from the text of the query, so whatever restricts one side restricts
//! the other. It is done where it cannot be noticed:
//!
//! * the side that gets a matcher is a plain selector, which has nothing to report;
//! * it is not the one side of arithmetic and comparisons, where series that share their signature are an error, partner
//!   or not; nor may the one side have such series, for they are an error only where the many side has any sample.

use std::collections::BTreeSet;

use hashbrown::HashSet;
use quiver_model::{MatchOp, Matcher};

use super::node::{PromNode, PromOp};
use crate::exec::tile::Roster;
use crate::kernels::operators::Side;
use crate::kernels::operators::group::is_metadata_label;
use crate::kernels::operators::matching::MatchIds;
use crate::promql::ast::{BinaryOp, Cardinality, VectorMatching};

/// Series of the side that is looked at.
const ROWS_MAX: usize = 4096;
/// Values a matcher lists.
const VALUES_MAX: usize = 64;
/// Bytes of such a list.
const BYTES_MAX: usize = 4096;
/// Matchers that are added; the shortest lists are.
const MATCHERS_MAX: usize = 2;

/// Which side may be given matchers of the other's.
pub fn target(op: BinaryOp, matching: &VectorMatching, left: &PromNode, right: &PromNode) -> Option<Side> {
    let side = match op {
        BinaryOp::And if selector(left).is_some() => Side::Left,
        BinaryOp::And | BinaryOp::Unless => Side::Right,
        BinaryOp::Or => return None,
        _ if matching.fill_left.is_some() || matching.fill_right.is_some() => return None,
        _ if matching.card == Cardinality::OneToMany => Side::Right,
        _ => Side::Left,
    };
    let node = if side == Side::Left { left } else { right };
    selector(node).map(|_| side)
}

/// The plain selector that a plan is, at all steps or at one.
pub fn selector(node: &PromNode) -> Option<&PromNode> {
    match &node.op {
        PromOp::Instant { smoothed: false, .. } => Some(node),
        PromOp::StepInvariant => selector(node.inputs.first().and_then(PromNode::of)?),
        _ => None,
    }
}

/// What `target` must look like to have a partner in `source`, the roster of the other side; nothing where that cannot be
/// said, or would not be the same.
pub fn matchers(
    op: BinaryOp,
    matching: &VectorMatching,
    source: &Roster,
    target: &[Matcher],
    regex_bytes_max: usize,
) -> Vec<Matcher> {
    if source.rows.is_empty() || source.rows.len() > ROWS_MAX {
        return Vec::new();
    }
    if !op.is_set() {
        let ids = MatchIds::new(matching, source, &Roster::default());
        if ids.count < source.rows.len() {
            return Vec::new();
        }
    }
    let mut lists: Vec<(String, BTreeSet<&str>)> = Vec::new();
    for name in names(matching, source) {
        let fixed = target.iter().any(|m| m.op == MatchOp::Equal && *m.name == *name);
        if fixed {
            continue;
        }
        let mut values = BTreeSet::new();
        for row in &source.rows {
            values.insert(row.labels.get(&name));
            if values.len() > VALUES_MAX {
                break;
            }
        }
        if values.len() <= VALUES_MAX && values.iter().map(|v| v.len()).sum::<usize>() <= BYTES_MAX {
            lists.push((name, values));
        }
    }
    lists.sort_by_key(|(_, values)| values.len());
    lists.truncate(MATCHERS_MAX);
    let matcher = |(name, values): (String, BTreeSet<&str>)| {
        let list: Vec<&str> = values.into_iter().collect();
        match list.as_slice() {
            [one] => Some(Matcher::equal(&name, one)),
            many => {
                let words: Vec<String> = many.iter().map(|v| regex_syntax::escape(v)).collect();
                Matcher::new(MatchOp::Regex, &name, &words.join("|"), regex_bytes_max).ok()
            }
        }
    };
    lists.into_iter().filter_map(matcher).collect()
}

/// Labels that partners have in common.
fn names(matching: &VectorMatching, source: &Roster) -> Vec<String> {
    if matching.on {
        return matching.labels.clone();
    }
    let mut seen = HashSet::new();
    let mut out = Vec::new();
    for (name, _) in source.rows.iter().flat_map(|r| r.labels.iter()) {
        if is_metadata_label(name) || matching.labels.iter().any(|l| l == name) || !seen.insert(name) {
            continue;
        }
        out.push(name.to_owned());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::operators::testing::roster;

    fn on(names: &[&str]) -> VectorMatching {
        VectorMatching { on: true, labels: names.iter().map(|s| (*s).to_owned()).collect(), ..Default::default() }
    }

    fn texts(op: BinaryOp, m: &VectorMatching, source: &Roster, target: &[Matcher]) -> Vec<String> {
        matchers(op, m, source, target, 1 << 20).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn values_of_one_side_are_matchers_of_the_other() {
        let r = roster(&["__name__=up,job=a,i=1", "__name__=up,job=b.c,i=1", "__name__=up,i=1"]);
        assert_eq!(texts(BinaryOp::And, &on(&["job"]), &r, &[]), [r#"job=~"|a|b\\.c""#]);
        assert_eq!(texts(BinaryOp::And, &on(&["i"]), &r, &[]), [r#"i="1""#]);
        assert_eq!(texts(BinaryOp::And, &on(&["i"]), &r, &[Matcher::equal("i", "1")]), Vec::<String>::new());
        assert_eq!(texts(BinaryOp::And, &on(&["none"]), &r, &[]), [r#"none="""#]);
        assert_eq!(texts(BinaryOp::And, &on(&[]), &r, &[]), Vec::<String>::new());
        let all_but = VectorMatching { labels: vec!["job".into()], ..Default::default() };
        assert_eq!(texts(BinaryOp::Unless, &all_but, &r, &[]), [r#"i="1""#]);
    }

    #[test]
    fn not_where_series_may_clash() {
        let r = roster(&["__name__=up,job=a,i=1", "__name__=up,job=a,i=2"]);
        assert_eq!(texts(BinaryOp::Div, &on(&["job"]), &r, &[]), Vec::<String>::new());
        assert_eq!(texts(BinaryOp::Div, &on(&["job", "i"]), &r, &[]).len(), 2);
        assert_eq!(texts(BinaryOp::And, &on(&["job"]), &r, &[]), [r#"job="a""#]);
    }

    #[test]
    fn long_lists_are_left_alone() {
        let many: Vec<String> = (0..VALUES_MAX + 1).map(|i| format!("__name__=up,job={i},zone=z")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(texts(BinaryOp::And, &on(&["job", "zone"]), &roster(&many), &[]), [r#"zone="z""#]);
        assert!(texts(BinaryOp::And, &on(&["job"]), &Roster::default(), &[]).is_empty());
    }
}
