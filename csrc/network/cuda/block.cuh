// The threads that run some samples together, and their memory. No torch.
#pragma once

#include "common/portable.h"
#include "network/cuda/block_plan.h"

namespace pydrift {

#if defined(__CUDACC__)
__device__ __forceinline__ float* dynamic_shared() {
  extern __shared__ float4 memory[];
  return reinterpret_cast<float*>(memory);
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ < 900
__device__ __forceinline__ int32_t cluster_rank() { return 0; }
__device__ __forceinline__ int32_t cluster_size() { return 1; }
__device__ __forceinline__ void cluster_barrier() { __syncthreads(); }
template <class T>
__device__ __forceinline__ T* cluster_map(T* shared, int32_t /*rank*/) {
  return shared;
}
#else
__device__ __forceinline__ int32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int32_t>(rank);
}

__device__ __forceinline__ int32_t cluster_size() {
  uint32_t size;
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return static_cast<int32_t>(size);
}

__device__ __forceinline__ void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

// The same place in the shared memory of another block of the cluster.
template <class T>
__device__ __forceinline__ T* cluster_map(T* shared, int32_t rank) {
  uint64_t mapped;
  asm volatile("mapa.u64 %0, %1, %2;" : "=l"(mapped) : "l"(reinterpret_cast<uint64_t>(shared)), "r"(rank));
  return reinterpret_cast<T*>(mapped);
}
#endif
#endif

// A block of threads with samples of its own. The blocks of a cluster have the same model and divide its linear layers:
// each reads only a part of the weights, for the samples of all.
struct Block {
  int32_t rank, num_ranks;  // within the cluster
  int32_t thread, num_threads;
  float* shared;
  float* workspace;  // [workspace_size], of this block; those of a cluster follow each other
  int64_t workspace_size;

  __device__ int32_t lane() const { return thread % kWarpSize; }
  __device__ int32_t warp() const { return thread / kWarpSize; }
  __device__ int32_t num_warps() const { return num_threads / kWarpSize; }
  __device__ float* at(const Place& place) const { return (place.shared ? shared : workspace) + place.offset; }
  __device__ uint8_t* bytes_at(const Place& place) const { return reinterpret_cast<uint8_t*>(at(place)); }

  __device__ float* at(const Place& place, int32_t of_rank) const {
    if (of_rank == rank) return at(place);
    return place.shared ? cluster_map(shared, of_rank) + place.offset
                        : workspace + (of_rank - rank) * workspace_size + place.offset;
  }

  __device__ void sync() const { __syncthreads(); }

  __device__ void sync_cluster() const {
    if (num_ranks > 1) {
      cluster_barrier();
    } else {
      __syncthreads();
    }
  }
};

// This block, of any number of whole warps. Its memory is set to 0: borders, and what no pass writes, stay 0.
// workspace: [B, workspace_size]
__device__ inline Block begin_block(float* workspace, int64_t workspace_size, int64_t shared_size) {
  Block block{};
  block.rank = cluster_rank(), block.num_ranks = cluster_size();
  block.thread = static_cast<int32_t>(threadIdx.x), block.num_threads = static_cast<int32_t>(blockDim.x);
  block.shared = dynamic_shared();
  block.workspace = workspace + blockIdx.x * workspace_size;
  block.workspace_size = workspace_size;
  for (int64_t i = block.thread; i < shared_size; i += block.num_threads) block.shared[i] = 0.0f;
  for (int64_t i = block.thread; i < workspace_size; i += block.num_threads) block.workspace[i] = 0.0f;
  block.sync_cluster();
  return block;
}

}  // namespace pydrift
