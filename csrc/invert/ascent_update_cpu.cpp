// ascent_update on the CPU: samples in parallel, each by one thread, so the result does not depend on the thread count.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <memory>

#include "invert/ascent_update.h"
#include "invert/ascent_update_sample.h"

namespace pydrift {
namespace {

constexpr int64_t kValuesPerTask = 1 << 14;  // about 10 us of work, well above the cost of waking a thread

void run_cpu(const AscentTensors& tensors, const AscentConstants& constants, int32_t /*device_index*/) {
  const UpdateSample update = update_sample_for(chosen_simd());
  const int64_t samples_per_task = std::max<int64_t>(1, kValuesPerTask / tensors.values_per_sample());
  torch::stable::parallel_for(0, tensors.num_samples, samples_per_task, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> scratch(new float[tensors.values_per_sample()]);
    for (int64_t sample = begin; sample < end; ++sample) update(tensors, constants, sample, scratch.get());
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydrift, CPU, m) { m.impl("ascent_update", TORCH_BOX(&AscentUpdateOp<run_cpu>::call)); }

}  // namespace pydrift
