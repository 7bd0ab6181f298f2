//! Spans as sequences of bucket indexes: reading, building, uniting, compacting.
//!
//! Whatever spans say, reading ends where the buckets do, so that a malformed histogram costs no more than its size.

use super::Span;

/// Reads spans as (bucket index, position in the bucket slice), in order.
#[derive(Clone, Debug)]
pub(super) struct Positions<'a> {
    spans: std::slice::Iter<'a, Span>,
    index: i32,
    left: u32,
    at: usize,
    len: usize,
}

impl<'a> Positions<'a> {
    pub(super) fn new(spans: &'a [Span], buckets: usize) -> Self {
        Self { spans: spans.iter(), index: 0, left: 0, at: 0, len: buckets }
    }
}

impl Iterator for Positions<'_> {
    type Item = (i32, usize);

    #[inline]
    fn next(&mut self) -> Option<(i32, usize)> {
        if self.at >= self.len {
            return None;
        }
        while self.left == 0 {
            let span = self.spans.next()?;
            self.index = self.index.wrapping_add(span.offset);
            self.left = span.length;
        }
        let item = (self.index, self.at);
        self.index = self.index.wrapping_add(1);
        self.at += 1;
        self.left -= 1;
        Some(item)
    }
}

/// Reads spans backwards as (bucket index, position in the bucket slice).
#[derive(Clone, Debug)]
pub(super) struct ReversePositions<'a> {
    spans: std::slice::Iter<'a, Span>,
    index: i32,
    offset: i32,
    left: u32,
    at: usize,
}

impl<'a> ReversePositions<'a> {
    pub(super) fn new(spans: &'a [Span], buckets: usize) -> Self {
        let end = spans.iter().fold(0i32, |i, s| i.wrapping_add(s.offset).wrapping_add(s.length as i32));
        Self { spans: spans.iter(), index: end, offset: 0, left: 0, at: buckets }
    }
}

impl Iterator for ReversePositions<'_> {
    type Item = (i32, usize);

    #[inline]
    fn next(&mut self) -> Option<(i32, usize)> {
        if self.at == 0 {
            return None;
        }
        while self.left == 0 {
            self.index = self.index.wrapping_sub(self.offset);
            let span = self.spans.next_back()?;
            self.offset = span.offset;
            self.left = span.length;
        }
        self.index = self.index.wrapping_sub(1);
        self.at -= 1;
        self.left -= 1;
        Some((self.index, self.at))
    }
}

/// Builds spans from ascending bucket indexes.
#[derive(Clone, Debug, Default)]
pub(super) struct SpanBuilder {
    spans: Vec<Span>,
    next: i32,
}

impl SpanBuilder {
    #[inline]
    pub(super) fn push(&mut self, index: i32) {
        match self.spans.last_mut() {
            Some(last) if self.next == index => last.length += 1,
            _ => self.spans.push(Span { offset: index.wrapping_sub(self.next), length: 1 }),
        }
        self.next = index.wrapping_add(1);
    }

    pub(super) fn finish(self) -> Vec<Span> {
        self.spans
    }
}

/// Walks the union of two layouts in order of index. `f` gets the positions in A and in B of each bucket. The first
/// `skip_b` buckets of B are left out.
pub(super) fn unite(
    a: (&[Span], usize),
    b: (&[Span], usize),
    skip_b: usize,
    mut f: impl FnMut(Option<usize>, Option<usize>),
) -> Vec<Span> {
    let mut out = SpanBuilder::default();
    let mut ia = Positions::new(a.0, a.1).peekable();
    let mut ib = Positions::new(b.0, b.1).skip(skip_b).peekable();
    loop {
        let (index, pa, pb) = match (ia.peek().copied(), ib.peek().copied()) {
            (None, None) => return out.finish(),
            (Some((i, p)), None) => (i, Some(p), None),
            (None, Some((j, q))) => (j, None, Some(q)),
            (Some((i, p)), Some((j, q))) => match i.cmp(&j) {
                std::cmp::Ordering::Less => (i, Some(p), None),
                std::cmp::Ordering::Greater => (j, None, Some(q)),
                std::cmp::Ordering::Equal => (i, Some(p), Some(q)),
            },
        };
        if pa.is_some() {
            ia.next();
        }
        if pb.is_some() {
            ib.next();
        }
        out.push(index);
        f(pa, pb);
    }
}

/// Drops empty buckets, but keeps (or fills in) runs of at most `max_empty` of them between others. A bucket is empty
/// where its count and its compensation, if any, are 0.
pub(super) fn compact(
    spans: &mut Vec<Span>,
    buckets: &mut Vec<f64>,
    mut compensation: Option<&mut Vec<f64>>,
    max_empty: usize,
) {
    let near = |offset: i32| usize::try_from(offset).is_ok_and(|o| o <= max_empty) || offset < 0;
    if buckets.iter().all(|b| *b != 0.0)
        && spans.iter().enumerate().all(|(i, s)| s.length != 0 && (i == 0 || !near(s.offset)))
    {
        return;
    }
    if let Some(c) = compensation.as_deref_mut() {
        c.resize(buckets.len(), 0.0);
    }
    let mut out = SpanBuilder::default();
    let mut kept = Vec::with_capacity(buckets.len());
    let mut kept_c = Vec::new();
    let mut next: Option<i32> = None;
    for (index, at) in Positions::new(spans, buckets.len()) {
        let c = compensation.as_deref().map_or(0.0, |c| c[at]);
        if buckets[at] == 0.0 && c == 0.0 {
            continue;
        }
        if let Some(next) = next {
            let gap = i64::from(index) - i64::from(next);
            if gap > 0 && usize::try_from(gap).is_ok_and(|g| g <= max_empty) {
                for i in next..index {
                    out.push(i);
                    kept.push(0.0);
                    kept_c.push(0.0);
                }
            }
        }
        out.push(index);
        kept.push(buckets[at]);
        kept_c.push(c);
        next = Some(index.wrapping_add(1));
    }
    *spans = out.finish();
    *buckets = kept;
    if let Some(c) = compensation {
        *c = kept_c;
    }
}

