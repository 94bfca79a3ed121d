// The scalars of the walks as the ops receive them. No torch.
#pragma once

#include <cmath>
#include <cstdint>
#include <tuple>

#include "boundary/boundary_walks_task.h"
#include "common/refuse.h"

namespace pydrift {

// Names and order of both are those of the schemas (library.cpp) and of the classes in pydrift.ops.options.
struct MinGdOptions {
  int64_t max_steps;
  double linf_step;
  double l2_step;
  double l1_step;
  int64_t l1_coordinates;
  double l1_gap;
  double lower;
  double upper;

  using Types = std::tuple<int64_t, double, double, double, int64_t, double, double, double>;
};

struct BlindWalkOptions {
  int64_t max_steps;
  double lower;
  double upper;

  using Types = std::tuple<int64_t, double, double>;
};

// What both have.
template <class Options>
void check_walk_options(const char* op, const Options& options) {
  PYDRIFT_CHECK(options.max_steps >= 0 && options.max_steps < (int64_t{1} << 24), op,
                ": max_steps must be in [0, 2^24), got ", options.max_steps);
  PYDRIFT_CHECK(options.lower < options.upper, op, ": lower must be below upper, got ", options.lower, " and ",
                options.upper);
}

inline void check_min_gd_options(const char* op, const MinGdOptions& options) {
  check_walk_options(op, options);
  for (const double step : {options.linf_step, options.l2_step, options.l1_step}) {
    PYDRIFT_CHECK(step > 0 && std::isfinite(step), op, ": steps must be finite and > 0, got ", options.linf_step, ", ",
                  options.l2_step, " and ", options.l1_step);
  }
  PYDRIFT_CHECK(options.l1_coordinates >= 1 && options.l1_coordinates <= kMaxValuesPerLayer, op,
                ": l1_coordinates must be in [1, 2^24], got ", options.l1_coordinates);
  PYDRIFT_CHECK(options.l1_gap >= 0 && std::isfinite(options.l1_gap), op, ": l1_gap must be finite and >= 0, got ",
                options.l1_gap);
}

}  // namespace pydrift
