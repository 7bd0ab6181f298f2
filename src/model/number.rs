//! Numbers as Go computes and prints them, so that answers and messages equal Prometheus's to the last digit.

use std::f64::consts::{LN_2, SQRT_2};

/// 1234567 as `1,234,567`: for people, who count digits badly.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `x · 2^exp`, rounded once.
pub fn ldexp(x: f64, exp: i64) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let (frac, e) = frexp(x);
    let e = i64::from(e).saturating_add(exp);
    if e > 1024 {
        return f64::INFINITY.copysign(x);
    }
    if e < -1074 {
        return 0.0f64.copysign(x);
    }
    // frac is in [½, 1): as 2·frac with exponent e-1 it is a normal number for e-1 ≥ -1022.
    let power = |p: i64| f64::from_bits(((p + 1023) as u64) << 52);
    if e > -1022 { (frac * 2.0) * power(e - 1) } else { (frac * 2.0) * power(e - 1 + 53) * power(-53) }
}

/// Fraction in [½, 1) and exponent with `x = fraction · 2^exponent`; zero, infinities and NaN come back with 0.
pub fn frexp(x: f64) -> (f64, i32) {
    if x == 0.0 || !x.is_finite() {
        return (x, 0);
    }
    let (x, shift) = if x.abs() < f64::MIN_POSITIVE { (x * 4_503_599_627_370_496.0, -52) } else { (x, 0) };
    let bits = x.to_bits();
    let exp = ((bits >> 52) & 0x7ff) as i32 - 1022 + shift;
    (f64::from_bits(bits & !(0x7ff << 52) | 1022 << 52), exp)
}

#[allow(clippy::excessive_precision)]
const LN2_HI: f64 = 6.93147180369123816490e-01;
#[allow(clippy::excessive_precision)]
const LN2_LO: f64 = 1.90821492927058770002e-10;

/// Natural logarithm, by the polynomial of fdlibm.
#[allow(clippy::excessive_precision)]
pub fn ln(x: f64) -> f64 {
    const L: [f64; 7] = [
        6.666666666666735130e-01,
        3.999999999940941908e-01,
        2.857142874366239149e-01,
        2.222219843214978396e-01,
        1.818357216161805012e-01,
        1.531383769920937332e-01,
        1.479819860511658591e-01,
    ];
    if x.is_nan() || x == f64::INFINITY {
        return x;
    }
    if x < 0.0 {
        return f64::NAN;
    }
    if x == 0.0 {
        return f64::NEG_INFINITY;
    }
    let (mut f, mut k) = frexp(x);
    if f < SQRT_2 / 2.0 {
        f *= 2.0;
        k -= 1;
    }
    let (f, k) = (f - 1.0, f64::from(k));
    let s = f / (2.0 + f);
    let s2 = s * s;
    let s4 = s2 * s2;
    let t1 = s2 * (L[0] + s4 * (L[2] + s4 * (L[4] + s4 * L[6])));
    let t2 = s4 * (L[1] + s4 * (L[3] + s4 * L[5]));
    let r = t1 + t2;
    let half_square = 0.5 * f * f;
    k * LN2_HI - ((half_square - (s * (half_square + r) + k * LN2_LO)) - f)
}

/// Logarithm to base 2; powers of two are exact.
pub fn log2(x: f64) -> f64 {
    let (frac, exp) = frexp(x);
    if frac == 0.5 { f64::from(exp - 1) } else { ln(frac) * (1.0 / LN_2) + f64::from(exp) }
}

/// `2^x`.
#[allow(clippy::excessive_precision)]
pub fn exp2(x: f64) -> f64 {
    const P: [f64; 5] = [
        1.66666666666666657415e-01,
        -2.77777777770155933842e-03,
        6.61375632143793436117e-05,
        -1.65339022054652515390e-06,
        4.13813679705723846039e-08,
    ];
    if x.is_nan() {
        return x;
    }
    if x > 1.023_999_999_999_999_9e3 {
        return f64::INFINITY;
    }
    if x < -1.074e3 {
        return 0.0;
    }
    let k = if x > 0.0 { (x + 0.5) as i64 } else { (x - 0.5) as i64 };
    let t = x - k as f64;
    let (hi, lo) = (t * LN2_HI, -t * LN2_LO);
    let r = hi - lo;
    let t = r * r;
    let c = r - t * (P[0] + t * (P[1] + t * (P[2] + t * (P[3] + t * P[4]))));
    let y = 1.0 - ((lo - (r * c) / (2.0 - c)) - hi);
    ldexp(y, k)
}

/// One step of compensated (Kahan–Neumaier) summation: adds `inc` to the sum `sum` with compensation `c` and returns
/// both. Their sum is the result. An infinite sum takes the compensation to 0.
#[inline]
pub fn kahan_inc(inc: f64, sum: f64, c: f64) -> (f64, f64) {
    let t = sum + inc;
    if t.is_infinite() {
        (t, 0.0)
    } else if sum.abs() >= inc.abs() {
        (t, c + ((sum - t) + inc))
    } else {
        (t, c + ((inc - t) + sum))
    }
}

