// Exponentials, logarithms, and functions of angles: of additions, products, quotients and whole numbers alone, so that a
// number and a vector of them have the same bits on every processor and beside every C library.
//
// Each is within 1.5 units in the last place for float32, and within 3 for float64 (``tests/lanes/test_elementary.py``).
// V is float, double, F or D; ``like(x, c)`` is the constant c in the type of x. Series without a word on them are
// Taylor's. The others are interpolations at Chebyshev's nodes over the range in the comment.

template <class V> struct of_double { static constexpr bool value = same_type<V, double>::value || same_type<V, D>::value; };
template <class V> INLINE constexpr bool is_double(V) { return of_double<V>::value; }

template <class V> INLINE V horner_on(V sum, V) { return sum; }
template <class V, class... C> INLINE V horner_on(V sum, V x, double c, C... rest) {
  return horner_on(multiply_add(sum, x, like(x, c)), x, rest...);
}
// c[0] x^n + ... + c[n]
template <class V, class... C> INLINE V horner(V x, double c, C... rest) { return horner_on(like(x, c), x, rest...); }

template <class V> INLINE V with_sign_of(V size, V sign) {
  const auto bits = bits_of(sign), top = like(bits, is_double(sign) ? (int64)(1ull << 63) : (int64)(1ull << 31));
  return from_bits(bit_or(bits_of(size), bit_and(bits, top)));
}

// The nearest whole number, and the same as an integer, of |x| < 2^22: what is added leaves no place for a fraction.
template <class V> struct Whole { V value; decltype(bits_of(V())) number; };
template <class V> INLINE Whole<V> nearest(V x) {
  const V shift = like(x, is_double(x) ? 0x1.8p52 : 0x1.8p23);
  const V sum = x + shift;
  return {sum - shift, sub(bits_of(sum), bits_of(shift))};
}
template <class V, class N> INLINE V real(V x, N number) {
  const V shift = like(x, is_double(x) ? 0x1.8p52 : 0x1.8p23);
  return from_bits(add(bits_of(shift), number)) - shift;
}

// --- exponentials -------------------------------------------------------------------------------------------

template <class V, class N> INLINE V power_of_two(V x, N n) {
  return from_bits(shift_left(add(n, like(n, is_double(x) ? 1023 : 127)), like(n, is_double(x) ? 52 : 23)));
}
// x 2^n by way of two factors, for 2^n may be no number where the product is one.
template <class V, class N> INLINE V scaled(V x, N n) {
  N half = shift_right(n, like(n, 1));
  return x * power_of_two(x, half) * power_of_two(x, sub(n, half));
}

template <class V> INLINE V within(V x, double low, double high) {  // NaN stays
  x = choose_lt(x, like(x, low), like(x, low), x);
  return choose_gt(x, like(x, high), like(x, high), x);
}

