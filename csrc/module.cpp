// The facts of the build without torch, as a Python module. Builds from source have it, wheels do not: this file alone
// depends on the Python version. Where torch refuses libpydrift_cpu.so, it still says what that library was built for.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "build_info.h"

PYBIND11_MODULE(_native, m) {
  m.doc() = "Facts about the native build of pydrift; the ops of the same names tell the same.";
  m.def("build_info", &pydrift::build_info, "One 'name=value' for each fact of the build.");
  m.def("max_values_per_sample", &pydrift::max_values_per_sample, "The largest C * H * W that the ops accept.");
  m.def("simd_variants", &pydrift::simd_variants, "The CPU variants that this processor can run, the widest last.");
}
