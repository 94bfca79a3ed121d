// Table of contents: every op of the library. The docstring of pydrift.ops.<op> says what it computes.
#include <torch/csrc/stable/library.h>

// The scalars of an ascent: AscentOptions of invert/ascent_options.h.
#define PYDRIFT_ASCENT_OPTIONS                                                                                      \
  "str optimizer, float learning_rate, float beta1, float beta2, float epsilon, float tv_weight, float l2_weight, " \
  "float lower, float upper, float confidence_threshold, int patience"

STABLE_TORCH_LIBRARY(pydrift, m) {
  // What the build is (csrc/build_info.h); chosen_simd is the CPU variant in use: the widest, or what PYDRIFT_SIMD names
  m.def("build_info() -> str[]");
  m.def("max_values_per_sample() -> int");
  m.def("simd_variants() -> str[]");
  m.def("chosen_simd() -> str");
  // x, gradient, first_moment, second_moment [N, C, H, W] float32 (second_moment of any shape with "momentum");
  // log_probability, best_cost [N] float32; steps_without_improvement, steps [N] int32; active [N] bool
  m.def(
      "ascent_update(Tensor(a!) x, Tensor gradient, Tensor(b!) first_moment, Tensor(c!) second_moment, "
      "Tensor log_probability, Tensor(d!) best_cost, Tensor(e!) steps_without_improvement, Tensor(f!) steps, "
      "Tensor(g!) active, *, " PYDRIFT_ASCENT_OPTIONS ") -> ()");
  // x [N, C, H, W] float32; parameters [M, P] float32; model, label, restart [N] int32
  // -> confidence [N] float32, loss [N] float32, steps [N] int32
  m.def(
      "invert(Tensor(a!) x, Tensor parameters, Tensor model, Tensor label, Tensor restart, *, int[] program, int seed, "
      "int jitter, int max_steps, str precision, " PYDRIFT_ASCENT_OPTIONS
      ") -> (Tensor confidence, Tensor loss, Tensor steps)");
  // x [N, C, H, W] uint8 or float32; parameters [K, P] float32; label [N] int32
  // -> margin, loss, confidence [K, N] float32, prediction [K, N] int32
  m.def(
      "shadow_statistics(Tensor x, Tensor parameters, Tensor label, *, int[] program, str precision) "
      "-> (Tensor margin, Tensor loss, Tensor confidence, Tensor prediction)");
  // and member [K, N] bool -> count [2, N] int32, mean, m2 [2, N] float32: row 0 OUT, row 1 IN
  m.def(
      "shadow_moments(Tensor x, Tensor parameters, Tensor label, Tensor member, *, int[] program, str precision) "
      "-> (Tensor count, Tensor mean, Tensor m2)");
  // x, parameters as there -> logits [K, N, classes] float32; on the CPU only
  m.def("shadow_logits(Tensor x, Tensor parameters, *, int[] program) -> Tensor");
  // x [N, C, H, W] uint8 or float32; label [N] int32; parameters, first_moment [K, P] float32; second_moment [K, P] or,
  // with "sgd", [K, 0]; order [T] int32; augmentation [T, 3] or [0, 3] int8; steps_done [K] int64; num_steps,
  // batch_size [K] int32; learning_rate [S] float64; hyperparameters [K, 5] float64 -> loss [K] float32
  m.def(
      "shadow_train(Tensor x, Tensor label, Tensor(a!) parameters, Tensor(b!) first_moment, Tensor(c!) second_moment, "
      "Tensor order, Tensor augmentation, Tensor steps_done, Tensor num_steps, Tensor batch_size, Tensor "
      "learning_rate, Tensor hyperparameters, *, "
      "int[] program, str optimizer) -> Tensor loss");
  // x [I, C, H, W], parameters [M, P] float32; model, image, label, norm [N] int32
  // -> distance [N] float32, steps, prediction [N] int32
  m.def(
      "min_gd(Tensor x, Tensor parameters, Tensor model, Tensor image, Tensor label, Tensor norm, *, int[] program, "
      "int max_steps, float linf_step, float l2_step, float l1_step, int l1_coordinates, float l1_gap, float lower, "
      "float upper) -> (Tensor distance, Tensor steps, Tensor prediction)");
  // and directions [D, C, H, W] float32, direction [N] int32
  m.def(
      "blind_walk(Tensor x, Tensor directions, Tensor parameters, Tensor model, Tensor image, Tensor direction, "
      "Tensor label, Tensor norm, *, int[] program, int max_steps, float lower, float upper) "
      "-> (Tensor distance, Tensor steps, Tensor prediction)");
}