// (exp(r) - 1 - r) / r^2 for |r| <= log(2) / 2
template <class V> INLINE V exp_series(V r) {
  if constexpr (of_double<V>::value)
    return horner(r, 1 / 87178291200.0, 1 / 6227020800.0, 1 / 479001600.0, 1 / 39916800.0, 1 / 3628800.0, 1 / 362880.0,
                  1 / 40320.0, 1 / 5040.0, 1 / 720.0, 1 / 120.0, 1 / 24.0, 1 / 6.0, 1 / 2.0);
  else
    return horner(r, 1 / 5040.0, 1 / 720.0, 1 / 120.0, 1 / 24.0, 1 / 6.0, 1 / 2.0);
}
// x as n log(2) + r
template <class V> INLINE Whole<V> in_log_twos(V x, V *r) {
  const Whole<V> n = nearest(x * like(x, is_double(x) ? 0x1.71547652b82fep+0 : 0x1.715476p+0));
  const double high = is_double(x) ? 0x1.62e42fee00000p-1 : 0x1.62e400p-1;
  const double low = is_double(x) ? 0x1.a39ef35793c76p-33 : 0x1.7f7d1cp-20;
  *r = multiply_add(n.value, like(x, -low), multiply_add(n.value, like(x, -high), x));
  return n;
}
// exp(x) 2^-less, and exp(x + rest), of a rest that is far smaller than x.
template <class V> INLINE V exp_of(V x, int less) {
  x = is_double(x) ? within(x, -746.0, 711.0) : within(x, -104.0, 90.0);
  V r;
  const Whole<V> n = in_log_twos(x, &r);
  return scaled(like(x, 1.0) + multiply_add(r * r, exp_series(r), r), sub(n.number, like(n.number, less)));
}
template <class V> INLINE V exp_of_two(V x, V rest) {
  x = is_double(x) ? within(x, -746.0, 711.0) : within(x, -104.0, 90.0);
  V r;
  const Whole<V> n = in_log_twos(x, &r);
  const V sum = r + rest, lost = (r - sum) + rest;
  return scaled(like(x, 1.0) + (sum + multiply_add(sum * sum, exp_series(sum), lost)), n.number);
}
template <class V> INLINE V v_exp(V x) { return exp_of(x, 0); }
template <class V> INLINE V v_exp2(V x) {
  x = is_double(x) ? within(x, -1076.0, 1025.0) : within(x, -151.0, 129.0);
  const Whole<V> n = nearest(x);
  const V r = (x - n.value) * like(x, 0x1.62e42fefa39efp-1);
  return scaled(like(x, 1.0) + multiply_add(r * r, exp_series(r), r), n.number);
}
// exp(x) = 2^n exp(r), and the second factor less 1 by the series. Every step of CBP has one.
template <class V> INLINE V v_expm1(V x) {
  V r;
  const Whole<V> n = in_log_twos(is_double(x) ? within(x, -40.0, 710.0) : within(x, -20.0, 89.0), &r);
  const V less_one = multiply_add(exp_series(r) * r, r, r);
  const V half = power_of_two(x, sub(n.number, like(n.number, 1)));  // of 2^n, which may be too large
  const V result = like(x, 2.0) * multiply_add(half, less_one, half - like(x, 0.5));
  return choose_eq(x, like(x, 0.0), x, result);
}
// Of u = expm1(2 |x|), tanh |x| = u / (u + 2), which is 1 from 9.01 on, or 19.1.
template <class V> INLINE V v_tanh(V x) {
  const V size = v_abs(x), most = like(x, is_double(x) ? 20.0 : 10.0);
  const V u = v_expm1(like(x, 2.0) * choose_gt(size, most, most, size));
  return with_sign_of(u / (u + like(x, 2.0)), x);
}

// --- logarithms ---------------------------------------------------------------------------------------------

