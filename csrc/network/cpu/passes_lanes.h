// Forward pass and data gradient of a whole network for the groups of one thread. No torch.
#pragma once

#include "network/cpu/conv_lanes.h"
#include "network/cpu/pointwise_lanes.h"

namespace pydrift {
namespace PYDRIFT_LANES {

inline void linear_forward(const Network& network, const Stage& stage, int32_t num_groups) {
  const bool relu = stage.relu;
  run_flat(
      stage.forward, network.weights, network.plan.offsets, network.at(stage.in, 0), network.at(stage.out, 0),
      stage.out.plane,
      num_groups, [relu](Vec sum) __attribute__((always_inline)) { return relu ? rectified(sum) : sum; });
}

// Linear with ReLU: its output is above zero exactly where the ReLU let it through.
inline void mask_by_output(const Network& network, const Stage& stage, int32_t num_groups) {
  float* gradient = network.at(stage.out_gradient, 0);
  const float* out = network.at(stage.out, 0);
  for_each_element(stage.out, stage.out_gradient, [&](int64_t from, int64_t to, int32_t, int64_t) {
    for (int32_t g = 0; g < num_groups; ++g) {
      const int64_t lane = g * kLanes;
      store(gradient + to + lane, load(out + from + lane) > Vec{} ? load(gradient + to + lane) : Vec{});
    }
  });
}

inline void linear_backward(const Network& network, const Stage& stage, int32_t num_groups) {
  if (stage.relu) mask_by_output(network, stage, num_groups);
  run_flat(
      network.plan.backward[stage.first_backward], network.weights, network.plan.offsets,
      network.at(stage.out_gradient, 0), network.at(stage.in_gradient, 0), stage.in_gradient.plane, num_groups,
      [](Vec sum) __attribute__((always_inline)) { return sum; });
}

inline void stage_forward(const Network& network, const Stage& stage, int32_t g) {
  switch (stage.kind) {
    case StageKind::kConv:
      return conv_forward(network, stage, g);
    case StageKind::kAffine:
      return affine_forward(network, stage, g);
    case StageKind::kRelu:
      return relu_forward(network, stage, g);
    case StageKind::kMaxPool:
      return max_pool_forward(network, stage, g);
    case StageKind::kAvgPool:
      return avg_pool_forward(network, stage, g);
    case StageKind::kLinear:
      return;  // for all groups at once
  }
}

inline void stage_backward(const Network& network, const Stage& stage, int32_t g) {
  switch (stage.kind) {
    case StageKind::kConv:
      return conv_backward(network, stage, g);
    case StageKind::kAffine:
      return affine_backward(network, stage, g);
    case StageKind::kRelu:
      return relu_backward(network, stage, g);
    case StageKind::kMaxPool:
      return max_pool_backward(network, stage, g);
    case StageKind::kAvgPool:
      return avg_pool_backward(network, stage, g);
    case StageKind::kLinear:
      return;  // for all groups at once
  }
}

// The stages before the first flat one run for one group after the other. The first flat stage needs all groups.
inline int32_t first_flat_stage(const PlanView& plan) {
  int32_t i = 0;
  while (i < plan.num_stages && !plan.stages[i].in.all_groups) ++i;
  return i;
}

// prepare(g) puts the images of group g into plan.input; linear(stage) runs a linear layer for all groups; afterwards
// plan.logits hold all groups.
template <class Prepare, class Linear>
PYDRIFT_INLINE void forward_through(const Network& network, int32_t num_groups, Prepare prepare, Linear linear) {
  const PlanView& plan = network.plan;
  const int32_t first_flat = first_flat_stage(plan);
  for (int32_t g = 0; g < num_groups; ++g) {
    prepare(g);
    for (int32_t i = 0; i < first_flat; ++i) stage_forward(network, plan.stages[i], g);
  }
  for (int32_t i = first_flat; i < plan.num_stages; ++i) {
    const Stage& stage = plan.stages[i];
    if (stage.kind == StageKind::kLinear) {
      linear(stage);
    } else {
      for (int32_t g = 0; g < num_groups; ++g) stage_forward(network, stage, g);
    }
  }
}

template <class Prepare>
inline void forward(const Network& network, int32_t num_groups, Prepare prepare) {
  forward_through(network, num_groups, prepare,
                  [&](const Stage& stage) { linear_forward(network, stage, num_groups); });
}

// From plan.logits_gradient; consume(g) finds the gradient of group g in plan.input_gradient.
template <class Consume>
inline void backward(const Network& network, int32_t num_groups, Consume consume) {
  const PlanView& plan = network.plan;
  const int32_t first_flat = first_flat_stage(plan);
  for (int32_t i = plan.num_stages - 1; i >= first_flat; --i) {
    const Stage& stage = plan.stages[i];
    if (stage.kind == StageKind::kLinear) {
      linear_backward(network, stage, num_groups);
    } else {
      for (int32_t g = 0; g < num_groups; ++g) stage_backward(network, stage, g);
    }
  }
  for (int32_t g = 0; g < num_groups; ++g) {
    for (int32_t i = first_flat - 1; i >= 0; --i) stage_backward(network, plan.stages[i], g);
    consume(g);
  }
}

}  // namespace PYDRIFT_LANES
}  // namespace pydrift
