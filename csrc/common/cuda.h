// What every CUDA launcher needs: the caller's stream and a check after each launch. Stable ABI only.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>

namespace pydrift {

using torch::stable::accelerator::DeviceGuard;

inline cudaStream_t current_stream(int32_t device_index) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_index, &stream));
  return static_cast<cudaStream_t>(stream);
}

// Grid and block of a kernel with dynamic shared memory left unused.
struct LaunchConfig {
  uint32_t num_blocks;
  uint32_t num_threads;
};

}  // namespace pydrift