// x as 2^e (1 + f), with 1 + f between the root of 1/2 and that of 2; x > 0 and finite.
template <class V> INLINE V parts_of(V x, V *f) {
  const V small = like(x, is_double(x) ? 0x1p-1022 : 0x1p-126), up = like(x, is_double(x) ? 0x1p54 : 0x1p25);
  const V given = x;
  x = choose_lt(given, small, x * up, x);
  const auto least = bits_of(like(x, is_double(x) ? 0x1.6a09e667f3bcdp-1 : 0x1.6a09e6p-1));
  const auto digits = like(least, is_double(x) ? 52 : 23);
  const auto above = sub(bits_of(x), least);
  const auto e = shift_right(above, digits);
  *f = from_bits(add(sub(above, shift_left(e, digits)), least)) - like(x, 1.0);
  return real(x, e) - choose_lt(given, small, like(x, is_double(x) ? 54.0 : 25.0), like(x, 0.0));
}
// log(x) of 0, infinity, NaN and numbers below 0
template <class V> INLINE V log_limits(V x, V result) {
  const V zero = like(x, 0.0), most = like(x, limits<double>::infinity());
  result = choose_lt(x, most, result, x);
  result = choose_eq(x, zero, zero - most, result);
  return choose_lt(x, zero, like(x, limits<double>::quiet_NaN()), result);
}
// (log((1 + s) / (1 - s)) / s - 2) / z - 2/3, over z, of z = s^2 <= 0.0295
template <class V> INLINE V log_tail(V z) {
  return horner(z, 0x1.0877e906b72d3p-3, 0x1.1018bb6af787ep-3, 0x1.3b18b888c578fp-3, 0x1.745d09f1d2e07p-3,
                0x1.c71c71d7e5cbbp-3, 0x1.249249248e53bp-2, 0x1.999999999999ep-2);
}
// e log(2) + log(1 + f)
template <class V> INLINE V log_of(V e, V f) {
  if constexpr (of_double<V>::value) {
    const V s = f / (like(f, 2.0) + f), z = s * s, half = like(f, 0.5) * f * f;
    const V r = z * multiply_add(z, log_tail(z), like(f, 0x1.5555555555555p-1));
    const V rest = multiply_add(s, half + r, e * like(f, 0x1.a39ef35793c76p-33));
    return multiply_add(e, like(f, 0x1.62e42fee00000p-1), f - (half - rest));
  } else {
    // (log(1 + f) - f + f^2 / 2) / f^3
    const V p = horner(f, 0x1.1d8ea50b3f8a0p-4, -0x1.d635bbe618494p-4, 0x1.dea28241d30a8p-4, -0x1.fcf4c673064efp-4,
                       0x1.23d2196ef7977p-3, -0x1.555b4994ad12bp-3, 0x1.999d5a430bf46p-3, -0x1.fffffbeac287ap-3,
                       0x1.555553e3660dap-2);
    const V square = f * f;
    V y = multiply_add(e, like(f, 0x1.7f7d1cp-20), square * f * p);
    y = multiply_add(like(f, -0.5), square, y);
    return multiply_add(e, like(f, 0x1.62e400p-1), f + y);
  }
}
template <class V> INLINE V v_log(V x) {
  V f;
  const V e = parts_of(x, &f);
  return log_limits(x, log_of(e, f));
}
template <class V> LARGE V v_log1p(V x) {
  const V one = like(x, 1.0), u = one + x, back = u - one;
  const V lost = (one - (u - back)) + (x - back);
  V f;
  const V e = parts_of(u, &f);
  const V result = log_limits(u, log_of(e, f) + lost / u);
  return choose_eq(x, like(x, 0.0), x, result);
}
// e + log(1 + f) / log(2): whole for a power of 2.
template <class V> LARGE V v_log2(V x) {
  V f;
  const V e = parts_of(x, &f), part = log_of(like(x, 0.0), f);
  const V more = part * like(x, is_double(x) ? 0x1.777d0ffda0d24p-56 : 0x1.4ae0cp-26);
  return log_limits(x, e + multiply_add(part, like(x, is_double(x) ? 0x1.71547652b82fep+0 : 0x1.715476p+0), more));
}
template <class V> LARGE V v_log10(V x) {
  V f;
  const V e = parts_of(x, &f), part = log_of(like(x, 0.0), f);
  const double high = is_double(x) ? 0x1.3441350800000p-2 : 0x1.344p-2, low = is_double(x) ? 0x1.f79fef311f12bp-34 : 0x1.3509f8p-18;
  const double size = is_double(x) ? 0x1.bcb7b1526e50ep-2 : 0x1.bcb7b2p-2, rest = is_double(x) ? 0x1.95355baaafad3p-57 : -0x1.5b235ep-27;
  const V more = multiply_add(e, like(x, low), part * like(x, rest));
  return log_limits(x, multiply_add(e, like(x, high), multiply_add(part, like(x, size), more)));
}

// --- angles -------------------------------------------------------------------------------------------------