/// A float as Go's `%g` and `%v` print it: shortest digits, exponent form below 0.0001 and from 1e+06 on.
pub fn format_g(v: f64) -> String {
    general(v, &shortest_scientific(v), 6)
}

/// Appends the fewest digits that read back as `v`, without an exponent. Of two such numbers equally near, it is the one
/// whose last digit is even, as Go has it (Rust takes the larger).
pub fn push_shortest(out: &mut String, v: f64) {
    use std::fmt::Write;
    let at = out.len();
    // Writing to a string cannot fail.
    let _ = write!(out, "{v}");
    tie_to_even(out, at, v);
}

/// The same digits as `d.ddde<exponent>`.
pub fn shortest_scientific(v: f64) -> String {
    let mut text = format!("{v:e}");
    tie_to_even(&mut text, 0, v);
    text
}

fn tie_to_even(text: &mut String, at: usize, v: f64) {
    // Fewer digits leave no room for a second number that reads back the same.
    if text.len() - at < 16 || !v.is_finite() {
        return;
    }
    let bits = v.to_bits();
    let (exponent, fraction) = ((bits >> 52 & 0x7ff) as i32, bits & ((1 << 52) - 1));
    let (significand, power) = if exponent == 0 { (fraction, -1074) } else { (fraction | 1 << 52, exponent - 1075) };
    let power = power + significand.trailing_zeros() as i32;
    // All its digits are those of an odd number times 5^-power: a tie has at most 18 of them, and 5^26 has 19.
    if power < -25 {
        return;
    }
    let end = text[at..].find('e').map_or(text.len(), |e| at + e);
    let number = &text[at..end];
    let number = if number.contains('.') { number } else { number.trim_end_matches('0') };
    let end = at + number.len();
    let digits = number.bytes().filter(u8::is_ascii_digit).skip_while(|d| *d == b'0').count();
    let last = text.as_bytes()[end - 1];
    if digits < 16 || last.is_multiple_of(2) || !last.is_ascii_digit() {
        return;
    }
    // How many digits `v` has when all are written: a tie has one more, a 5.
    if power < 0 {
        let exact = format!("{v:.digits$e}");
        let Some((mantissa, exp)) = exact.split_once('e') else { return };
        let exp: i32 = exp.parse().unwrap_or(i32::MAX);
        if !mantissa.ends_with('5') || exp.saturating_sub(power) != digits as i32 {
            return;
        }
    } else {
        let exact = format!("{v:.0}");
        let exact = exact.trim_start_matches('-').trim_end_matches('0');
        if !exact.ends_with('5') || exact.len() != digits + 1 {
            return;
        }
    }
    for other in [last - 1, last + 1] {
        let mut candidate = text[at..].to_owned();
        candidate.replace_range(end - at - 1..end - at, if other.is_ascii_digit() { digit(other) } else { return });
        // Only the neighbour on the other side of `v` is as near; the one further away does not read back.
        if candidate.parse::<f64>().is_ok_and(|c| c.to_bits() == bits) {
            text.truncate(at);
            text.push_str(&candidate);
            return;
        }
    }
}

fn digit(d: u8) -> &'static str {
    const DIGITS: &str = "0123456789";
    let i = usize::from(d - b'0');
    &DIGITS[i..=i]
}

/// A float as Go's `%.<digits>g` prints it.
pub fn format_g_digits(v: f64, digits: usize) -> String {
    let digits = digits.max(1);
    general(v, &format!("{v:.*e}", digits - 1), digits as i32)
}

/// A float as Go's `%f` prints it: six decimals.
pub fn format_f6(v: f64) -> String {
    if v.is_finite() { format!("{v:.6}") } else { general(v, "", 0) }
}

