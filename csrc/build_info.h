// What this build is: its compilers, its limits, the CPU variants that this processor can run. No torch.
//
// CMake defines the PYDRIFT_* macros for the two files that include this one, so that a new version number compiles
// these two again and no kernel.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/simd.h"
#include "invert/ascent_update_math.h"

namespace pydrift {

// One "name=value" for each fact. The CUDA facts are empty in a build without CUDA.
inline std::vector<std::string> build_info() {
  return {
      std::string("built_with_torch=") + PYDRIFT_TORCH_VERSION,
      std::string("compiler=") + PYDRIFT_CXX_COMPILER,
      std::string("cuda_architectures=") + PYDRIFT_CUDA_ARCHITECTURES,
      std::string("cuda_compiler=") + PYDRIFT_CUDA_COMPILER,
      std::string("version=") + PYDRIFT_VERSION,
  };
}

// The largest C * H * W that `ascent_update` and `invert` accept.
inline int64_t max_values_per_sample() { return kMaxValuesPerSample; }

// The names that PYDRIFT_SIMD may take on this processor, the widest last.
inline std::vector<std::string> simd_variants() {
  std::vector<std::string> names;
  for (const Simd simd : kAllSimd) {
    if (simd_supported(simd)) names.push_back(simd_name(simd));
  }
  return names;
}

}  // namespace pydrift
