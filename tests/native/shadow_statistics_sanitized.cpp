// Runs the statistics loop of every variant over awkward networks; built with the sanitizers by the tests.
// Exits 0 if nothing is reported and AVX2 and AVX-512 leave the same bits; prints the number of runs.
#include "sanitized.h"
//
#include <algorithm>

#include "statistics/shadow_statistics_scratch.h"

using namespace pydrift;

namespace {

constexpr int64_t kNumModels = 2, kNumSamples = 150;  // more than two slices of any variant, the last not full

enum class Output { kStatistics, kMoments, kLogits };

struct Result {
  std::vector<float> margin, loss, confidence, mean, m2, logits;
  std::vector<int32_t> prediction, count;

  explicit Result(const Program& program) {
    for (auto* of_all : {&margin, &loss, &confidence}) of_all->resize(kNumModels * kNumSamples);
    prediction.resize(kNumModels * kNumSamples);
    for (auto* moment : {&mean, &m2}) moment->resize(kNumSides * kNumSamples);
    count.resize(kNumSides * kNumSamples);
    logits.resize(kNumModels * kNumSamples * program.num_classes());
  }

  bool operator==(const Result& other) const {
    return same_bits(margin, other.margin) && same_bits(loss, other.loss) && same_bits(confidence, other.confidence) &&
           same_bits(mean, other.mean) && same_bits(m2, other.m2) && same_bits(logits, other.logits) &&
           same_bits(prediction, other.prediction) && same_bits(count, other.count);
  }
};

// Blocks of two slices, one after the other.
void run_loop(Simd simd, const ShadowTask& task) {
  const Program& program = *task.program;
  const Variant<ShadowWorker>& variant = VariantTable<ShadowWorker>::of(simd);
  const Plan plan = make_plan(program, variant.lanes, variant.rows, Passes::kForward, /*winograd=*/true);
  const PlanView view(plan);
  std::vector<float> weights(kNumModels * plan.num_weights);
  for (int64_t i = 0; i < kNumModels; ++i) {
    pack_weights(plan, task.parameters + i * program.num_parameters, weights.data() + i * plan.num_weights);
  }
  const int32_t block = 2 * plan.num_slots();
  ShadowWorker worker{};
  const ExactScratch<ShadowWorker> scratch(shadow_statistics_scratch(plan, program.input, block), worker);
  worker.task = &task;
  worker.plan = &view;
  worker.weights = weights.data();
  worker.num_weights = plan.num_weights;
  worker.num_models = kNumModels;
  worker.shared_floats = plan.shared_floats;
  for (worker.first_sample = 0; worker.first_sample < kNumSamples; worker.first_sample += block) {
    worker.num_samples = static_cast<int32_t>(std::min<int64_t>(block, kNumSamples - worker.first_sample));
    variant.run(worker);
  }
}

Result run(Simd simd, const Program& program, bool bytes, float scale) {
  Random random;
  const std::vector<float> parameters = random.around_zero(kNumModels * program.num_parameters, scale);
  const std::vector<float> values = random.values(kNumSamples * program.input.size());
  std::vector<uint8_t> pixels;
  for (const float value : values) pixels.push_back(static_cast<uint8_t>(255.0f * value));
  std::vector<int32_t> label;
  for (int64_t n = 0; n < kNumSamples; ++n) label.push_back(static_cast<int32_t>(n % program.num_classes()));
  const auto member = std::make_unique<bool[]>(kNumModels * kNumSamples);
  for (int64_t i = 0; i < kNumModels * kNumSamples; ++i) member[i] = random() < 0.5f;
  Result result(program);
  for (const Output output : {Output::kStatistics, Output::kMoments, Output::kLogits}) {
    ShadowTask task{};
    task.program = &program;
    task.bytes = bytes ? pixels.data() : nullptr;
    task.values = bytes ? nullptr : values.data();
    task.parameters = parameters.data();
    task.num_models = kNumModels, task.num_samples = kNumSamples;
    task.label = output == Output::kLogits ? nullptr : label.data();
    if (output == Output::kStatistics) {
      task.statistics = {result.margin.data(), result.loss.data(), result.confidence.data(), result.prediction.data()};
    } else if (output == Output::kMoments) {
      task.member = member.get();
      task.moments = {result.count.data(), result.mean.data(), result.m2.data()};
    } else {
      task.logits = result.logits.data();
    }
    run_loop(simd, task);
  }
  return result;
}

}  // namespace

int main() {
  Report report;
  for_each_case([&](size_t number, const Program& program) {
    for (const bool bytes : {true, false}) {
      const float scale = bytes ? 1.0f : 1e30f;  // large: logits that are not finite
      report.compare_fused("case", number, [&](Simd simd) { return run(simd, program, bytes, scale); });
    }
  });
  return report.finish();
}
