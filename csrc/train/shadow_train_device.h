// Training on the GPU: what its kernels know about their models, and the kinds of passes. No torch.
//
// The layout is the CPU's (network/program/plan.h) with a warp for a vector: a slice of a batch is kMaxGroups groups of
// 32 samples, one in each lane. A step is a sequence of launches, each over all models of a model batch.
#pragma once

#include "common/portable.h"
#include "network/program/plan.h"
#include "train/optimizer_math.h"
#include "train/shadow_train_task.h"

namespace pydrift {

inline constexpr int32_t kTrainThreads = 256;
inline constexpr int32_t kTrainWarps = kTrainThreads / kWarpSize;
inline constexpr int32_t kSliceSamples = kMaxGroups * kWarpSize;

// The dense pass: a block computes kProductRows outputs, kWarpRows of them per warp, at a few tiles.
inline constexpr int32_t kWarpRows = 16;
inline constexpr int32_t kRowWarps = 2;
inline constexpr int32_t kTileWarps = kTrainWarps / kRowWarps;
inline constexpr int32_t kProductRows = kWarpRows * kRowWarps;
inline constexpr int32_t kProductTerms = 64;  // their weights are in shared memory at the same time

// The weight gradient: a warp has kGradientRows outputs times kGradientTerms terms.
inline constexpr int32_t kGradientRows = 8;
inline constexpr int32_t kGradientTerms = 8;

inline constexpr int32_t kElementsPerWarp = 8;  // elements of a group, in passes that mix no channels
inline constexpr int32_t kParametersPerThread = 4;

// What a model does in this call.
struct DeviceModel {
  int64_t order;       // where its part begins: in `order` and `augmentation`,
  int64_t first_step;  // and in `optimizer_steps`
  int32_t num_steps, batch_size;
  double label_smoothing;
};

struct TrainArguments {
  // [number of images, C, H, W]; one of the two is null
  const uint8_t* bytes;
  const float* floats;
  const int32_t* label;
  float* parameters;     // [K, P]
  float* first_moment;   // [K, P]
  float* second_moment;  // [K, P] of Adam
  const int32_t* order;
  const Augmentation* augmentation;      // [entries of `order`], or null
  float* loss;                           // [K]
  const DeviceModel* models;             // [K]
  const OptimizerStep* optimizer_steps;  // of each step of each model
  // Of the plan
  const int32_t* offsets;
  const int32_t* term_parameters;
  const Tile* tiles;
  int64_t shared_floats, group_floats, code_bytes, num_parameters;
  // Memory of the model batch
  float* shared;        // [model batch, shared_floats]
  float* groups;        // [model batch, kMaxGroups, group_floats], borders zero
  uint8_t* codes;       // [model batch, kMaxGroups, code_bytes]
  float* gradients;     // [model batch, P]
  double* losses;       // [model batch, kSliceSamples]: sums, of the samples in a lane
  int32_t first_model;  // of the model batch
  int32_t step;         // of this call
  int32_t slice;        // of the batch
};

// A dense pass over maps, forward or data gradient.
struct ProductPass {
  Dense dense;
  Map in, out;
  int64_t bias;   // the parameter of output 0; -1: none
  int64_t codes;  // as Stage::codes
  bool relu, pooled;
};

// The gradient in the weights of a stage, and in its biases.
struct GradientPass {
  Dense dense;  // the forward pass
  Map in;
  Map gradient;  // in the output, behind pooling and ReLU
  int64_t codes;
  int32_t num_positions;  // of `gradient`
  int64_t bias;           // the parameter of output 0
};

// Passes that mix no channels.
enum class ElementwisePass {
  kForward,
  kBackward,
  kSpread,  // kConv: Stage::spread from Stage::out_gradient
  kMask,    // kLinear: Stage::out_gradient becomes zero where the ReLU let nothing through
};

PYDRIFT_HD int32_t count_blocks(int32_t count, int32_t per_block) { return (count + per_block - 1) / per_block; }

// How the warps of a block divide the terms of a weight gradient; warps that get none divide the positions.
PYDRIFT_HD int32_t count_term_warps(int32_t num_terms) {
  int32_t count = 1;
  while (count < kTrainWarps && count * kGradientTerms < num_terms) count *= 2;
  return count;
}

}  // namespace pydrift