// x as n pi/2 + r + low, with |r| about pi/4 at most. Where x is large, number by number (``scalars.hpp``).
template <class V> struct Angle { V r, low; decltype(bits_of(V())) quarters; };
template <class V> INLINE Angle<V> angle_of(V x) {
  Angle<V> a;
  const Whole<V> n = nearest(x * like(x, 0x1.45f306dc9c883p-1));
  const V minus = neg(n.value);
  a.quarters = n.number;
  if constexpr (of_double<V>::value) {
    const V t = multiply_add(minus, like(x, 0x1.921fb54442d18p+0), x);  // exact
    const V part = minus * like(x, 0x1.1a62633145c07p-54);
    const V lost = multiply_add(minus, like(x, 0x1.1a62633145c07p-54), neg(part));
    a.r = t + part;
    const V back = a.r - t;
    const V error = (t - (a.r - back)) + (part - back);
    a.low = multiply_add(minus, like(x, -0x1.f1976b7ed8fbcp-110), error + lost);
  } else {
    const V t = multiply_add(minus, like(x, 0x1.921fb6p+0), x);  // exact
    a.r = multiply_add(minus, like(x, -0x1.ee59dap-50), multiply_add(minus, like(x, -0x1.777a5cp-25), t));
    a.low = like(x, 0.0);
  }
  const auto far = bit_not(le(v_abs(x), like(x, is_double(x) ? 0x1p20 : 0x1p16)));
  if (SELDOM(some_lane(far))) {
    a.r = choose(far, far_rest(x), a.r);
    a.low = choose(far, far_low(x), a.low);
    a.quarters = choose(far, nearest(far_quarters(x)).number, a.quarters);
  }
  return a;
}
template <class V> INLINE V sin_series(Angle<V> a) {
  const V r = a.r, z = r * r, cube = z * r;
  if constexpr (of_double<V>::value) {
    const V p = horner(z, 1 / 355687428096000.0, -1 / 1307674368000.0, 1 / 6227020800.0, -1 / 39916800.0, 1 / 362880.0,
                       -1 / 5040.0, 1 / 120.0);
    const V low = multiply_add(z, like(r, 0.5) * a.low - cube * p, neg(a.low));
    return r - multiply_add(cube, like(r, 1 / 6.0), low);
  } else {
    return multiply_add(cube, horner(z, 1 / 362880.0, -1 / 5040.0, 1 / 120.0, -1 / 6.0), r);
  }
}
template <class V> INLINE V cos_series(Angle<V> a) {
  const V one = like(a.r, 1.0), z = a.r * a.r, half = like(a.r, 0.5) * z, w = one - half;
  if constexpr (of_double<V>::value) {
    const V p = horner(z, 1 / 20922789888000.0, -1 / 87178291200.0, 1 / 479001600.0, -1 / 3628800.0, 1 / 40320.0,
                       -1 / 720.0, 1 / 24.0);
    return w + (((one - w) - half) + multiply_add(z * z, p, neg(a.r * a.low)));
  } else {
    return multiply_add(z * z, horner(z, -1 / 3628800.0, 1 / 40320.0, -1 / 720.0, 1 / 24.0), w + ((one - w) - half));
  }
}
// sin(x + shift pi/2)
template <class V> INLINE V sine(V x, int shift) {
  const Angle<V> a = angle_of(x);
  const auto one = like(a.quarters, 1), turned = add(a.quarters, like(one, shift));
  const V size = choose_eq(bit_and(turned, one), like(one, 0), sin_series(a), cos_series(a));
  return choose_eq(bit_and(turned, like(one, 2)), like(one, 0), size, neg(size));
}
template <class V> LARGE V v_sin(V x) { return choose_eq(x, like(x, 0.0), x, sine(x, 0)); }
template <class V> LARGE V v_cos(V x) { return sine(x, 1); }
template <class V> LARGE V v_tan(V x) {
  if constexpr (of_double<V>::value) {
    const Angle<V> a = angle_of(x);
    const V s = sin_series(a), c = cos_series(a);
    const auto odd = bit_and(a.quarters, like(a.quarters, 1)), none = like(odd, 0);
    const V result = choose_eq(odd, none, s, neg(c)) / choose_eq(odd, none, c, s);
    return choose_eq(x, like(x, 0.0), x, result);
  } else {
    return narrowed(v_tan(widened(x)));
  }
}

