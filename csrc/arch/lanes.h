// One vector of float32, one restart per lane, for the instruction set that this file is compiled for. No torch.
//
// What includes this is compiled once per instruction set (CMakeLists.txt), each time in a namespace of its own, and
// keeps away from the standard library's inline functions: the linker would merge them across instruction sets.
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

// A NaN stays one, so that a restart that has one is seen to fail.
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

// exp(x) for x <= 0 to about one unit in the last place; 0 below -87. A NaN is the caller's to find.
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
