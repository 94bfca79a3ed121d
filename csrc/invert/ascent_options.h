// The settings of an ascent as the ops receive them, checked. No torch.
#pragma once

#include <cmath>
#include <string>

#include "common/refuse.h"
#include "invert/ascent_update_math.h"

namespace pydrift {

inline AscentOptions check_ascent_options(const char* op, const std::string& optimizer, double learning_rate,
                                          double beta1, double beta2, double epsilon, double tv_weight,
                                          double l2_weight, double lower, double upper, double confidence_threshold,
                                          int64_t patience) {
  PYDRIFT_CHECK(optimizer == "adam" || optimizer == "momentum", op, ": optimizer must be 'adam' or 'momentum', got '",
                optimizer, "'");
  const auto check_positive = [op](const char* name, double value) {
    PYDRIFT_CHECK(value > 0 && std::isfinite(value), op, ": ", name, " must be finite and > 0, got ", value);
  };
  const auto check_weight = [op](const char* name, double value) {
    PYDRIFT_CHECK(value >= 0 && std::isfinite(value), op, ": ", name, " must be finite and >= 0, got ", value);
  };
  const auto check_decay = [op](const char* name, double value) {
    PYDRIFT_CHECK(value >= 0 && value < 1, op, ": ", name, " must be in [0, 1), got ", value);
  };
  check_positive("learning_rate", learning_rate);
  check_decay("beta1", beta1);
  check_decay("beta2", beta2);
  check_positive("epsilon", epsilon);
  check_weight("tv_weight", tv_weight);
  check_weight("l2_weight", l2_weight);
  PYDRIFT_CHECK(lower <= upper, op, ": lower must be <= upper, got ", lower, " and ", upper);
  PYDRIFT_CHECK(confidence_threshold > 0, op, ": confidence_threshold must be > 0, got ", confidence_threshold);
  PYDRIFT_CHECK(patience >= 1, op, ": patience must be >= 1, got ", patience);
  return {optimizer == "adam" ? Optimizer::kAdam : Optimizer::kMomentum,
          learning_rate,
          beta1,
          beta2,
          static_cast<float>(beta1),
          static_cast<float>(1.0 - beta1),
          static_cast<float>(beta2),
          static_cast<float>(1.0 - beta2),
          static_cast<float>(epsilon),
          static_cast<float>(2.0 * tv_weight),
          static_cast<float>(2.0 * l2_weight),
          static_cast<float>(lower),
          static_cast<float>(upper),
          confidence_threshold,
          patience};
}

}  // namespace pydrift
