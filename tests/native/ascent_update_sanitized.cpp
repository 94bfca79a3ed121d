// Runs every CPU variant, and the CUDA kernel on the host, over awkward shapes; built with the sanitizers by the tests.
// Exits 0 if nothing is reported and all variants leave the same bits; prints the number of runs.
#include <limits>

#include "host_cuda.h"
#include "sanitized.h"
//
#include "invert/ascent_update_kernel.cuh"
#include "invert/ascent_update_sample.h"

using namespace pydrift;

namespace {

constexpr int kNumSteps = 4;

struct Shape {
  int64_t num_samples;
  int32_t num_channels, height, width;
};

const std::vector<Shape> kShapes = {{1, 1, 1, 1},  {3, 2, 1, 5},   {3, 2, 5, 1},  {2, 1, 2, 2},
                                    {5, 3, 7, 19}, {3, 1, 28, 28}, {2, 3, 33, 35}};

// Exactly sized heap arrays, so that one element too far is seen.
struct State {
  std::vector<float> x, gradient, first, second, log_probability, best_cost;
  std::vector<int32_t> steps_without_improvement, steps;
  std::vector<char> active;
  Shape shape;

  explicit State(const Shape& wanted) : shape(wanted) {
    const int64_t num_samples = shape.num_samples;
    const int64_t num_values = num_samples * shape.num_channels * shape.height * shape.width;
    Random random;
    for (int64_t i = 0; i < num_values; ++i) {
      x.push_back(random());
      gradient.push_back(random() - 0.5f);
    }
    first.assign(num_values, 0.0f);
    second.assign(num_values, 0.0f);
    for (int64_t n = 0; n < num_samples; ++n) log_probability.push_back(-3.0f * random());
    best_cost.assign(num_samples, std::numeric_limits<float>::infinity());
    steps_without_improvement.assign(num_samples, 0);
    steps.assign(num_samples, 0);
    active.assign(num_samples, 1);
    if (num_samples > 2) gradient[num_values - 1] = std::numeric_limits<float>::quiet_NaN();
    if (num_samples > 2) active[0] = 0;
  }

  AscentTensors tensors() {
    return {x.data(),
            gradient.data(),
            first.data(),
            second.data(),
            log_probability.data(),
            best_cost.data(),
            steps_without_improvement.data(),
            steps.data(),
            reinterpret_cast<bool*>(active.data()),
            shape.num_samples,
            shape.num_channels,
            shape.height,
            shape.width};
  }

  bool operator==(const State& other) const {
    return same_bits(x, other.x) && same_bits(first, other.first) && same_bits(second, other.second) &&
           same_bits(best_cost, other.best_cost) &&
           same_bits(steps_without_improvement, other.steps_without_improvement) && same_bits(steps, other.steps) &&
           same_bits(active, other.active);
  }
};

AscentConstants constants_of(Optimizer optimizer) {
  return {optimizer, 0.05, 0.9, 0.999, 0.9f, 0.1f, 0.999f, 0.001f, 1e-8f, 0.02f, 0.002f, 0.0f, 1.0f, 0.9, 3};
}

State after_steps(Simd simd, const Shape& shape, const AscentConstants& constants) {
  State state(shape);
  std::vector<float> scratch(shape.num_channels * shape.height * shape.width);
  for (int step = 0; step < kNumSteps; ++step) {
    for (int64_t n = 0; n < shape.num_samples; ++n) {
      update_sample_for(simd)(state.tensors(), constants, n, scratch.data());
    }
  }
  return state;
}

State after_kernels(const Shape& shape, const AscentConstants& constants, bool reversed) {
  State state(shape);
  const auto kernel = constants.optimizer == Optimizer::kAdam ? ascent_update_kernel<Optimizer::kAdam>
                                                              : ascent_update_kernel<Optimizer::kMomentum>;
  for (int step = 0; step < kNumSteps; ++step) {
    const AscentTensors tensors = state.tensors();
    host_cuda::launch(2, 32, reversed, [&] { kernel(tensors, constants); });
  }
  return state;
}

}  // namespace

int main() {
  Report report;
  for (size_t i = 0; i < kShapes.size(); ++i) {
    for (const Optimizer optimizer : {Optimizer::kAdam, Optimizer::kMomentum}) {
      const AscentConstants constants = constants_of(optimizer);
      const State expected = after_steps(Simd::kScalar, kShapes[i], constants);
      report.run_all(
          [&](Simd simd) { report.check(after_steps(simd, kShapes[i], constants) == expected, simd_name(simd), i); });
      for (const bool reversed : {false, true}) {
        report.check(after_kernels(kShapes[i], constants, reversed) == expected, "kernel", i);
      }
    }
  }
  return report.finish();
}
