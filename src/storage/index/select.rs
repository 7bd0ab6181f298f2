//! From matchers to series numbers.
//!
//! A matcher that refuses a missing label picks series: these are intersected, the rarest first. One that accepts it
//! only takes series away: these come last. `{a!="x"}` is "all others minus a=x", `{a=~"x|y"}` two look-ups, `{a=~"x.+"}`
//! a walk over the values that start with x, `{a=~".+"}` the union that is kept anyway, `{a=~".*"}` nothing at all.
//!
//! A walk over many more values than there are series left is not worth it: such a matcher is handed back, and the caller
//! tests it on the labels of those series ([`IndexUse`]).

use quiver_model::{MatchOp, Matcher};
use roaring::RoaringBitmap;

use super::postings::PostingsRef;

/// Whether matchers are looked up or tested on the labels of series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IndexUse {
    /// Whatever costs less.
    #[default]
    Auto,
    /// The labels of every series are tested.
    Off,
    /// Every matcher is looked up.
    Force,
}

/// How a matcher is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// One value is looked up.
    Value,
    /// Each of several values is looked up.
    Values,
    /// The values of the label are walked.
    Walk,
    /// All series that have the label are taken.
    Label,
    /// The labels of the series left are tested.
    Test,
    /// It accepts everything (or nothing): there is nothing to do.
    Constant,
}

impl Way {
    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Way::Value => "value",
            Way::Values => "values",
            Way::Walk => "walk",
            Way::Label => "label",
            Way::Test => "test",
            Way::Constant => "constant",
        }
    }
}

/// What became of a matcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatcherStep {
    /// The matcher, as text.
    pub matcher: String,
    /// How it is evaluated.
    pub way: Way,
    /// It takes series away, where others pick them.
    pub drops: bool,
    /// Series expected to be picked or taken away, at most; none where that was not estimated.
    pub estimate: Option<u64>,
    /// Series that its values have; none where it was not evaluated, since nothing was left.
    pub actual: Option<u64>,
    /// Series left after it.
    pub left: Option<u64>,
}

/// What an index picks.
#[derive(Debug)]
pub struct Picked<'m> {
    /// Series.
    pub ids: RoaringBitmap,
    /// Matchers that the labels of these series are to be tested with.
    pub rest: Vec<&'m Matcher>,
}

/// Walking this many values costs as much as testing the labels of one series.
const TEST_PRICE: u64 = 8;

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
    /// Number of values a label has.
    fn values_len(&self, name: &str) -> u64;
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
    matcher: &'m Matcher,
    name: &'m str,
    values: Values<'m>,
    estimate: u64,
}

impl Step<'_> {
    fn way(&self) -> Way {
        match self.values {
            Values::One(_) => Way::Value,
            Values::Set(_) => Way::Values,
            Values::Walk(..) => Way::Walk,
            Values::Any => Way::Label,
        }
    }
}

struct Steps<'m> {
    pick: Vec<Step<'m>>,
    drop: Vec<Step<'m>>,
    /// Those that need no step.
    constant: Vec<&'m Matcher>,
    nothing: bool,
}

