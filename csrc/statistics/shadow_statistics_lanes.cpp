// Statistics of samples under models for one instruction set; compiled once for each (CMakeLists.txt).
#include "statistics/shadow_statistics_loop.h"

namespace pydrift {
namespace PYDRIFT_LANES {

static void run_worker(const ShadowWorker& worker) { SampleBlock(worker).run(); }

}  // namespace PYDRIFT_LANES

template <>
const Variant<ShadowWorker> VariantTable<ShadowWorker>::PYDRIFT_LANES = {PYDRIFT_LANES::kLanes, PYDRIFT_LANES::kRows,
                                                                         PYDRIFT_LANES::run_worker};
}  // namespace pydrift
