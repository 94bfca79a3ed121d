// The kernels of shadow_train: images, layers, loss, optimizer. No torch; the tests execute them on the host.
//
// Every one has a one-dimensional grid of blocks_per_model blocks for each model of the batch, and kTrainThreads
// threads. Models without this step or slice are skipped.
#pragma once

#include "train/shadow_train_elementwise.cuh"
#include "train/shadow_train_gradient.cuh"
#include "train/shadow_train_product.cuh"

namespace pydrift {

// The augmented images; zeros in the lanes without a sample.
__global__ void __launch_bounds__(kTrainThreads)
    image_kernel(TrainArguments arguments, Map input, int32_t blocks_per_model) {
  const TrainBlock block(arguments, blocks_per_model);
  const int32_t num_pixels = input.channels * input.plane_size();
  for (int32_t i = 0; i < kElementsPerWarp; ++i) {
    // A warp gets neighbouring pixels, since its lanes read different images: so each reads a cache line repeatedly.
    const int32_t unit = (block.number * kTrainWarps + block.warp) * kElementsPerWarp + i, group = unit / num_pixels;
    if (group >= block.num_groups()) return;
    const MapElement to(input, unit % num_pixels);
    float value = 0.0f;
    if (block.has_sample(group)) {
      const int64_t place = block.place(group);
      const Augmentation augmentation =
          arguments.augmentation == nullptr ? Augmentation{0, 0, 0} : arguments.augmentation[place];
      const int32_t y = to.y - augmentation.down,
                    x = (augmentation.flip ? input.width - 1 - to.x : to.x) - augmentation.right;
      if (y >= 0 && y < input.height && x >= 0 && x < input.width) {
        const int64_t from = arguments.order[place] * int64_t{num_pixels} + (to.c * input.height + y) * input.width + x;
        value =
            arguments.bytes != nullptr ? static_cast<float>(arguments.bytes[from]) / 255.0f : arguments.floats[from];
      }
    }
    block.at(input, group)[to.in(input)] = value;
  }
}

// The loss, and its gradient in the logits: (softmax - smoothed label) / batch size; zero in lanes without a sample.
// One block per model, one warp per group.
__global__ void __launch_bounds__(kTrainThreads) loss_kernel(TrainArguments arguments, Map logits, Map gradients) {
  const TrainBlock block(arguments, 1);
  const int32_t group = block.warp, num_classes = logits.channels, pitch = logits.pitch;
  if (group >= block.num_groups()) return;
  const float* logit = block.at(logits, group);
  float* gradient = block.at(gradients, group);
  const bool used = block.has_sample(group);
  const int32_t label = used ? arguments.label[arguments.order[block.place(group)]] : -1;
  const float share = used ? 1.0f / static_cast<float>(block.run().batch_size) : 0.0f;
  const double smoothing = block.run().label_smoothing;
  const float smoothed = static_cast<float>(smoothing / num_classes), own = static_cast<float>(1.0 - smoothing);
  float largest = logit[0];
  for (int32_t k = 1; k < num_classes; ++k) largest = logit[k * pitch] > largest ? logit[k * pitch] : largest;
  float total = 0.0f, lead = 0.0f,
        sum = 0.0f;  // sum of exponentials; the label's logit, the sum of all logits, each minus the largest
  for (int32_t k = 0; k < num_classes; ++k) {
    const float value = logit[k * pitch] - largest, e = expf(value);
    gradient[k * pitch] = e;
    total += e, sum += value;
    lead = label == k ? value : lead;
  }
  for (int32_t k = 0; k < num_classes; ++k) {
    const float target = (label == k ? own : 0.0f) + smoothed;
    gradient[k * pitch] = (gradient[k * pitch] / total - target) * share;
  }
  if (!used) return;
  arguments.losses[int64_t{block.in_model_batch} * kSliceSamples + group * kWarpSize + block.lane] +=
      log(static_cast<double>(total)) - (1.0 - smoothing) * lead - smoothing / num_classes * sum;
}

// One step of the optimizer on the parameters [begin, begin + count).
template <TrainOptimizer kOptimizer>
__global__ void __launch_bounds__(kTrainThreads)
    optimizer_kernel(TrainArguments arguments, int64_t begin, int64_t count, int32_t blocks_per_model) {
  const TrainBlock block(arguments, blocks_per_model);
  if (block.count == 0) return;
  const OptimizerStep factors = arguments.optimizer_steps[block.run().first_step + arguments.step];
  const float* gradients = block.gradients() + begin;
  const int64_t of_model = block.model * arguments.num_parameters + begin;
  float *parameters = arguments.parameters + of_model, *first = arguments.first_moment + of_model;
  for (int32_t i = 0; i < kParametersPerThread; ++i) {
    const int64_t at = (int64_t{block.number} * kParametersPerThread + i) * kTrainThreads + threadIdx.x;
    if (at >= count) return;
    if constexpr (kOptimizer == TrainOptimizer::kAdam) {
      adam_update(factors, gradients[at], parameters[at], first[at], arguments.second_moment[of_model + at]);
    } else {
      sgd_update(factors, gradients[at], parameters[at], first[at]);
    }
  }
}

// The mean loss of a model over all samples of the call; NaN if it had none. One thread per model.
__global__ void __launch_bounds__(kTrainThreads) mean_loss_kernel(TrainArguments arguments, int32_t num_models) {
  const int32_t in_model_batch = static_cast<int32_t>(blockIdx.x) * kTrainThreads + static_cast<int32_t>(threadIdx.x);
  if (in_model_batch >= num_models) return;
  const DeviceModel& model = arguments.models[arguments.first_model + in_model_batch];
  double total = 0.0;
  for (int32_t i = 0; i < kSliceSamples; ++i) total += arguments.losses[int64_t{in_model_batch} * kSliceSamples + i];
  arguments.loss[arguments.first_model + in_model_batch] =
      static_cast<float>(total / (static_cast<double>(model.num_steps) * model.batch_size));
}

}  // namespace pydrift