// (atan(t) / t - 1) / t^2, over t^2 <= 0.1716
template <class V> INLINE V atan_series(V z) {
  return horner(z, 0x1.0ad36a455cafbp-6, -0x1.1b33b923aa954p-5, 0x1.74ddd408bb4c1p-5, -0x1.ac7a938b69c93p-5,
                0x1.e19a13b9fc6dfp-5, -0x1.110e880a7a521p-4, 0x1.3b1392d9e785cp-4, -0x1.745d165df3f95p-4,
                0x1.c71c71c304b68p-4, -0x1.249249248d7eep-3, 0x1.9999999999953p-3, -0x1.5555555555555p-2);
}
// The angle of a point whose coordinates are not below 0: that from the nearest multiple of pi/4, and the multiple.
template <class V> INLINE V angle_above(V y, V x) {
  const V steep = x * like(x, 2.414213562373095), middle = x * like(x, 0.41421356237309503), zero = like(x, 0.0);
  const V up = choose_gt(y, steep, neg(x), choose_gt(y, middle, y - x, y));
  const V t = up / choose_gt(y, steep, y, choose_gt(y, middle, y + x, x)), z = t * t;
  const V eighths = choose_gt(y, steep, like(x, 2.0), choose_gt(y, middle, like(x, 1.0), zero));
  const V high = eighths * like(x, 0x1.921fb54442d18p-1), low = eighths * like(x, 0x1.1a62633145c07p-55);
  return high + (t + multiply_add(t * z, atan_series(z), low));
}
template <class V> LARGE V v_atan(V x) {
  if constexpr (of_double<V>::value)
    return with_sign_of(angle_above(v_abs(x), like(x, 1.0)), x);
  else
    return narrowed(v_atan(widened(x)));
}
template <class V> LARGE V v_atan2(V y, V x) {
  if constexpr (of_double<V>::value) {
    V up = v_abs(y), across = v_abs(x);
    const V zero = like(x, 0.0), most = like(x, limits<double>::infinity());
    // Two infinities are as two ones, two zeros as zero beside one; and a sum of the largest is none.
    const auto infinite = bit_and(eq(up, most), eq(across, most)), none = bit_and(eq(up, zero), eq(across, zero));
    const auto large = bit_or(gt(up, like(x, 0x1p1000)), gt(across, like(x, 0x1p1000)));
    const V scale = choose(large, like(x, 0x1p-30), like(x, 1.0));
    up = choose(infinite, like(x, 1.0), up * scale);
    across = choose(bit_or(infinite, none), like(x, 1.0), across * scale);
    const V angle = angle_above(up, across);
    const auto left = lt(with_sign_of(like(x, 1.0), x), zero);
    const V turned = like(x, 0x1.921fb54442d18p+1) - (angle - like(x, 0x1.1a62633145c07p-53));
    return choose(bit_and(eq(x, x), eq(y, y)), with_sign_of(choose(left, turned, angle), y), x + y);
  } else {
    return narrowed(v_atan2(widened(y), widened(x)));
  }
}
// (asin(t) / t - 1) / t^2, over t^2 <= 1/4
template <class V> INLINE V asin_series(V z) {
  return horner(z, 0x1.e529c6fce9bb4p-6, -0x1.3b416bb7d9257p-6, 0x1.406192d124629p-6, 0x1.8f193743418ffp-9,
                0x1.31622469ce5adp-7, 0x1.3b49de7121487p-7, 0x1.7b027ee1dd585p-7, 0x1.c990ad3d8fdcap-7,
                0x1.1c4efce23019fp-6, 0x1.6e8ba123e494cp-6, 0x1.f1c71c7a52ba3p-6, 0x1.6db6db6dac1e0p-5,
                0x1.3333333333388p-4, 0x1.5555555555555p-3);
}
// Of |x| > 1/2 by asin x = pi/2 - 2 asin(sqrt((1 - x) / 2)), and of the root with what its rounding lost.
template <class V> INLINE V arc(V x, bool cosine) {
  const V size = v_abs(x), half = like(x, 0.5), one = like(x, 1.0), zero = like(x, 0.0);
  const auto outer = gt(size, half);
  const V square = choose(outer, half * (one - size), x * x);
  const V root = v_sqrt(square), t = choose(outer, root, size);
  const V lost = multiply_add(neg(root), root, square) / choose_eq(root, zero, one, root + root);
  const V p = multiply_add(t * square, asin_series(square), choose(outer, lost, zero));  // asin(t) - t
  const V high = like(x, 0x1.921fb54442d18p+0), low = like(x, 0x1.1a62633145c07p-54);
  if (cosine) {
    const V twice = t + t, more = p + p;
    const V right = twice + more, left = (high - (twice - high)) - (more - (low + low));
    const V inner = high - with_sign_of(t, x), back = (high - inner) - with_sign_of(t, x);
    return choose(outer, choose_lt(x, zero, left, right), inner + (back + (low - with_sign_of(p, x))));
  }
  const V far = high - (t + t), back = (high - far) - (t + t);
  return with_sign_of(choose(outer, far + (back + (low - (p + p))), t + p), x);
}
template <class V> LARGE V v_asin(V x) {
  if constexpr (of_double<V>::value)
    return arc(x, false);
  else
    return narrowed(v_asin(widened(x)));
}
template <class V> LARGE V v_acos(V x) {
  if constexpr (of_double<V>::value)
    return arc(x, true);
  else
    return narrowed(v_acos(widened(x)));
}

// --- hyperbolic functions, of exp(|x|) / 2 -------------------------------------------------------------------

