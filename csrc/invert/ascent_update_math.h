// The formulas of ascent_update (stated in the docstring of pydrift.ops.ascent_update), for both devices. No torch.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "common/portable.h"

namespace pydrift {

// Keeps a pixel's index within its sample in 32 bits, with room for the stride of a block of threads.
inline constexpr int64_t kMaxValuesPerSample = int64_t{1} << 30;

enum class Optimizer { kAdam, kMomentum };

struct AscentTensors {
  float* x;                            // [N, C, H, W]
  const float* gradient;               // [N, C, H, W]
  float* first_moment;                 // [N, C, H, W]
  float* second_moment;                // [N, C, H, W]; with kMomentum never touched, and may be first_moment
  const float* log_probability;        // [N]
  float* best_cost;                    // [N]
  int32_t* steps_without_improvement;  // [N]
  int32_t* steps;                      // [N]
  bool* active;                        // [N]
  int64_t num_samples;
  int32_t num_channels;
  int32_t height;
  int32_t width;

  PYDRIFT_HD int32_t values_per_sample() const { return num_channels * height * width; }
};

// Scalars of the call. What multiplies a pixel is rounded to float32 once, here; what is per sample stays double.
struct AscentConstants {
  Optimizer optimizer;
  double learning_rate;
  double beta1;
  double beta2;
  float first_decay;    // beta1
  float first_weight;   // 1 - beta1
  float second_decay;   // beta2
  float second_weight;  // 1 - beta2
  float epsilon;
  float roughness_weight;  // 2 tv_weight
  float size_weight;       // 2 l2_weight
  float lower;
  float upper;
  double confidence_threshold;
  int64_t patience;
};

// What the pixels of one sample need for this step.
struct AscentStep {
  bool taken;          // false: the sample has stopped, its pixels and moments stay
  float step_size;     // Adam: learning_rate / (1 - beta1^t); momentum: learning_rate
  float second_scale;  // Adam: 1 / sqrt(1 - beta2^t)
};

// Both bases to the power `exponent`, by squaring: the same bits on every device, which pow() does not guarantee.
struct TwoPowers {
  double first = 1.0, second = 1.0;
};

PYDRIFT_HD TwoPowers integer_powers(double first_base, double second_base, int32_t exponent) {
  TwoPowers power;
  for (; exponent > 0; exponent >>= 1, first_base *= first_base, second_base *= second_base) {
    if (exponent & 1) power.first *= first_base, power.second *= second_base;
  }
  return power;
}

PYDRIFT_HD bool is_finite(float value) { return fabsf(value) <= FLT_MAX; }

// The stop rule: records the sample's cost and returns whether it goes on. A NaN log_probability is no improvement.
PYDRIFT_HD bool wants_step(const AscentTensors& tensors, const AscentConstants& constants, int64_t sample) {
  const double log_probability = tensors.log_probability[sample];
  const float cost = static_cast<float>(-expm1(log_probability));
  if (cost < tensors.best_cost[sample]) {
    tensors.best_cost[sample] = cost;
    tensors.steps_without_improvement[sample] = 0;
  } else {
    tensors.steps_without_improvement[sample] += 1;
  }
  return !(exp(log_probability) >= constants.confidence_threshold) &&
         tensors.steps_without_improvement[sample] < constants.patience;
}

// All that happens once per sample: stops an active sample or begins its next step.
PYDRIFT_HD AscentStep begin_step(const AscentTensors& tensors, const AscentConstants& constants, int64_t sample,
                                 bool gradient_is_finite) {
  if (!wants_step(tensors, constants, sample) || !gradient_is_finite) {
    tensors.active[sample] = false;
    return {false, 0.0f, 0.0f};
  }
  const int32_t step = tensors.steps[sample] += 1;
  if (constants.optimizer == Optimizer::kMomentum) return {true, static_cast<float>(constants.learning_rate), 0.0f};
  const TwoPowers decay = integer_powers(constants.beta1, constants.beta2, step);
  return {true, static_cast<float>(constants.learning_rate / (1.0 - decay.first)),
          static_cast<float>(1.0 / sqrt(1.0 - decay.second))};
}

// The formulas of a pixel: of one restart (Value = float), or of a vector of restarts (ascent_lanes.h).

template <class Value>
struct PixelMath;

template <>
struct PixelMath<float> {
  PYDRIFT_HD static float square_root(float value) { return sqrtf(value); }
  PYDRIFT_HD static float clamped(float value, float lower, float upper) {
    return value < lower ? lower : (value > upper ? upper : value);
  }
};

// d(tv_weight TV + l2_weight L2)/dx. A neighbour beyond the border is passed as x: it adds exactly 0.
template <class Value>
PYDRIFT_HD Value prior_gradient(const AscentConstants& constants, Value x, Value up, Value down, Value left,
                                Value right) {
  const Value roughness = ((x - up) + (x - down)) + ((x - left) + (x - right));
  return constants.roughness_weight * roughness + constants.size_weight * x;
}

template <Optimizer kOptimizer, class Value>
PYDRIFT_HD void update_moments(const AscentConstants& constants, Value gradient, Value& first, Value& second) {
  if constexpr (kOptimizer == Optimizer::kAdam) {
    first = constants.first_decay * first + constants.first_weight * gradient;
    second = constants.second_decay * second + constants.second_weight * (gradient * gradient);
  } else {
    first = constants.first_decay * first + gradient;
  }
}

// x one step up along its moments, clamped to [lower, upper]. step_size, second_scale: of AscentStep
template <Optimizer kOptimizer, class Value>
PYDRIFT_HD Value ascend(const AscentConstants& constants, Value step_size, Value second_scale, Value x, Value first,
                        Value second) {
  Value direction = first;
  if constexpr (kOptimizer == Optimizer::kAdam) {
    direction = first / (PixelMath<Value>::square_root(second) * second_scale + constants.epsilon);
  }
  return PixelMath<Value>::clamped(x + step_size * direction, constants.lower, constants.upper);
}

}  // namespace pydrift
