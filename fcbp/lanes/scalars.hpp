// What every emitted program starts with: operations on one number, by the names that a program calls them by. After it
// comes vectors.hpp, where a program's elements are vectors of members, or threads.hpp, where a thread has one member.
#ifndef __CUDACC__
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <sys/mman.h>
#define INLINE static inline __attribute__((always_inline))
#define CALLED static
#define LARGE INLINE
#else
#define INLINE static __device__ __forceinline__
#define CALLED static __device__ __noinline__
#define LARGE CALLED  // each copy would take CUDA's compiler seconds
#endif

using int64 = long long;
using uint64 = unsigned long long;
using uint32 = unsigned int;
using uint8 = unsigned char;
using int8 = signed char;
using int16 = short;

template <class A, class B> struct same_type { static constexpr bool value = false; };
template <class A> struct same_type<A, A> { static constexpr bool value = true; };

template <class T> struct limits;
#ifndef __CUDACC__
template <> struct limits<float> : std::numeric_limits<float> {};
template <> struct limits<double> : std::numeric_limits<double> {};
#else
template <> struct limits<float> {
  static __device__ float infinity() { return __int_as_float(0x7f800000); }
  static __device__ float quiet_NaN() { return __int_as_float(0x7fc00000); }
};
template <> struct limits<double> {
  static __device__ double infinity() { return __longlong_as_double(0x7ff0000000000000ll); }
  static __device__ double quiet_NaN() { return __longlong_as_double(0x7ff8000000000000ll); }
};
#endif

template <class T, class V> INLINE void fill_n(T *to, int64 count, V value) { for (int64 i = 0; i < count; i++) to[i] = value; }
template <class T> INLINE void copy_n(const T *from, int64 count, T *to) { for (int64 i = 0; i < count; i++) to[i] = from[i]; }

// --- arithmetic: integers wrap around, as torch's do; signed ones must not overflow in C++ ------------------------

#define SCALAR_ARITHMETIC(name, op)                                      \
  template <class T> INLINE T name(T a, T b) { return a op b; }          \
  INLINE int name(int a, int b) { return (uint32)a op (uint32)b; }       \
  INLINE int64 name(int64 a, int64 b) { return (uint64)a op (uint64)b; }
SCALAR_ARITHMETIC(add, +) SCALAR_ARITHMETIC(sub, -) SCALAR_ARITHMETIC(mul, *)
INLINE bool mul(bool a, bool b) { return a && b; }
INLINE bool add(bool a, bool b) { return a || b; }
template <class T> INLINE T quotient(T a, T b) { return a / b; }
template <class T> INLINE T bit_and(T a, T b) { return a & b; }
template <class T> INLINE T bit_or(T a, T b) { return a | b; }
template <class T> INLINE T bit_xor(T a, T b) { return a ^ b; }
template <class T> INLINE T bit_not(T a) { return ~a; }
INLINE bool bit_not(bool a) { return !a; }
template <class T> INLINE T neg(T a) { return -a; }
INLINE int neg(int a) { return sub(0, a); }
INLINE int64 neg(int64 a) { return sub((int64)0, a); }

// The product is not rounded: on no machine, also where that takes a function. The only place where operations are
// contracted.
template <class T> INLINE T multiply_add(T a, T b, T c) { return add(mul(a, b), c); }
INLINE float multiply_add(float a, float b, float c) { return ::fmaf(a, b, c); }
INLINE double multiply_add(double a, double b, double c) { return ::fma(a, b, c); }

INLINE int shift_left(int a, int b) { return (uint32)a << b; }
INLINE int shift_right(int a, int b) { return a >> b; }
INLINE int64 shift_left(int64 a, int64 b) { return (uint64)a << b; }
INLINE int64 shift_right(int64 a, int64 b) { return a >> b; }
INLINE int64 shift_right_logical(int64 a, int64 b) { return (uint64)a >> b; }

// Short integers are computed with as int, and wrap around where one is made.
INLINE int as_uint8(int x) { return (uint8)x; }
INLINE int as_int8(int x) { return (int8)x; }
INLINE int as_int16(int x) { return (int16)x; }

// --- comparisons and choices --------------------------------------------------------------------------------

