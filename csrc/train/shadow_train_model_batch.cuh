// The launches for a batch of models, from their first step of the call to their last. Host code; no torch.
#pragma once

#include <algorithm>
#include <vector>

#include "train/shadow_train_kernel.cuh"
#include "train/shadow_train_launch.h"

namespace pydrift {

// launch(kernel, number of blocks of kTrainThreads, arguments...) enqueues a kernel.
template <class Launch>
class ModelBatchTrainer {
 public:
  ModelBatchTrainer(const Plan& plan, TrainOptimizer optimizer, const std::vector<DeviceModel>& models, Launch launch)
      : plan_(plan), optimizer_(optimizer), models_(models), ranges_(learning_ranges(plan)), launch_(launch) {
    while (!plan.stages[first_with_weights_].has_weights()) ++first_with_weights_;
  }

  // The models [first_model, first_model + num_models); the memory in `arguments` is zero.
  void run(const TrainArguments& arguments, int32_t first_model, int32_t num_models) {
    arguments_ = arguments, num_models_ = num_models;
    arguments_.first_model = first_model;
    for (int32_t step = 0; const int32_t largest_batch = largest_batch_of(step); ++step) {
      arguments_.step = step;
      const int32_t num_slices = (largest_batch - 1) / kSliceSamples + 1;
      for (int32_t slice = 0; slice < num_slices; ++slice) {
        arguments_.slice = slice;
        learn_slice(std::min(kSliceSamples, largest_batch - slice * kSliceSamples));
      }
      arguments_.slice = 0;  // which all models have
      update();
    }
    launch_(mean_loss_kernel, count_blocks(num_models, kTrainThreads), arguments_, num_models);
  }

 private:
  // Of the models of the batch; 0: none has such a step.
  int32_t largest_batch_of(int32_t step) const {
    int32_t largest = 0;
    for (int32_t i = 0; i < num_models_; ++i) {
      const DeviceModel& model = models_[arguments_.first_model + i];
      if (step < model.num_steps) largest = std::max(largest, model.batch_size);
    }
    return largest;
  }

  // kernel(arguments, pass..., blocks_per_model) for all models
  template <class Kernel, class... Pass>
  void for_models(Kernel kernel, int32_t blocks_per_model, const Pass&... pass) {
    launch_(kernel, num_models_ * blocks_per_model, arguments_, pass..., blocks_per_model);
  }

  // num_samples: what the largest slice has
  void learn_slice(int32_t num_samples) {
    const Map& input = plan_.input;
    const int32_t num_stages = static_cast<int32_t>(plan_.stages.size());
    num_groups_ = count_blocks(num_samples, kWarpSize);
    for_models(image_kernel, elementwise_blocks(input), input);
    for (int32_t i = 0; i < num_stages; ++i) forward(plan_.stages[i]);
    launch_(loss_kernel, num_models_, arguments_, plan_.logits, plan_.logits_gradient);
    for (int32_t i = num_stages - 1; i >= first_with_weights_; --i) backward(plan_.stages[i]);
  }

  void update() {
    const auto kernel = optimizer_ == TrainOptimizer::kAdam ? optimizer_kernel<TrainOptimizer::kAdam>
                                                            : optimizer_kernel<TrainOptimizer::kSgd>;
    for (const LearningRange& range : ranges_) {
      const int64_t count = range.end - range.begin;
      for_models(kernel, count_blocks(static_cast<int32_t>(count), kTrainThreads * kParametersPerThread), range.begin,
                 count);
    }
  }

  void forward(const Stage& stage) {
    if (!stage.has_weights()) return elementwise_pass(stage, ElementwisePass::kForward, stage.out);
    const ProductPass pass{stage.forward, stage.in,   stage.out,   stage.bias_parameters,
                           stage.codes,   stage.relu, stage.pooled};
    product(stage, pass);
  }

  void backward(const Stage& stage) {
    if (!stage.has_weights()) return elementwise_pass(stage, ElementwisePass::kBackward, stage.in_gradient);
    if (stage.kind == StageKind::kLinear && stage.relu)
      elementwise_pass(stage, ElementwisePass::kMask, stage.out_gradient);
    weight_gradient(stage);
    if (stage.num_backward == 0) return;
    const bool conv = stage.kind == StageKind::kConv;
    if (conv) elementwise_pass(stage, ElementwisePass::kSpread, stage.out_gradient);
    for (int32_t i = 0; i < stage.num_backward; ++i) {
      const ProductPass pass{plan_.backward[stage.first_backward + i],
                             conv ? stage.spread : stage.out_gradient,
                             stage.in_gradient,
                             -1,
                             -1,
                             false,
                             false};
      product(stage, pass);
    }
  }

  void product(const Stage& stage, const ProductPass& pass) {
    const int32_t num_columns = pass.dense.num_tiles * num_groups_;
    const int32_t num_blocks =
        count_blocks(pass.dense.num_outputs, kProductRows) * count_blocks(num_columns, kTileWarps);
    for_models(stage.kind == StageKind::kConv ? product_kernel<kTileSize> : product_kernel<1>, num_blocks, pass);
  }

  void weight_gradient(const Stage& stage) {
    const Map& gradient = stage.out_gradient;
    const GradientPass pass{stage.forward,        stage.in, gradient, stage.codes, gradient.plane_size(),
                            stage.bias_parameters};
    const int32_t num_term_blocks =
        count_blocks(stage.forward.num_terms, kGradientTerms * count_term_warps(stage.forward.num_terms));
    const int32_t num_blocks = count_blocks(stage.forward.num_outputs, kGradientRows) * num_term_blocks;
    for_models(stage.pooled ? gradient_kernel<kTileSize> : gradient_kernel<1>, num_blocks, pass);
  }

  void elementwise_pass(const Stage& stage, ElementwisePass pass, const Map& elements) {
    for_models(elementwise_kernel, elementwise_blocks(elements), stage, pass, elements);
  }

  int32_t elementwise_blocks(const Map& elements) const {
    return count_blocks(num_groups_ * elements.channels * elements.plane_size(), kElementsPerWarp * kTrainWarps);
  }

  const Plan& plan_;
  const TrainOptimizer optimizer_;
  const std::vector<DeviceModel>& models_;
  const std::vector<LearningRange> ranges_;
  Launch launch_;
  int32_t first_with_weights_ = 0;
  TrainArguments arguments_{};
  int32_t num_models_ = 0, num_groups_ = 0;
};

}  // namespace pydrift
