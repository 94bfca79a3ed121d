// What the launcher of shadow_statistics and shadow_moments decides before it launches. No torch or CUDA.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "network/cuda/block_launch.h"
#include "network/cuda/block_planner.h"
#include "statistics/shadow_statistics_plan.h"

namespace pydrift {

inline ShadowPlan make_shadow_plan(const char* op, const ShadowTask& task, const BlockShape& shape) {
  ShadowPlan plan;
  const std::vector<BlockRequest> requests = {{&plan.margins, shape.num_slots, 1000.0}};
  static_cast<BlockPlan&>(plan) = refuse_as(op, [&] {
    return BlockPlanner(*task.program, /*back=*/false, /*one_model=*/false, task.arithmetic, shape, requests).take();
  });
  return plan;
}

// Samples of a block at a time: as many as fit in shared memory, but few enough that every block gets some.
inline int32_t choose_num_slots(const char* op, const ShadowTask& task, BlockShape shape) {
  constexpr int32_t kMaxSlots = 32, kSlotsInWorkspace = 8;
  const int64_t num_rows = task.num_samples * (task.member != nullptr ? 1 : task.num_models);
  const int64_t num_blocks = int64_t{shape.max_clusters} * shape.cluster_size;
  const int32_t most = static_cast<int32_t>(std::clamp<int64_t>(num_rows / num_blocks, 1, kMaxSlots));
  int32_t fits = 0, too_many = most + 1;
  while (too_many - fits > 1) {
    shape.num_slots = (fits + too_many) / 2;
    (make_shadow_plan(op, task, shape).workspace_size == 0 ? fits : too_many) = shape.num_slots;
  }
  return fits > 0 ? fits : std::min(most, kSlotsInWorkspace);
}

// The moments of a sample belong to one block, since they depend on the order of the models.
inline ShadowCut choose_cut(const char* op, const ShadowTask& task, const BlockShape& shape) {
  constexpr int64_t kTasksPerCluster = 4;  // so that none waits long for the last
  const int64_t tile = int64_t{shape.num_slots} * shape.cluster_size;
  const int64_t num_tiles = (task.num_samples + tile - 1) / tile;
  const int64_t wanted = (kTasksPerCluster * shape.max_clusters + num_tiles - 1) / num_tiles;
  const int64_t num_parts = task.member != nullptr ? 1 : std::min(wanted, task.num_models);
  if (num_tiles * num_parts > std::numeric_limits<int32_t>::max()) refuse(op, ": too many samples for one call");
  return {static_cast<int32_t>(num_tiles), static_cast<int32_t>(num_parts)};
}

inline int32_t num_clusters(const ShadowCut& cut, const BlockShape& shape) {
  return std::min(shape.max_clusters, cut.num_tiles * cut.num_parts);
}

// The arguments of the kernel; its memory is set later.
inline ShadowArguments make_arguments(const ShadowTask& task, const ShadowPlan& plan, const ShadowCut& cut) {
  ShadowArguments made{};
  made.network = make_network(plan, task.parameters, task.num_models, task.program->num_parameters);
  made.workspace_size = plan.workspace_size, made.shared_size = plan.shared_size;
  made.input = plan.input, made.logits = plan.logits, made.margins = plan.margins;
  made.cut = cut;
  made.bytes = task.bytes, made.values = task.values, made.label = task.label, made.member = task.member;
  made.num_samples = task.num_samples;
  made.statistics = task.statistics, made.moments = task.moments;
  return made;
}

}  // namespace pydrift
