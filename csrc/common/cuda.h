// What every CUDA launcher needs: the caller's stream, memory of it, and a check after each launch. Stable ABI only.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

namespace pydrift {

using torch::stable::accelerator::DeviceGuard;

inline cudaStream_t current_stream(int32_t device_index) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_index, &stream));
  return static_cast<cudaStream_t>(stream);
}

// Memory of the current stream, kept until all that was launched with it is enqueued.
class DeviceMemory {
 public:
  DeviceMemory(int32_t device_index, cudaStream_t stream) : device_index_(device_index), stream_(stream) {}

  template <class T>
  T* allocate(int64_t count) {
    const int64_t bytes = std::max<int64_t>(1, count * static_cast<int64_t>(sizeof(T)));
    const torch::stable::Device device(torch::headeronly::DeviceType::CUDA, device_index_);
    tensors_.push_back(torch::stable::empty({bytes}, torch::headeronly::ScalarType::Byte, std::nullopt, device));
    return static_cast<T*>(tensors_.back().mutable_data_ptr());
  }

  template <class T>
  T* upload(const std::vector<T>& values) {
    T* copy = allocate<T>(static_cast<int64_t>(values.size()));
    if (values.empty()) return copy;
    STD_CUDA_CHECK(cudaMemcpyAsync(copy, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice, stream_));
    STD_CUDA_CHECK(cudaStreamSynchronize(stream_));  // `values` may be gone the moment this returns
    return copy;
  }

 private:
  int32_t device_index_;
  cudaStream_t stream_;
  std::vector<torch::stable::Tensor> tensors_;
};

template <class T>
std::vector<T> download(const T* values, int64_t count, cudaStream_t stream) {
  std::vector<T> copy(count);
  if (count == 0) return copy;
  STD_CUDA_CHECK(cudaMemcpyAsync(copy.data(), values, count * sizeof(T), cudaMemcpyDeviceToHost, stream));
  STD_CUDA_CHECK(cudaStreamSynchronize(stream));
  return copy;
}

// Grid and block of a kernel with dynamic shared memory left unused.
struct LaunchConfig {
  uint32_t num_blocks;
  uint32_t num_threads;
};

}  // namespace pydrift
