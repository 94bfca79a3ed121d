// How the products of a network are added up. No torch.
#pragma once

#include <cstdint>
#include <string>

#include "common/refuse.h"

namespace pydrift {

enum class Arithmetic : int32_t {
  kFma,        // "float32": fused multiply-adds
  kTf32Split,  // "3xtf32": tensor cores, each factor as the sum of two TF32 numbers: float32 but for the last bits
  kTf32,       // "tf32": tensor cores, factors rounded to TF32 (11 bits)
  kBfloat16,   // "bfloat16": tensor cores, factors rounded to bfloat16 (8 bits), sums in float32
};

// The arithmetic of an op's argument `precision`. Only GPUs have tensor cores.
inline Arithmetic read_precision(const char* op, const std::string& precision, bool on_cpu) {
  if (precision == "float32") return Arithmetic::kFma;
  PYDRIFT_CHECK(precision == "3xtf32" || precision == "tf32" || precision == "bfloat16", op,
                ": precision must be 'float32', '3xtf32', 'tf32' or 'bfloat16', got '", precision, "'");
  PYDRIFT_CHECK(!on_cpu, op, ": precision '", precision, "' needs a GPU; on the CPU there is 'float32'");
  if (precision == "bfloat16") return Arithmetic::kBfloat16;
  return precision == "tf32" ? Arithmetic::kTf32 : Arithmetic::kTf32Split;
}

}  // namespace pydrift
