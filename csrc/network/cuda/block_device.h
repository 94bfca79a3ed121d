// What the CUDA launchers of such kernels share.
#pragma once

#include <vector>

#include "common/cuda.h"
#include "network/cuda/block_plan.h"
#include "network/cuda/block_queue.h"

namespace pydrift {

// Launches a kernel in the largest clusters, up to the wanted size, that fit the device.
template <class Arguments>
class BlockLaunch : public ClusterLaunch<Arguments> {
 public:
  using typename ClusterLaunch<Arguments>::Kernel;

  BlockLaunch(Kernel* kernel, int32_t device_index, cudaStream_t stream)
      : ClusterLaunch<Arguments>(kernel, kMaxBlockThreads, shared_bytes(device_index), stream),
        supports_clusters_(supports_clusters(kernel, device_index)),
        device_index_(device_index) {}

  BlockShape fit(int32_t wanted_cluster_size) {
    const int32_t num_multiprocessors = device_attribute(cudaDevAttrMultiProcessorCount, device_index_);
    BlockShape shape{1, kMaxBlockThreads, supports_clusters_ ? wanted_cluster_size : 1, 0,
                     static_cast<int64_t>(shared_bytes(device_index_) / sizeof(float))};
    shape.max_clusters = this->set_cluster_size(shape.cluster_size, num_multiprocessors);
    while (shape.max_clusters == 0) {
      shape.max_clusters = this->set_cluster_size(shape.cluster_size /= 2, num_multiprocessors);
    }
    return shape;
  }

 private:
  static int32_t shared_bytes(int32_t device_index) {
    return device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device_index);
  }

  bool supports_clusters_;
  int32_t device_index_;
};

inline BlockQueuesView upload(DeviceMemory& memory, const BlockQueues& queues) {
  return {memory.upload(queues.items), memory.upload(queues.begin), memory.upload(queues.cluster_model),
          memory.upload(std::vector<int32_t>(queues.num_models()))};
}

}  // namespace pydrift
