// Runs every CPU variant, and the CUDA kernel on the host, over awkward shapes; built with the sanitizers by the tests.
// Exits 0 if nothing is reported and all variants leave the same bits; prints the number of comparisons.
#include <cstdio>
#include <cstring>
#include <limits>
#include <vector>

#include "host_cuda.h"
#include "invert/ascent_update_kernel.cuh"
#include "invert/ascent_update_sample.h"

using namespace pydrift;

namespace {

struct Shape {
  int64_t num_samples;
  int32_t num_channels, height, width;
};

// Exactly sized heap arrays, so that one element too far is seen.
struct State {
  std::vector<float> x, gradient, first, second, log_probability, best_cost;
  std::vector<int32_t> steps_without_improvement, steps;
  std::vector<char> active;
  Shape shape;

  explicit State(const Shape& wanted) : shape(wanted) {
    const int64_t num_samples = shape.num_samples;
    const int64_t num_values = num_samples * shape.num_channels * shape.height * shape.width;
    uint32_t state = 1;
    const auto random = [&] { return static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) / (1 << 24); };
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
};

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

bool same_bits(const State& a, const State& b) {
  return same_bits(a.x, b.x) && same_bits(a.first, b.first) && same_bits(a.second, b.second) &&
         same_bits(a.best_cost, b.best_cost) && same_bits(a.steps_without_improvement, b.steps_without_improvement) &&
         same_bits(a.steps, b.steps) && same_bits(a.active, b.active);
}

AscentConstants options_of(Optimizer optimizer) {
  return {optimizer, 0.05, 0.9, 0.999, 0.9f, 0.1f, 0.999f, 0.001f, 1e-8f, 0.02f, 0.002f, 0.0f, 1.0f, 0.9, 3};
}

void run_kernel(State& state, const AscentConstants& options, uint32_t num_threads, bool reversed) {
  const AscentTensors tensors = state.tensors();
  const auto kernel = options.optimizer == Optimizer::kAdam ? ascent_update_kernel<Optimizer::kAdam>
                                                            : ascent_update_kernel<Optimizer::kMomentum>;
  host_cuda::launch(2, num_threads, reversed, [&] { kernel(tensors, options); });
}

}  // namespace

int main() {
  constexpr int kNumSteps = 4;
  int num_compared = 0;
  for (const Shape& shape : {Shape{1, 1, 1, 1}, Shape{3, 2, 1, 5}, Shape{3, 2, 5, 1}, Shape{2, 1, 2, 2},
                             Shape{5, 3, 7, 19}, Shape{3, 1, 28, 28}, Shape{2, 3, 33, 35}}) {
    for (const Optimizer optimizer : {Optimizer::kAdam, Optimizer::kMomentum}) {
      const AscentConstants options = options_of(optimizer);
      std::vector<float> scratch(shape.num_channels * shape.height * shape.width);
      State expected(shape);
      for (int step = 0; step < kNumSteps; ++step) {
        for (int64_t n = 0; n < shape.num_samples; ++n) {
          update_sample_scalar(expected.tensors(), options, n, scratch.data());
        }
      }
      for (const Simd simd : kAllSimd) {
        if (!simd_supported(simd)) continue;
        State state(shape);
        for (int step = 0; step < kNumSteps; ++step) {
          for (int64_t n = 0; n < shape.num_samples; ++n) {
            update_sample_for(simd)(state.tensors(), options, n, scratch.data());
          }
        }
        ++num_compared;
        if (!same_bits(state, expected)) return std::printf("%s differs from scalar\n", simd_name(simd)), 1;
      }
      for (const bool reversed : {false, true}) {
        State state(shape);
        for (int step = 0; step < kNumSteps; ++step) run_kernel(state, options, 32, reversed);
        ++num_compared;
        if (!same_bits(state, expected)) return std::printf("the kernel differs, reversed=%d\n", reversed), 1;
      }
    }
  }
  std::printf("%d comparisons\n", num_compared);
}
