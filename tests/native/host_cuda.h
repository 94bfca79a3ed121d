// Runs CUDA kernels on the host, one block after the other and each thread as a fiber, so that their index arithmetic
// and barriers are executed where there is no GPU. Include it before the kernel's header.
//
// A fiber runs until its next barrier; then the next one runs. `reversed` lets the last thread of a block go first: a
// kernel that lacks a barrier gives another result then. A barrier that some threads never reach throws.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#define __global__ inline
#define __shared__ static  // one block runs at a time

struct HostIndex {
  uint32_t x = 0, y = 0, z = 0;
};

inline HostIndex threadIdx, blockIdx, blockDim, gridDim;

namespace host_cuda {

struct Fiber {
  ucontext_t context{};
  std::unique_ptr<char[]> stack;
  HostIndex thread;
  bool done = false;
};

struct Block {
  ucontext_t scheduler{};
  std::vector<Fiber> fibers;
  Fiber* running = nullptr;
  std::function<void()> kernel;
  int vote = 0, result = 0;  // of __syncthreads_or
};

inline Block* current = nullptr;

inline void wait() {
  Fiber* self = current->running;
  swapcontext(&self->context, &current->scheduler);
}

inline void enter() {
  current->kernel();
  current->running->done = true;
  wait();
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

// Runs every fiber up to its next barrier or its end. Returns whether the block goes on.
inline bool run_to_barrier(Block& block, bool reversed) {
  const size_t num_threads = block.fibers.size();
  size_t num_done = 0;
  for (size_t i = 0; i < num_threads; ++i) {
    Fiber& fiber = block.fibers[reversed ? num_threads - 1 - i : i];
    block.running = &fiber;
    threadIdx = fiber.thread;
    swapcontext(&block.scheduler, &fiber.context);
    num_done += fiber.done ? 1 : 0;
  }
  block.result = block.vote;
  block.vote = 0;
  if (num_done != 0 && num_done != num_threads) throw std::logic_error("a barrier is not reached by all threads");
  return num_done == 0;
}

// kernel<<<num_blocks, num_threads>>>() for a kernel bound to its arguments.
inline void launch(uint32_t num_blocks, uint32_t num_threads, bool reversed, const std::function<void()>& kernel) {
  gridDim.x = num_blocks;
  blockDim.x = num_threads;
  for (uint32_t index = 0; index < num_blocks; ++index) {
    Block block;
    block.kernel = kernel;
    block.fibers.resize(num_threads);
    current = &block;
    blockIdx.x = index;
    for (uint32_t thread = 0; thread < num_threads; ++thread) {
      Fiber& fiber = block.fibers[thread];
      fiber.thread.x = thread;
      begin(fiber);
    }
    while (run_to_barrier(block, reversed)) {
    }
  }
}

}  // namespace host_cuda

inline void __syncthreads() { host_cuda::wait(); }

inline int __syncthreads_or(int predicate) {
  host_cuda::current->vote |= predicate != 0 ? 1 : 0;
  host_cuda::wait();
  return host_cuda::current->result;
}
