// The ops that tell the facts of the build. They take no tensor, so they have one implementation for every device.
#include <torch/csrc/stable/library.h>

#include "build_info.h"

namespace pydrift {
namespace {

std::string chosen_simd_name() { return simd_name(chosen_simd()); }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydrift, CompositeExplicitAutograd, m) {
  m.impl("build_info", TORCH_BOX(&build_info));
  m.impl("max_values_per_sample", TORCH_BOX(&max_values_per_sample));
  m.impl("simd_variants", TORCH_BOX(&simd_variants));
  m.impl("chosen_simd", TORCH_BOX(&chosen_simd_name));
}

}  // namespace pydrift
