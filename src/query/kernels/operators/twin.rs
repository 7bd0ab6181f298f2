//! Operators against a twin that works step by step on maps, as the language is defined.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use quiver_model::{Histogram, Labels};

use super::matching::{match_labels, result_labels};
use super::testing::{Cell, cells, context, grid, labels, tile};
use super::{Aggregate, AggregateSpec, BinarySpec, SetOp, VectorBinary};
use crate::exec::tile::{Roster, RosterRow};
use crate::promql::ast::{AggregateOp, BinaryOp, Cardinality, Position, VectorMatching};

type Rows = Vec<Vec<Option<Cell>>>;
type Step = Vec<(Labels, Cell)>;
type Out = BTreeMap<(Labels, usize), (bool, u64)>;

fn histogram(sum: f64) -> Arc<Histogram> {
    Arc::new(Histogram { sum, count: 1.0, zero_count: 1.0, ..Histogram::default() })
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        6 => (-50i32..50).prop_map(|i| f64::from(i) / 8.0),
        1 => any::<f64>().prop_filter("no marker", |v| !v.is_nan()),
        1 => Just(f64::NAN),
        1 => Just(f64::INFINITY),
        1 => Just(-0.0),
        1 => Just(f64::MAX),
    ]
}

fn rows(series: usize, hist: bool) -> impl Strategy<Value = Rows> {
    let dense = prop_oneof![Just(10u32), Just(50), Just(100)];
    (1usize..80, dense).prop_flat_map(move |(w, percent)| {
        let cell = (0u32..100, value(), 0u32..10).prop_map(move |(p, v, h)| {
            (p < percent).then(|| if hist && h == 0 { Cell::H(histogram(v)) } else { Cell::F(v) })
        });
        proptest::collection::vec(proptest::collection::vec(cell, w), series)
    })
}

/// All combinations of three labels, in order, `take` of them.
fn series(take: &[bool]) -> Roster {
    let mut out = Vec::new();
    for a in 0..3 {
        for b in 0..3 {
            for c in 0..2 {
                out.push(labels(&format!("__name__=m{c},a={a},b={b}")));
            }
        }
    }
    out.sort();
    let row = |l: Labels| RosterRow { labels: l, drop_name: false };
    Roster { rows: out.into_iter().zip(take).filter(|(_, t)| **t).map(|(l, _)| row(l)).collect() }
}

fn step(roster: &Roster, rows: &Rows, s: usize) -> Step {
    let cell = |(r, row): (&RosterRow, &Vec<Option<Cell>>)| Some((r.labels.clone(), row[s].clone()?));
    roster.rows.iter().zip(rows).filter_map(cell).collect()
}

fn bits(c: &Cell) -> (bool, u64) {
    match c {
        Cell::H(h) => (true, h.sum.to_bits()),
        Cell::F(v) if v.is_nan() => (false, f64::NAN.to_bits()),
        Cell::F(v) => (false, v.to_bits()),
    }
}

fn inc(x: f64, sum: f64, c: f64) -> (f64, f64) {
    let t = sum + x;
    if t.is_infinite() {
        (t, 0.0)
    } else if sum.abs() >= x.abs() {
        (t, c + ((sum - t) + x))
    } else {
        (t, c + ((x - t) + sum))
    }
}

fn aggregate_step(op: AggregateOp, floats: &[f64]) -> f64 {
    let first = floats[0];
    let n = floats.len() as f64;
    match op {
        AggregateOp::Count => n,
        AggregateOp::Group => 1.0,
        AggregateOp::Min => floats[1..].iter().fold(first, |m, f| if m > *f || m.is_nan() { *f } else { m }),
        AggregateOp::Max => floats[1..].iter().fold(first, |m, f| if m < *f || m.is_nan() { *f } else { m }),
        AggregateOp::Sum => {
            let (s, c) = floats[1..].iter().fold((first, 0.0), |(s, c), f| inc(*f, s, c));
            s + c
        }
        AggregateOp::Avg => {
            let (mut sum, mut c, mut mean, mut count, mut incremental) = (first, 0.0, first, 1.0, false);
            for f in &floats[1..] {
                count += 1.0;
                if !incremental {
                    let (s, k) = inc(*f, sum, c);
                    if !s.is_infinite() {
                        (sum, c) = (s, k);
                        continue;
                    }
                    incremental = true;
                    mean = sum / (count - 1.0);
                    c /= count - 1.0;
                }
                let q = (count - 1.0) / count;
                (mean, c) = inc(f / count, q * mean, q * c);
            }
            if incremental { mean + c } else { sum / count + c / count }
        }
        _ => {
            let mut v = if first.is_finite() { 0.0 } else { f64::NAN };
            let (mut mean, mut count) = (first, 1.0);
            for f in &floats[1..] {
                count += 1.0;
                let d = f - mean;
                mean += d / count;
                v += d * (f - mean);
            }
            if op == AggregateOp::Stdvar { v / count } else { (v / count).sqrt() }
        }
    }
}

