// What the launchers of all ops decide in the same way. Host code without torch or CUDA.
#pragma once

#include <cstdint>

#include "network/program/program.h"

namespace pydrift {

// How the work is divided. No result depends on it.
struct BlockShape {
  int32_t num_slots;     // of a block
  int32_t num_threads;   // of a block
  int32_t cluster_size;  // blocks that divide the linear layers of a model among them
  int32_t max_clusters;  // that run at once
  int64_t shared_limit;  // floats of shared memory that a block may use
};

// Clusters pay where the weights of the linear layers are too many for each multiprocessor to read them at each step.
// most_samples: of one model.
inline int32_t cluster_size_for(const Program& program, int64_t most_samples) {
  constexpr int64_t kManyWeights = 1 << 16;
  constexpr int32_t kMaxClusterSize = 8;  // the largest portable one; the launcher halves it where it does not fit
  int64_t num_weights = 0;
  for (const Layer& layer : program.layers) {
    if (layer.kind == LayerKind::kLinear) num_weights += int64_t{layer.in.channels} * layer.out.channels;
  }
  if (num_weights < kManyWeights) return 1;
  int32_t size = kMaxClusterSize;
  while (size > 1 && size > most_samples) size /= 2;
  return size;
}

}  // namespace pydrift
