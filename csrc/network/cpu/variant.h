// The loop of an op for each instruction set, and the choice among them. No torch.
#pragma once

#include <cstdint>

#include "common/simd.h"

namespace pydrift {

// A loop for one instruction set, and the sizes that its plan must have.
template <class Worker>
struct Variant {
  int32_t lanes;               // samples in one vector
  int32_t rows;                // outputs that are computed together
  void (*run)(const Worker&);  // the work of one thread
};

// One loop for all instruction sets. <op>_worker.h declares the three members, and <op>_lanes.cpp, which is compiled
// once for each instruction set, defines the one of its own.
template <class Worker>
struct VariantTable {
  static const Variant<Worker> scalar;
  static const Variant<Worker> avx2;
  static const Variant<Worker> avx512;

  static const Variant<Worker>& of(Simd simd) {
#if defined(__x86_64__)
    if (simd == Simd::kAvx512) return avx512;
    if (simd == Simd::kAvx2) return avx2;
#endif
    return scalar;
  }
};

}  // namespace pydrift
