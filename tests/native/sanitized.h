// What the programs under sanitizers share: awkward networks, exactly sized memory, and the loop over instruction sets.
#pragma once

#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "common/scratch.h"
#include "common/simd.h"
#include "network/program/plan.h"
#include "network/program/program.h"

struct Case {
  pydrift::LayerShape input;
  std::vector<int64_t> program;
};

// Each kind of layer at awkward sizes, alone and fused, and what no plan of an op may trip over.
inline const std::vector<Case> kCases = {
    {{1, 1, 1}, {6}},
    {{1, 1, 1}, {6, 0, 1, 1}},
    {{3, 9, 13}, {6, 0, 351, 10}},
    {{1, 5, 7}, {6, 0, 35, 1, 3, 0, 1, 3}},
    {{1, 8, 8}, {3, 6, 2, 64, 0, 64, 17, 3, 2, 17, 0, 17, 13, 0, 13, 7, 3}},
    {{1, 9, 13}, {1, 1, 5, 3, 3, 1, 1, 1, 1, 3, 4, 2, 2, 2, 2, 0, 0, 6, 0, 120, 4}},
    {{2, 8, 9}, {1, 2, 6, 3, 3, 1, 1, 0, 0, 4, 3, 3, 2, 2, 1, 1, 3, 6, 0, 72, 3}},
    {{3, 11, 8}, {2, 3, 1, 3, 7, 5, 5, 2, 2, 2, 2, 3, 2, 7, 1, 7, 4, 3, 3, 1, 1, 1, 1, 5, 3, 2, 3, 2, 6, 0, 16, 3}},
    {{1, 7, 5}, {1, 1, 3, 5, 3, 2, 1, 1, 0, 1, 3, 9, 1, 1, 3, 2, 4, 3, 6, 0, 180, 2}},
    {{1, 7, 5}, {1, 1, 8, 3, 3, 1, 1, 1, 1, 3, 1, 8, 9, 3, 3, 1, 1, 1, 1, 3, 6, 0, 315, 3}},
    {{1, 6, 7}, {1, 1, 9, 3, 3, 1, 1, 2, 2, 3, 1, 9, 8, 3, 3, 1, 1, 0, 0, 4, 2, 2, 2, 2, 0, 0, 3, 6, 0, 72, 3}},
    {{1, 6, 6}, {4, 3, 3, 1, 1, 1, 1, 5, 6, 6, 1, 1, 1, 1, 17, 1, 1, 1, 1, 0, 0, 6}},
    {{3, 12, 12}, {1, 3, 8, 3, 3, 1, 1, 1, 1, 3, 4, 2, 2, 2, 2, 0,   0,  1, 8, 16, 3,
                   3, 1, 1, 1, 1, 3, 4, 2, 2, 2, 2, 0, 0, 6, 0, 144, 19, 3, 0, 19, 10}},
};

// Numbers in [0, 1) and words of 24 bits, the same at every run.
class Random {
 public:
  uint32_t word() { return (state_ = state_ * 1664525u + 1013904223u) >> 8; }
  float operator()() { return static_cast<float>(word()) / (1 << 24); }

  // scale * [-1/2, 1/2)
  std::vector<float> around_zero(int64_t count, float scale) {
    std::vector<float> values;
    for (int64_t i = 0; i < count; ++i) values.push_back(scale * ((*this)() - 0.5f));
    return values;
  }
  std::vector<float> values(int64_t count) {
    std::vector<float> values;
    for (int64_t i = 0; i < count; ++i) values.push_back((*this)());
    return values;
  }

 private:
  uint32_t state_ = 1;
};

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// The arrays of a worker, each on the heap and exactly sized, so that one element too far is seen.
template <class Worker>
class ExactScratch {
 public:
  ExactScratch(const pydrift::ScratchLayout<Worker>& layout, Worker& worker) {
    for (const auto& array : layout.arrays()) {
      memory_.emplace_back(new char[array.num_bytes]());
      array.point(worker, memory_.back().get());
    }
  }

 private:
  std::vector<std::unique_ptr<char[]>> memory_;
};

// For a worker's `next`: items below `count`, one after the other.
struct Counter {
  int64_t count, next = 0;

  static int64_t take(void* counter) {
    Counter& c = *static_cast<Counter*>(counter);
    return c.next < c.count ? c.next++ : -1;
  }
};

// Counts runs and keeps what went wrong first.
class Report {
 public:
  // run(simd) for every instruction set of this processor.
  template <class Run>
  void run_all(Run run) {
    for (const pydrift::Simd simd : pydrift::kAllSimd) {
      if (!pydrift::simd_supported(simd)) continue;
      run(simd);
      ++num_runs_;
    }
  }

  // Whose results of AVX2 and AVX-512 must be equal.
  template <class Run>
  void compare_fused(const char* what, size_t number, Run run) {
    std::vector<decltype(run(pydrift::Simd::kScalar))> of_fused;
    run_all([&](pydrift::Simd simd) {
      auto result = run(simd);
      if (simd != pydrift::Simd::kScalar) of_fused.push_back(std::move(result));
    });
    check(of_fused.size() < 2 || of_fused[0] == of_fused[1], what, number);
  }

  void check(bool holds, const char* what, size_t number) {
    if (!holds && !failed_) std::printf("%s %zu: the variants differ\n", what, number);
    failed_ |= !holds;
  }

  // The exit status.
  int finish() const {
    if (!failed_) std::printf("%d runs\n", num_runs_);
    return failed_ ? 1 : 0;
  }

 private:
  int num_runs_ = 0;
  bool failed_ = false;
};

// work(number, program) for every case.
template <class Work>
void for_each_case(Work work) {
  for (size_t i = 0; i < kCases.size(); ++i) {
    work(i, pydrift::parse_program(kCases[i].program.data(), kCases[i].program.size(), kCases[i].input));
  }
}
