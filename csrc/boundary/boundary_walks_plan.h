// What the kernel of min_gd and blind_walk gets, as plain arrays. No torch.
#pragma once

#include "boundary/boundary_walks_task.h"
#include "network/cuda/block_plan.h"
#include "network/cuda/block_queue.h"

namespace pydrift {

struct WalkPlan : BlockPlan {
  Place slots, image, gradient;
  Place busy;  // whether any slot of the cluster has a walk: kNumClusterWords
};

// [B] blocks in clusters.
struct WalkArguments {
  BlockNetwork network;
  BlockQueuesView queues;
  BoundaryTask task;  // its program is the host's
  float* workspace;   // [B, workspace_size]
  int64_t workspace_size, shared_size;
  Place slots;  // WalkSlot [slots]; an empty one has walk -1
  Place busy, logits;
  Place image, gradient;  // of min_gd: [slots, values], so that the lanes of a warp read neighbours
  Plane input, input_gradient;
  Sink seed_sink;  // of the gradient of the logits
};

}  // namespace pydrift
