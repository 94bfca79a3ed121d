// Work on many models by many threads: a queue per model, and weights that are packed once. No torch.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "common/memory.h"
#include "common/scratch.h"
#include "network/cpu/variant.h"
#include "network/program/plan.h"

namespace pydrift {

// The items of one model that no thread has taken yet.
struct ModelQueue {
  std::vector<int64_t> items;
  std::atomic<int64_t> next{0};
  std::unique_ptr<Memory> memory;  // of the packed weights
  std::once_flag packed;

  bool is_through() const { return next >= static_cast<int64_t>(items.size()); }

  // For a worker's `next`: an item, or -1.
  static int64_t take(void* queue) {
    ModelQueue& q = *static_cast<ModelQueue*>(queue);
    const int64_t i = q.next.fetch_add(1, std::memory_order_relaxed);
    return i < static_cast<int64_t>(q.items.size()) ? q.items[i] : -1;
  }
};

class ModelQueues {
 public:
  // Items 0, 1, ... of the models `model` [count]. Allocates the memory for the weights, since a thread could not
  // throw.
  ModelQueues(const Plan& plan, const int32_t* model, int64_t count, int64_t num_models)
      : plan_(plan), queues_(num_models) {
    for (int64_t n = 0; n < count; ++n) queues_[model[n]].items.push_back(n);
    for (ModelQueue& queue : queues_) {
      if (!queue.items.empty()) queue.memory = std::make_unique<Memory>(sizeof(float) * plan.num_weights);
    }
  }

  std::vector<ModelQueue>& all() { return queues_; }

  // work(queue, weights) for every model that has items left, beginning with the thread's own share of the models;
  // then it helps with the others'. parameters: [models, num_parameters]
  template <class Work>
  void serve(int64_t thread, int64_t num_threads, const float* parameters, int64_t num_parameters, Work work) {
    const int64_t num_models = static_cast<int64_t>(queues_.size());
    for (int64_t i = 0; i < num_models; ++i) {
      const int64_t model = (i + thread * num_models / num_threads) % num_models;
      ModelQueue& queue = queues_[model];
      if (queue.is_through()) continue;
      float* weights = queue.memory->at<float>(0);
      std::call_once(queue.packed, [&] { pack_weights(plan_, parameters + model * num_parameters, weights); });
      work(queue, weights);
    }
  }

 private:
  const Plan& plan_;
  std::vector<ModelQueue> queues_;
};

// How many threads have work where there are `num_threads`.
inline int64_t threads_for(const Plan& plan, int64_t num_items, int64_t num_threads) {
  return std::min(num_threads, divide_up<int64_t>(num_items, plan.lanes));
}

// Slots of a block: a thread's share of the items in as few blocks as will hold it, and these about equally full.
inline int32_t choose_slots(const Plan& plan, int64_t num_items, int64_t num_threads) {
  const int64_t groups = std::max<int64_t>(1, divide_up<int64_t>(num_items, plan.lanes * num_threads));
  return static_cast<int32_t>(plan.lanes * divide_up<int64_t>(groups, divide_up<int64_t>(groups, kMaxGroups)));
}

// All items of all queues, by a loop whose slots take the next item as soon as theirs has ended.
template <class Task, class Worker>
class QueueRun {
 public:
  QueueRun(const Task& task, const Plan& plan, const Variant<Worker>& variant, const ScratchPool<Worker>& scratch,
           ModelQueues& queues, int64_t num_threads)
      : task_(task),
        plan_(plan),
        view_(plan),
        variant_(variant),
        scratch_(scratch),
        queues_(queues),
        num_threads_(num_threads) {}

  // The part of one thread.
  void operator()(int64_t thread) const {
    const int64_t threads_per_model = std::max<int64_t>(1, num_threads_ / task_.num_models);
    const auto run = [&](ModelQueue& queue, const float* weights) {
      Worker worker{};
      worker.task = &task_;
      worker.plan = &view_;
      worker.weights = weights;
      worker.next = ModelQueue::take;
      worker.queue = &queue;
      worker.code_bytes = plan_.code_bytes;
      worker.num_slots = choose_slots(plan_, static_cast<int64_t>(queue.items.size()), threads_per_model);
      scratch_.lend(thread, worker);
      variant_.run(worker);
    };
    queues_.serve(thread, num_threads_, task_.parameters, task_.program->num_parameters, run);
  }

 private:
  const Task& task_;
  const Plan& plan_;
  const PlanView view_;
  const Variant<Worker>& variant_;
  const ScratchPool<Worker>& scratch_;
  ModelQueues& queues_;
  const int64_t num_threads_;
};

}  // namespace pydrift
