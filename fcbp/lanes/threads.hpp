// Elements as single numbers: a thread of a GPU has one member, whose arrays are its own. Without a CUDA compiler this is
// C++ that takes one member after the other, by which the tests know a kernel without a GPU.
#define LANES 1
#define EACH for (int l = 0; l < LANES; l++)
using F = float;
using I = int;
using D = double;
using Q = int64;
using M = bool;

template <class T> INLINE F to_F(T x) { return (F)x; }
template <class T> INLINE I to_I(T x) { return (I)x; }
INLINE I to_I(float x) { return to_int(x); }
INLINE I to_I(double x) { return to_int(x); }
template <class T> INLINE D to_D(T x) { return (D)x; }
template <class T> INLINE Q to_Q(T x) { return (Q)x; }
INLINE Q to_Q(float x) { return to_int64(x); }
INLINE Q to_Q(double x) { return to_int64(x); }
template <class T> INLINE M to_M(T x) { return x != 0; }
template <class T> INLINE T held(T x) { return x; }

// --- memory ---------------------------------------------------------------------------------------------------

INLINE void offsets(int64 *offset, int64 first, int, int64 stride) { offset[0] = first * stride; }
template <class V, class S> INLINE void load(V *to, const S *from, const int64 *offset, int count) {
  for (int i = 0; i < count; i++) to[i] = from[offset[0] + i];
}
template <class V, class S> INLINE void store(S *to, const V *from, int64 first, int count, int) {
  for (int i = 0; i < count; i++) to[first * count + i] = from[i];
}
template <class V> INLINE V gather(const V *from, int64 index) { return from[index]; }
template <class V, class T> INLINE V gather_shared(const T *from, int64 index) { return (V)from[index]; }
template <class V> INLINE void scatter(V *to, int64 index, V value) { to[index] = value; }
INLINE M outside(int64 index, int size) { return index < 0 || index >= size; }

// --- the program ----------------------------------------------------------------------------------------------

#ifdef __CUDACC__
#define KERNEL extern "C" __global__
#define EACH_BLOCK(first) \
  for (int64 first = blockIdx.x * (int64)blockDim.x + threadIdx.x; first < members; first += (int64)gridDim.x * blockDim.x)
#else
#define KERNEL extern "C"
#define EACH_BLOCK(first) for (int64 first = 0; first < members; first++)
#endif
#define NOTE(place, value) (*(place) = (value))
#define PREFETCH(address)
#define SELDOM(condition) (condition)
#define ROLLED
