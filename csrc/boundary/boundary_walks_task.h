// The task of pydrift::min_gd or pydrift::blind_walk, as plain pointers. No torch.
#pragma once

#include <cstdint>

#include "common/portable.h"
#include "network/program/program.h"

namespace pydrift {

enum class Norm : int32_t { kLinf, kL2, kL1 };

inline constexpr int32_t kNumNorms = 3;

struct BoundaryTask {
  const Program* program;
  const float* x;            // [I, C, H, W]
  const float* directions;   // [D, C, H, W] of blind_walk
  const float* parameters;   // [M, P]
  const int32_t* model;      // [N], in [0, M)
  const int32_t* image;      // [N], in [0, I)
  const int32_t* direction;  // [N], in [0, D), of blind_walk; null: min_gd
  const int32_t* label;      // [N], in [0, K): where min_gd goes, what blind_walk leaves
  const int32_t* norm;       // [N], in [0, kNumNorms)
  float* distance;           // [N]
  int32_t* steps;            // [N]
  int32_t* prediction;       // [N]
  int64_t num_models, num_images, num_directions, num_walks;
  int32_t max_steps;
  float step[kNumNorms];  // of min_gd: how far each step goes
  int32_t coordinates;    // of min_gd: how many an l1 step moves
  float gap;              // of min_gd: an l1 step moves no pixel that is nearer to its bound
  float lower, upper;

  PYDRIFT_HD bool is_blind() const { return direction != nullptr; }
  int32_t values_per_image() const { return static_cast<int32_t>(program->input.size()); }
};

// A place for one walk under way.
struct WalkSlot {
  int64_t walk;
  int32_t label;
  Norm norm;
  int32_t steps;
  int32_t prediction;  // of the last evaluation; -1: a logit is not finite
  bool failed;         // a logit or a gradient is not finite
  bool ended;
};

}  // namespace pydrift
