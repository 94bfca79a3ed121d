// The block of a kernel of shadow_train: its model, its samples, their memory. No torch.
#pragma once

#include "train/shadow_train_device.h"

namespace pydrift {

struct TrainBlock {
  const TrainArguments& arguments;
  int32_t number;          // of the block, counted within its model
  int32_t in_model_batch;  // number of the model within the batch
  int32_t model;           // its number among all models
  int32_t count;           // samples of the slice; 0: the block has nothing to do
  int32_t warp, lane;

  __device__ TrainBlock(const TrainArguments& given, int32_t blocks_per_model)
      : arguments(given),
        number(static_cast<int32_t>(blockIdx.x) % blocks_per_model),
        in_model_batch(static_cast<int32_t>(blockIdx.x) / blocks_per_model),
        model(arguments.first_model + in_model_batch),
        count(0),
        warp(static_cast<int32_t>(threadIdx.x) / kWarpSize),
        lane(static_cast<int32_t>(threadIdx.x) % kWarpSize) {
    if (arguments.step < run().num_steps) count = run().batch_size - arguments.slice * kSliceSamples;
    count = count < 0 ? 0 : (count < kSliceSamples ? count : kSliceSamples);
  }

  __device__ const DeviceModel& run() const { return arguments.models[model]; }
  __device__ int32_t num_groups() const { return (count + kWarpSize - 1) / kWarpSize; }
  // Where the lane's sample of a group is in `order` and `augmentation`.
  __device__ int64_t place(int32_t group) const {
    return run().order + int64_t{arguments.step} * run().batch_size + arguments.slice * kSliceSamples +
           group * kWarpSize + lane;
  }
  __device__ bool has_sample(int32_t group) const { return group * kWarpSize + lane < count; }

  __device__ const float* parameters() const { return arguments.parameters + model * arguments.num_parameters; }
  __device__ float* gradients() const { return arguments.gradients + in_model_batch * arguments.num_parameters; }

  // The lane's own element (0, 0, 0) of a map.
  __device__ float* at(const Map& map, int32_t group) const {
    float* memory = map.all_groups
                        ? arguments.shared + in_model_batch * arguments.shared_floats + group * kWarpSize
                        : arguments.groups + (int64_t{in_model_batch} * kMaxGroups + group) * arguments.group_floats;
    return memory + map.base + lane;
  }

  __device__ uint8_t* codes_at(int64_t codes, int32_t group) const {
    return arguments.codes + (int64_t{in_model_batch} * kMaxGroups + group) * arguments.code_bytes + codes + lane;
  }
};

__device__ __forceinline__ float rectified(float value) { return value < 0.0f ? 0.0f : value; }  // NaN stays

}  // namespace pydrift
