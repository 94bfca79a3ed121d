// The memory that the threads of an op work in. No torch.
//
// Not for code that is compiled for one instruction set: of an inline function the linker keeps any one copy, which may
// then hold instructions that the processor does not have.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "common/memory.h"

namespace pydrift {

// The arrays that a worker needs beside its task, each known by the pointer of the worker that gets it.
template <class Worker>
class ScratchLayout {
 public:
  struct Array {
    size_t offset, num_bytes;
    std::function<void(Worker&, void*)> point;  // the worker's pointer to this memory
  };

  // `count` elements for `pointer`, zero when the thread starts.
  template <class T>
  void add(T* Worker::*pointer, int64_t count) {
    const auto point = [pointer](Worker& worker, void* memory) { worker.*pointer = static_cast<T*>(memory); };
    arrays_.push_back({layout_.reserve<T>(count), count * sizeof(T), point});
  }

  const std::vector<Array>& arrays() const { return arrays_; }
  size_t num_bytes() const { return layout_.size(); }

 private:
  Layout layout_;
  std::vector<Array> arrays_;
};

// These arrays for each of some threads. All are there before the threads start: a thread that finds no memory could
// not throw through torch.
template <class Worker>
class ScratchPool {
 public:
  ScratchPool(const ScratchLayout<Worker>& layout, int64_t num_threads) : layout_(layout) {
    for (int64_t i = 0; i < num_threads; ++i) memory_.push_back(std::make_unique<Memory>(layout_.num_bytes()));
  }

  void lend(int64_t thread, Worker& worker) const {
    for (const auto& array : layout_.arrays()) array.point(worker, memory_[thread]->template at<void>(array.offset));
  }

 private:
  ScratchLayout<Worker> layout_;
  std::vector<std::unique_ptr<Memory>> memory_;
};

}  // namespace pydrift
