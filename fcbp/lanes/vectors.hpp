// Elements as vectors of LANES members.
//
// A value of one member is float, int, double, int64 or bool; F, I, D, Q and M hold LANES of them. A 64-bit vector is
// two of the machine's. A mask's lanes are 0 or -1. Every operation works lane by lane, so that a member's numbers
// cannot depend on its neighbours'.
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#if defined(LANES)
// The program begins with a number of its own.
#elif defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#define HALF (LANES / 2)
#define EACH for (int l = 0; l < LANES; l++)

typedef float F __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));
typedef uint32_t UI __attribute__((vector_size(4 * LANES)));
typedef double HD __attribute__((vector_size(8 * HALF)));
typedef int64 HQ __attribute__((vector_size(8 * HALF)));
typedef uint64 HU __attribute__((vector_size(8 * HALF)));
typedef float HF __attribute__((vector_size(4 * HALF)));
typedef int32_t HI __attribute__((vector_size(4 * HALF)));

struct M { I v; };
struct D { HD lo, hi; };
struct Q { HQ lo, hi; };

// Halves in registers: put together in memory, they would be read before both are written.
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLES
#endif
#endif
#if defined(SHUFFLES) && LANES == 4
#define LOW 0, 1
#define HIGH 2, 3
#elif defined(SHUFFLES) && LANES == 8
#define LOW 0, 1, 2, 3
#define HIGH 4, 5, 6, 7
#elif defined(SHUFFLES)
#define LOW 0, 1, 2, 3, 4, 5, 6, 7
#define HIGH 8, 9, 10, 11, 12, 13, 14, 15
#endif
#ifdef SHUFFLES
template <class V, class H> INLINE V join(H lo, H hi) { return __builtin_shufflevector(lo, hi, LOW, HIGH); }
template <class H, class V> INLINE H low(V x) { return __builtin_shufflevector(x, x, LOW); }
template <class H, class V> INLINE H high(V x) { return __builtin_shufflevector(x, x, HIGH); }
#else
template <class V, class H> INLINE V join(H lo, H hi) {
  V r;
  std::memcpy(&r, &lo, sizeof lo);
  std::memcpy((char *)&r + sizeof lo, &hi, sizeof hi);
  return r;
}
template <class H, class V> INLINE H low(V x) { H r; std::memcpy(&r, &x, sizeof r); return r; }
template <class H, class V> INLINE H high(V x) { H r; std::memcpy(&r, (char *)&x + sizeof r, sizeof r); return r; }
#endif

// --- conversions: to_<type>(x), for a bool by way of 0 and 1 ------------------------------------------------

