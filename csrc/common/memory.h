// Scratch memory of a thread. No torch.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace pydrift {

inline constexpr size_t kCacheLine = 64;

template <class T>
T divide_up(T a, T b) {
  return (a + b - 1) / b;
}

// How much memory several arrays need when each begins at a cache line.
class Layout {
 public:
  // The offset of an array of `count` elements, in bytes.
  template <class T>
  size_t reserve(int64_t count) {
    const size_t begin = size_;
    size_ = divide_up(begin + count * sizeof(T), kCacheLine) * kCacheLine;
    return begin;
  }
  size_t size() const { return size_; }

 private:
  size_t size_ = 0;
};

// Zeroed memory, in large pages where the system has them. With small pages, chance decides which of them share a place
// in the L2 cache. That costs up to a quarter of the time of all that is not multiply-add.
class Memory {
 public:
  explicit Memory(size_t bytes) {
    constexpr size_t kLargePage = size_t{1} << 21;
    bytes = divide_up(bytes, kLargePage) * kLargePage;
    mapped_bytes_ = bytes + kLargePage;  // one more, to begin at a large page
    mapped_ = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped_ == MAP_FAILED) throw std::bad_alloc();
    const size_t misaligned = reinterpret_cast<uintptr_t>(mapped_) % kLargePage;
    data_ = static_cast<char*>(mapped_) + (kLargePage - misaligned);
#if defined(MADV_HUGEPAGE)
    madvise(data_, bytes, MADV_HUGEPAGE);  // advice that the system may ignore
#endif
  }
  ~Memory() { munmap(mapped_, mapped_bytes_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  template <class T>
  T* at(size_t offset) const {
    return reinterpret_cast<T*>(data_ + offset);
  }

 private:
  void* mapped_;
  size_t mapped_bytes_;
  char* data_;
};

}  // namespace pydrift