fn general(v: f64, scientific: &str, exponent_max: i32) -> String {
    if v.is_nan() {
        return "NaN".to_owned();
    }
    if v.is_infinite() {
        return if v > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let (mantissa, exp) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exp: i32 = exp.parse().unwrap_or(0);
    let sign = if mantissa.starts_with('-') { "-" } else { "" };
    let mut digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    while digits.len() > 1 && digits.ends_with('0') {
        digits.pop();
    }
    if exp < -4 || exp >= exponent_max {
        let (first, rest) = digits.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        let e_sign = if exp < 0 { '-' } else { '+' };
        return format!("{sign}{first}{point}{rest}e{e_sign}{:02}", exp.abs());
    }
    if exp < 0 {
        return format!("{sign}0.{}{digits}", "0".repeat((-exp - 1) as usize));
    }
    let whole = exp as usize + 1;
    if digits.len() <= whole {
        return format!("{sign}{digits}{}", "0".repeat(whole - digits.len()));
    }
    let (a, b) = digits.split_at(whole);
    format!("{sign}{a}.{b}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn printed_as_go_prints() {
        for (v, g, g2) in [
            (0.0, "0", "0"),
            (-0.0, "-0", "-0"),
            (1e5, "100000", "1e+05"),
            (1e6, "1e+06", "1e+06"),
            (123_456.0, "123456", "1.2e+05"),
            (1_234_567.8, "1.2345678e+06", "1.2e+06"),
            (1.5e22, "1.5e+22", "1.5e+22"),
            (0.0001, "0.0001", "0.0001"),
            (0.00001, "1e-05", "1e-05"),
            (1.25, "1.25", "1.2"),
            (123_456.75, "123456.75", "1.2e+05"),
            (f64::INFINITY, "+Inf", "+Inf"),
            (f64::NAN, "NaN", "NaN"),
        ] {
            assert_eq!(format_g(v), g);
            assert_eq!(format_g_digits(v, 2), g2);
        }
        assert_eq!(format_f6(1.25), "1.250000");
    }

    #[test]
    #[allow(clippy::excessive_precision)]
    fn of_two_shortest_the_even_one() {
        let mut s = String::new();
        push_shortest(&mut s, 23_581_243_612_889.312_5);
        assert_eq!(s, "23581243612889.312");
        assert_eq!(shortest_scientific(11_647_804_456_170.062_5), "1.1647804456170062e13");
        assert_eq!(shortest_scientific(-11_647_804_456_170.187_5), "-1.1647804456170188e13");
        assert_eq!(shortest_scientific(0.1), "1e-1");
    }

    proptest! {
        #[test]
        fn shortest_digits_read_back(bits: u64, whole in 0u64..1 << 53, halves in 0u32..12) {
            for v in [f64::from_bits(bits), whole as f64 / f64::from(1u32 << halves)] {
                if v.is_finite() {
                    let mut s = String::new();
                    push_shortest(&mut s, v);
                    prop_assert_eq!(s.parse::<f64>().unwrap().to_bits(), v.to_bits());
                    prop_assert_eq!(shortest_scientific(v).parse::<f64>().unwrap().to_bits(), v.to_bits());
                    prop_assert_eq!(s.len(), format!("{v}").len());
                }
            }
        }
    }

    #[test]
    fn logarithms_and_powers_are_gos_to_the_bit() {
        for (v, ln_bits, log2_bits) in [
            (0.1, 0xc0026bb1bbb55515, 0xc00a934f0979a371),
            (3.0, 0x3ff193ea7aad030a, 0x3ff95c01a39fbd69),
            (7.5, 0x40001e85798eb9a3, 0x4007414fdb498226),
            (1e-310, 0xc08628ae3f3c2ff6, 0xc0901730dabca5f6u64),
            (1.7e308, 0x40862dd08fdc6f88, 0x408fff5ae814b54a),
            (0.7, 0xbfd6d3c324e13f50, 0xbfe0776228967d13),
            (5e-324, 0xc08628b76e3a7b61, 0xc090c80000000000),
            (1.1892, 0x3fc62e10ce963125, 0x3fcfffb797b0bbfc),
        ] {
            // Subnormal numbers: Go's assembly for ln does not normalize them; its log2 does.
            if v >= f64::MIN_POSITIVE {
                assert_eq!(ln(v).to_bits(), ln_bits, "ln {v}");
            }
            assert_eq!(log2(v).to_bits(), log2_bits, "log2 {v}");
        }
        for (v, bits) in [
            (0.1, 0x3ff125fbee250664u64),
            (-3.7, 0x3fb3b2c47bff8328),
            (7.5, 0x4066a09e667f3bcc),
            (1023.9, 0x7feddb680117aa8e),
            (-1073.5, 1),
            (-1050.3, 0xcfefc6),
            (0.33, 0x3ff41cba0e634b2c),
            (-0.2, 0x3febdb8cdadbe120),
        ] {
            assert_eq!(exp2(v).to_bits(), bits, "exp2 {v}");
        }
    }

    proptest! {
        #[test]
        fn parts_make_the_whole(bits in any::<u64>()) {
            let v = f64::from_bits(bits);
            let (f, e) = frexp(v);
            prop_assert_eq!(ldexp(f, i64::from(e)).to_bits(), v.to_bits());
        }

        #[test]
        fn short_numbers_read_back(v in any::<f64>()) {
            prop_assert_eq!(format_g(v).replace("Inf", "inf").parse::<f64>().unwrap(), v);
        }

        #[test]
        fn compensated_sum_is_close(vs in proptest::collection::vec(-1e9f64..1e9, 0..50)) {
            let (mut s, mut c) = (0.0, 0.0);
            for v in vs.iter().chain(vs.iter()) {
                (s, c) = kahan_inc(*v, s, c);
            }
            for v in vs.iter().rev() {
                (s, c) = kahan_inc(-2.0 * v, s, c);
            }
            prop_assert!((s + c).abs() < 1e-12);
        }
    }
}
