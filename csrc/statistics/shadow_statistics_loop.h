// Some models over a block of samples, one sample per lane, on one thread. No torch.
//
// The images of the block are put into lanes once and stay there for all models.
#pragma once

#include "network/cpu/passes_lanes.h"
#include "statistics/margin_lanes.h"
#include "statistics/shadow_statistics_worker.h"

namespace pydrift {
namespace PYDRIFT_LANES {

inline constexpr int32_t kSliceSize = kMaxGroups * kLanes;

class SampleBlock {
 public:
  explicit SampleBlock(const ShadowWorker& worker)
      : worker_(worker),
        task_(*worker.task),
        plan_(*worker.plan),
        flat_(plan_.input.all_groups),
        num_values_(static_cast<int32_t>(task_.program->input.size())) {}

  void run() const {
    for (int32_t begin = 0; begin < worker_.num_samples; begin += kLanes) {
      if (task_.bytes != nullptr) {
        put_images(begin, task_.bytes);
      } else {
        put_images(begin, task_.values);
      }
    }
    for (int64_t i = 0; i < worker_.num_models; ++i) {
      for (int32_t begin = 0; begin < worker_.num_samples; begin += kSliceSize) run_slice(i, begin);
    }
  }

 private:
  static int32_t at_most(int32_t limit, int32_t count) { return count < limit ? count : limit; }

  int32_t lanes_in_use(int32_t begin) const { return at_most(kLanes, worker_.num_samples - begin); }

  // The maps of the slice that begins at sample `begin` of the block. Where the network begins flat, the first map
  // holds the images and each slice has its own maps. Else images are copied into the map before the pass.
  float* shared(int32_t begin) const {
    return worker_.shared + (flat_ ? begin / kSliceSize * worker_.shared_floats : 0);
  }

  // The images of the group that begins at sample `begin`: value i of each lane at i * image_pitch().
  float* images(int32_t begin) const {
    if (flat_) return shared(begin) + plan_.input.base + begin % kSliceSize;
    return worker_.images + int64_t{begin} * num_values_;
  }
  int32_t image_pitch() const { return flat_ ? plan_.input.pitch : kLanes; }

  static Vec read(const uint8_t* from) { return __builtin_convertvector(load_codes(from), Vec) / 255.0f; }
  static Vec read(const float* from) { return load(from); }

  // Transposes blocks of kLanes values of all lanes.
  template <class Value>
  void put_images(int32_t begin, const Value* from) const {
    from += (worker_.first_sample + begin) * num_values_;
    float* to = images(begin);
    const int32_t num_lanes = lanes_in_use(begin), pitch = image_pitch();
    for (int32_t first = 0; first < num_values_; first += kLanes) {
      const int32_t count = at_most(kLanes, num_values_ - first);
      Vec rows[kLanes];
#pragma GCC unroll 16
      for (int32_t lane = 0; lane < kLanes; ++lane) {
        Value few[kLanes] = {};
        const Value* values = few;
        if (lane < num_lanes) {
          values = from + int64_t{lane} * num_values_ + first;
          if (count < kLanes) values = static_cast<const Value*>(std::memcpy(few, values, count * sizeof(Value)));
        }
        rows[lane] = read(values);
      }
      transpose(rows);
#pragma GCC unroll 16
      for (int32_t i = 0; i < kLanes; ++i) {
        if (i < count) store(to + int64_t{first + i} * pitch, rows[i]);
      }
    }
  }

  // The samples from `begin` on under the i-th model of this worker.
  void run_slice(int64_t i, int32_t begin) const {
    const Network network{plan_, worker_.weights + i * worker_.num_weights, shared(begin), worker_.group, nullptr, 0};
    const int32_t num_samples = at_most(kSliceSize, worker_.num_samples - begin);
    const int32_t num_groups = (num_samples + kLanes - 1) / kLanes;
    forward(network, num_groups, [&](int32_t g) {
      if (flat_) return;
      const float* from = images(begin + g * kLanes);
      float* to = network.at(plan_.input, g);
      for_each_element(plan_.input, plan_.input, [&](int64_t at, int64_t, int32_t, int64_t number) {
        store(to + at, load(from + number * kLanes));
      });
    });
    for (int32_t g = 0; g < num_groups; ++g) {
      keep_statistics(worker_.first_model + i, begin + g * kLanes, network.at(plan_.logits, g));
    }
  }

  void keep_statistics(int64_t model, int32_t begin, const float* logits) const {
    const int64_t first = worker_.first_sample + begin;
    const int32_t num_lanes = lanes_in_use(begin);
    if (task_.logits != nullptr) return keep(logits, model * task_.num_samples + first, num_lanes);
    int32_t label[kLanes] = {};
    std::memcpy(label, task_.label + first, num_lanes * sizeof(label[0]));
    GroupStatistics statistics;
    compute_statistics(logits, plan_.logits.pitch, plan_.num_classes, label, statistics);
    if (task_.member != nullptr) return add_to_moments(model, first, num_lanes, statistics.margin);
    const int64_t to = model * task_.num_samples + first;
    const size_t num_bytes = num_lanes * sizeof(float);
    std::memcpy(task_.statistics.margin + to, statistics.margin, num_bytes);
    std::memcpy(task_.statistics.loss + to, statistics.loss, num_bytes);
    std::memcpy(task_.statistics.confidence + to, statistics.confidence, num_bytes);
    std::memcpy(task_.statistics.prediction + to, statistics.prediction, num_bytes);
  }

  // Writes the logits of the lanes to the rows from `first` on.
  void keep(const float* logits, int64_t first, int32_t num_lanes) const {
    float* row = task_.logits + first * plan_.num_classes;
    for (int32_t lane = 0; lane < num_lanes; ++lane, row += plan_.num_classes) {
      for (int32_t k = 0; k < plan_.num_classes; ++k) row[k] = logits[k * int64_t{plan_.logits.pitch} + lane];
    }
  }

  // Welford's update of each lane's own side. The tensors are the state: a model's whole forward pass lies between two
  // updates of a sample.
  void add_to_moments(int64_t model, int64_t first, int32_t num_lanes, const float (&margins)[kLanes]) const {
    const bool* member = task_.member + model * task_.num_samples + first;
    for (int32_t lane = 0; lane < num_lanes; ++lane) {
      const int64_t at = (member[lane] ? kIn : kOut) * task_.num_samples + first + lane;
      const int32_t count = ++task_.moments.count[at];
      float &mean = task_.moments.mean[at], &m2 = task_.moments.m2[at];
      const float before = margins[lane] - mean;
      mean += before / static_cast<float>(count);
      m2 += before * (margins[lane] - mean);
    }
  }

  const ShadowWorker& worker_;
  const ShadowTask& task_;
  const PlanView& plan_;
  const bool flat_;
  const int32_t num_values_;
};

}  // namespace PYDRIFT_LANES
}  // namespace pydrift
