//! From matchers to series numbers.
//!
//! A matcher that refuses a missing label picks series: these are intersected, the rarest first. One that accepts it
//! only takes series away: these come last. `{a!="x"}` is "all others minus a=x", `{a=~"x|y"}` two look-ups, `{a=~"x.+"}`
//! a walk over the values that start with x, `{a=~".+"}` the union that is kept anyway, `{a=~".*"}` nothing at all.

use quiver_model::{MatchOp, Matcher};
use roaring::RoaringBitmap;

use super::postings::PostingsRef;

/// What a selection needs to know of an index.
pub trait Lookup {
    /// Why a look-up can fail.
    type Error;
    /// All series.
    fn all(&self) -> Result<RoaringBitmap, Self::Error>;
    /// Series with the label, whatever its value.
    fn with_label(&self, name: &str) -> Result<PostingsRef<'_>, Self::Error>;
    /// About how many series have the label.
    fn label_len(&self, name: &str) -> Result<u64, Self::Error>;
    /// Series with the pair.
    fn pair(&self, name: &str, value: &str) -> Result<PostingsRef<'_>, Self::Error>;
    /// About how many series have the pair.
    fn pair_len(&self, name: &str, value: &str) -> Result<u64, Self::Error>;
    /// Hands out the postings of each value of the matcher's label that starts with `prefix` and that the matcher
    /// accepts (or, where `accept` is false, refuses).
    fn walk(
        &self,
        matcher: &Matcher,
        prefix: &str,
        accept: bool,
        found: &mut dyn FnMut(PostingsRef<'_>),
    ) -> Result<(), Self::Error>;
}

/// The values a step speaks of.
enum Values<'m> {
    One(&'m str),
    Set(&'m std::collections::BTreeSet<String>),
    /// Those with the prefix which the matcher accepts (or refuses).
    Walk(&'m Matcher, &'m str, bool),
    Any,
}

struct Step<'m> {
    name: &'m str,
    values: Values<'m>,
    estimate: u64,
}

struct Steps<'m> {
    pick: Vec<Step<'m>>,
    drop: Vec<Step<'m>>,
    nothing: bool,
}

fn steps<'m, L: Lookup>(index: &L, matchers: &'m [Matcher]) -> Result<Steps<'m>, L::Error> {
    let mut out = Steps { pick: Vec::new(), drop: Vec::new(), nothing: false };
    for m in matchers {
        let (name, value): (&str, &str) = (&m.name, &m.value);
        let (pick, values) = match m.op {
            MatchOp::Equal if value.is_empty() => (false, Values::Any),
            MatchOp::Equal => (true, Values::One(value)),
            MatchOp::NotEqual if value.is_empty() => (true, Values::Any),
            MatchOp::NotEqual => (false, Values::One(value)),
            MatchOp::Regex if value == ".*" => continue,
            MatchOp::NotRegex if value == ".*" => {
                out.nothing = true;
                continue;
            }
            MatchOp::Regex if value == ".+" => (true, Values::Any),
            MatchOp::NotRegex if value == ".+" => (false, Values::Any),
            MatchOp::Regex => match (m.matches_empty(), m.set()) {
                (false, Some(set)) => (true, Values::Set(set)),
                (false, None) => (true, Values::Walk(m, m.prefix(), true)),
                (true, _) => (false, Values::Walk(m, "", false)),
            },
            MatchOp::NotRegex => match (m.matches_empty(), m.set()) {
                (true, Some(set)) => (false, Values::Set(set)),
                (true, None) => (false, Values::Walk(m, m.prefix(), false)),
                (false, _) => (true, Values::Walk(m, "", true)),
            },
        };
        let estimate = match &values {
            Values::One(v) => index.pair_len(name, v)?,
            Values::Set(set) if set.len() <= 1000 => {
                let mut sum = 0;
                for v in set.iter() {
                    sum += index.pair_len(name, v)?;
                }
                sum
            }
            _ => index.label_len(name)?,
        };
        if pick && estimate == 0 {
            out.nothing = true;
        }
        let step = Step { name, values, estimate };
        if pick { out.pick.push(step) } else { out.drop.push(step) }
    }
    // Of two with equal estimates the one that is only looked up goes first: it may spare the walk.
    let price = |s: &Step<'_>| (s.estimate, matches!(s.values, Values::Walk(..)));
    out.pick.sort_by_key(price);
    out.drop.sort_by_key(price);
    Ok(out)
}

fn for_each<L: Lookup>(index: &L, step: &Step<'_>, found: &mut dyn FnMut(PostingsRef<'_>)) -> Result<(), L::Error> {
    match &step.values {
        Values::One(v) => found(index.pair(step.name, v)?),
        Values::Set(set) => {
            for v in set.iter().filter(|v| !v.is_empty()) {
                found(index.pair(step.name, v)?);
            }
        }
        Values::Walk(m, prefix, accept) => {
            index.walk(m, prefix, *accept, found)?;
        }
        Values::Any => found(index.with_label(step.name)?),
    }
    Ok(())
}

/// The series that fulfil all matchers.
pub fn select<L: Lookup>(index: &L, matchers: &[Matcher]) -> Result<RoaringBitmap, L::Error> {
    let steps = steps(index, matchers)?;
    if steps.nothing {
        return Ok(RoaringBitmap::new());
    }
    let mut out: Option<RoaringBitmap> = None;
    for step in &steps.pick {
        match (&mut out, &step.values) {
            (Some(out), Values::One(v)) => index.pair(step.name, v)?.intersect_into(out),
            (Some(out), Values::Any) => index.with_label(step.name)?.intersect_into(out),
            (out, _) => {
                let mut union = RoaringBitmap::new();
                for_each(index, step, &mut |p| p.union_into(&mut union))?;
                match out {
                    Some(out) => *out &= union,
                    None => *out = Some(union),
                }
            }
        }
        if out.as_ref().is_some_and(RoaringBitmap::is_empty) {
            return Ok(RoaringBitmap::new());
        }
    }
    let mut out = match out {
        Some(out) => out,
        None => index.all()?,
    };
    for step in &steps.drop {
        for_each(index, step, &mut |p| p.subtract_from(&mut out))?;
        if out.is_empty() {
            break;
        }
    }
    Ok(out)
}

/// At most about this many series fulfil the matchers: no set is combined to find out.
pub fn estimate<L: Lookup>(index: &L, matchers: &[Matcher]) -> Result<u64, L::Error> {
    let steps = steps(index, matchers)?;
    if steps.nothing {
        return Ok(0);
    }
    match steps.pick.first() {
        Some(step) => Ok(step.estimate),
        None => Ok(index.all()?.len()),
    }
}
