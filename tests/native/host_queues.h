// The queues of a kernel whose blocks take items, in the memory of the host.
#pragma once

#include "network/cuda/block_queue.h"

class HostQueues {
 public:
  // Items of the models `model` [num_items].
  HostQueues(const int32_t* model, int64_t num_items, int64_t num_models, const pydrift::BlockShape& shape)
      : queues_(pydrift::make_queues(model, num_items, num_models)),
        cluster_size_(shape.cluster_size),
        next_(num_models) {
    assign_clusters(queues_, shape);
  }

  uint32_t num_blocks() const { return static_cast<uint32_t>(queues_.cluster_model.size()) * cluster_size_; }

  pydrift::BlockQueuesView view() {
    return {queues_.items.data(), queues_.begin.data(), queues_.cluster_model.data(), next_.data()};
  }

 private:
  pydrift::BlockQueues queues_;
  const int32_t cluster_size_;
  std::vector<int32_t> next_;
};
