// The walks for one instruction set; compiled once for each (CMakeLists.txt).
#include "boundary/boundary_walks_loop.h"

namespace pydrift {
namespace PYDRIFT_LANES {

static void run_min_gd(const WalkWorker& worker) { WalkBlock<MinGd>(worker).run(); }
static void run_blind_walk(const WalkWorker& worker) { WalkBlock<BlindWalk>(worker).run(); }

extern const WalkVariant kWalkVariant = {kLanes, kRows, run_min_gd, run_blind_walk};

}  // namespace PYDRIFT_LANES
}  // namespace pydrift