INLINE F to_F(float x) { return x - (F){}; }
INLINE I to_I(int x) { return x - (I){}; }
INLINE D to_D(double x) { return {x - (HD){}, x - (HD){}}; }
INLINE Q to_Q(int64 x) { return {x - (HQ){}, x - (HQ){}}; }
INLINE M to_M(bool x) { return {to_I(-(int)x)}; }
INLINE F to_F(F x) { return x; }
INLINE I to_I(I x) { return x; }
INLINE D to_D(D x) { return x; }
INLINE Q to_Q(Q x) { return x; }
INLINE M to_M(M x) { return x; }
INLINE I to_I(M x) { return -x.v; }
INLINE F to_F(I x) { return __builtin_convertvector(x, F); }
INLINE F to_F(M x) { return to_F(to_I(x)); }
INLINE F to_F(D x) { return join<F>(__builtin_convertvector(x.lo, HF), __builtin_convertvector(x.hi, HF)); }
INLINE F to_F(Q x) { F r; EACH r[l] = l < HALF ? x.lo[l % HALF] : x.hi[l % HALF]; return r; }
INLINE D to_D(F x) { return {__builtin_convertvector(low<HF>(x), HD), __builtin_convertvector(high<HF>(x), HD)}; }
INLINE D to_D(I x) { return {__builtin_convertvector(low<HI>(x), HD), __builtin_convertvector(high<HI>(x), HD)}; }
INLINE D to_D(M x) { return to_D(to_I(x)); }
INLINE D to_D(Q x) { return {__builtin_convertvector(x.lo, HD), __builtin_convertvector(x.hi, HD)}; }
INLINE Q to_Q(I x) { return {__builtin_convertvector(low<HI>(x), HQ), __builtin_convertvector(high<HI>(x), HQ)}; }
INLINE Q to_Q(M x) { return to_Q(to_I(x)); }
#if defined(__x86_64__)
INLINE Q to_Q(D x) { return {__builtin_convertvector(x.lo, HQ), __builtin_convertvector(x.hi, HQ)}; }
INLINE I to_I(F x) { return __builtin_convertvector(x, I); }
INLINE I to_I(D x) { return join<I>(__builtin_convertvector(x.lo, HI), __builtin_convertvector(x.hi, HI)); }
#else
INLINE Q to_Q(D x) { Q r; for (int l = 0; l < HALF; l++) r.lo[l] = to_int64(x.lo[l]), r.hi[l] = to_int64(x.hi[l]); return r; }
INLINE I to_I(F x) { I r; EACH r[l] = to_int(x[l]); return r; }
INLINE I to_I(D x) { I r; for (int l = 0; l < HALF; l++) r[l] = to_int(x.lo[l]), r[l + HALF] = to_int(x.hi[l]); return r; }
#endif
INLINE Q to_Q(F x) { return to_Q(to_D(x)); }
#if defined(__AVX2__) && LANES == 8
INLINE I to_I(Q x) {
  const __m256 even = _mm256_shuffle_ps((__m256)x.lo, (__m256)x.hi, 0x88);
  return (I)_mm256_permute4x64_epi64((__m256i)even, 0xd8);
}
#else
INLINE I to_I(Q x) { return join<I>(__builtin_convertvector(x.lo, HI), __builtin_convertvector(x.hi, HI)); }
#endif
INLINE M to_M(F x) { return {(I)(x != 0)}; }
INLINE M to_M(I x) { return {x != 0}; }
INLINE M narrow(HQ lo, HQ hi) { return {to_I(Q{lo, hi})}; }
INLINE M to_M(D x) { return narrow(x.lo != 0, x.hi != 0); }
INLINE M to_M(Q x) { return narrow(x.lo != 0, x.hi != 0); }

// --- arithmetic ---------------------------------------------------------------------------------------------

#define PAIRWISE(V, op) \
  INLINE V operator op(V a, V b) { return {a.lo op b.lo, a.hi op b.hi}; }
PAIRWISE(D, +) PAIRWISE(D, -) PAIRWISE(D, *) PAIRWISE(D, /)
PAIRWISE(Q, &) PAIRWISE(Q, |) PAIRWISE(Q, ^)
// Integers wrap around, as torch's do; signed ones must not overflow in C++.
#define WRAPPING(op) \
  INLINE Q operator op(Q a, Q b) { return {(HQ)((HU)a.lo op (HU)b.lo), (HQ)((HU)a.hi op (HU)b.hi)}; }
WRAPPING(+) WRAPPING(-) WRAPPING(*)
INLINE D operator-(D a) { return {-a.lo, -a.hi}; }
INLINE M operator&(M a, M b) { return {a.v & b.v}; }
INLINE M operator|(M a, M b) { return {a.v | b.v}; }
INLINE M operator^(M a, M b) { return {a.v ^ b.v}; }
INLINE M operator~(M a) { return {~a.v}; }
INLINE Q operator~(Q a) { return {~a.lo, ~a.hi}; }

#define ARITHMETIC(name, op) INLINE I name(I a, I b) { return (I)((UI)a op (UI)b); }
ARITHMETIC(add, +) ARITHMETIC(sub, -) ARITHMETIC(mul, *)
INLINE M mul(M a, M b) { return a & b; }
INLINE M add(M a, M b) { return a | b; }
INLINE I neg(I a) { return sub((I){}, a); }
INLINE Q neg(Q a) { return to_Q((int64)0) - a; }

