//! Samples: a time and a float or a native histogram.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::histogram::Histogram;

/// Bits of the NaN that marks the end of a series (Prometheus `value.StaleNaN`).
pub const STALE_NAN_BITS: u64 = 0x7ff0_0000_0000_0002;
/// The stale marker as a float.
pub const STALE_NAN: f64 = f64::from_bits(STALE_NAN_BITS);

/// Is this float the stale marker (and not just any NaN)?
#[inline]
pub fn is_stale(v: f64) -> bool {
    v.to_bits() == STALE_NAN_BITS
}

/// The value of one sample.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A float; NaN payloads are kept to the bit.
    Float(f64),
    /// A native histogram.
    Histogram(Arc<Histogram>),
}

impl Value {
    /// Is it a stale marker, as a float or as a histogram (whose sum carries it)?
    pub fn is_stale(&self) -> bool {
        match self {
            Value::Float(v) => is_stale(*v),
            Value::Histogram(h) => is_stale(h.sum),
        }
    }

    /// The order-free rule that settles two values for one series and one time, whatever the order of arrival: a real
    /// sample beats a stale marker, a histogram beats a float, then the larger by total order of bits.
    ///
    /// `Greater` means `self` wins; `Equal` means they are the same sample.
    pub fn precedence(&self, other: &Value) -> Ordering {
        let key = |v: &Value| (!v.is_stale(), matches!(v, Value::Histogram(_)));
        key(self).cmp(&key(other)).then_with(|| match (self, other) {
            (Value::Float(a), Value::Float(b)) => float_precedence(*a, *b),
            (Value::Histogram(a), Value::Histogram(b)) => a.total_cmp(b),
            _ => Ordering::Equal,
        })
    }
}

/// [`Value::precedence`] for two floats, without the wrapping.
#[inline]
pub fn float_precedence(a: f64, b: f64) -> Ordering {
    (!is_stale(a)).cmp(&!is_stale(b)).then_with(|| a.to_bits().cmp(&b.to_bits()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_sample_beats_a_marker_and_the_rule_is_order_free() {
        let marker = Value::Float(STALE_NAN);
        let real = Value::Float(-5.0);
        assert_eq!(real.precedence(&marker), Ordering::Greater);
        assert_eq!(marker.precedence(&real), Ordering::Less);
        assert_eq!(Value::Float(f64::NAN).precedence(&marker), Ordering::Greater);
        assert_eq!(marker.precedence(&marker.clone()), Ordering::Equal);
    }
}
