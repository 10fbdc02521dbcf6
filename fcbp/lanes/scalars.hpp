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
#else
#define INLINE static __device__ __forceinline__
#define CALLED static __device__
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

// --- functions of one number, or two --------------------------------------------------------------------------

#define SCALAR_FUNCTION(ours, name)                        \
  INLINE float ours(float x) { return ::name##f(x); }      \
  INLINE double ours(double x) { return ::name(x); }
#define SCALAR_FUNCTION2(ours, name)                                           \
  INLINE float ours(float x, float y) { return ::name##f(x, y); }              \
  INLINE double ours(double x, double y) { return ::name(x, y); }
SCALAR_FUNCTION(v_exp, exp) SCALAR_FUNCTION(v_log, log) SCALAR_FUNCTION(v_sin, sin) SCALAR_FUNCTION(v_cos, cos)
SCALAR_FUNCTION(v_tan, tan) SCALAR_FUNCTION(v_tanh, tanh) SCALAR_FUNCTION(v_sinh, sinh) SCALAR_FUNCTION(v_cosh, cosh)
SCALAR_FUNCTION(v_asin, asin) SCALAR_FUNCTION(v_acos, acos) SCALAR_FUNCTION(v_atan, atan)
SCALAR_FUNCTION(v_expm1, expm1) SCALAR_FUNCTION(v_log1p, log1p) SCALAR_FUNCTION(v_log2, log2)
SCALAR_FUNCTION(v_log10, log10) SCALAR_FUNCTION(v_exp2, exp2) SCALAR_FUNCTION(v_erf, erf) SCALAR_FUNCTION(v_erfc, erfc)
SCALAR_FUNCTION(v_sqrt, sqrt) SCALAR_FUNCTION(v_floor, floor) SCALAR_FUNCTION(v_ceil, ceil)
SCALAR_FUNCTION(v_trunc, trunc) SCALAR_FUNCTION(v_round, nearbyint) SCALAR_FUNCTION(v_abs, fabs)
SCALAR_FUNCTION2(v_pow, pow) SCALAR_FUNCTION2(v_atan2, atan2) SCALAR_FUNCTION2(v_hypot, hypot) SCALAR_FUNCTION2(v_fmod, fmod)

// --- integer division, whose divisor must not be 0 ------------------------------------------------------------

template <class T> INLINE T scalar_divide(T a, T b) { return b == 0 ? 0 : b == -1 ? sub((T)0, a) : a / b; }
template <class T> INLINE T scalar_floor_divide(T a, T b) { T q = scalar_divide(a, b), r = sub(a, mul(q, b)); return r != 0 && (r < 0) != (b < 0) ? q - 1 : q; }
INLINE int truncated_quotient(int a, int b) { return scalar_divide(a, b); }
INLINE int64 truncated_quotient(int64 a, int64 b) { return scalar_divide(a, b); }
INLINE int floored_quotient(int a, int b) { return scalar_floor_divide(a, b); }
INLINE int64 floored_quotient(int64 a, int64 b) { return scalar_floor_divide(a, b); }

// --- an index that a number chooses ---------------------------------------------------------------------------

INLINE int64 inside(int64 index, int size) { return index < 0 ? 0 : index >= size ? size - 1 : index; }