#if defined(__FMA__) && LANES == 8
INLINE F multiply_add(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
INLINE D multiply_add(D a, D b, D c) { return {_mm256_fmadd_pd(a.lo, b.lo, c.lo), _mm256_fmadd_pd(a.hi, b.hi, c.hi)}; }
#elif defined(__AVX512F__) && LANES == 16
INLINE F multiply_add(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
INLINE D multiply_add(D a, D b, D c) { return {_mm512_fmadd_pd(a.lo, b.lo, c.lo), _mm512_fmadd_pd(a.hi, b.hi, c.hi)}; }
#elif defined(__ARM_NEON) && defined(__aarch64__)
INLINE F multiply_add(F a, F b, F c) { return (F)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
INLINE HD multiply_add(HD a, HD b, HD c) { return (HD)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b); }
INLINE D multiply_add(D a, D b, D c) { return {multiply_add(a.lo, b.lo, c.lo), multiply_add(a.hi, b.hi, c.hi)}; }
#elif defined(__FMA__) && LANES == 4
INLINE F multiply_add(F a, F b, F c) { return _mm_fmadd_ps(a, b, c); }
INLINE HD multiply_add(HD a, HD b, HD c) { return _mm_fmadd_pd(a, b, c); }
INLINE D multiply_add(D a, D b, D c) { return {multiply_add(a.lo, b.lo, c.lo), multiply_add(a.hi, b.hi, c.hi)}; }
#else
INLINE F multiply_add(F a, F b, F c) { F r; EACH r[l] = multiply_add(a[l], b[l], c[l]); return r; }
INLINE HD multiply_add(HD a, HD b, HD c) { HD r; for (int l = 0; l < HALF; l++) r[l] = multiply_add(a[l], b[l], c[l]); return r; }
INLINE D multiply_add(D a, D b, D c) { return {multiply_add(a.lo, b.lo, c.lo), multiply_add(a.hi, b.hi, c.hi)}; }
#endif

// In a register, where the compiler would load an element anew for each of its uses.
template <class V> INLINE V held(V x) { return x; }
#if defined(__x86_64__) && defined(__AVX__)
INLINE F held(F x) {
  __asm__("" : "+x"(x));
  return x;
}
#endif

INLINE I shift_left(I a, I b) { return (I)((UI)a << (UI)b); }
INLINE I shift_right(I a, I b) { return a >> b; }
INLINE Q shift_left(Q a, Q b) { return {(HQ)((HU)a.lo << (HU)b.lo), (HQ)((HU)a.hi << (HU)b.hi)}; }
INLINE Q shift_right(Q a, Q b) { return {a.lo >> b.lo, a.hi >> b.hi}; }
INLINE Q shift_right_logical(Q a, Q b) { return {(HQ)((HU)a.lo >> (HU)b.lo), (HQ)((HU)a.hi >> (HU)b.hi)}; }

INLINE I as_uint8(I x) { return x & 0xff; }
INLINE I as_int8(I x) { return shift_left(x, to_I(24)) >> 24; }
INLINE I as_int16(I x) { return shift_left(x, to_I(16)) >> 16; }

// --- comparisons and choices --------------------------------------------------------------------------------

#define COMPARISON(name, op)                                                               \
  INLINE M name(F a, F b) { return {(I)(a op b)}; }                                        \
  INLINE M name(I a, I b) { return {a op b}; }                                             \
  INLINE M name(M a, M b) { return {-a.v op -b.v}; }                                       \
  INLINE M name(D a, D b) { return narrow((HQ)(a.lo op b.lo), (HQ)(a.hi op b.hi)); }       \
  INLINE M name(Q a, Q b) { return narrow(a.lo op b.lo, a.hi op b.hi); }
COMPARISON(lt, <) COMPARISON(le, <=) COMPARISON(gt, >) COMPARISON(ge, >=) COMPARISON(eq, ==) COMPARISON(ne, !=)

INLINE F choose(M m, F a, F b) { return m.v ? a : b; }
INLINE I choose(M m, I a, I b) { return m.v ? a : b; }
INLINE M choose(M m, M a, M b) { return {(m.v & a.v) | (~m.v & b.v)}; }
INLINE D choose(M m, D a, D b) { Q w = {__builtin_convertvector(low<HI>(m.v), HQ), __builtin_convertvector(high<HI>(m.v), HQ)}; return {w.lo ? a.lo : b.lo, w.hi ? a.hi : b.hi}; }
INLINE Q choose(M m, Q a, Q b) { Q w = {__builtin_convertvector(low<HI>(m.v), HQ), __builtin_convertvector(high<HI>(m.v), HQ)}; return {w.lo ? a.lo : b.lo, w.hi ? a.hi : b.hi}; }
// Choices by two numbers' order, without the mask, which of 64-bit numbers takes longer than the choice.
#define CHOICE(name, op)                                                                                       \
  INLINE F name(F a, F b, F x, F y) { return a op b ? x : y; }                                                 \
  INLINE F name(I a, I b, F x, F y) { return a op b ? x : y; }                                                 \
  INLINE D name(D a, D b, D x, D y) { return {a.lo op b.lo ? x.lo : y.lo, a.hi op b.hi ? x.hi : y.hi}; }       \
  INLINE D name(Q a, Q b, D x, D y) { return {a.lo op b.lo ? x.lo : y.lo, a.hi op b.hi ? x.hi : y.hi}; }
CHOICE(choose_lt, <) CHOICE(choose_gt, >) CHOICE(choose_eq, ==)
INLINE bool any_lane(M m) { int r = 0; EACH r |= m.v[l]; return r; }
#if defined(__AVX2__) && LANES == 8
INLINE bool some_lane(M m) { return !_mm256_testz_si256((__m256i)m.v, (__m256i)m.v); }
#else
INLINE bool some_lane(M m) { return any_lane(m); }
#endif

// --- functions of one number --------------------------------------------------------------------------------

#define LANEWISE(name, f)                                                                        \
  INLINE F name(F x) { F r; EACH r[l] = f(x[l]); return r; }                                     \
  INLINE D name(D x) { D r; for (int l = 0; l < HALF; l++) r.lo[l] = f(x.lo[l]), r.hi[l] = f(x.hi[l]); return r; }
#define LANEWISE2(name, f)                                                                       \
  INLINE F name(F x, F y) { F r; EACH r[l] = f(x[l], y[l]); return r; }                          \
  INLINE D name(D x, D y) { D r; for (int l = 0; l < HALF; l++) r.lo[l] = f(x.lo[l], y.lo[l]), r.hi[l] = f(x.hi[l], y.hi[l]); return r; }

#if defined(__AVX__) && LANES == 8
INLINE F v_sqrt(F x) { return _mm256_sqrt_ps(x); }
INLINE D v_sqrt(D x) { return {_mm256_sqrt_pd(x.lo), _mm256_sqrt_pd(x.hi)}; }
#define ROUNDING(name, mode)                                    \
  INLINE F name(F x) { return _mm256_round_ps(x, mode); }       \
  INLINE D name(D x) { return {_mm256_round_pd(x.lo, mode), _mm256_round_pd(x.hi, mode)}; }
ROUNDING(v_floor, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)
ROUNDING(v_ceil, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC)
ROUNDING(v_trunc, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC)
ROUNDING(v_round, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#else
LANEWISE(v_sqrt, std::sqrt)
LANEWISE(v_floor, std::floor)
LANEWISE(v_ceil, std::ceil)
LANEWISE(v_trunc, std::trunc)
LANEWISE(v_round, std::nearbyint)
#endif

// What elementary.hpp is made of.
INLINE F like(F, double value) { return to_F((float)value); }
INLINE D like(D, double value) { return to_D(value); }
INLINE I like(I, int64 value) { return to_I((int)value); }
INLINE Q like(Q, int64 value) { return to_Q(value); }
INLINE I bits_of(F x) { return (I)x; }
INLINE Q bits_of(D x) { return {(HQ)x.lo, (HQ)x.hi}; }
INLINE F from_bits(I x) { return (F)x; }
INLINE D from_bits(Q x) { return {(HD)x.lo, (HD)x.hi}; }
INLINE D widened(F x) { return to_D(x); }
INLINE F narrowed(D x) { return to_F(x); }
LANEWISE(far_rest, far_rest)
LANEWISE(far_low, far_low)
LANEWISE(far_quarters, far_quarters)

INLINE F v_abs(F x) { return (F)((I)x & 0x7fffffff); }
INLINE D v_abs(D x) { return {(HD)((HQ)x.lo & INT64_MAX), (HD)((HQ)x.hi & INT64_MAX)}; }

// --- integer division, whose divisor must not be 0 ------------------------------------------------------------

#define INTEGER_DIVISION(name, f)                                                   \
  INLINE I name(I a, I b) { I r; EACH r[l] = f(a[l], b[l]); return r; }             \
  INLINE Q name(Q a, Q b) { Q r; for (int l = 0; l < HALF; l++) r.lo[l] = f(a.lo[l], b.lo[l]), r.hi[l] = f(a.hi[l], b.hi[l]); return r; }
INTEGER_DIVISION(truncated_quotient, scalar_divide)
INTEGER_DIVISION(floored_quotient, scalar_floor_divide)
LANEWISE2(v_fmod, std::fmod)

// --- memory: between [element][lane] here and the caller's strided arrays --------------------------------------

// Of M the lanes are ints.
template <class V> struct lane_of;
template <> struct lane_of<F> { using type = float; };
template <> struct lane_of<I> { using type = int; };
template <> struct lane_of<M> { using type = int; };
template <> struct lane_of<D> { using type = double; };
template <> struct lane_of<Q> { using type = int64; };

// One member's elements lie together; those of the lanes at LANES offsets.
template <class V, class S> INLINE void load(V *to, const S *from, const int64 *offset, int count) {
  using T = typename lane_of<V>::type;
  T *out = (T *)to;
  for (int i = 0; i < count; i++) EACH out[i * LANES + l] = (T)from[offset[l] + i];
}
INLINE void load(M *to, const bool *from, const int64 *offset, int count) {
  for (int i = 0; i < count; i++) EACH to[i].v[l] = -(int)from[offset[l] + i];
}
#if defined(__AVX__) && LANES == 8
INLINE void load(F *to, const float *from, const int64 *offset, int count) {
  int i = 0;
  for (; i + 8 <= count; i += 8) {
    F r[8], s[8];
    for (int l = 0; l < 8; l++) r[l] = _mm256_loadu_ps(from + offset[l] + i);
    for (int l = 0; l < 8; l += 2) s[l] = _mm256_unpacklo_ps(r[l], r[l + 1]), s[l + 1] = _mm256_unpackhi_ps(r[l], r[l + 1]);
    for (int h = 0; h < 8; h += 4)
      for (int k = 0; k < 2; k++)
        r[h + 2 * k] = _mm256_shuffle_ps(s[h + k], s[h + k + 2], 0x44), r[h + 2 * k + 1] = _mm256_shuffle_ps(s[h + k], s[h + k + 2], 0xee);
    for (int k = 0; k < 4; k++) {
      to[i + k] = _mm256_permute2f128_ps(r[k], r[k + 4], 0x20);
      to[i + k + 4] = _mm256_permute2f128_ps(r[k], r[k + 4], 0x31);
    }
  }
  for (; i + 4 <= count; i += 4) {
    F r[4], s[4];
    for (int l = 0; l < 4; l++) r[l] = _mm256_set_m128(_mm_loadu_ps(from + offset[l + 4] + i), _mm_loadu_ps(from + offset[l] + i));
    for (int l = 0; l < 4; l += 2) s[l] = _mm256_unpacklo_ps(r[l], r[l + 1]), s[l + 1] = _mm256_unpackhi_ps(r[l], r[l + 1]);
    for (int k = 0; k < 2; k++)
      to[i + 2 * k] = _mm256_shuffle_ps(s[k], s[k + 2], 0x44), to[i + 2 * k + 1] = _mm256_shuffle_ps(s[k], s[k + 2], 0xee);
  }
  for (; i < count; i++) EACH ((float *)to)[i * LANES + l] = from[offset[l] + i];
}
#endif
// The members' elements one after the other.
template <class V, class S> INLINE void store(S *to, const V *from, int64 first, int count, int lanes) {
  if (count == 1 && lanes == LANES && sizeof(V) == LANES * sizeof(S)) {
    std::memcpy(to + first, from, sizeof(V));
    return;
  }
  using T = typename lane_of<V>::type;
  const T *in = (const T *)from;
  for (int l = 0; l < lanes; l++)
    for (int i = 0; i < count; i++) to[(first + l) * count + i] = (S)in[i * LANES + l];
}
INLINE void store(bool *to, const M *from, int64 first, int count, int lanes) {
  for (int l = 0; l < lanes; l++)
    for (int i = 0; i < count; i++) to[(first + l) * count + i] = from[i].v[l];
}

// An element that each lane chooses for itself.
template <class V> INLINE V gather(const V *from, I index) {
  using T = typename lane_of<V>::type;
  V r;
  EACH ((T *)&r)[l] = ((const T *)from)[(int64)index[l] * LANES + l];
  return r;
}
template <class V, class T> INLINE V gather_shared(const T *from, I index) {
  using U = typename lane_of<V>::type;
  V r;
  EACH ((U *)&r)[l] = same_type<T, bool>::value ? (U)-(int)from[index[l]] : (U)from[index[l]];
  return r;
}
template <class V> INLINE void scatter(V *to, I index, V value) {
  using T = typename lane_of<V>::type;
  EACH ((T *)to)[(int64)index[l] * LANES + l] = ((const T *)&value)[l];
}

INLINE void offsets(int64 *offset, int64 first, int lanes, int64 stride) {
  EACH offset[l] = (first + std::min(l, lanes - 1)) * stride;
}
INLINE M outside(int64 index, int size) { return to_M(index < 0 || index >= size); }
INLINE M outside(I index, int size) { return bit_or(lt(index, to_I(0)), ge(index, to_I(size))); }
INLINE M outside(Q index, int size) { return bit_or(lt(index, to_Q((int64)0)), ge(index, to_Q((int64)size))); }

// What the stack may not hold; in large pages, where it fills some.
template <class T> struct Heap {
  static constexpr std::size_t page = sizeof(T) < (1 << 21) ? 64 : 1 << 21, size = (sizeof(T) + page - 1) / page * page;
  T *at = (T *)std::aligned_alloc(page, size);
#ifdef MADV_HUGEPAGE
  Heap() {
    if (at && page > 64) madvise(at, size, MADV_HUGEPAGE);
  }
#endif
  ~Heap() { std::free(at); }
};

// --- the program ----------------------------------------------------------------------------------------------

#define KERNEL extern "C"
// Blocks of members, from a counter that the machine's threads share.
#define EACH_BLOCK(first) for (int64 first; (first = LANES * __atomic_fetch_add(shared, 1, __ATOMIC_RELAXED)) < members;)
#define NOTE(place, value) __atomic_store_n(place, value, __ATOMIC_RELAXED)
#define PREFETCH(address) __builtin_prefetch(address)
#define SELDOM(condition) __builtin_expect(condition, 0)
#define ROLLED _Pragma("GCC unroll 1")
