//! Elementary functions with the results of Go on amd64 to the last bit, so that an answer equals Prometheus's whatever
//! C library this runs on.
//!
//! The polynomials are the classic public ones: fdlibm's (Sun Microsystems) for the logarithms, `expm1`-like reductions
//! and inverse hyperbolics, Cephes's (S. Moshier) for trigonometry, and Shibata's Taylor series with fused
//! multiply-add for `exp`. Order of operations is part of the contract: do not "simplify" it.

use std::f64::consts::{FRAC_2_PI, FRAC_PI_2, FRAC_PI_4, LN_2, LOG10_E, PI};

use quiver_model::number::{frexp, ldexp};
pub use quiver_model::number::{ln, log2};

/// `e^x`.
#[allow(clippy::excessive_precision, clippy::approx_constant)]
pub fn exp(x: f64) -> f64 {
    const LOG2E: f64 = 1.4426950408889634073599246810018920;
    const LN2_UPPER: f64 = 0.69314718055966295651160180568695068359375;
    const LN2_LOWER: f64 = 0.28235290563031577122588448175013436025525412068e-12;
    const OVERFLOW: f64 = 7.09782712893384e+02;
    const TAYLOR: [f64; 7] = [
        1.9841269841269841270e-4,
        1.3888888888888888889e-3,
        8.3333333333333333333e-3,
        4.1666666666666666667e-2,
        1.6666666666666666667e-1,
        0.5,
        1.0,
    ];
    if !x.is_finite() {
        return if x == f64::NEG_INFINITY { 0.0 } else { x };
    }
    if x > OVERFLOW {
        return f64::INFINITY;
    }
    let scaled = x * LOG2E;
    // Far below the smallest subnormal the exponent would not fit in 32 bits.
    if scaled < -2000.0 {
        return 0.0;
    }
    let k = scaled.round_ties_even();
    let mut r = (-k).mul_add(LN2_UPPER, x);
    r = (-k).mul_add(LN2_LOWER, r);
    r *= 0.0625;
    let mut p: f64 = 2.4801587301587301587e-5;
    for c in TAYLOR {
        p = p.mul_add(r, c);
    }
    r *= p;
    for _ in 0..3 {
        r *= r + 2.0;
    }
    r = (r + 2.0).mul_add(r, 1.0);
    let biased = k as i64 + 0x3ff;
    if biased >= 0x7ff {
        return f64::INFINITY;
    }
    if biased > 0 {
        return r * f64::from_bits((biased as u64) << 52);
    }
    if biased < -52 {
        return 0.0;
    }
    r * f64::from_bits(((biased + 0x3fe) as u64) << 52) * f64::MIN_POSITIVE
}

/// Logarithm to base 10.
pub fn log10(x: f64) -> f64 {
    ln(x) * LOG10_E
}

