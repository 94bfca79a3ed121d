// Work on many models by clusters of blocks: a queue of items per model, and the clusters that take from it. A slot
// works on an item from start to stop; how long that takes is not known before. Host code without torch or CUDA.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "network/cuda/block_launch.h"

namespace pydrift {

// The items of each model, and the clusters that take them. [M] models, [N] items, [L] clusters.
struct BlockQueues {
  std::vector<int32_t> items;          // [N], sorted by model
  std::vector<int32_t> begin;          // [M + 1]
  std::vector<int32_t> cluster_model;  // [L]

  int64_t num_models() const { return static_cast<int64_t>(begin.size()) - 1; }
  int64_t num_items(int64_t model) const { return begin[model + 1] - begin[model]; }
};

// The same in the memory of the device.
struct BlockQueuesView {
  const int32_t* items;
  const int32_t* begin;
  const int32_t* cluster_model;
  int32_t* next;  // [M], 0 at the start
};

// Words by which the blocks of a cluster signal their state: for this step and the last, in turn.
inline constexpr int32_t kNumClusterWords = 2;

// Items 0, 1, ... of the models `model` [num_items].
inline BlockQueues make_queues(const int32_t* model, int64_t num_items, int64_t num_models) {
  BlockQueues made;
  made.begin.assign(num_models + 1, 0);
  for (int64_t n = 0; n < num_items; ++n) ++made.begin[model[n] + 1];
  for (int64_t m = 0; m < num_models; ++m) made.begin[m + 1] += made.begin[m];
  std::vector<int32_t> next(made.begin.begin(), made.begin.end() - 1);
  made.items.resize(num_items);
  for (int64_t n = 0; n < num_items; ++n) made.items[next[model[n]]++] = static_cast<int32_t>(n);
  return made;
}

// Clusters for each model: as many as fill their slots; if those are too many, its share of them, and one at least.
inline std::vector<int64_t> share_clusters(const BlockQueues& queues, const BlockShape& shape) {
  const int32_t num_slots = shape.num_slots * shape.cluster_size;
  std::vector<int64_t> counts;
  int64_t all_wanted = 0;
  for (int64_t m = 0; m < queues.num_models(); ++m) {
    counts.push_back((queues.num_items(m) + num_slots - 1) / num_slots);
    all_wanted += counts.back();
  }
  if (all_wanted <= shape.max_clusters) return counts;
  for (int64_t& count : counts) {
    if (count > 0) count = std::max<int64_t>(1, count * shape.max_clusters / all_wanted);
  }
  return counts;
}

inline void assign_clusters(BlockQueues& queues, const BlockShape& shape) {
  const std::vector<int64_t> counts = share_clusters(queues, shape);
  for (size_t m = 0; m < counts.size(); ++m) {
    queues.cluster_model.insert(queues.cluster_model.end(), counts[m], static_cast<int32_t>(m));
  }
}

// How long all items take if none stops early, in units of the cost of a slot in a step.
inline int64_t time_of(const BlockQueues& queues, const BlockShape& shape) {
  constexpr int64_t kCostOfStep = 2;  // of barriers and weights, for any number of slots
  const std::vector<int64_t> counts = share_clusters(queues, shape);
  int64_t num_clusters = 0, rounds = 0;
  for (int64_t m = 0; m < queues.num_models(); ++m) {
    const int64_t num_slots = counts[m] * shape.num_slots * shape.cluster_size;
    if (num_slots > 0) rounds = std::max(rounds, (queues.num_items(m) + num_slots - 1) / num_slots);
    num_clusters += counts[m];
  }
  const int64_t waves = (num_clusters + shape.max_clusters - 1) / shape.max_clusters;
  return waves * rounds * (shape.num_slots + kCostOfStep);
}

inline int32_t choose_cluster_size(const Program& program, const BlockQueues& queues) {
  int64_t most_items = 0;
  for (int64_t m = 0; m < queues.num_models(); ++m) most_items = std::max(most_items, queues.num_items(m));
  return cluster_size_for(program, most_items);
}

// For a shape that has everything else.
inline int32_t choose_num_slots(const BlockQueues& queues, BlockShape shape) {
  constexpr int32_t kMaxSlots = 32;
  BlockShape best = shape;
  best.num_slots = 1;
  for (shape.num_slots = 1; shape.num_slots <= kMaxSlots; ++shape.num_slots) {
    if (time_of(queues, shape) < time_of(queues, best)) best = shape;
  }
  return best.num_slots;
}

}  // namespace pydrift
