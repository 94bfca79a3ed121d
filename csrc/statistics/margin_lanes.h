// Margin, loss, confidence and arg-max of the logits of one group, one sample per lane. No torch.
//
// In float64, since a margin is a difference that may almost cancel and a loss may be 1e-30. With + - * / only, so that
// every instruction set gives the same bits. This costs little compared to the products of a network.
#pragma once

#include "network/cpu/network_lanes.h"

namespace pydrift {
namespace PYDRIFT_LANES {

inline constexpr int32_t kHalf = kLanes / 2;

using HalfVec = float __attribute__((vector_size(4 * kHalf)));
using HalfInt = int32_t __attribute__((vector_size(4 * kHalf)));
using DoubleVec = double __attribute__((vector_size(8 * kHalf)));
using LongVec = int64_t __attribute__((vector_size(8 * kHalf)));
using BitsVec = uint64_t __attribute__((vector_size(8 * kHalf)));

PYDRIFT_INLINE DoubleVec load_wide(const float* from) {
  HalfVec v;
  std::memcpy(&v, from, sizeof(v));
  return __builtin_convertvector(v, DoubleVec);
}

PYDRIFT_INLINE void store_narrow(float* to, DoubleVec v) {
  const HalfVec half = __builtin_convertvector(v, HalfVec);
  std::memcpy(to, &half, sizeof(half));
}

PYDRIFT_INLINE LongVec load_wide(const int32_t* from) {
  HalfInt v;
  std::memcpy(&v, from, sizeof(v));
  return __builtin_convertvector(v, LongVec);
}

PYDRIFT_INLINE BitsVec bits_of(DoubleVec v) {
  BitsVec bits;
  std::memcpy(&bits, &v, sizeof(bits));
  return bits;
}

PYDRIFT_INLINE DoubleVec double_of(BitsVec bits) {
  DoubleVec v;
  std::memcpy(&v, &bits, sizeof(v));
  return v;
}

// exp(x) for x <= 0, to 1e-12 of it; below -700 that of -700, which is 0 as a float32.
PYDRIFT_INLINE DoubleVec wide_exponential(DoubleVec x) {
  constexpr double kLog2e = 1.4426950408889634, kRound = 6755399441055744.0;  // 1.5 * 2^52 rounds to an integer
  const DoubleVec clipped = x > -700.0 ? x : -700.0 - DoubleVec{};
  const DoubleVec rounded = clipped * kLog2e + kRound, n = rounded - kRound;
  const DoubleVec r = (clipped - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10;
  DoubleVec p = 1.0 / 3628800.0 - DoubleVec{};
  constexpr double kInverseFactorials[] = {1.0 / 362880.0, 1.0 / 40320.0, 1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0,
                                           1.0 / 24.0,     1.0 / 6.0,     0.5,          1.0,         1.0};
  for (const double coefficient : kInverseFactorials) p = p * r + coefficient;
  return p * double_of((bits_of(rounded) + 1023) << 52);
}

// log(x) for normal x > 0, to 1e-12 of it: x = 2^e m with m between sqrt(1/2) and sqrt(2), log m = 2 artanh s.
PYDRIFT_INLINE DoubleVec wide_logarithm(DoubleVec x) {
  constexpr uint64_t kOne = 0x3ff0000000000000, kRootOfHalf = 0x3fe6a09e667f3bcd, kMantissa = 0x000fffffffffffff;
  const BitsVec shifted = bits_of(x) + (kOne - kRootOfHalf);
  const DoubleVec m = double_of((shifted & kMantissa) + kRootOfHalf);
  const DoubleVec e = double_of((shifted >> 52) | 0x4330000000000000) - (4503599627370496.0 + 1023.0);
  const DoubleVec s = (m - 1.0) / (m + 1.0), z = s * s;
  DoubleVec p = 1.0 / 15.0 - DoubleVec{};
  constexpr double kCoefficients[] = {1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0, 1.0};
  for (const double coefficient : kCoefficients) p = p * z + coefficient;
  return e * 0.6931471805599453 + 2.0 * s * p;
}

// log(1 + x) for 0 <= x <= 1, to 1e-12 of it however small x is.
PYDRIFT_INLINE DoubleVec wide_log1p(DoubleVec x) {
  const DoubleVec sum = 1.0 + x;
  const DoubleVec result = wide_logarithm(sum) * (x / (sum - 1.0));
  return sum == 1.0 ? x : result;
}

struct GroupStatistics {
  float margin[kLanes], loss[kLanes], confidence[kLanes];
  int32_t prediction[kLanes];
};

// logits: of class k at k * pitch. label: one per lane
inline void compute_statistics(const float* logits, int64_t pitch, int32_t num_classes, const int32_t (&labels)[kLanes],
                               GroupStatistics& to) {
  IntVec label, prediction = {};
  std::memcpy(&label, labels, sizeof(label));
  Vec best = load(logits), poison = {}, other = all(-__builtin_inff());  // the largest of all, of the other classes
  for (int32_t k = 0; k < num_classes; ++k) {
    const Vec logit = load(logits + k * pitch);
    poison += logit * 0.0f;                                                    // NaN where any logit is not finite
    const IntVec wins = (logit > best) | ((logit != logit) & (best == best));  // a NaN is the largest, as in torch
    prediction = wins ? same_code(k) : prediction;
    best = wins ? logit : best;
    other = maximum(label == k ? all(-__builtin_inff()) : logit, other);
  }
  std::memcpy(to.prediction, &prediction, sizeof(prediction));
  float others[kLanes], poisons[kLanes];
  store(others, other), store(poisons, poison);
  for (int32_t half = 0; half < kLanes; half += kHalf) {
    const LongVec chosen = load_wide(labels + half);
    const DoubleVec largest = load_wide(others + half);
    DoubleVec own = {}, rest = {};
    for (int32_t k = 0; k < num_classes; ++k) {
      const DoubleVec logit = load_wide(logits + k * pitch + half);
      const DoubleVec share = wide_exponential(logit - largest);
      rest += chosen == k ? DoubleVec{} : share;
      own = chosen == k ? logit : own;
    }
    // With p = 1 / (1 + exp(-margin)), nothing that is computed from the margin uses 1 - p.
    DoubleVec margin = (own - largest) - wide_logarithm(rest);
    if (num_classes == 1) margin = __builtin_inf() - DoubleVec{};
    const DoubleVec size = margin < 0.0 ? -margin : margin, odds = wide_exponential(-size);
    const DoubleVec loss = (margin < 0.0 ? size : DoubleVec{}) + wide_log1p(odds);
    const DoubleVec confidence = (margin < 0.0 ? odds : 1.0 - DoubleVec{}) / (1.0 + odds);
    const DoubleVec bad = load_wide(poisons + half);
    store_narrow(to.margin + half, margin + bad);
    store_narrow(to.loss + half, loss + bad);
    store_narrow(to.confidence + half, confidence + bad);
  }
}

}  // namespace PYDRIFT_LANES
}  // namespace pydrift