/// `ln(1 + x)`.
#[allow(clippy::excessive_precision)]
fn ln_1p(x: f64) -> f64 {
    const SQRT2_M1: f64 = 4.142135623730950488017e-01;
    const SQRT2_HALF_M1: f64 = -2.928932188134524755992e-01;
    const SMALL: f64 = 1.0 / (1u64 << 29) as f64;
    const TINY: f64 = 1.0 / (1u64 << 54) as f64;
    const TWO53: f64 = (1u64 << 53) as f64;
    const LN2_HI: f64 = 6.93147180369123816490e-01;
    const LN2_LO: f64 = 1.90821492927058770002e-10;
    const P: [f64; 7] = [
        6.666666666666735130e-01,
        3.999999999940941908e-01,
        2.857142874366239149e-01,
        2.222219843214978396e-01,
        1.818357216161805012e-01,
        1.531383769920937332e-01,
        1.479819860511658591e-01,
    ];
    if x < -1.0 || x.is_nan() {
        return f64::NAN;
    }
    if x == -1.0 {
        return f64::NEG_INFINITY;
    }
    if x == f64::INFINITY {
        return x;
    }
    let abs = x.abs();
    let (mut f, mut mantissa, mut k, mut c) = (0.0, 0u64, 1i64, 0.0);
    if abs < SQRT2_M1 {
        if abs < SMALL {
            return if abs < TINY { x } else { x - x * x * 0.5 };
        }
        if x > SQRT2_HALF_M1 {
            (k, f, mantissa) = (0, x, 1);
        }
    }
    if k != 0 {
        let mut u = if abs < TWO53 { 1.0 + x } else { x };
        mantissa = u.to_bits();
        k = (mantissa >> 52) as i64 - 1023;
        if abs < TWO53 {
            c = if k > 0 { 1.0 - (u - x) } else { x - (u - 1.0) };
            c /= u;
        }
        mantissa &= 0x000f_ffff_ffff_ffff;
        if mantissa < 0x0006_a09e_667f_3bcd {
            u = f64::from_bits(mantissa | 0x3ff0_0000_0000_0000);
        } else {
            k += 1;
            u = f64::from_bits(mantissa | 0x3fe0_0000_0000_0000);
            mantissa = (0x0010_0000_0000_0000 - mantissa) >> 2;
        }
        f = u - 1.0;
    }
    let kf = k as f64;
    let half_square = 0.5 * f * f;
    if mantissa == 0 {
        if f == 0.0 {
            if k == 0 {
                return 0.0;
            }
            c += kf * LN2_LO;
            return kf * LN2_HI + c;
        }
        let r = half_square * (1.0 - 0.66666666666666666 * f);
        if k == 0 {
            return f - r;
        }
        return kf * LN2_HI - ((r - (kf * LN2_LO + c)) - f);
    }
    let s = f / (2.0 + f);
    let z = s * s;
    let r = z * (P[0] + z * (P[1] + z * (P[2] + z * (P[3] + z * (P[4] + z * (P[5] + z * P[6]))))));
    if k == 0 {
        return f - (half_square - s * (half_square + r));
    }
    kf * LN2_HI - ((half_square - (s * (half_square + r) + (kf * LN2_LO + c))) - f)
}

fn is_odd_integer(x: f64) -> bool {
    // From 2^53 on every float is even.
    x.abs() < 9_007_199_254_740_992.0 && x.trunc() == x && (x as i64) & 1 == 1
}

/// `x^y`, by successive squaring of the whole part of `y`.
pub fn pow(x: f64, y: f64) -> f64 {
    if y == 0.0 || x == 1.0 {
        return 1.0;
    }
    if y == 1.0 {
        return x;
    }
    if x.is_nan() || y.is_nan() {
        return f64::NAN;
    }
    if x == 0.0 {
        let odd_negative = x.is_sign_negative() && is_odd_integer(y);
        return match (y < 0.0, odd_negative) {
            (true, true) => f64::NEG_INFINITY,
            (true, false) => f64::INFINITY,
            (false, true) => x,
            (false, false) => 0.0,
        };
    }
    if y.is_infinite() {
        return if x == -1.0 {
            1.0
        } else if (x.abs() < 1.0) == (y > 0.0) {
            0.0
        } else {
            f64::INFINITY
        };
    }
    if x.is_infinite() {
        if x < 0.0 {
            return pow(1.0 / x, -y);
        }
        return if y < 0.0 { 0.0 } else { f64::INFINITY };
    }
    if y == 0.5 {
        return x.sqrt();
    }
    if y == -0.5 {
        return 1.0 / x.sqrt();
    }
    let abs = y.abs();
    let mut whole = abs.trunc();
    let mut part = abs - whole;
    if part != 0.0 && x < 0.0 {
        return f64::NAN;
    }
    if whole >= 9_223_372_036_854_775_808.0 {
        return if x == -1.0 {
            1.0
        } else if (x.abs() < 1.0) == (y > 0.0) {
            0.0
        } else {
            f64::INFINITY
        };
    }
    let mut mantissa = 1.0;
    let mut exponent = 0i64;
    if part != 0.0 {
        if part > 0.5 {
            part -= 1.0;
            whole += 1.0;
        }
        mantissa = exp(part * ln(x));
    }
    let (mut base, e) = frexp(x);
    let mut base_exponent = i64::from(e);
    let mut i = whole as i64;
    while i != 0 {
        if !(-(1 << 12)..=1 << 12).contains(&base_exponent) {
            // Already far beyond what a float holds.
            exponent += base_exponent;
            break;
        }
        if i & 1 == 1 {
            mantissa *= base;
            exponent += base_exponent;
        }
        base *= base;
        base_exponent <<= 1;
        if base < 0.5 {
            base += base;
            base_exponent -= 1;
        }
        i >>= 1;
    }
    if y < 0.0 {
        mantissa = 1.0 / mantissa;
        exponent = -exponent;
    }
    ldexp(mantissa, exponent)
}

