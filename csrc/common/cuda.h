// What CUDA launchers need: the caller's stream, memory of it, and launches in clusters. Stable ABI only.
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
    STD_CUDA_CHECK(cudaStreamSynchronize(stream_));  // `values` may be destroyed once this returns
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

inline int32_t device_attribute(cudaDeviceAttr attribute, int32_t device_index) {
  int value = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&value, attribute, device_index));
  return value;
}

// Whether the device has clusters and runs code that was compiled for them. It may run older code.
template <class Kernel>
bool supports_clusters(Kernel* kernel, int32_t device_index) {
  cudaFuncAttributes attributes{};
  STD_CUDA_CHECK(cudaFuncGetAttributes(&attributes, kernel));
  return device_attribute(cudaDevAttrClusterLaunch, device_index) != 0 && attributes.ptxVersion >= 90;
}

// A kernel that has one block per multiprocessor, in clusters where the device has them and it pays.
template <class Arguments>
class ClusterLaunch {
 public:
  using Kernel = void(Arguments);

  ClusterLaunch(Kernel* kernel, int32_t num_threads, int32_t shared_bytes, cudaStream_t stream) : kernel_(kernel) {
    attribute_.id = cudaLaunchAttributeClusterDimension;
    config_.attrs = &attribute_;
    config_.blockDim = {static_cast<uint32_t>(num_threads), 1, 1};
    config_.dynamicSmemBytes = shared_bytes;
    config_.stream = stream;
    STD_CUDA_CHECK(cudaFuncSetAttribute(kernel_, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  }

  ClusterLaunch(const ClusterLaunch&) = delete;
  ClusterLaunch& operator=(const ClusterLaunch&) = delete;

  // Clusters of this size that run at once; 0 where the device has no room for one. Later launches have this size.
  int32_t set_cluster_size(int32_t cluster_size, int32_t num_multiprocessors) {
    attribute_.val.clusterDim = {static_cast<uint32_t>(cluster_size), 1, 1};
    config_.numAttrs = cluster_size > 1 ? 1 : 0;
    config_.gridDim = {static_cast<uint32_t>(cluster_size), 1, 1};
    if (cluster_size == 1) return num_multiprocessors;
    int count = 0;
    if (cudaOccupancyMaxActiveClusters(&count, kernel_, &config_) != cudaSuccess) {
      cudaGetLastError();  // this size is not supported; clear the error
      return 0;
    }
    return count;
  }

  void operator()(size_t num_blocks, int64_t shared_floats, const Arguments& arguments) {
    config_.gridDim.x = static_cast<uint32_t>(num_blocks);
    config_.dynamicSmemBytes = shared_floats * sizeof(float);
    STD_CUDA_CHECK(cudaLaunchKernelEx(&config_, kernel_, arguments));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

 private:
  Kernel* kernel_;
  cudaLaunchAttribute attribute_{};
  cudaLaunchConfig_t config_{};
};

}  // namespace pydrift