fn set_step(op: BinaryOp, m: &VectorMatching, l: &Step, r: &Step) -> Step {
    let sigs = |s: &Step| s.iter().map(|(l, _)| match_labels(l, m)).collect::<Vec<_>>();
    let (ls, rs) = (sigs(l), sigs(r));
    let pick = |keep: &dyn Fn(&Labels) -> bool, v: &Step, s: &[Labels]| -> Step {
        v.iter().zip(s).filter(|(_, s)| keep(s)).map(|(x, _)| x.clone()).collect()
    };
    match op {
        BinaryOp::And => pick(&|s| rs.contains(s), l, &ls),
        BinaryOp::Unless => pick(&|s| !rs.contains(s), l, &ls),
        _ => {
            let mut out = l.clone();
            out.extend(pick(&|s| !ls.contains(s), r, &rs));
            out
        }
    }
}

/// Floats only.
fn binary_step(spec: &BinarySpec, l: &Step, r: &Step) -> Result<Step, String> {
    let m = &spec.matching;
    let (mut l, mut r, mut fl, mut fr) = (l, r, m.fill_left, m.fill_right);
    if (l.is_empty() && r.is_empty()) || ((l.is_empty() || r.is_empty()) && fl.is_none() && fr.is_none()) {
        return Ok(Vec::new());
    }
    let swap = m.card == Cardinality::OneToMany;
    if swap {
        (l, r, fl, fr) = (r, l, fr, fl);
    }
    let mut right: BTreeMap<Labels, (Labels, f64)> = BTreeMap::new();
    let float = |c: &Cell| match c {
        Cell::F(v) => *v,
        Cell::H(_) => unreachable!(),
    };
    for (lab, c) in r {
        let sig = match_labels(lab, m);
        if let Some((have, _)) = right.get(&sig) {
            let (mut a, mut b) = (lab.to_string(), have.to_string());
            if a > b {
                std::mem::swap(&mut a, &mut b);
            }
            let side = if swap { "left" } else { "right" };
            return Err(format!(
                "found duplicate series for the match group {sig} on the {side} hand-side of the operation: [{a}, \
                 {b}];many-to-many matching not allowed: matching labels must be unique on one side"
            ));
        }
        right.insert(sig, (lab.clone(), float(c)));
    }
    let mut matched: BTreeMap<Labels, Vec<Labels>> = BTreeMap::new();
    let mut out = Vec::new();
    let mut run = |ll: &Labels, lv: f64, rl: &Labels, rv: f64, sig: &Labels| -> Result<(), String> {
        let (a, b) = if swap { (rv, lv) } else { (lv, rv) };
        let (v, keep) = match spec.op {
            BinaryOp::Add => (a + b, true),
            BinaryOp::Div => (a / b, true),
            BinaryOp::Gtr => (a, a > b),
            _ => (a, a == b),
        };
        let v = if spec.return_bool { f64::from(u8::from(keep)) } else { v };
        let metric = result_labels(ll, rl, spec.op, m, spec.return_bool);
        let have = matched.entry(sig.clone()).or_default();
        if m.card == Cardinality::OneToOne && !have.is_empty() {
            return Err("multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)"
                .to_owned());
        }
        if have.contains(&metric) {
            return Err("multiple matches for labels: grouping labels must ensure unique matches".to_owned());
        }
        have.push(metric.clone());
        if keep || spec.return_bool {
            out.push((metric, Cell::F(v)));
        }
        Ok(())
    };
    for (lab, c) in l {
        let sig = match_labels(lab, m);
        match (right.get(&sig), fr) {
            (Some((rl, rv)), _) => run(lab, float(c), rl, *rv, &sig)?,
            (None, Some(f)) => run(lab, float(c), &sig, f, &sig)?,
            (None, None) => {}
        }
    }
    if let Some(f) = fl {
        for (lab, c) in r {
            let sig = match_labels(lab, m);
            if !l.iter().any(|(x, _)| match_labels(x, m) == sig) {
                run(&sig, f, lab, float(c), &sig)?;
            }
        }
    }
    Ok(out)
}