/// Octant of `x ≥ 0` (0 to 7) and the rest, in [−π/4, π/4].
#[allow(clippy::excessive_precision)]
fn reduce(x: f64) -> (u64, f64) {
    const PI4A: f64 = 7.85398125648498535156e-1;
    const PI4B: f64 = 3.77489470793079817668e-8;
    const PI4C: f64 = 2.69515142907905952645e-15;
    if x >= (1u64 << 29) as f64 {
        return reduce_large(x);
    }
    let mut j = (x * (2.0 * FRAC_2_PI)) as u64;
    let mut y = j as f64;
    if j & 1 == 1 {
        j += 1;
        y += 1.0;
    }
    (j & 7, ((x - y * PI4A) - y * PI4B) - y * PI4C)
}

/// Payne–Hanek reduction: `x` times the digits of 4/π that matter.
fn reduce_large(x: f64) -> (u64, f64) {
    const FOUR_OVER_PI: [u64; 20] = [
        0x0000_0000_0000_0001,
        0x45f3_06dc_9c88_2a53,
        0xf84e_afa3_ea69_bb81,
        0xb6c5_2b32_7887_2083,
        0xfca2_c757_bd77_8ac3,
        0x6e48_dc74_849b_a5c0,
        0x0c92_5dd4_13a3_2439,
        0xfc3b_d639_6253_4e7d,
        0xd104_6bea_5d76_8909,
        0xd338_e04d_68be_fc82,
        0x7323_ac73_06a6_73e9,
        0x3908_bf17_7bf2_5076,
        0x3ff1_2fff_bc0b_301f,
        0xde5e_2316_b414_da3e,
        0xda6c_fd9e_4f96_136e,
        0x9e8c_7ecd_3cbf_d45a,
        0xea4f_758f_d7cb_e2f6,
        0x7a0e_73ef_14a5_25d4,
        0xd7f6_bf62_3f1a_ba10,
        0xac06_608d_f8f6_d757,
    ];
    let bits = x.to_bits();
    let exponent = (bits >> 52 & 0x7ff) as i64 - 1023 - 52;
    let mantissa = bits & !(0x7ff << 52) | 1 << 52;
    let digit = ((exponent + 61) / 64) as usize;
    let shift = ((exponent + 61) % 64) as u32;
    let word = |i: usize| {
        let high = FOUR_OVER_PI.get(i).copied().unwrap_or(0);
        let low = FOUR_OVER_PI.get(i + 1).copied().unwrap_or(0);
        if shift == 0 { high } else { high << shift | low >> (64 - shift) }
    };
    let wide = |a: u64| u128::from(a) * u128::from(mantissa);
    let z2_hi = wide(word(digit + 2)) >> 64;
    let product =
        (u128::from(word(digit).wrapping_mul(mantissa)) << 64).wrapping_add(wide(word(digit + 1))).wrapping_add(z2_hi);
    let (mut hi, lo) = ((product >> 64) as u64, product as u64);
    let mut j = hi >> 61;
    hi = hi << 3 | lo >> 61;
    let zeros = hi.leading_zeros();
    let e = 1023 - (u64::from(zeros) + 1);
    hi = hi.checked_shl(zeros + 1).unwrap_or(0) | lo.checked_shr(64 - (zeros + 1)).unwrap_or(0);
    hi >>= 12;
    hi |= e << 52;
    let mut z = f64::from_bits(hi);
    if j & 1 == 1 {
        j = (j + 1) & 7;
        z -= 1.0;
    }
    (j, z * FRAC_PI_4)
}

#[allow(clippy::excessive_precision)]
fn sin_polynomial(z: f64, zz: f64) -> f64 {
    const S: [f64; 6] = [
        1.58962301576546568060e-10,
        -2.50507477628578072866e-8,
        2.75573136213857245213e-6,
        -1.98412698295895385996e-4,
        8.33333333332211858878e-3,
        -1.66666666666666307295e-1,
    ];
    z + z * zz * ((((((S[0] * zz) + S[1]) * zz + S[2]) * zz + S[3]) * zz + S[4]) * zz + S[5])
}

#[allow(clippy::excessive_precision)]
fn cos_polynomial(zz: f64) -> f64 {
    const C: [f64; 6] = [
        -1.13585365213876817300e-11,
        2.08757008419747316778e-9,
        -2.75573141792967388112e-7,
        2.48015872888517045348e-5,
        -1.38888888888730564116e-3,
        4.16666666666665929218e-2,
    ];
    1.0 - 0.5 * zz + zz * zz * ((((((C[0] * zz) + C[1]) * zz + C[2]) * zz + C[3]) * zz + C[4]) * zz + C[5])
}

