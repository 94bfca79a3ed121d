// Runs CUDA kernels on the host, one cluster of blocks after the other and each thread as a fiber, so that their index
// arithmetic, barriers and exchanges are executed where there is no GPU. Include it before the kernel's header.
//
// A fiber runs until its next barrier; then the next one runs, and a block runs until it needs the others of its
// cluster. `reversed` lets the last thread go first: a kernel that lacks a barrier gives another result then. A barrier
// that some threads never reach throws. Dynamic shared memory starts as NaN.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#define __global__ inline
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static  // one block runs at a time, or a cluster, whose kernels must use dynamic_shared()

using std::min;

struct HostIndex {
  uint32_t x = 0, y = 0, z = 0;
};

struct alignas(16) float4 {
  float x, y, z, w;
};

inline HostIndex threadIdx, blockIdx, blockDim, gridDim;

namespace host_cuda {

constexpr size_t kLanes = 32;

enum class Waits { kNot, kForWarp, kForBlock, kForCluster };

struct Fiber {
  ucontext_t context{};
  std::unique_ptr<char[]> stack;
  HostIndex thread, block;
  Waits waits = Waits::kNot;
  double offered = 0;             // to the other lanes of the warp
  uint32_t fragments[2][6] = {};  // words of a and b of a matrix product of the warp, of this and the last in turn
  int num_products = 0;
  bool done = false;
};

struct Block {
  std::vector<float4> shared;
  int vote = 0, result = 0;  // of __syncthreads_or
};

struct Cluster {
  ucontext_t scheduler{};
  std::vector<Block> blocks;
  std::vector<Fiber> fibers;  // [blocks, threads]
  Fiber* running = nullptr;
  std::function<void()> kernel;

  size_t num_threads() const { return fibers.size() / blocks.size(); }
  size_t fiber() const { return running - fibers.data(); }
  size_t rank() const { return fiber() / num_threads(); }
  Block& block() { return blocks[rank()]; }
};

inline Cluster* current = nullptr;

inline void wait(Waits waits) {
  Fiber* self = current->running;
  self->waits = waits;
  swapcontext(&self->context, &current->scheduler);
}

inline void enter() {
  current->kernel();
  current->running->done = true;
  wait(Waits::kNot);
}

inline void begin(Fiber& fiber) {
  constexpr size_t kStackBytes = 32 * 1024;
  fiber.stack.reset(new char[kStackBytes]);  // not zeroed: most of it is never touched
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, enter, 0);
}

// Lets the fibers [begin, end) go on if all of them wait for the same.
inline bool release(Cluster& cluster, size_t begin, size_t end, Waits waits) {
  for (size_t i = begin; i < end; ++i) {
    if (cluster.fibers[i].done || cluster.fibers[i].waits != waits) return false;
  }
  for (size_t i = begin; i < end; ++i) cluster.fibers[i].waits = Waits::kNot;
  return true;
}

inline void run(Cluster& cluster, Fiber& fiber) {
  if (fiber.done || fiber.waits != Waits::kNot) return;
  cluster.running = &fiber;
  threadIdx = fiber.thread, blockIdx = fiber.block;
  swapcontext(&cluster.scheduler, &fiber.context);
}

// Runs the warps of a block up to their next barrier with others, or their end.
inline void run_warps(Cluster& cluster, size_t rank, bool reversed) {
  const size_t num_threads = cluster.num_threads(), num_warps = (num_threads + kLanes - 1) / kLanes;
  const auto ordered = [&](size_t i, size_t count) { return reversed ? count - 1 - i : i; };
  for (size_t i = 0; i < num_warps; ++i) {
    const size_t lane = ordered(i, num_warps) * kLanes, num_lanes = std::min(kLanes, num_threads - lane);
    const size_t begin = rank * num_threads + lane;
    do {
      for (size_t j = 0; j < num_lanes; ++j) run(cluster, cluster.fibers[begin + ordered(j, num_lanes)]);
    } while (release(cluster, begin, begin + num_lanes, Waits::kForWarp));
  }
}

// Runs one block after the other up to its next barrier with others, or its end. Returns whether the cluster goes on.
inline bool run_to_barriers(Cluster& cluster, bool reversed) {
  const size_t num_threads = cluster.num_threads(), num_blocks = cluster.blocks.size();
  for (size_t i = 0; i < num_blocks; ++i) {
    const size_t rank = reversed ? num_blocks - 1 - i : i;
    Block& block = cluster.blocks[rank];
    do {
      run_warps(cluster, rank, reversed);
      block.result = std::exchange(block.vote, 0);
    } while (release(cluster, rank * num_threads, (rank + 1) * num_threads, Waits::kForBlock));
  }
  if (std::all_of(cluster.fibers.begin(), cluster.fibers.end(), [](const Fiber& fiber) { return fiber.done; })) {
    return false;
  }
  if (!release(cluster, 0, cluster.fibers.size(), Waits::kForCluster)) {
    throw std::logic_error("a barrier is not reached by all threads");
  }
  return true;
}

struct Launch {
  uint32_t num_blocks, num_threads;
  uint32_t cluster_size = 1;
  size_t shared_bytes = 0;
};