fn gather(out: &mut Out, s: usize, v: Step) -> Result<(), String> {
    for (l, c) in v {
        if out.insert((l, s), bits(&c)).is_some() {
            return Err("vector cannot contain metrics with the same labelset".to_owned());
        }
    }
    Ok(())
}

fn matching() -> impl Strategy<Value = VectorMatching> {
    let names = proptest::sample::subsequence(vec!["a".to_owned(), "b".to_owned(), "__name__".to_owned()], 0..=3);
    let fill = || proptest::option::weighted(0.3, value());
    let card = prop_oneof![Just(Cardinality::OneToOne), Just(Cardinality::ManyToOne), Just(Cardinality::OneToMany)];
    let include = proptest::sample::subsequence(vec!["a".to_owned(), "b".to_owned(), "__name__".to_owned()], 0..=2);
    (names, any::<bool>(), fill(), fill(), card, include).prop_map(|(labels, on, l, r, card, include)| {
        let include = if card == Cardinality::OneToOne { Vec::new() } else { include };
        VectorMatching { card, labels, on, include, fill_left: l, fill_right: r }
    })
}

fn pair(hist: bool) -> impl Strategy<Value = (Vec<bool>, Vec<bool>, Rows, Rows)> {
    let take =
        || proptest::collection::vec(any::<bool>(), 18).prop_flat_map(|t| (0u32..4).prop_map(move |k| thin(&t, k)));
    (take(), take(), rows(18, hist), rows(18, hist)).prop_map(|(a, b, mut l, mut r)| {
        let w = l[0].len().min(r[0].len());
        for row in l.iter_mut().chain(&mut r) {
            row.truncate(w);
        }
        l.truncate(a.iter().filter(|t| **t).count());
        r.truncate(b.iter().filter(|t| **t).count());
        (a, b, l, r)
    })
}

