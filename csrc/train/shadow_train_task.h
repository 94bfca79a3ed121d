// The task of pydrift::shadow_train, as plain pointers. No torch.
#pragma once

#include <cstdint>

#include "network/program/program.h"

namespace pydrift {

enum class TrainOptimizer { kAdam, kSgd };

// The columns of `hyperparameters`: what stays the same over the steps of a model.
struct TrainHyperparameters {
  double beta1;  // of kSgd: the momentum
  double beta2;
  double epsilon;
  double weight_decay;
  double label_smoothing;
};

inline constexpr int64_t kNumTrainHyperparameters = sizeof(TrainHyperparameters) / sizeof(double);

// How an image is changed for one step: moved, with zeros where nothing comes from, then mirrored.
struct Augmentation {
  int8_t down, right, flip;
};

struct ShadowTrainTask {
  const Program* program;
  const uint8_t* bytes;                         // [N, C, H, W], read as value / 255; or else
  const float* floats;                          // [N, C, H, W]
  const int32_t* label;                         // [N], in [0, num_classes)
  float* parameters;                            // [K, P]
  float* first_moment;                          // [K, P]
  float* second_moment;                         // [K, P] of kAdam
  const int32_t* order;                         // [sum of num_steps * batch_size], in [0, N)
  const Augmentation* augmentation;             // one per entry of `order`; null: none
  const int64_t* steps_done;                    // [K]
  const int32_t* num_steps;                     // [K]
  const int32_t* batch_size;                    // [K]
  const double* learning_rate;                  // [sum of num_steps]
  const TrainHyperparameters* hyperparameters;  // [K]
  float* loss;                                  // [K]
  int64_t num_images;
  int64_t num_models;
  int64_t num_order_entries;  // of `order`
  int64_t num_learning_rates;
  TrainOptimizer optimizer;
};

}  // namespace pydrift
