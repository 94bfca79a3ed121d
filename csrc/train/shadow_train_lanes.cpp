// The training loop for one instruction set; compiled once for each (CMakeLists.txt).
#include "train/shadow_train_loop.h"

namespace pydrift {
namespace PYDRIFT_LANES {

static void run_worker(const ShadowTrainWorker& worker) { ShadowTrainer(worker).run(); }

}  // namespace PYDRIFT_LANES

template <>
const Variant<ShadowTrainWorker> VariantTable<ShadowTrainWorker>::PYDRIFT_LANES = {
    PYDRIFT_LANES::kLanes, PYDRIFT_LANES::kRows, PYDRIFT_LANES::run_worker};
}  // namespace pydrift
