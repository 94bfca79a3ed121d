// The threads that run some restarts together, and their memory. No torch.
#pragma once

#include "common/portable.h"
#include "invert/invert_plan.h"

#if defined(__CUDACC__)
#define PYDRIFT_UNROLL _Pragma("unroll")
#else
#define PYDRIFT_UNROLL
#endif

namespace pydrift {

inline constexpr int32_t kWarpSize = 32;

#if defined(__CUDACC__)
__device__ __forceinline__ float* dynamic_shared() {
  extern __shared__ float4 memory[];
  return reinterpret_cast<float*>(memory);
}
#endif

struct Team {
  int32_t index;        // among the teams
  int32_t thread, num_threads;
  float* shared;
  float* workspace;

  __device__ int32_t lane() const { return thread % kWarpSize; }
  __device__ int32_t warp() const { return thread / kWarpSize; }
  __device__ int32_t num_warps() const { return num_threads / kWarpSize; }
  __device__ float* at(const Place& place) const { return (place.shared ? shared : workspace) + place.offset; }
  __device__ uint8_t* bytes_at(const Place& place) const { return reinterpret_cast<uint8_t*>(at(place)); }
  __device__ void sync() const { __syncthreads(); }
};

}  // namespace pydrift
