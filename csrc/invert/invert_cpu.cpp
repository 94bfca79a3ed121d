// invert on the CPU: blocks of restarts in parallel, each by one thread from start to stop.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "invert/ascent_update_sample.h"
#include "invert/invert.h"
#include "invert/invert_worker.h"

namespace pydrift {
namespace {

constexpr size_t kAlignment = 64;

template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t count)
      : data_(static_cast<T*>(::operator new(sizeof(T) * (count + kAlignment), std::align_val_t{kAlignment}))) {
    std::fill_n(data_, count, T{});
  }
  ~Buffer() { ::operator delete(data_, std::align_val_t{kAlignment}); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* data() const { return data_; }

 private:
  T* data_;
};

// The restarts of one model that no thread has taken yet.
struct Queue {
  std::vector<int64_t> samples;
  std::atomic<int64_t> next{0};
  std::vector<float> weights;  // packed by the first thread that comes
  std::once_flag packed;
};

int64_t take_next(void* queue) {
  Queue& q = *static_cast<Queue*>(queue);
  const int64_t i = q.next.fetch_add(1, std::memory_order_relaxed);
  return i < static_cast<int64_t>(q.samples.size()) ? q.samples[i] : -1;
}

// The memory of one thread.
struct Scratch {
  Scratch(const Plan& plan, int64_t num_values)
      : image_pitch(num_values + 2 * plan.lanes),
        shared(plan.shared_floats),
        group(plan.group_floats),
        codes(kMaxGroups * plan.code_bytes),
        slots(plan.num_slots()),
        moments(2 * plan.num_slots() * num_values),
        images(plan.lanes * image_pitch),
        gradient(image_pitch),
        ascent(image_pitch) {}

  int64_t image_pitch;
  Buffer<float> shared, group;
  Buffer<uint8_t> codes;
  Buffer<InvertSlot> slots;
  Buffer<float> moments, images, gradient, ascent;
};

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Places of a block: a thread's share of the restarts in as few blocks as will hold it, and these about equally full.
int32_t choose_slots(const Plan& plan, int64_t num_restarts, int64_t num_threads) {
  const int64_t groups = std::max<int64_t>(1, divide_up(num_restarts, plan.lanes * num_threads));
  return static_cast<int32_t>(plan.lanes * divide_up(groups, divide_up(groups, kMaxGroups)));
}

void run_cpu(const InvertTask& task, int32_t /*device_index*/) {
  const int64_t num_samples = task.num_samples;
  check_range("model", task.model, num_samples, task.num_models);
  check_range("label", task.label, num_samples, task.program->num_classes());
  check_range("restart", task.restart, num_samples, kMaxRestarts);
  const Simd simd = chosen_simd();
  const InvertVariant& variant = invert_variant(simd);
  const Plan plan = make_plan(*task.program, variant.lanes, variant.rows);
  const PlanView view(plan);
  std::vector<Queue> queues(task.num_models);
  for (int64_t n = 0; n < num_samples; ++n) queues[task.model[n]].samples.push_back(n);

  // All memory before the threads: a failure in one of them could not be thrown through torch.
  const int64_t num_threads =
      std::min<int64_t>(torch::stable::get_num_threads(), divide_up(num_samples, variant.lanes));
  const int64_t threads_per_model = std::max<int64_t>(1, num_threads / task.num_models);
  std::vector<std::unique_ptr<Scratch>> scratch;
  for (int64_t i = 0; i < num_threads; ++i) scratch.push_back(std::make_unique<Scratch>(plan, task.values_per_sample()));
  for (Queue& queue : queues) queue.weights.resize(queue.samples.empty() ? 0 : plan.num_weights);

  // A thread begins with models of its own and then helps with the others'.
  torch::stable::parallel_for(0, num_threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) {
      const Scratch& mine = *scratch[thread];
      for (int64_t i = 0; i < task.num_models; ++i) {
        const int64_t model = (i + thread * task.num_models / num_threads) % task.num_models;
        Queue& queue = queues[model];
        if (queue.next >= static_cast<int64_t>(queue.samples.size())) continue;
        const float* parameters = task.parameters + model * task.program->num_parameters;
        std::call_once(queue.packed, [&] { pack_weights(plan, parameters, queue.weights.data()); });
        variant.run({&task, &view, queue.weights.data(), take_next, &queue, update_sample_for(simd), mine.shared.data(),
                     mine.group.data(), mine.codes.data(), plan.code_bytes, mine.slots.data(),
                     choose_slots(plan, static_cast<int64_t>(queue.samples.size()), threads_per_model), mine.moments.data(),
                     mine.images.data(), mine.gradient.data(), mine.ascent.data(), mine.image_pitch});
      }
    }
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pydrift, CPU, m) { m.impl("invert", TORCH_BOX(&invert<run_cpu>)); }

}  // namespace pydrift