// kernel<<<...>>>() for a kernel bound to its arguments.
inline void launch(const Launch& launch, bool reversed, const std::function<void()>& kernel) {
  gridDim.x = launch.num_blocks;
  blockDim.x = launch.num_threads;
  for (uint32_t first = 0; first < launch.num_blocks; first += launch.cluster_size) {
    Cluster cluster;
    cluster.kernel = kernel;
    cluster.blocks.resize(launch.cluster_size);
    for (Block& block : cluster.blocks) {
      block.shared.assign((launch.shared_bytes + sizeof(float4) - 1) / sizeof(float4), {NAN, NAN, NAN, NAN});
    }
    cluster.fibers.resize(size_t{launch.cluster_size} * launch.num_threads);
    current = &cluster;
    for (uint32_t i = 0; i < cluster.fibers.size(); ++i) {
      Fiber& fiber = cluster.fibers[i];
      fiber.block.x = first + i / launch.num_threads;
      fiber.thread.x = i % launch.num_threads;
      begin(fiber);
    }
    while (run_to_barriers(cluster, reversed)) {
    }
  }
}

inline void launch(uint32_t num_blocks, uint32_t num_threads, bool reversed, const std::function<void()>& kernel) {
  launch(Launch{num_blocks, num_threads}, reversed, kernel);
}

}  // namespace host_cuda

inline void __syncthreads() { host_cuda::wait(host_cuda::Waits::kForBlock); }

inline int __syncthreads_or(int predicate) {
  host_cuda::current->block().vote |= predicate != 0 ? 1 : 0;
  __syncthreads();
  return host_cuda::current->block().result;
}

inline void __syncwarp() { host_cuda::wait(host_cuda::Waits::kForWarp); }

template <class T>
T __shfl_xor_sync(uint32_t /*all lanes*/, T value, int lane_mask) {
  host_cuda::Cluster& cluster = *host_cuda::current;
  const size_t self = cluster.fiber();
  cluster.fibers[self].offered = value;
  __syncwarp();
  const T other = static_cast<T>(cluster.fibers[self ^ lane_mask].offered);
  __syncwarp();  // all have read
  return other;
}

// TF32 has 10 bits of mantissa; ties are rounded away from zero.
inline float to_tf32(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if (std::isfinite(value)) bits = (bits + 0x1000u) & ~0x1fffu;
  std::memcpy(&value, &bits, sizeof(bits));
  return value;
}

inline uint32_t __float_as_uint(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// bfloat16 is the upper half of a float32; ties are rounded to even.
inline uint32_t to_bfloat16_pair(float first, float second) {
  const auto rounded = [](float value) {
    const uint32_t bits = __float_as_uint(value);
    return std::isnan(value) ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
  };
  return rounded(first) | rounded(second) << 16;
}

namespace host_cuda {

// Of a word, product by product.
template <class Word>
float product(Word left, Word right);

template <>
inline float product(float left, float right) {
  return to_tf32(left) * to_tf32(right);
}

template <>
inline float product(uint32_t left, uint32_t right) {
  const auto low = [](uint32_t pair) { return __uint_as_float(pair << 16); };
  const auto high = [](uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); };
  return low(left) * low(right) + high(left) * high(right);
}

}  // namespace host_cuda

// mma.m16n8k8 with TF32 factors, or mma.m16n8k16 with pairs of bfloat16, as the PTX manual lays the fragments out among
// the lanes: the words of both lie alike.
template <class Word>
void multiply_fragments(float (&sum)[4], const Word (&a)[4], const Word (&b)[2]) {
  host_cuda::Cluster& cluster = *host_cuda::current;
  const size_t self = cluster.fiber(), lane = self % cluster.num_threads() % host_cuda::kLanes;
  const host_cuda::Fiber* warp = &cluster.fibers[self - lane];
  host_cuda::Fiber& own = cluster.fibers[self];
  const int turn = own.num_products++ % 2;
  std::memcpy(own.fragments[turn], a, sizeof(a));
  std::memcpy(own.fragments[turn] + 4, b, sizeof(b));
  __syncwarp();  // one is enough: no lane gets two products ahead of another
  for (int i = 0; i < 4; ++i) {
    const size_t row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    for (size_t k = 0; k < 8; ++k) {
      Word left, right;
      std::memcpy(&left, &warp[row % 8 * 4 + k % 4].fragments[turn][k / 4 * 2 + row / 8], sizeof(Word));
      std::memcpy(&right, &warp[column * 4 + k % 4].fragments[turn][4 + k / 4], sizeof(Word));
      sum[i] += host_cuda::product(left, right);
    }
  }
}

inline int32_t atomicAdd(int32_t* value, int32_t summand) { return std::exchange(*value, *value + summand); }

inline int32_t atomicOr(int32_t* value, int32_t bits) { return std::exchange(*value, *value | bits); }

inline float* dynamic_shared() { return reinterpret_cast<float*>(host_cuda::current->block().shared.data()); }

inline int32_t cluster_rank() { return static_cast<int32_t>(host_cuda::current->rank()); }

inline int32_t cluster_size() { return static_cast<int32_t>(host_cuda::current->blocks.size()); }

inline void cluster_barrier() { host_cuda::wait(host_cuda::Waits::kForCluster); }

template <class T>
T* cluster_map(T* shared, int32_t rank) {
  const char* own = reinterpret_cast<const char*>(host_cuda::current->block().shared.data());
  char* others = reinterpret_cast<char*>(host_cuda::current->blocks[rank].shared.data());
  return reinterpret_cast<T*>(others + (reinterpret_cast<const char*>(shared) - own));
}
