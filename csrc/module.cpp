// What Python asks the build: no tensors and no torch header, so this file alone depends on the Python version.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <vector>

#include "common/simd.h"
#include "invert/ascent_update_math.h"

namespace pydrift {
namespace {

std::map<std::string, std::string> build_info() {
  return {
      {"version", PYDRIFT_VERSION},
      {"compiler", PYDRIFT_CXX_COMPILER},
      {"built_with_torch", PYDRIFT_TORCH_VERSION},
      {"cuda_compiler", PYDRIFT_CUDA_COMPILER},
      {"cuda_architectures", PYDRIFT_CUDA_ARCHITECTURES},
  };
}

std::map<std::string, int64_t> limits() { return {{"max_values_per_sample", kMaxValuesPerSample}}; }

std::vector<std::string> simd_variants() {
  std::vector<std::string> names;
  for (const Simd simd : kAllSimd) {
    if (simd_supported(simd)) names.push_back(simd_name(simd));
  }
  return names;
}

}  // namespace
}  // namespace pydrift

PYBIND11_MODULE(_native, m) {
  m.doc() = "Facts about the native build of pydrift.";
  m.def("build_info", &pydrift::build_info, "What the libraries were built with; empty CUDA entries: CPU only.");
  m.def("limits", &pydrift::limits, "Sizes that the ops refuse to exceed.");
  m.def("simd_variants", &pydrift::simd_variants, "CPU variants this processor supports, narrowest first.");
  m.def(
      "chosen_simd", [] { return pydrift::simd_name(pydrift::chosen_simd()); },
      "The CPU variant in use: the widest supported, or what PYDRIFT_SIMD names (ValueError if it cannot be had).");
}
