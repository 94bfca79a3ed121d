// The walks for one instruction set; compiled once for each (CMakeLists.txt).
#include "boundary/boundary_walks_loop.h"

namespace pydrift {
namespace PYDRIFT_LANES {

static void run_worker(const WalkWorker& worker) {
  if (worker.task->is_blind()) {
    WalkBlock<BlindWalk>(worker).run();
  } else {
    WalkBlock<MinGd>(worker).run();
  }
}

}  // namespace PYDRIFT_LANES

template <>
const Variant<WalkWorker> VariantTable<WalkWorker>::PYDRIFT_LANES = {PYDRIFT_LANES::kLanes, PYDRIFT_LANES::kRows,
                                                                     PYDRIFT_LANES::run_worker};
}  // namespace pydrift
