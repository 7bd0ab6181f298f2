//! The orders Go's heap and sort give to values, ties and NaN included: answers of `topk` and `sort` show them.
//!
//! Go's sort is an insertion sort up to twelve elements; it is repeated here step by step, since "less" is not a strict
//! order where NaN is involved (and natural order of labels is none at all). Longer lists are merge sorted: stable,
//! and harmless whatever "less" says.

/// Values ascending, NaN first.
#[inline]
pub fn less(a: f64, b: f64) -> bool {
    a.is_nan() || a < b
}

/// Values descending, NaN first.
#[inline]
pub fn greater(a: f64, b: f64) -> bool {
    a.is_nan() || a > b
}

/// Elements up to which Go sorts by insertion.
const INSERTION: usize = 12;

/// Sorts by a "less" that need not be an order.
pub fn sort<T: Copy>(items: &mut [T], less: &mut dyn FnMut(&T, &T) -> bool) {
    if items.len() <= INSERTION {
        for i in 1..items.len() {
            let mut j = i;
            while j > 0 && less(&items[j], &items[j - 1]) {
                items.swap(j, j - 1);
                j -= 1;
            }
        }
        return;
    }
    let mut from = items.to_vec();
    let mut width = 1;
    while width < items.len() {
        for start in (0..items.len()).step_by(2 * width) {
            let middle = (start + width).min(items.len());
            let end = (start + 2 * width).min(items.len());
            let (mut a, mut b) = (start, middle);
            for slot in &mut items[start..end] {
                let right = a >= middle || (b < end && less(&from[b], &from[a]));
                let i = if right { &mut b } else { &mut a };
                *slot = from[*i];
                *i += 1;
            }
        }
        from.copy_from_slice(items);
        width *= 2;
    }
}

/// Moves the last element of a heap up.
pub fn heap_up<T>(heap: &mut [T], less: &impl Fn(&T, &T) -> bool) {
    let mut j = heap.len().saturating_sub(1);
    while j > 0 {
        let i = (j - 1) / 2;
        if !less(&heap[j], &heap[i]) {
            break;
        }
        heap.swap(i, j);
        j = i;
    }
}

/// Moves the first element of a heap down.
pub fn heap_down<T>(heap: &mut [T], less: &impl Fn(&T, &T) -> bool) {
    let mut i = 0;
    loop {
        let mut j = 2 * i + 1;
        if j >= heap.len() {
            break;
        }
        if j + 1 < heap.len() && less(&heap[j + 1], &heap[j]) {
            j += 1;
        }
        if !less(&heap[j], &heap[i]) {
            break;
        }
        heap.swap(i, j);
        i = j;
    }
}

/// Go's `math.Max`.
pub fn max(a: f64, b: f64) -> f64 {
    if a == f64::INFINITY || b == f64::INFINITY {
        f64::INFINITY
    } else if a.is_nan() || b.is_nan() {
        f64::NAN
    } else {
        a.max(b)
    }
}

/// Go's `math.Min`.
pub fn min(a: f64, b: f64) -> f64 {
    -max(-a, -b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn extremes_and_nan() {
        assert!(max(1.0, f64::NAN).is_nan() && min(f64::NAN, 1.0).is_nan());
        assert_eq!((max(f64::NAN, f64::INFINITY), min(2.0, 1.0)), (f64::INFINITY, 1.0));
    }

    proptest! {
        #[test]
        fn long_lists_are_sorted_stably(v in proptest::collection::vec(0u8..20, 0..60)) {
            let mut items: Vec<(u8, usize)> = v.iter().copied().zip(0..).collect();
            let mut want = items.clone();
            want.sort();
            sort(&mut items, &mut |a, b| a.0 < b.0);
            prop_assert_eq!(items, want);
        }

        #[test]
        fn heaps_hold_the_largest(v in proptest::collection::vec(-20i32..20, 1..60), k in 1usize..10) {
            let less = |a: &i32, b: &i32| a < b;
            let mut heap = Vec::new();
            for x in &v {
                if heap.len() < k {
                    heap.push(*x);
                    heap_up(&mut heap, &less);
                } else if heap[0] < *x {
                    heap[0] = *x;
                    heap_down(&mut heap, &less);
                }
            }
            heap.sort();
            let mut want = v.clone();
            want.sort();
            prop_assert_eq!(&heap[..], &want[v.len().saturating_sub(k)..]);
        }
    }
}