template <class V> LARGE V v_cosh(V x) {
  if constexpr (of_double<V>::value) {
    const V half = exp_of(v_abs(x), 1);
    return half + like(x, 0.25) / half;
  } else {
    return narrowed(v_cosh(widened(x)));
  }
}
template <class V> LARGE V v_sinh(V x) {
  const V size = v_abs(x), one = like(x, 1.0);
  if constexpr (of_double<V>::value) {
    const V half = exp_of(size, 1), u = v_expm1(choose_gt(size, one, one, size));
    const V near = like(x, 0.5) * (u + u / (u + one));
    return with_sign_of(choose_gt(size, one, half - like(x, 0.25) / half, choose_eq(x, x, near, x)), x);
  } else {
    const auto half = exp_of(widened(size), 1);
    const V far = narrowed(half - like(half, 0.25) / half), near = multiply_add(size * size, size * like(x, 1 / 6.0), size);
    return with_sign_of(choose_lt(size, like(x, 0x1p-8), near, far), x);
  }
}

// --- the error function --------------------------------------------------------------------------------------

// erf(x) for |x| <= 1
template <class V> INLINE V erf_near(V x) {
  const V z = x * x;
  V p;
  if constexpr (of_double<V>::value)
    p = horner(z, -0x1.ac9585a44fe29p-31, 0x1.d76af6ca49787p-27, -0x1.5c131500d3f88p-23, 0x1.b981d78881a5dp-20,
               -0x1.f4ca838adb73bp-17, 0x1.f9a2be4f731a1p-14, -0x1.c02db0665e53dp-11, 0x1.565bccfa44156p-8,
               -0x1.b82ce31203772p-6, 0x1.ce2f21a040f66p-4, -0x1.812746b0379c1p-2, 0x1.06eba8214db69p-3);
  else
    p = horner(z, 0x1.4a5690869d13fp-14, -0x1.a45087f1a200ap-11, 0x1.541270c79ca2cp-8, -0x1.b7faba961c85ap-6,
               0x1.ce2d10ed44e09p-4, -0x1.81273e7a02443p-2, 0x1.06eba8p-3);
  return multiply_add(x, p, x);
}
// erfc(x) = exp(-x^2) p(t) / (x + 3), with t = (x - 3) / (x + 3), for x from 1/2 on; in float32 from 1 on
template <class V> INLINE V erfc_far(V x) {
  const V below = like(x, 1.0) / (x + like(x, 3.0)), t = (x - like(x, 3.0)) * below;
  const V square = x * x, lost = multiply_add(x, x, neg(square));
  V p;
  if constexpr (of_double<V>::value)
    p = horner(t, 0x1.b76184b9332d4p-29, -0x1.72fac3ad8b26ap-27, -0x1.6085fee8f0bafp-27, 0x1.03b800c23f67fp-24,
               0x1.d4cf7f4f6283ap-25, -0x1.087759c45c5d0p-22, -0x1.ba11203878535p-22, 0x1.0e7fd916d43ecp-20,
               0x1.733d233771293p-19, -0x1.3ef5d557c5bd6p-18, -0x1.251abb9524a52p-16, 0x1.fe03369c5abdcp-16,
               0x1.c32528dadc593p-14, -0x1.2239077d678bbp-12, -0x1.1f78e0e19501ep-11, 0x1.8dae3a4531454p-9,
               -0x1.3dd3e71596a00p-10, -0x1.b78993d6e6ca2p-6, 0x1.e995f11b1810dp-4, -0x1.3deb21415db60p-2,
               0x1.2e326945de2adp-1, -0x1.c44c471baa377p-1, 0x1.12f21ddd9f5e2p+0);
  else
    p = horner(t, -0x1.6fa949a828877p-11, 0x1.838b154b8b54dp-9, -0x1.2754f01f80d4fp-10, -0x1.b797c6f506c66p-6,
               0x1.e9891e75a469bp-4, -0x1.3deaa306e040bp-2, 0x1.2e32783411b79p-1, -0x1.c44c49d93c676p-1,
               0x1.12f21ddb42222p+0);
  const V decay = of_double<V>::value ? exp_of_two(neg(square), neg(lost)) : exp_of(neg(square), 0);
  return decay * (p * below);
}
template <class V> LARGE V v_erf(V x) {
  const V size = v_abs(x), most = like(x, is_double(x) ? 6.0 : 4.0);
  const V far = with_sign_of(like(x, 1.0) - erfc_far(choose_gt(size, most, most, size)), x);
  return choose_lt(size, like(x, 1.0), erf_near(x), far);
}
template <class V> LARGE V v_erfc(V x) {
  if constexpr (of_double<V>::value) {
    const V size = v_abs(x), far = erfc_far(choose_gt(size, like(x, 28.0), like(x, 28.0), size));
    const V outer = choose_lt(x, like(x, 0.0), like(x, 2.0) - far, far);
    return choose_lt(size, like(x, 0.5), like(x, 1.0) - erf_near(x), outer);
  } else {
    return narrowed(v_erfc(widened(x)));
  }
}