#define SCALAR_COMPARISON(name, op) template <class T> INLINE bool name(T a, T b) { return a op b; }
SCALAR_COMPARISON(lt, <) SCALAR_COMPARISON(le, <=) SCALAR_COMPARISON(gt, >) SCALAR_COMPARISON(ge, >=)
SCALAR_COMPARISON(eq, ==) SCALAR_COMPARISON(ne, !=)
template <class T> INLINE T choose(bool m, T a, T b) { return m ? a : b; }
INLINE bool some_lane(bool m) { return m; }
// Choices by two numbers' order, without the mask.
#define SCALAR_CHOICE(name, op) template <class N, class T> INLINE T name(N a, N b, T x, T y) { return a op b ? x : y; }
SCALAR_CHOICE(choose_lt, <) SCALAR_CHOICE(choose_gt, >) SCALAR_CHOICE(choose_eq, ==)

// --- functions whose results are exact, or rounded once --------------------------------------------------------------------------

#define SCALAR_FUNCTION(ours, name)                        \
  INLINE float ours(float x) { return ::name##f(x); }      \
  INLINE double ours(double x) { return ::name(x); }
#define SCALAR_FUNCTION2(ours, name)                                           \
  INLINE float ours(float x, float y) { return ::name##f(x, y); }              \
  INLINE double ours(double x, double y) { return ::name(x, y); }
SCALAR_FUNCTION(v_sqrt, sqrt) SCALAR_FUNCTION(v_floor, floor) SCALAR_FUNCTION(v_ceil, ceil)
SCALAR_FUNCTION(v_trunc, trunc) SCALAR_FUNCTION(v_round, nearbyint) SCALAR_FUNCTION(v_abs, fabs)
SCALAR_FUNCTION2(v_fmod, fmod)

// --- conversions: what an integer cannot hold is its least number, as on x86 ------------------------------------

#if defined(__x86_64__) && !defined(__CUDACC__)
template <class To, class From> INLINE To whole_part(From x, From) { return (To)x; }
#else
template <class To, class From> INLINE To whole_part(From x, From most) { return x >= -most && x < most ? (To)x : (To)-most; }
#endif
template <class T> INLINE int to_int(T x) { return (int)x; }
template <class T> INLINE int64 to_int64(T x) { return (int64)x; }
INLINE int to_int(float x) { return whole_part<int>(x, 0x1p31f); }
INLINE int to_int(double x) { return whole_part<int>(x, 0x1p31); }
INLINE int64 to_int64(float x) { return whole_part<int64>(x, 0x1p63f); }
INLINE int64 to_int64(double x) { return whole_part<int64>(x, 0x1p63); }

// --- integer division, whose divisor must not be 0 ------------------------------------------------------------

template <class T> INLINE T scalar_divide(T a, T b) { return b == 0 ? 0 : b == -1 ? sub((T)0, a) : a / b; }
template <class T> INLINE T scalar_floor_divide(T a, T b) { T q = scalar_divide(a, b), r = sub(a, mul(q, b)); return r != 0 && (r < 0) != (b < 0) ? q - 1 : q; }
INLINE int truncated_quotient(int a, int b) { return scalar_divide(a, b); }
INLINE int64 truncated_quotient(int64 a, int64 b) { return scalar_divide(a, b); }
INLINE int floored_quotient(int a, int b) { return scalar_floor_divide(a, b); }
INLINE int64 floored_quotient(int64 a, int64 b) { return scalar_floor_divide(a, b); }

// --- an index that a number chooses ---------------------------------------------------------------------------

INLINE int64 inside(int64 index, int size) { return index < 0 ? 0 : index >= size ? size - 1 : index; }

// --- what elementary.hpp is made of ----------------------------------------------------------------------------

INLINE float like(float, double value) { return (float)value; }
INLINE double like(double, double value) { return value; }
INLINE int like(int, int64 value) { return (int)value; }
INLINE int64 like(int64, int64 value) { return value; }
#ifdef __CUDACC__
INLINE int bits_of(float x) { return __float_as_int(x); }
INLINE int64 bits_of(double x) { return __double_as_longlong(x); }
INLINE float from_bits(int x) { return __int_as_float(x); }
INLINE double from_bits(int64 x) { return __longlong_as_double(x); }
#else
template <class To, class From> INLINE To same_bits(From x) { To r; std::memcpy(&r, &x, sizeof r); return r; }
INLINE int bits_of(float x) { return same_bits<int>(x); }
INLINE int64 bits_of(double x) { return same_bits<int64>(x); }
INLINE float from_bits(int x) { return same_bits<float>(x); }
INLINE double from_bits(int64 x) { return same_bits<double>(x); }
#endif
INLINE double widened(float x) { return x; }
INLINE float narrowed(double x) { return (float)x; }

// A large number as n pi/2 + rest + low, with |rest| at most pi/4 (Payne and Hanek, "Radian reduction for trigonometric
// functions", SIGNUM Newsletter 18, 1983): of the product with 2/pi, only the places about the point are computed.
struct Far { double rest, low; int quarters; };
CALLED Far far_of(double x) {
  // The places of 2/pi behind the point.
  const uint32 places[] = {
      0xa2f9836e, 0x4e441529, 0xfc2757d1, 0xf534ddc0, 0xdb629599, 0x3c439041, 0xfe5163ab, 0xdebbc561, 0xb7246e3a, 0x424dd2e0,
      0x06492eea, 0x09d1921c, 0xfe1deb1c, 0xb129a73e, 0xe88235f5, 0x2ebb4484, 0xe99c7026, 0xb45f7e41, 0x3991d639, 0x835339f4,
      0x9c845f8b, 0xbdf9283b, 0x1ff897ff, 0xde05980f, 0xef2f118b, 0x5a0a6d1f, 0x6d367ecf, 0x27cb09b7, 0x4f463f66, 0x9e5fea2d,
      0x7527bac7, 0xebe5f17b, 0x3d0739f7, 0x8a5292ea, 0x6bfb5fb1, 0x1f8d5d08, 0x56033046, 0xfc7b6bab};
  const int64 bits = bits_of(x);
  const int exponent = (int)((bits >> 52) & 0x7ff) - 1075;
  if (exponent == 2047 - 1075) return {x - x, 0, 0};
  const uint64 digits = (bits & ((1ll << 52) - 1)) | (1ll << 52);
  // What the places before `first` give is a multiple of four quarters.
  const int first = exponent < 2 ? 0 : (exponent - 2) / 32;
  uint32 product[9] = {};  // the lowest places first
  for (int half = 0; half < 2; half++) {
    const uint64 factor = (uint32)(digits >> (32 * half));
    uint64 carry = 0;
    for (int i = 0; i < 7; i++) {
      carry += factor * places[first + 6 - i] + product[i + half];
      product[i + half] = (uint32)carry;
      carry >>= 32;
    }
    product[7 + half] = (uint32)carry;
  }
  const int point = 32 * (first + 7) - exponent;  // how many of its places lie behind the point: 190 to 264
  // The two places before it and 190 behind it, from the top.
  uint64 part[3] = {};
  for (int i = 0; i < 192; i++) {
    const int place = point + 1 - i;
    const uint64 bit = place < 288 ? (product[place / 32] >> (place % 32)) & 1 : 0;
    part[i / 64] |= bit << (63 - i % 64);
  }
  int quarters = (int)(part[0] >> 62);
  for (int i = 0; i < 3; i++) part[i] = (part[i] << 2) | (i < 2 ? part[i + 1] >> 62 : 0);
  const bool above = part[0] >> 63;  // more than half a quarter: less than the next one
  if (above) {
    quarters++;
    part[2] = ~part[2] + 1;
    part[1] = ~part[1] + (part[2] == 0);
    part[0] = ~part[0] + (part[2] == 0 && part[1] == 0);
  }
  int zeros = 0;
  while (!(part[0] >> 63) && zeros < 128) {
    for (int i = 0; i < 3; i++) part[i] = (part[i] << 1) | (i < 2 ? part[i + 1] >> 63 : 0);
    zeros++;
  }
  const double scale = from_bits((int64)(1023 - zeros) << 52);
  const double high = (double)(int64)(part[0] >> 11) * 0x1p-53 * scale;
  const double low = (double)(int64)(((part[0] & 0x7ff) << 51) | (part[1] >> 13)) * 0x1p-115 * scale;
  const double rest = high * 0x1.921fb54442d18p+0;
  const double less = multiply_add(high, 0x1.921fb54442d18p+0, -rest) + (high * 0x1.1a62633145c07p-54 + low * 0x1.921fb54442d18p+0);
  const bool negative = x < 0;
  return {above != negative ? -rest : rest, above != negative ? -less : less, negative ? -quarters : quarters};
}
INLINE double far_rest(double x) { return far_of(x).rest; }
INLINE double far_low(double x) { return far_of(x).low; }
INLINE double far_quarters(double x) { return far_of(x).quarters; }
INLINE float far_rest(float x) { return (float)far_of(x).rest; }
INLINE float far_low(float) { return 0; }
INLINE float far_quarters(float x) { return (float)far_of(x).quarters; }