/// Sine.
pub fn sin(x: f64) -> f64 {
    if x == 0.0 || x.is_nan() {
        return x;
    }
    if x.is_infinite() {
        return f64::NAN;
    }
    let (j, z) = reduce(x.abs());
    let negative = (x < 0.0) != (j > 3);
    let zz = z * z;
    let y = if j & 3 == 2 { cos_polynomial(zz) } else { sin_polynomial(z, zz) };
    if negative { -y } else { y }
}

/// Cosine.
pub fn cos(x: f64) -> f64 {
    if !x.is_finite() {
        return f64::NAN;
    }
    let (j, z) = reduce(x.abs());
    let quarter = j & 3;
    let negative = (j > 3) != (quarter > 1);
    let zz = z * z;
    let y = if quarter == 2 { sin_polynomial(z, zz) } else { cos_polynomial(zz) };
    if negative { -y } else { y }
}

/// Tangent.
#[allow(clippy::excessive_precision)]
pub fn tan(x: f64) -> f64 {
    const P: [f64; 3] = [-1.30936939181383777646e4, 1.15351664838587416140e6, -1.79565251976484877988e7];
    const Q: [f64; 4] =
        [1.36812963470692954678e4, -1.32089234440210967447e6, 2.50083801823357915839e7, -5.38695755929454629881e7];
    if x == 0.0 || x.is_nan() {
        return x;
    }
    if x.is_infinite() {
        return f64::NAN;
    }
    let (j, z) = reduce(x.abs());
    let zz = z * z;
    let mut y = z;
    if zz > 1e-14 {
        y = z + z * (zz * (((P[0] * zz) + P[1]) * zz + P[2]) / ((((zz + Q[0]) * zz + Q[1]) * zz + Q[2]) * zz + Q[3]));
    }
    if j & 2 == 2 {
        y = -1.0 / y;
    }
    if x < 0.0 { -y } else { y }
}

#[allow(clippy::excessive_precision)]
fn atan_small(x: f64) -> f64 {
    const P: [f64; 5] = [
        -8.750608600031904122785e-01,
        -1.615753718733365076637e+01,
        -7.500855792314704667340e+01,
        -1.228866684490136173410e+02,
        -6.485021904942025371773e+01,
    ];
    const Q: [f64; 5] = [
        2.485846490142306297962e+01,
        1.650270098316988542046e+02,
        4.328810604912902668951e+02,
        4.853903996359136964868e+02,
        1.945506571482613964425e+02,
    ];
    let mut z = x * x;
    z = z * ((((P[0] * z + P[1]) * z + P[2]) * z + P[3]) * z + P[4])
        / (((((z + Q[0]) * z + Q[1]) * z + Q[2]) * z + Q[3]) * z + Q[4]);
    x * z + x
}

#[allow(clippy::excessive_precision)]
fn atan_positive(x: f64) -> f64 {
    const MORE_BITS: f64 = 6.123233995736765886130e-17;
    const TAN_3_PI_8: f64 = 2.41421356237309504880;
    if x <= 0.66 {
        return atan_small(x);
    }
    if x > TAN_3_PI_8 {
        return FRAC_PI_2 - atan_small(1.0 / x) + MORE_BITS;
    }
    FRAC_PI_4 + atan_small((x - 1.0) / (x + 1.0)) + 0.5 * MORE_BITS
}

/// Inverse tangent.
pub fn atan(x: f64) -> f64 {
    if x == 0.0 {
        x
    } else if x > 0.0 {
        atan_positive(x)
    } else {
        -atan_positive(-x)
    }
}

/// Angle of the point (`x`, `y`).
pub fn atan2(y: f64, x: f64) -> f64 {
    if y.is_nan() || x.is_nan() {
        return f64::NAN;
    }
    if y == 0.0 {
        return if x >= 0.0 && x.is_sign_positive() { 0f64.copysign(y) } else { PI.copysign(y) };
    }
    if x == 0.0 {
        return FRAC_PI_2.copysign(y);
    }
    if x.is_infinite() {
        return match (x > 0.0, y.is_infinite()) {
            (true, true) => FRAC_PI_4.copysign(y),
            (true, false) => 0f64.copysign(y),
            (false, true) => (3.0 * FRAC_PI_4).copysign(y),
            (false, false) => PI.copysign(y),
        };
    }
    if y.is_infinite() {
        return FRAC_PI_2.copysign(y);
    }
    let q = atan(y / x);
    if x < 0.0 {
        return if q <= 0.0 { q + PI } else { q - PI };
    }
    q
}

