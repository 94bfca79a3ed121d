// What the kernel of shadow_statistics and shadow_moments gets, as plain arrays. No torch.
#pragma once

#include "network/cuda/block_plan.h"
#include "statistics/shadow_statistics_task.h"

namespace pydrift {

struct ShadowPlan : BlockPlan {
  Place margins;  // [slots]
};

// How the work is cut. A task is a tile of samples, num_slots for each block of a cluster, and a part of the models.
struct ShadowCut {
  int32_t num_tiles, num_parts;
};

// [B] blocks in clusters.
struct ShadowArguments {
  BlockNetwork network;
  float* workspace;  // [B, workspace_size]
  int64_t workspace_size, shared_size;
  Plane input;
  Place logits, margins;
  ShadowCut cut;
  const uint8_t* bytes;  // the tensors of ShadowTask
  const float* values;
  const int32_t* label;
  const bool* member;
  int64_t num_samples;
  ShadowStatistics statistics;
  ShadowMoments moments;
};

}  // namespace pydrift
