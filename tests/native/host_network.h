// What the CUDA sources of every op need to run on the host: a program, packed weights, a workspace, and errors as
// text. Include it before the kernel's header.
#pragma once

#include <limits>
#include <string>

#include "host_cuda.h"
//
#include "network/cuda/block_launch.h"
#include "network/cuda/block_plan.h"
#include "network/program/program.h"

// A layer program as the tests pass it: codes [num_codes], and the shape of an image.
struct HostProgram {
  const int64_t* codes;
  int64_t num_codes;
  int32_t channels, height, width;

  pydrift::Program parse() const { return pydrift::parse_program(codes, num_codes, {channels, height, width}); }
};

// The message of what work() throws, or null.
template <class Work>
const char* message_of(Work work) {
  static std::string message;
  try {
    work();
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
  return nullptr;
}

// `task` with its program, of a work that is given both.
template <class Task, class Work>
const char* run_task(const Task& task, const HostProgram& program, Work work) {
  return message_of([&] {
    const pydrift::Program parsed = program.parse();
    Task complete = task;
    complete.program = &parsed;
    work(complete);
  });
}

// The memory of a network on the GPU. All of it is NaN at first, so that nothing may be read before it is written.
class HostNetwork {
 public:
  HostNetwork(const pydrift::BlockPlan& plan, const pydrift::BlockShape& shape, int64_t num_models, uint32_t num_blocks)
      : plan_(plan),
        shape_(shape),
        num_blocks_(num_blocks),
        packed_(num_models * plan.packed_size / 4 + 1, kNaN),
        workspace_(int64_t{num_blocks} * plan.workspace_size / 4 + 1, kNaN) {}

  // Packs the weights, then runs the kernel on `arguments`, whose network and workspace it sets.
  template <class Arguments>
  void run(Arguments arguments, bool reversed, void pack(pydrift::BlockNetwork), void kernel(Arguments)) {
    arguments.network.passes = plan_.passes.data(), arguments.network.tables = plan_.tables.data();
    arguments.network.packed = reinterpret_cast<float*>(packed_.data());
    arguments.workspace = reinterpret_cast<float*>(workspace_.data());
    host_cuda::launch(3, 32, reversed, [&] { pack(arguments.network); });
    const host_cuda::Launch launch{num_blocks_, static_cast<uint32_t>(shape_.num_threads),
                                   static_cast<uint32_t>(shape_.cluster_size), plan_.shared_size * sizeof(float)};
    host_cuda::launch(launch, reversed, [&] { kernel(arguments); });
  }

 private:
  static constexpr float4 kNaN = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::quiet_NaN(),
                                  std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::quiet_NaN()};

  const pydrift::BlockPlan& plan_;
  const pydrift::BlockShape& shape_;
  const uint32_t num_blocks_;
  std::vector<float4> packed_, workspace_;
};
