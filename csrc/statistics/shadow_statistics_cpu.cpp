// shadow_statistics, shadow_moments and shadow_logits on the CPU: blocks of samples in parallel, and models too where
// samples are few.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>

#include "common/memory.h"
#include "statistics/shadow_statistics.h"
#include "statistics/shadow_statistics_scratch.h"

namespace pydrift {
namespace {

constexpr int64_t kMaxSlices = 8;                      // of a block: enough to use weights again while they are cached
constexpr int64_t kMaxBlockBytes = int64_t{16} << 20;  // of a thread, where possible
constexpr int64_t kWeightBytes = int64_t{16} << 20;    // of the packed models: they stay in the last-level cache
constexpr int64_t kTasksPerThread = 4;                 // so that no thread waits long for the last one

// How the work is divided. No result depends on it.
struct Cut {
  int64_t num_threads;
  int64_t models;   // that are packed at a time
  int64_t samples;  // of a block
  int64_t parts;    // of the models, each a task for every block
};

int64_t slice_floats(const Plan& plan, const LayerShape& image) {
  return plan.input.all_groups ? plan.shared_floats : plan.num_slots() * image.size();
}

Cut choose_cut(const ShadowTask& task, const Plan& plan) {
  Cut cut;
  cut.num_threads = std::max<int64_t>(1, torch::stable::get_num_threads());
  const int64_t model_bytes = std::max<int64_t>(1, plan.num_weights * sizeof(float));
  const int64_t num_tasks = cut.num_threads == 1 ? 1 : cut.num_threads * kTasksPerThread;
  cut.models = std::min(task.num_models, std::max(kWeightBytes / model_bytes, cut.num_threads));
  // The moments of a sample belong to one thread, since they depend on the order of the models.
  const bool whole = task.member != nullptr;
  const int64_t unit = whole ? plan.lanes : plan.num_slots();
  const int64_t slice_bytes = slice_floats(plan, task.program->input) * sizeof(float);
  const int64_t most = std::clamp<int64_t>(kMaxBlockBytes / slice_bytes, 1, kMaxSlices) * plan.num_slots();
  cut.samples = std::min(most, divide_up(divide_up(task.num_samples, num_tasks), unit) * unit);
  const int64_t num_blocks = divide_up(task.num_samples, cut.samples);
  cut.parts = whole ? 1 : std::min(cut.models, divide_up(num_tasks, num_blocks));
  cut.num_threads = std::min(cut.num_threads, num_blocks * cut.parts);
  return cut;
}

// function(i) for all i below `count`, each by the thread that comes first.
template <class Function>
void share_out(int64_t num_threads, int64_t count, Function function) {
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, num_threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) {
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) function(thread, i);
    }
  });
}

void run_cpu(const ShadowTask& task, const char* op, int32_t /*device_index*/) {
  if (task.label != nullptr) check_range(op, "label", task.label, task.num_samples, task.program->num_classes());
  const Variant<ShadowWorker>& variant = VariantTable<ShadowWorker>::of(chosen_simd());
  const Plan plan = refuse_as(
      op, [&] { return make_plan(*task.program, variant.lanes, variant.rows, Passes::kForward, /*winograd=*/true); });
  const PlanView view(plan);
  const Cut cut = choose_cut(task, plan);
  const ScratchPool<ShadowWorker> scratch(shadow_statistics_scratch(plan, task.program->input, cut.samples),
                                          cut.num_threads);
  const Memory memory(cut.models * plan.num_weights * sizeof(float));
  float* weights = memory.at<float>(0);
  const int64_t num_blocks = divide_up(task.num_samples, cut.samples);
  for (int64_t first = 0; first < task.num_models; first += cut.models) {
    const int64_t num_models = std::min(cut.models, task.num_models - first);
    share_out(cut.num_threads, num_models, [&](int64_t, int64_t i) {
      pack_weights(plan, task.parameters + (first + i) * task.program->num_parameters, weights + i * plan.num_weights);
    });
    share_out(cut.num_threads, num_blocks * cut.parts, [&](int64_t thread, int64_t i) {
      const int64_t block = i / cut.parts, part = i % cut.parts;
      const int64_t begin = part * num_models / cut.parts, end = (part + 1) * num_models / cut.parts;
      ShadowWorker worker{};
      worker.task = &task;
      worker.plan = &view;
      worker.weights = weights + begin * plan.num_weights;
      worker.num_weights = plan.num_weights;
      worker.first_model = first + begin;
      worker.num_models = end - begin;
      worker.first_sample = block * cut.samples;
      worker.num_samples = static_cast<int32_t>(std::min(cut.samples, task.num_samples - worker.first_sample));
      worker.shared_floats = plan.shared_floats;
      scratch.lend(thread, worker);
      variant.run(worker);
    });
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydrift, CPU, m) {
  m.impl("shadow_statistics", TORCH_BOX(&shadow_statistics<run_cpu>));
  m.impl("shadow_moments", TORCH_BOX(&shadow_moments<run_cpu>));
  m.impl("shadow_logits", TORCH_BOX(&shadow_logits<run_cpu>));
}

}  // namespace pydrift
