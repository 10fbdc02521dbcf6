// What is made of the operations on numbers, or on vectors of them.

// A NaN wins, as torch has it.
template <class T> INLINE T minimum(T a, T b) { return choose(bit_or(lt(a, b), ne(a, a)), a, b); }
template <class T> INLINE T maximum(T a, T b) { return choose(bit_or(gt(a, b), ne(a, a)), a, b); }
template <class T> INLINE auto is_nan(T a) { return ne(a, a); }
template <class T> INLINE T v_abs(T x) { return choose(lt(x, sub(x, x)), neg(x), x); }
template <class T> INLINE T truncated_remainder(T a, T b) { return sub(a, mul(truncated_quotient(a, b), b)); }
template <class T> INLINE T floored_remainder(T a, T b) { return sub(a, mul(floored_quotient(a, b), b)); }
template <class T> INLINE T float_remainder(T a, T b) {
  T r = v_fmod(a, b);
  T zero = sub(b, b);
  return choose(bit_and(ne(r, zero), bit_xor(lt(r, zero), lt(b, zero))), add(r, b), r);
}
template <class T> INLINE T same(T x) { return x; }

INLINE I inside(I index, int size) { return minimum(maximum(index, to_I(0)), to_I(size - 1)); }

// How many elements of a row come before each in a stable sort; NaN is the greatest.
template <class T> INLINE auto precedes(T a, T b) { return bit_or(lt(a, b), bit_and(ne(b, b), eq(a, a))); }
template <class V> CALLED void rank_row(const V *x, Q *rank, int n, bool descending) {
  for (int i = 0; i < n; i++) {
    I count = {};
    for (int j = 0; j < i; j++) count += to_I(bit_not(descending ? precedes(x[j], x[i]) : precedes(x[i], x[j])));
    for (int j = i + 1; j < n; j++) count += to_I(descending ? precedes(x[i], x[j]) : precedes(x[j], x[i]));
    rank[i] = to_Q(count);
  }
}

// The places below a number alone; of the others, what is no less than it.
template <class V> CALLED void rank_first(const V *x, Q *rank, int n, bool descending, I number) {
  for (int i = 0; i < n; i++) rank[i] = to_Q(to_I(n));
  for (int k = 0; k < n && some_lane(lt(to_I(k), number)); k++) {
    V best = x[0];
    I place = {};
    M found = {};
    for (int i = 0; i < n; i++) {
      M better = bit_or(bit_not(found), descending ? precedes(best, x[i]) : precedes(x[i], best));
      better = bit_and(better, ge(rank[i], to_Q(to_I(n))));
      best = choose(better, x[i], best);
      place = choose(better, to_I(i), place);
      found = bit_or(found, better);
    }
    scatter(rank, place, to_Q(to_I(k)));
  }
}