/// Do two span lists name the same buckets? Spans of length 0 count as part of the gap.
pub(super) fn spans_match(a: &[Span], b: &[Span]) -> bool {
    fn folded(spans: &[Span]) -> impl Iterator<Item = (i64, u32)> + '_ {
        let mut gap = 0i64;
        spans.iter().filter_map(move |s| {
            gap += i64::from(s.offset);
            (s.length > 0).then(|| (std::mem::take(&mut gap), s.length))
        })
    }
    a == b || folded(a).eq(folded(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spans(v: &[(i32, u32)]) -> Vec<Span> {
        v.iter().map(|(offset, length)| Span { offset: *offset, length: *length }).collect()
    }

    fn compacted(s: &[(i32, u32)], b: &[f64], max: usize) -> (Vec<Span>, Vec<f64>) {
        let (mut s, mut b) = (spans(s), b.to_vec());
        compact(&mut s, &mut b, None, max);
        (s, b)
    }

    #[test]
    fn compaction() {
        let (s, b) = compacted(&[(-2, 1), (2, 3)], &[0.0, 1.0, 0.0, 3.0], 0);
        assert_eq!((s, b), (spans(&[(1, 1), (1, 1)]), vec![1.0, 3.0]));
        let (s, b) = compacted(&[(-2, 1), (2, 3)], &[2.0, 1.0, 0.0, 3.0], 1);
        assert_eq!((s, b), (spans(&[(-2, 1), (2, 3)]), vec![2.0, 1.0, 0.0, 3.0]));
        let (s, b) = compacted(&[(-2, 1), (2, 3)], &[2.0, 1.0, 0.0, 3.0], 2);
        assert_eq!((s, b), (spans(&[(-2, 6)]), vec![2.0, 0.0, 0.0, 1.0, 0.0, 3.0]));
        let (s, b) = compacted(&[(0, 0), (3, 2), (0, 0), (0, 1)], &[1.0, 2.0, 3.0], 0);
        assert_eq!((s, b), (spans(&[(3, 3)]), vec![1.0, 2.0, 3.0]));
        let (s, b) = compacted(&[(0, 2)], &[0.0, 0.0], 5);
        assert_eq!((s, b), (vec![], vec![]));
    }

    #[test]
    fn a_compensated_bucket_is_not_empty() {
        let (mut s, mut b, mut c) = (spans(&[(0, 3)]), vec![0.0, 0.0, 1.0], vec![0.5, 0.0, 0.0]);
        compact(&mut s, &mut b, Some(&mut c), 0);
        assert_eq!((s, b, c), (spans(&[(0, 1), (1, 1)]), vec![0.0, 1.0], vec![0.5, 0.0]));
    }

    #[test]
    fn empty_spans_do_not_matter() {
        assert!(spans_match(&spans(&[(1, 2), (3, 1)]), &spans(&[(0, 0), (1, 2), (1, 0), (2, 1), (5, 0)])));
        assert!(!spans_match(&spans(&[(1, 2)]), &spans(&[(1, 1)])));
        assert!(!spans_match(&spans(&[(1, 2)]), &spans(&[(2, 2)])));
    }

    fn any_spans() -> impl Strategy<Value = (Vec<Span>, Vec<f64>)> {
        proptest::collection::vec((0i32..4, 0u32..4), 0..6).prop_flat_map(|s| {
            let n: u32 = s.iter().map(|s| s.1).sum();
            (Just(spans(&s)), proptest::collection::vec((0u8..3).prop_map(f64::from), n as usize))
        })
    }

    fn populated(s: &[Span], b: &[f64]) -> Vec<(i32, f64)> {
        Positions::new(s, b.len()).map(|(i, at)| (i, b[at])).filter(|(_, v)| *v != 0.0).collect()
    }

    proptest! {
        #[test]
        fn compaction_keeps_populated_buckets((mut s, mut b) in any_spans(), max in 0usize..4) {
            let before = populated(&s, &b);
            compact(&mut s, &mut b, None, max);
            prop_assert_eq!(populated(&s, &b), before);
            prop_assert_eq!(s.iter().map(|s| s.length as usize).sum::<usize>(), b.len());
            prop_assert!(s.iter().skip(1).all(|s| s.offset as usize > max));
            prop_assert!(b.first().is_none_or(|v| *v != 0.0) && b.last().is_none_or(|v| *v != 0.0));
        }

        #[test]
        fn backwards_is_forwards_reversed((s, b) in any_spans()) {
            let mut forwards: Vec<_> = Positions::new(&s, b.len()).collect();
            forwards.reverse();
            prop_assert_eq!(ReversePositions::new(&s, b.len()).collect::<Vec<_>>(), forwards);
        }

        #[test]
        fn union_holds_both((s, b) in any_spans(), (s2, b2) in any_spans()) {
            let mut sum = Vec::new();
            let united = unite((&s, b.len()), (&s2, b2.len()), 0, |p, q| {
                sum.push(p.map_or(0.0, |p| b[p]) + q.map_or(0.0, |q| b2[q]));
            });
            let mut want = std::collections::BTreeMap::new();
            for (i, v) in populated(&s, &b).into_iter().chain(populated(&s2, &b2)) {
                *want.entry(i).or_insert(0.0) += v;
            }
            prop_assert_eq!(populated(&united, &sum), want.into_iter().collect::<Vec<_>>());
        }
    }
}
