// How the products of a network are added up. No torch.
#pragma once

#include <cstdint>

namespace pydrift {

enum class Arithmetic : int32_t {
  kFma,        // "float32": fused multiply-adds
  kTf32Split,  // "3xtf32": tensor cores, each factor as the sum of two TF32 numbers: float32 but for the last bits
  kTf32,       // "tf32": tensor cores, factors rounded to TF32 (11 bits)
};

}  // namespace pydrift
