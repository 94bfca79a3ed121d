// How a block takes items from its model's queue, and learns whether its cluster has work left. No torch.
#pragma once

#include "network/cuda/block.cuh"
#include "network/cuda/block_queue.h"

namespace pydrift {

// The next item of the model, or -1.
__device__ inline int32_t take_item(const BlockQueuesView& queues, int32_t model) {
  const int32_t taken = atomicAdd(&queues.next[model], 1), begin = queues.begin[model];
  return taken < queues.begin[model + 1] - begin ? queues.items[begin + taken] : -1;
}

// The word of a block for a step, which it reads after the barrier of the cluster that follows the step before, and
// sets back to 0 before the one that ends the step. words: [kNumClusterWords]
__device__ inline int32_t& cluster_word(const Block& block, const Place& words, int32_t rank, int32_t step) {
  return reinterpret_cast<int32_t*>(block.at(words, rank))[step % kNumClusterWords];
}

// Sets bits in the word of every block.
__device__ inline void signal_cluster(const Block& block, const Place& words, int32_t step, int32_t bits) {
  for (int32_t rank = 0; rank < block.num_ranks; ++rank) atomicOr(&cluster_word(block, words, rank, step), bits);
}

}  // namespace pydrift
