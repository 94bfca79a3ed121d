// What CUDA launchers of teams do alike.
#pragma once

#include <vector>

#include "arch/team_plan.h"
#include "arch/team_queue.h"
#include "common/cuda.h"

namespace pydrift {

// Of a kernel of teams, in the largest clusters up to the wanted size that the device has room for: all but the slots.
template <class Arguments>
class TeamLaunch : public ClusterLaunch<Arguments> {
 public:
  using typename ClusterLaunch<Arguments>::Kernel;

  TeamLaunch(Kernel* kernel, int32_t device_index, cudaStream_t stream)
      : ClusterLaunch<Arguments>(kernel, kMaxTeamThreads, shared_bytes(device_index), stream),
        knows_clusters_(knows_clusters(kernel, device_index)),
        device_index_(device_index) {}

  TeamShape fit(int32_t wanted_cluster_size) {
    const int32_t num_multiprocessors = device_attribute(cudaDevAttrMultiProcessorCount, device_index_);
    TeamShape shape{1, kMaxTeamThreads, knows_clusters_ ? wanted_cluster_size : 1, 0,
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

  bool knows_clusters_;
  int32_t device_index_;
};

inline TeamQueuesView upload(DeviceMemory& memory, const TeamQueues& queues) {
  return {memory.upload(queues.items), memory.upload(queues.begin), memory.upload(queues.cluster_model),
          memory.upload(std::vector<int32_t>(queues.num_models()))};
}

}  // namespace pydrift
