// The inversion loop for one instruction set; compiled once for each (CMakeLists.txt).
#include "invert/invert_loop.h"

namespace pydrift {
namespace PYDRIFT_LANES {

static void run_worker(const InvertWorker& worker) { RestartBlock(worker).run(); }

}  // namespace PYDRIFT_LANES

template <>
const Variant<InvertWorker> VariantTable<InvertWorker>::PYDRIFT_LANES = {PYDRIFT_LANES::kLanes, PYDRIFT_LANES::kRows,
                                                                         PYDRIFT_LANES::run_worker};
}  // namespace pydrift
