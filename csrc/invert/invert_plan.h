// The plan of a fused inversion on the GPU, as plain arrays. No torch.
#pragma once

#include <cstdint>

#include "invert/ascent_update_math.h"
#include "network/cuda/block_plan.h"
#include "network/cuda/block_queue.h"

namespace pydrift {

enum class Phase : int32_t { kEmpty, kRunning, kLast };  // kLast: evaluated once more, then written out

// One restart under way.
struct Slot {
  int64_t sample, retired;  // -1: none
  Phase phase;
  int32_t label, restart;
  int32_t down, right;  // roll of the image, in [0, H) and [0, W)
  int32_t steps, steps_without_improvement, has_bad_gradient;
  float log_probability, best_cost;
  AscentStep step;
  bool active, is_fresh;
};

struct InvertPlan : BlockPlan {
  Place slots, image, first_moment, second_moment;
  Place phases;  // of all restarts of the cluster, a bit per phase: kNumClusterWords
};

// What the kernel gets: the plan, the task and the memory. [M] models, [N] restarts, [B] blocks in [L] clusters.
struct InvertArguments {
  BlockNetwork network;
  BlockQueuesView queues;
  float* workspace;        // [B, workspace_size]
  float* x;                // [N, C, H, W]
  const int32_t* label;    // [N]
  const int32_t* restart;  // [N]
  float* confidence;       // [N]
  float* loss;             // [N]
  int32_t* steps;          // [N]
  int64_t workspace_size, shared_size;
  uint64_t seed;
  int32_t jitter, max_steps;
  Place slots, phases, image, first_moment, second_moment, logits;
  Plane input, input_gradient;  // of the rolled images
  Sink seed_sink;               // of the gradient of the logits
  AscentConstants ascent;
};

}  // namespace pydrift