/// Inverse sine.
pub fn asin(x: f64) -> f64 {
    if x == 0.0 {
        return x;
    }
    let abs = if x < 0.0 { -x } else { x };
    if abs > 1.0 {
        return f64::NAN;
    }
    let root = (1.0 - abs * abs).sqrt();
    let y = if abs > 0.7 { FRAC_PI_2 - atan_positive(root / abs) } else { atan_positive(abs / root) };
    if x < 0.0 { -y } else { y }
}

/// Inverse cosine.
pub fn acos(x: f64) -> f64 {
    FRAC_PI_2 - asin(x)
}

/// Hyperbolic sine.
#[allow(clippy::excessive_precision)]
pub fn sinh(x: f64) -> f64 {
    const P: [f64; 4] = [
        -0.6307673640497716991184787251e+6,
        -0.8991272022039509355398013511e+5,
        -0.2894211355989563807284660366e+4,
        -0.2630563213397497062819489e+2,
    ];
    const Q: [f64; 3] =
        [-0.6307673640497716991212077277e+6, 0.1521517378790019070696485176e+5, -0.173678953558233699533450911e+3];
    let abs = if x < 0.0 { -x } else { x };
    let y = if abs > 21.0 {
        exp(abs) * 0.5
    } else if abs > 0.5 {
        let e = exp(abs);
        (e - 1.0 / e) * 0.5
    } else {
        let sq = abs * abs;
        let y = (((P[3] * sq + P[2]) * sq + P[1]) * sq + P[0]) * abs;
        y / (((sq + Q[2]) * sq + Q[1]) * sq + Q[0])
    };
    if x < 0.0 { -y } else { y }
}

/// Hyperbolic cosine.
pub fn cosh(x: f64) -> f64 {
    let x = x.abs();
    if x > 21.0 {
        return exp(x) * 0.5;
    }
    let e = exp(x);
    (e + 1.0 / e) * 0.5
}

/// Hyperbolic tangent.
#[allow(clippy::excessive_precision)]
pub fn tanh(x: f64) -> f64 {
    const MAX_LOG: f64 = 8.8029691931113054295988e+01;
    const P: [f64; 3] = [-9.64399179425052238628e-1, -9.92877231001918586564e1, -1.61468768441708447952e3];
    const Q: [f64; 3] = [1.12811678491632931402e2, 2.23548839060100448583e3, 4.84406305325125486048e3];
    let z = x.abs();
    if z > 0.5 * MAX_LOG {
        return if x < 0.0 { -1.0 } else { 1.0 };
    }
    if z >= 0.625 {
        let y = 1.0 - 2.0 / (exp(2.0 * z) + 1.0);
        return if x < 0.0 { -y } else { y };
    }
    if x == 0.0 {
        return x;
    }
    let s = x * x;
    x + x * s * ((P[0] * s + P[1]) * s + P[2]) / (((s + Q[0]) * s + Q[1]) * s + Q[2])
}

const TWO_28: f64 = (1u64 << 28) as f64;

/// Inverse hyperbolic sine.
pub fn asinh(x: f64) -> f64 {
    if !x.is_finite() {
        return x;
    }
    let a = if x < 0.0 { -x } else { x };
    let y = if a > TWO_28 {
        ln(a) + LN_2
    } else if a > 2.0 {
        ln(2.0 * a + 1.0 / ((a * a + 1.0).sqrt() + a))
    } else if a < 1.0 / TWO_28 {
        a
    } else {
        ln_1p(a + a * a / (1.0 + (1.0 + a * a).sqrt()))
    };
    if x < 0.0 { -y } else { y }
}

/// Inverse hyperbolic cosine.
pub fn acosh(x: f64) -> f64 {
    if x < 1.0 || x.is_nan() {
        return f64::NAN;
    }
    if x == 1.0 {
        return 0.0;
    }
    if x >= TWO_28 {
        return ln(x) + LN_2;
    }
    if x > 2.0 {
        return ln(2.0 * x - 1.0 / (x + (x * x - 1.0).sqrt()));
    }
    let t = x - 1.0;
    ln_1p(t + (2.0 * t + t * t).sqrt())
}

