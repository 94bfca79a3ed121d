// How the linear layers of a network are cut up among the blocks of a cluster. No torch.
//
// Their columns are the slots of all blocks. A product is cut into pieces of kFlatRows outputs and split_depth
// summands, and a piece into tiles of columns. The tiles, in the order of the pieces, are divided among the blocks. So
// each block reads the weights of few pieces, and the same ones at every step.
#pragma once

#include <algorithm>

#include "network/cuda/block_plan.h"

namespace pydrift {

// Columns of a tile: a multiple of the eight of a warp.
PYDRIFT_HD int32_t flat_tile_columns(Arithmetic arithmetic, int32_t num_columns) {
  if (num_columns <= 8) return 8;
  return arithmetic == Arithmetic::kFma && num_columns <= 24 ? 24 : 40;
}

// The tasks of one block: tiles of the pieces.
struct FlatTasks {
  int32_t num_column_tiles, num_output_tiles, begin, end;

  PYDRIFT_HD FlatTasks(const Pass& pass, int32_t rank, int32_t num_ranks, int32_t num_slots)
      : num_column_tiles((num_ranks * num_slots - 1) / flat_tile_columns(pass.arithmetic, num_ranks * num_slots) + 1),
        num_output_tiles(pass.num_output_tiles()) {
    const int32_t num_tasks = num_column_tiles * num_output_tiles * pass.num_splits();
    begin = num_tasks * rank / num_ranks, end = num_tasks * (rank + 1) / num_ranks;
  }

  PYDRIFT_HD int32_t column_tile(int32_t task) const { return task % num_column_tiles; }
  PYDRIFT_HD int32_t piece(int32_t task) const { return task / num_column_tiles; }
  PYDRIFT_HD int32_t output_tile(int32_t piece) const { return piece % num_output_tiles; }
  PYDRIFT_HD int32_t split(int32_t piece) const { return piece / num_output_tiles; }

  PYDRIFT_HD int32_t first_piece() const { return piece(begin); }
  PYDRIFT_HD int32_t num_pieces() const { return begin < end ? piece(end - 1) - first_piece() + 1 : 0; }
};

// How a long sum is cut. It depends on the layer only, so no result depends on anything else. The pieces suffice for
// many warps.
inline int32_t flat_split_depth(int32_t depth, int32_t outputs) {
  constexpr int32_t kMaxSplits = 16, kMinDepth = 32, kWantedSums = 4096;
  const int32_t num_splits = std::clamp(kWantedSums / outputs, 1, kMaxSplits);
  const int32_t length = (depth + num_splits - 1) / num_splits;
  return std::max((length + kMaxFragmentDepth - 1) / kMaxFragmentDepth * kMaxFragmentDepth, kMinDepth);
}

// Words of weights that a block reads: the most of any block.
inline int64_t most_words_of_a_block(const Pass& pass, int32_t num_ranks, int32_t num_slots) {
  int32_t most = 0;
  for (int32_t rank = 0; rank < num_ranks; ++rank) {
    most = std::max(most, FlatTasks(pass, rank, num_ranks, num_slots).num_pieces());
  }
  return most * pass.words_per_piece();
}

}  // namespace pydrift
