// One vector of float32, one restart per lane, for the instruction set that this file is compiled for. No torch.
//
// Files that include this are compiled once per instruction set (CMakeLists.txt), each time in its own namespace. They
// must not use inline functions of the standard library: the linker would merge them across instruction sets.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/portable.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#define PYDRIFT_LANES avx512
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define PYDRIFT_LANES avx2
#else
#define PYDRIFT_LANES scalar
#endif

namespace pydrift {
namespace PYDRIFT_LANES {

#if defined(__AVX512F__)
inline constexpr int32_t kLanes = 16;
inline constexpr int32_t kRows = 6;  // with kTileSize positions: 24 accumulators of 32 registers
#elif defined(__AVX2__) && defined(__FMA__)
inline constexpr int32_t kLanes = 8;
inline constexpr int32_t kRows = 3;  // 12 of 16
#else
inline constexpr int32_t kLanes = 4;
inline constexpr int32_t kRows = 3;
#endif

inline constexpr int32_t kCacheLineFloats = 16;

using Vec = float __attribute__((vector_size(4 * kLanes)));
using IntVec = int32_t __attribute__((vector_size(4 * kLanes)));
using ByteVec = uint8_t __attribute__((vector_size(kLanes)));

PYDRIFT_INLINE Vec load(const float* from) {
  Vec v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

PYDRIFT_INLINE void store(float* to, Vec v) { std::memcpy(to, &v, sizeof(v)); }

PYDRIFT_INLINE Vec all(float value) { return value - Vec{}; }

PYDRIFT_INLINE Vec multiply_add(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__) && defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

PYDRIFT_INLINE Vec maximum(Vec a, Vec b) { return a > b ? a : b; }

// A NaN stays a NaN, so that a restart with one fails visibly.
PYDRIFT_INLINE Vec rectified(Vec v) { return v < Vec{} ? Vec{} : v; }

PYDRIFT_INLINE IntVec load_codes(const uint8_t* from) {
  ByteVec bytes;
  std::memcpy(&bytes, from, sizeof(bytes));
  return __builtin_convertvector(bytes, IntVec);
}

PYDRIFT_INLINE void store_codes(uint8_t* to, IntVec codes) {
  const ByteVec bytes = __builtin_convertvector(codes, ByteVec);
  std::memcpy(to, &bytes, sizeof(bytes));
}

// The lower and the upper halves of all segments of 2 * kHalf lanes, those of `a` and `b` in turns.
template <int32_t kHalf, bool kUpper>
PYDRIFT_INLINE Vec halves(Vec a, Vec b) {
  IntVec from{};  // lanes of `b` count on from those of `a`
  for (int32_t lane = 0; lane < kLanes; ++lane) {
    const int32_t own = kUpper ? lane + kHalf : lane;
    from[lane] = lane % (2 * kHalf) < kHalf ? own : own - kHalf + kLanes;
  }
#if defined(__clang__)
  Vec result;
  for (int32_t lane = 0; lane < kLanes; ++lane)
    result[lane] = from[lane] < kLanes ? a[from[lane]] : b[from[lane] - kLanes];
  return result;
#else
  return __builtin_shuffle(a, b, from);
#endif
}

// rows[i][j] becomes rows[j][i].
template <int32_t kHalf = kLanes / 2>
PYDRIFT_INLINE void transpose(Vec (&rows)[kLanes]) {
#pragma GCC unroll 16
  for (int32_t i = 0; i < kLanes; ++i) {
    if (i & kHalf) continue;
    const Vec a = rows[i], b = rows[i + kHalf];
    rows[i] = halves<kHalf, false>(a, b), rows[i + kHalf] = halves<kHalf, true>(a, b);
  }
  if constexpr (kHalf > 1) transpose<kHalf / 2>(rows);
}

// Lane i: the sum of the lanes of rows[i]. Overwrites `rows`.
template <int32_t kHalf = kLanes / 2>
PYDRIFT_INLINE Vec sums_of_lanes(Vec (&rows)[kLanes]) {
#pragma GCC unroll 16
  for (int32_t i = 0; i < kHalf; ++i) {
    const Vec a = rows[i], b = rows[i + kHalf];
    rows[i] = halves<kHalf, false>(a, b) + halves<kHalf, true>(a, b);
  }
  if constexpr (kHalf > 1) return sums_of_lanes<kHalf / 2>(rows);
  return rows[0];
}

// exp(x) for x <= 0 to about one unit in the last place; 0 below -87. The caller must check for NaN.
PYDRIFT_INLINE Vec exponential(Vec x) {
  constexpr float kLog2e = 1.44269504f, kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Vec clipped = maximum(x, all(-87.0f));
  const Vec n = (clipped * kLog2e + kRound) - kRound;
  Vec r = multiply_add(n, all(-0.693145752f), clipped);
  r = multiply_add(n, all(-1.42860677e-6f), r);
  Vec p = all(1.0f / 5040.0f);
  p = multiply_add(p, r, all(1.0f / 720.0f));
  p = multiply_add(p, r, all(1.0f / 120.0f));
  p = multiply_add(p, r, all(1.0f / 24.0f));
  p = multiply_add(p, r, all(1.0f / 6.0f));
  p = multiply_add(p, r, all(0.5f));
  p = multiply_add(p, r, all(1.0f));
  p = multiply_add(p, r, all(1.0f));
  const IntVec exponent = (__builtin_convertvector(n, IntVec) + 127) << 23;
  Vec power;
  std::memcpy(&power, &exponent, sizeof(power));
  return x < -87.0f ? Vec{} : p * power;
}

}  // namespace PYDRIFT_LANES
}  // namespace pydrift
