// ascent_update on the GPU: the launch.
#include <algorithm>

#include "common/cuda.h"
#include "invert/ascent_update.h"
#include "invert/ascent_update_kernel.cuh"

namespace pydrift {
namespace {

constexpr int64_t kMaxBlocks = (int64_t{1} << 31) - 1;  // gridDim.x; more samples than this share blocks
constexpr int32_t kMaxThreads = 512;

LaunchConfig launch_config(const AscentTensors& tensors) {
  const int32_t num_warps = (tensors.values_per_sample() + kWarpSize - 1) / kWarpSize;
  return {static_cast<uint32_t>(std::min(tensors.num_samples, kMaxBlocks)),
          static_cast<uint32_t>(std::min(num_warps * kWarpSize, kMaxThreads))};
}

void run_cuda(const AscentTensors& tensors, const AscentConstants& constants, int32_t device_index) {
  const DeviceGuard guard(device_index);
  const LaunchConfig config = launch_config(tensors);
  const auto kernel = constants.optimizer == Optimizer::kAdam ? ascent_update_kernel<Optimizer::kAdam>
                                                              : ascent_update_kernel<Optimizer::kMomentum>;
  kernel<<<config.num_blocks, config.num_threads, 0, current_stream(device_index)>>>(tensors, constants);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydrift, CUDA, m) { m.impl("ascent_update", TORCH_BOX(&AscentUpdateOp<run_cuda>::call)); }

}  // namespace pydrift
