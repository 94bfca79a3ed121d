// Choice of the CPU instruction set at run time. No torch.
//
// Small loops are written once, as an always-inline function, and instantiated in one function per variant with the
// target attribute (invert/ascent_update_sample.h). Large ones are compiled once per variant (network/cpu/variant.h).
#pragma once

#include <array>
#include <cstdlib>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#define PYDRIFT_TARGET_AVX2 __attribute__((target("avx2,fma")))
#define PYDRIFT_TARGET_AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")))
#else
#define PYDRIFT_TARGET_AVX2
#define PYDRIFT_TARGET_AVX512
#endif

namespace pydrift {

enum class Simd { kScalar, kAvx2, kAvx512 };  // kScalar: the baseline of the platform (SSE2 on x86-64)

inline constexpr std::array<Simd, 3> kAllSimd = {Simd::kScalar, Simd::kAvx2, Simd::kAvx512};

inline const char* simd_name(Simd simd) {
  switch (simd) {
    case Simd::kAvx512:
      return "avx512";
    case Simd::kAvx2:
      return "avx2";
    default:
      return "scalar";
  }
}

inline bool simd_supported(Simd simd) {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return simd == Simd::kScalar || (simd == Simd::kAvx2 && avx2) || (simd == Simd::kAvx512 && avx512);
#else
  return simd == Simd::kScalar;
#endif
}

// The widest supported variant, or the one that the environment variable PYDRIFT_SIMD names. Read at each call, so that
// one process can compare the variants.
inline Simd chosen_simd() {
  const char* forced = std::getenv("PYDRIFT_SIMD");
  const bool is_forced = forced != nullptr && *forced != '\0';
  Simd widest = Simd::kScalar;
  for (const Simd simd : kAllSimd) {
    if (is_forced && std::string(forced) == simd_name(simd)) {
      if (simd_supported(simd)) return simd;
      throw std::invalid_argument("PYDRIFT_SIMD=" + std::string(forced) + " is not supported by this processor");
    }
    if (simd_supported(simd)) widest = simd;
  }
  if (is_forced) {
    throw std::invalid_argument("PYDRIFT_SIMD must be scalar, avx2 or avx512, got '" + std::string(forced) + "'");
  }
  return widest;
}

}  // namespace pydrift