/// Inverse hyperbolic tangent.
pub fn atanh(x: f64) -> f64 {
    if !(-1.0..=1.0).contains(&x) {
        return f64::NAN;
    }
    if x == 1.0 {
        return f64::INFINITY;
    }
    if x == -1.0 {
        return f64::NEG_INFINITY;
    }
    let a = if x < 0.0 { -x } else { x };
    let y = if a < 1.0 / TWO_28 {
        a
    } else if a < 0.5 {
        let t = a + a;
        0.5 * ln_1p(t + t * a / (1.0 - a))
    } else {
        0.5 * ln_1p((a + a) / (1.0 - a))
    };
    if x < 0.0 { -y } else { y }
}

/// The larger, where NaN wins over all but +Inf and +0 over −0.
#[inline]
pub fn max(x: f64, y: f64) -> f64 {
    if x == f64::INFINITY || y == f64::INFINITY {
        return f64::INFINITY;
    }
    if x.is_nan() || y.is_nan() {
        return f64::NAN;
    }
    if x == 0.0 && x == y {
        return if x.is_sign_negative() { y } else { x };
    }
    if x > y { x } else { y }
}

/// The smaller, where NaN wins over all but −Inf and −0 over +0.
#[inline]
pub fn min(x: f64, y: f64) -> f64 {
    if x == f64::NEG_INFINITY || y == f64::NEG_INFINITY {
        return f64::NEG_INFINITY;
    }
    if x.is_nan() || y.is_nan() {
        return f64::NAN;
    }
    if x == 0.0 && x == y {
        return if x.is_sign_negative() { x } else { y };
    }
    if x < y { x } else { y }
}

/// Degrees to radians.
#[allow(clippy::excessive_precision)]
pub fn rad(v: f64) -> f64 {
    v * 0.017453292519943295769236907684886127134428718885417
}

/// Radians to degrees.
#[allow(clippy::excessive_precision)]
pub fn deg(v: f64) -> f64 {
    v * 57.295779513082320876798154814105170332405472466564
}

#[cfg(test)]
mod tests {
    use super::*;

    include!("math_table.rs");

    #[test]
    fn equal_to_go_to_the_last_bit() {
        for (name, bits, want) in TABLE {
            let x = f64::from_bits(*bits);
            let got = match *name {
                "exp" => exp(x),
                "ln" => ln(x),
                "log2" => log2(x),
                "log10" => log10(x),
                "sin" => sin(x),
                "cos" => cos(x),
                "tan" => tan(x),
                "asin" => asin(x),
                "acos" => acos(x),
                "atan" => atan(x),
                "sinh" => sinh(x),
                "cosh" => cosh(x),
                "tanh" => tanh(x),
                "asinh" => asinh(x),
                "acosh" => acosh(x),
                "atanh" => atanh(x),
                other => panic!("{other}"),
            };
            let want = f64::from_bits(*want);
            assert!(
                got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{name}({x:e}): {got:e}, {want:e}"
            );
        }
        for (name, x, y, want) in TABLE2 {
            let (x, y) = (f64::from_bits(*x), f64::from_bits(*y));
            let got = match *name {
                "pow" => pow(x, y),
                "atan2" => atan2(x, y),
                "mod" => x % y,
                "max" => max(x, y),
                "min" => min(x, y),
                other => panic!("{other}"),
            };
            let want = f64::from_bits(*want);
            assert!(
                got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{name}({x:e}, {y:e}): {got:e}, {want:e}"
            );
        }
    }

    #[test]
    fn near_the_exact_value() {
        let mut x = -30.0f64;
        while x < 30.0 {
            for (a, b) in
                [(exp(x), x.exp()), (sin(x), x.sin()), (cos(x), x.cos()), (atan(x), x.atan()), (tanh(x), x.tanh())]
            {
                assert!((a - b).abs() <= 1e-14 * b.abs().max(1e-3), "{x}: {a} {b}");
            }
            x += 0.37;
        }
        assert!((sin(1e300) - 1e300f64.sin()).abs() < 1e-14);
        assert_eq!(pow(2.0, 10.0), 1024.0);
        assert_eq!(std::f64::consts::SQRT_2, pow(2.0, 0.5));
    }
}
