// The plan of a fused inversion on the GPU, as plain arrays. No torch.
#pragma once

#include <cstdint>

#include "arch/team_plan.h"
#include "invert/ascent_update_math.h"

namespace pydrift {

enum class Phase : int32_t { kEmpty, kRunning, kLast };  // kLast: evaluated once more, then written out

// Where a team learns of the phases of all restarts of its cluster: a bit per phase, of this step and the last in turn.
inline constexpr int32_t kNumPhaseWords = 2;

// One restart under way.
struct Slot {
  int64_t sample, retired;  // -1: none
  Phase phase;
  int32_t label, restart;
  int32_t down, right;  // roll of the image, in [0, H) and [0, W)
  int32_t steps, stale, has_bad_gradient;
  float log_probability, best_cost;
  AscentStep step;
  bool active, is_fresh;
};

struct InvertPlan : TeamPlan {
  Place slots, phases, image, first_moment, second_moment;
};

// What the kernel gets: the plan, the task and the memory. [M] models, [N] restarts, [T] teams in [L] clusters.
struct InvertArguments {
  TeamNetwork network;
  float* workspace;             // [T, workspace_size]
  const int32_t* cluster_model;  // [L]
  const int32_t* queue;         // [N] samples, sorted by model
  const int32_t* queue_begin;   // [M + 1]
  int32_t* queue_next;          // [M], 0 at the start
  float* x;                     // [N, C, H, W]
  const int32_t* label;         // [N]
  const int32_t* restart;       // [N]
  float* confidence;            // [N]
  float* loss;                  // [N]
  int32_t* steps;               // [N]
  int64_t workspace_size, shared_size;
  uint64_t seed;
  int32_t jitter, max_steps;
  Place slots, phases, image, first_moment, second_moment, logits;
  Plane input, input_gradient;  // of the rolled images
  Sink seed_sink;               // of the gradient of the logits
  AscentOptions ascent;
};

}  // namespace pydrift
