// The inversion loop for one instruction set; compiled once for each (CMakeLists.txt).
#include "invert/invert_loop.h"

namespace pydrift {
namespace PYDRIFT_LANES {

static void run_worker(const InvertWorker& worker) { RestartBlock(worker).run(); }

extern const InvertVariant kInvertVariant = {kLanes, kRows, run_worker};

}  // namespace PYDRIFT_LANES
}  // namespace pydrift
