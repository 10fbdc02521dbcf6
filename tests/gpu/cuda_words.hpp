// CUDA's words for a compiler of C++ alone: a kernel is a function, which `run_all` calls for each thread of a grid.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#define __CUDACC__ 1
#define __device__
#define __global__
#define __noinline__
#define __forceinline__ inline __attribute__((always_inline))

struct Three { unsigned x, y, z; };
static Three threadIdx, blockIdx, blockDim, gridDim;

template <class To, class From> static inline To cuda_same_bits(From x) { To r; std::memcpy(&r, &x, sizeof r); return r; }
static inline float __int_as_float(int x) { return cuda_same_bits<float>(x); }
static inline int __float_as_int(float x) { return cuda_same_bits<int>(x); }
static inline double __longlong_as_double(long long x) { return cuda_same_bits<double>(x); }
static inline long long __double_as_longlong(double x) { return cuda_same_bits<long long>(x); }
