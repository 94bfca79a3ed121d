// Measures the most multiply-adds that a core can do: ten independent chains in registers, without memory.
// ceilings.py compiles this file.
#include <cstdint>

namespace {

#if defined(__x86_64__)
// Ten chains hide the latency of two units of four or five cycles. They are assembly, so that no compiler folds or
// reorders them.
#define TEN_FMA                                                                              \
  "vfmadd213ps %10,%11,%0\n vfmadd213ps %10,%11,%1\n vfmadd213ps %10,%11,%2\n"               \
  "vfmadd213ps %10,%11,%3\n vfmadd213ps %10,%11,%4\n vfmadd213ps %10,%11,%5\n"               \
  "vfmadd213ps %10,%11,%6\n vfmadd213ps %10,%11,%7\n vfmadd213ps %10,%11,%8\n"               \
  "vfmadd213ps %10,%11,%9\n"

template <int kBytes>
struct Vector {
  typedef float type __attribute__((vector_size(kBytes)));
};

#define CHAINS(V)                                                                            \
  V a[10];                                                                                   \
  const V addend = V{} + 1e-3f, factor = V{} + 0.999f;                                       \
  for (V& chain : a) chain = addend;                                                         \
  for (int64_t i = 0; i < num_loops; ++i)                                                    \
    asm volatile(TEN_FMA                                                                     \
                 : "+v"(a[0]), "+v"(a[1]), "+v"(a[2]), "+v"(a[3]), "+v"(a[4]), "+v"(a[5]),   \
                   "+v"(a[6]), "+v"(a[7]), "+v"(a[8]), "+v"(a[9])                            \
                 : "v"(addend), "v"(factor))

__attribute__((target("avx512f"))) void run_avx512(int64_t num_loops) { CHAINS(Vector<64>::type); }
__attribute__((target("avx2,fma"))) void run_avx2(int64_t num_loops) { CHAINS(Vector<32>::type); }
#endif

}  // namespace

// Runs the chains and returns the number of floating-point operations, or 0 on a processor that it does not know.
extern "C" double fma_peak_run(int64_t num_loops) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) return run_avx512(num_loops), 10.0 * 32 * num_loops;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return run_avx2(num_loops), 10.0 * 16 * num_loops;
#endif
  return 0.0 * num_loops;
}