// --- functions of two numbers --------------------------------------------------------------------------------

// log(x) as a sum of two numbers: some 64 binary places.
template <class V> INLINE V log_in_two(V x, V *low) {
  V f;
  const V e = parts_of(x, &f), two = like(x, 2.0);
  const V d = two + f, d_low = f - (d - two), s = f / d, s_low = (multiply_add(neg(s), d, f) - s * d_low) / d;
  const V z = s * s, z_low = multiply_add(s, s, neg(z)) + two * s * s_low, third = like(x, 0x1.5555555555555p-1);
  const V a = third * z, a_low = multiply_add(third, z, neg(a)) + multiply_add(third, z_low, like(x, 0x1.5555555555555p-55) * z);
  const V tail = z * z * log_tail(z), b = a + tail, b_low = (tail - (b - a)) + a_low;
  const V c = s * b, c_low = multiply_add(s, b, neg(c)) + multiply_add(s, b_low, s_low * b);
  const V twice = s + s, h = twice + c, h_low = (c - (h - twice)) + (s_low + s_low + c_low);
  const V twos = e * like(x, 0x1.62e42fee00000p-1), sum = twos + h;
  const V back = sum - twos;
  const V rest = ((twos - (sum - back)) + (h - back)) + multiply_add(e, like(x, 0x1.a39ef35793c76p-33), h_low);
  const V high = sum + rest;
  *low = (sum - high) + rest;
  return high;
}
template <class V> INLINE V power_of(V x, V y, bool single) {
  const V size = v_abs(x), zero = like(x, 0.0), one = like(x, 1.0), most = like(x, limits<double>::infinity());
  V low = zero, high = single ? v_log(size) : log_in_two(size, &low);
  high = log_limits(size, high);
  V p = y * high, rest = single ? zero : multiply_add(y, high, neg(p)) + y * low;
  const auto far = bit_not(lt(v_abs(p), like(x, 800.0)));
  V result = exp_of_two(p, choose(far, zero, rest));
  result = choose_eq(size, one, choose_eq(y, y, one, y), result);
  const V half = y * like(x, 0.5);
  const auto whole = eq(v_trunc(y), y), odd = bit_and(whole, ne(v_trunc(half), half));
  const auto none = bit_and(bit_and(lt(x, zero), ne(size, most)), bit_not(whole));
  result = choose(none, like(x, limits<double>::quiet_NaN()), choose(odd, with_sign_of(result, x), result));
  return choose(bit_or(eq(x, one), eq(y, zero)), one, result);
}
template <class V> LARGE V v_pow(V x, V y) {
  if constexpr (of_double<V>::value)
    return power_of(x, y, false);
  else
    return narrowed(power_of(widened(x), widened(y), true));
}
// In float64 a float32's square is a number; a float64's is, of what is divided by a power of 2.
template <class V> LARGE V v_hypot(V x, V y) {
  if constexpr (of_double<V>::value) {
    const V one = v_abs(x), other = v_abs(y), most = like(x, limits<double>::infinity());
    const V large = choose_lt(one, other, other, one), small = choose_lt(one, other, one, other);
    const V up = choose_gt(large, like(x, 0x1p500), like(x, 0x1p-600), choose_lt(large, like(x, 0x1p-500), like(x, 0x1p600), like(x, 1.0)));
    const V a = large * up, b = small * up, square = a * a;
    const V lost = multiply_add(a, a, neg(square));
    const V result = v_sqrt(square + multiply_add(b, b, lost)) / up;
    return choose(bit_or(eq(one, most), eq(other, most)), most, result);
  } else {
    const auto a = widened(x), b = widened(y);
    const V result = narrowed(v_sqrt(multiply_add(a, a, b * b))), most = like(x, limits<double>::infinity());
    return choose(bit_or(eq(v_abs(x), most), eq(v_abs(y), most)), most, result);
  }
}
