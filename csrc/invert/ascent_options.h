// The scalars of an ascent as the ops receive them, and what the loops make of them. No torch.
#pragma once

#include <cmath>
#include <string>
#include <tuple>

#include "common/refuse.h"
#include "invert/ascent_update_math.h"

namespace pydrift {

// Names and order are those of the schemas (library.cpp) and of AscentOptions in pydrift.ops.options.
struct AscentOptions {
  std::string optimizer;  // "adam" or "momentum"
  double learning_rate;
  double beta1;
  double beta2;
  double epsilon;
  double tv_weight;
  double l2_weight;
  double lower;
  double upper;
  double confidence_threshold;
  int64_t patience;

  using Types =
      std::tuple<std::string, double, double, double, double, double, double, double, double, double, int64_t>;
};

inline void check_ascent_options(const char* op, const AscentOptions& options) {
  PYDRIFT_CHECK(options.optimizer == "adam" || options.optimizer == "momentum", op,
                ": optimizer must be 'adam' or 'momentum', got '", options.optimizer, "'");
  const auto check_positive = [op](const char* name, double value) {
    PYDRIFT_CHECK(value > 0 && std::isfinite(value), op, ": ", name, " must be finite and > 0, got ", value);
  };
  const auto check_weight = [op](const char* name, double value) {
    PYDRIFT_CHECK(value >= 0 && std::isfinite(value), op, ": ", name, " must be finite and >= 0, got ", value);
  };
  const auto check_decay = [op](const char* name, double value) {
    PYDRIFT_CHECK(value >= 0 && value < 1, op, ": ", name, " must be in [0, 1), got ", value);
  };
  check_positive("learning_rate", options.learning_rate);
  check_decay("beta1", options.beta1);
  check_decay("beta2", options.beta2);
  check_positive("epsilon", options.epsilon);
  check_weight("tv_weight", options.tv_weight);
  check_weight("l2_weight", options.l2_weight);
  PYDRIFT_CHECK(options.lower <= options.upper, op, ": lower must be <= upper, got ", options.lower, " and ",
                options.upper);
  PYDRIFT_CHECK(options.confidence_threshold > 0, op, ": confidence_threshold must be > 0, got ",
                options.confidence_threshold);
  PYDRIFT_CHECK(options.patience >= 1, op, ": patience must be >= 1, got ", options.patience);
}

// Of options that are checked.
inline AscentConstants ascent_constants(const AscentOptions& options) {
  return {options.optimizer == "adam" ? Optimizer::kAdam : Optimizer::kMomentum,
          options.learning_rate,
          options.beta1,
          options.beta2,
          static_cast<float>(options.beta1),
          static_cast<float>(1.0 - options.beta1),
          static_cast<float>(options.beta2),
          static_cast<float>(1.0 - options.beta2),
          static_cast<float>(options.epsilon),
          static_cast<float>(2.0 * options.tv_weight),
          static_cast<float>(2.0 * options.l2_weight),
          static_cast<float>(options.lower),
          static_cast<float>(options.upper),
          options.confidence_threshold,
          options.patience};
}

}  // namespace pydrift
