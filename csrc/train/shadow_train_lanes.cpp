// The training loop for one instruction set; compiled once for each (CMakeLists.txt).
#include "train/shadow_train_loop.h"

namespace pydrift {
namespace PYDRIFT_LANES {

static void run_worker(const ShadowTrainWorker& worker) { ShadowTrainer(worker).run(); }

extern const ShadowTrainVariant kShadowTrainVariant = {kLanes, kRows, gradient_scratch_floats, run_worker};

}  // namespace PYDRIFT_LANES
}  // namespace pydrift
