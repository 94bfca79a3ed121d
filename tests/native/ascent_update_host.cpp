// The ascent_update kernel for ctypes: the CUDA source, executed on the host.
#include "host_cuda.h"
#include "invert/ascent_update_kernel.cuh"

using namespace pydrift;

extern "C" int run_ascent_update_kernel(const AscentTensors* tensors, const AscentConstants* options,
                                        uint32_t num_blocks, uint32_t num_threads, bool reversed) {
  const auto kernel = options->optimizer == Optimizer::kAdam ? ascent_update_kernel<Optimizer::kAdam>
                                                             : ascent_update_kernel<Optimizer::kMomentum>;
  try {
    host_cuda::launch(num_blocks, num_threads, reversed, [&] { kernel(*tensors, *options); });
  } catch (const std::logic_error&) {
    return 1;
  }
  return 0;
}
