// Statistics of samples under models for one instruction set; compiled once for each (CMakeLists.txt).
#include "statistics/shadow_statistics_loop.h"

namespace pydrift {
namespace PYDRIFT_LANES {

static void run_worker(const ShadowWorker& worker) { SampleBlock(worker).run(); }

extern const ShadowVariant kShadowVariant = {kLanes, kRows, run_worker};

}  // namespace PYDRIFT_LANES
}  // namespace pydrift
