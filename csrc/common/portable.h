// One spelling for code that runs on the host and on the device.
//
// Every formula that both devices need is written once, in a PYDRIFT_HD function. Contraction is off in all builds
// (-ffp-contract=off, --fmad=false). So a formula of + - * / sqrt gives the same bits in scalar, AVX2, AVX-512 and CUDA
// code. A fused multiply-add is written as fmaf.
#pragma once

#include <cstdint>

// Forced, because the AVX2 and AVX-512 variants of a loop exist only where its body is inlined into them (simd.h).
#define PYDRIFT_INLINE inline __attribute__((always_inline))

#if defined(__CUDACC__)
#define PYDRIFT_HD __host__ __device__ __forceinline__
#define PYDRIFT_UNROLL _Pragma("unroll")
#define PYDRIFT_UNROLL_BY(count) _Pragma(PYDRIFT_TEXT(unroll count))
#define PYDRIFT_TEXT(words) #words
#define PYDRIFT_NOINLINE __noinline__
#else
#define PYDRIFT_HD PYDRIFT_INLINE
#define PYDRIFT_UNROLL
#define PYDRIFT_UNROLL_BY(count)
#define PYDRIFT_NOINLINE
#endif

namespace pydrift {

inline constexpr int32_t kWarpSize = 32;

}  // namespace pydrift