fn thin(take: &[bool], k: u32) -> Vec<bool> {
    take.iter().enumerate().map(|(i, t)| *t && (k == 0 || (i as u32).is_multiple_of(k + 1))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn aggregates_are_those_of_the_twin(
        take in proptest::collection::vec(any::<bool>(), 18),
        all in rows(18, false),
        by in proptest::sample::subsequence(vec!["a".to_owned(), "b".to_owned()], 0..=2),
        without in any::<bool>(),
        cut in 0usize..18,
    ) {
        use AggregateOp::*;
        let roster = Arc::new(series(&take));
        let all: Rows = all.into_iter().take(roster.rows.len()).collect();
        let w = all.first().map_or(1, Vec::len);
        let ctx = context();
        for op in [Sum, Avg, Count, Group, Min, Max, Stddev, Stdvar] {
            let spec = AggregateSpec { op, grouping: by.clone(), without, expr_pos: Position::default() };
            let (mut agg, out) = Aggregate::new(&spec, &roster, grid(w)).unwrap();
            let cut = cut.min(all.len());
            agg.push(&tile(0, &all[..cut]), &ctx).unwrap();
            agg.push(&tile(cut as u32, &all[cut..]), &ctx).unwrap();
            let got = cells(&out, &agg.finish(&ctx).unwrap());
            let mut want = Out::new();
            for s in 0..w {
                let mut groups: BTreeMap<Labels, Vec<f64>> = BTreeMap::new();
                for (l, c) in step(&roster, &all, s) {
                    let key = match_labels(&l, &VectorMatching { labels: by.clone(), on: !without, ..Default::default() });
                    let Cell::F(v) = c else { unreachable!() };
                    groups.entry(key).or_default().push(v);
                }
                for (l, f) in groups {
                    want.insert((l, s), bits(&Cell::F(aggregate_step(op, &f))));
                }
            }
            prop_assert_eq!(got, want, "{:?}", op);
        }
    }

    #[test]
    fn partials_merge(all in rows(18, false), cut in 0usize..18) {
        use AggregateOp::*;
        let roster = Arc::new(series(&[true; 18]));
        let w = all[0].len();
        let ctx = context();
        for op in [Count, Group, Min, Max, Sum, Avg, Stdvar] {
            let spec = AggregateSpec { op, grouping: vec!["a".into()], without: false, expr_pos: Position::default() };
            let (mut whole, out) = Aggregate::new(&spec, &roster, grid(w)).unwrap();
            let (mut one, mut two) = (whole.fork(), whole.fork());
            whole.push(&tile(0, &all), &ctx).unwrap();
            one.push(&tile(0, &all[..cut]), &ctx).unwrap();
            two.push(&tile(cut as u32, &all[cut..]), &ctx).unwrap();
            one.merge(two).unwrap();
            let (a, b) = (cells(&out, &whole.finish(&ctx).unwrap()), cells(&out, &one.finish(&ctx).unwrap()));
            prop_assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
            for (x, y) in a.values().zip(b.values()) {
                let (x, y) = (f64::from_bits(x.1), f64::from_bits(y.1));
                let exact = !matches!(op, Sum | Avg | Stdvar);
                let near = (x - y).abs() <= 1e-6 * x.abs().max(1.0) || x.is_nan() || y.is_nan() || x.abs() > 1e100;
                prop_assert!(x.to_bits() == y.to_bits() || (!exact && near) || (x.is_nan() && y.is_nan()), "{op:?} {x} {y}");
            }
        }
    }

    #[test]
    fn set_operators_are_those_of_the_twin((a, b, l, r) in pair(true), m in matching()) {
        let (lr, rr) = (series(&a), series(&b));
        let w = l.first().or(r.first()).map_or(1, Vec::len);
        let m = VectorMatching { card: Cardinality::ManyToMany, include: Vec::new(), fill_left: None, fill_right: None, ..m };
        let ctx = context();
        for op in [BinaryOp::And, BinaryOp::Or, BinaryOp::Unless] {
            let (mut set, out) = SetOp::new(op, &m, &lr, &rr, grid(w)).unwrap();
            let (first, second) = if op == BinaryOp::Or { (&l, &r) } else { (&r, &l) };
            let sized = |rows: &Rows| {
                let mut t = tile(0, rows);
                t.width = w;
                t
            };
            set.build(&sized(first), &ctx).unwrap();
            let mut tiles: Vec<_> = set.probe(&sized(second), &ctx).unwrap().into_iter().collect();
            tiles.extend(set.finish().unwrap());
            let mut want = Out::new();
            for s in 0..w {
                gather(&mut want, s, set_step(op, &m, &step(&lr, &l, s), &step(&rr, &r, s))).unwrap();
            }
            prop_assert_eq!(cells(&out, &tiles), want, "{:?}", op);
        }
    }

    #[test]
    fn binary_operations_are_those_of_the_twin(
        (a, b, l, r) in pair(false),
        m in matching(),
        op in proptest::sample::select(vec![BinaryOp::Add, BinaryOp::Div, BinaryOp::Gtr, BinaryOp::Eql]),
        return_bool in any::<bool>(),
        cut in 0usize..18,
    ) {
        let (lr, rr) = (Arc::new(series(&a)), Arc::new(series(&b)));
        let w = l.first().or(r.first()).map_or(1, Vec::len);
        let return_bool = return_bool && op.is_comparison();
        let spec = BinarySpec { op, matching: m, return_bool, delayed: false, pos: Position::default() };
        let ctx = context();
        let (mut bin, out) = VectorBinary::new(spec.clone(), &lr, &rr, grid(w)).unwrap();
        let (one, many) = if bin.build_side() == super::Side::Right { (&r, &l) } else { (&l, &r) };
        let sized = |first: usize, rows: &[Vec<Option<Cell>>]| {
            let mut t = tile(first as u32, rows);
            t.width = w;
            t
        };
        let k = cut.min(one.len());
        bin.build(&sized(0, &one[..k]), &ctx).unwrap();
        bin.build(&sized(k, &one[k..]), &ctx).unwrap();
        let k = cut.min(many.len());
        bin.probe(&sized(0, &many[..k]), &ctx).unwrap();
        bin.probe(&sized(k, &many[k..]), &ctx).unwrap();
        let got = bin.finish(&ctx).map(|t| cells(&out, &t)).map_err(|e| e.to_string());
        let want = (|| {
            let mut want = Out::new();
            for s in 0..w {
                gather(&mut want, s, binary_step(&spec, &step(&lr, &l, s), &step(&rr, &r, s))?)?;
            }
            Ok(want)
        })();
        prop_assert_eq!(got, want);
    }
}
