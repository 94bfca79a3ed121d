// The ascent_update kernel for ctypes: the CUDA source, executed on the host.
#include "host_network.h"
//
#include "invert/ascent_update_kernel.cuh"

using namespace pydrift;

// Returns null, or what went wrong: a barrier that not all threads reach.
extern "C" const char* run_ascent_update_kernel(const AscentTensors* tensors, const AscentConstants* constants,
                                                uint32_t num_blocks, uint32_t num_threads, bool reversed) {
  const auto kernel = constants->optimizer == Optimizer::kAdam ? ascent_update_kernel<Optimizer::kAdam>
                                                               : ascent_update_kernel<Optimizer::kMomentum>;
  return message_of(
      [&] { host_cuda::launch(num_blocks, num_threads, reversed, [&] { kernel(*tensors, *constants); }); });
}