fn steps<'m, L: Lookup>(index: &L, matchers: &'m [Matcher]) -> Result<Steps<'m>, L::Error> {
    let mut out = Steps { pick: Vec::new(), drop: Vec::new(), constant: Vec::new(), nothing: false };
    for m in matchers {
        let (name, value): (&str, &str) = (&m.name, &m.value);
        let (pick, values) = match m.op {
            MatchOp::Equal if value.is_empty() => (false, Values::Any),
            MatchOp::Equal => (true, Values::One(value)),
            MatchOp::NotEqual if value.is_empty() => (true, Values::Any),
            MatchOp::NotEqual => (false, Values::One(value)),
            MatchOp::Regex if value == ".*" => {
                out.constant.push(m);
                continue;
            }
            MatchOp::NotRegex if value == ".*" => {
                out.nothing = true;
                out.constant.push(m);
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
        let step = Step { matcher: m, name, values, estimate };
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
    Ok(pick(index, matchers, IndexUse::Force, None)?.ids)
}

/// The series that fulfil all matchers but those that are left for the caller to test. What was done with each matcher
/// goes to `trace`, in the order it was done.
pub fn pick<'m, L: Lookup>(
    index: &L,
    matchers: &'m [Matcher],
    how: IndexUse,
    trace: Option<&mut Vec<MatcherStep>>,
) -> Result<Picked<'m>, L::Error> {
    if how == IndexUse::Off {
        // Tests are reported by whoever makes them.
        return Ok(Picked { ids: index.all()?, rest: matchers.iter().collect() });
    }
    let steps = steps(index, matchers)?;
    let mut picking = Picking { index, how, trace, left: None, rest: Vec::new() };
    if steps.nothing {
        picking.left = Some(RoaringBitmap::new());
    }
    for step in &steps.pick {
        picking.pick(step)?;
    }
    if picking.left.is_none() {
        picking.left = Some(index.all()?);
    }
    for step in &steps.drop {
        picking.drop(step)?;
    }
    for m in steps.constant {
        let left = picking.left.as_ref().map(RoaringBitmap::len);
        picking.note(|| MatcherStep {
            matcher: m.to_string(),
            way: Way::Constant,
            drops: m.op == MatchOp::NotRegex,
            estimate: None,
            actual: None,
            left,
        });
    }
    Ok(Picked { ids: picking.left.unwrap_or_default(), rest: picking.rest })
}

struct Picking<'a, 'm, L> {
    index: &'a L,
    how: IndexUse,
    trace: Option<&'a mut Vec<MatcherStep>>,
    /// Series left; none before anything was picked.
    left: Option<RoaringBitmap>,
    rest: Vec<&'m Matcher>,
}

impl<'m, L: Lookup> Picking<'_, 'm, L> {
    fn note(&mut self, step: impl FnOnce() -> MatcherStep) {
        if let Some(trace) = &mut self.trace {
            trace.push(step());
        }
    }

    /// Nothing left to do, or better done by testing labels?
    fn is_skipped(&mut self, step: &Step<'m>, drops: bool) -> bool {
        let Some(left) = &self.left else { return false };
        if left.is_empty() {
            self.noted(step, drops, None);
            return true;
        }
        let test = self.how == IndexUse::Auto
            && matches!(step.values, Values::Walk(..))
            && left.len().saturating_mul(TEST_PRICE) < self.index.values_len(step.name);
        if test {
            self.rest.push(step.matcher);
        }
        test
    }

    fn noted(&mut self, step: &Step<'m>, drops: bool, actual: Option<u64>) {
        if self.trace.is_none() {
            return;
        }
        let left = actual.and(self.left.as_ref()).map(RoaringBitmap::len);
        self.note(|| MatcherStep {
            matcher: step.matcher.to_string(),
            way: step.way(),
            drops,
            estimate: Some(step.estimate),
            actual,
            left,
        });
    }

    fn pick(&mut self, step: &Step<'m>) -> Result<(), L::Error> {
        if self.is_skipped(step, false) {
            return Ok(());
        }
        let index = self.index;
        let actual = match (&mut self.left, &step.values) {
            (Some(left), Values::One(v)) => {
                let p = index.pair(step.name, v)?;
                p.intersect_into(left);
                p.len()
            }
            (Some(left), Values::Any) => {
                let p = index.with_label(step.name)?;
                p.intersect_into(left);
                p.len()
            }
            (left, _) => {
                let mut union = RoaringBitmap::new();
                for_each(index, step, &mut |p| p.union_into(&mut union))?;
                let n = if self.trace.is_some() { union.len() } else { 0 };
                match left {
                    Some(left) => *left &= union,
                    None => *left = Some(union),
                }
                n
            }
        };
        self.noted(step, false, Some(actual));
        Ok(())
    }

    fn drop(&mut self, step: &Step<'m>) -> Result<(), L::Error> {
        if self.is_skipped(step, true) {
            return Ok(());
        }
        let Some(left) = &mut self.left else { return Ok(()) };
        let mut actual = 0;
        for_each(self.index, step, &mut |p| {
            actual += p.len();
            p.subtract_from(left);
        })?;
        self.noted(step, true, Some(actual));
        Ok(())
    }
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
