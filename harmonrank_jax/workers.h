// What the CPU's own forms share: the threads they run on.

#ifndef HARMONRANK_WORKERS_H_
#define HARMONRANK_WORKERS_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>

#include "xla/ffi/api/ffi.h"

namespace harmonrank {

// The caller and whatever threads of XLA's pool are idle.
class Workers {
 public:
  // Without `is_worth_it` the caller alone.
  Workers(xla::ffi::ThreadPool& pool, bool is_worth_it)
      : pool_(pool),
        size_(is_worth_it ? std::max<int64_t>(1, pool.num_threads()) : 1) {}

  int64_t size() const { return size_; }

  // Calls work(0), ..., work(count - 1), in any order, and returns after all.
  // The caller takes what nobody else has begun, so it never waits for a
  // thread that waits for it.
  template <typename Work>
  void Run(int64_t count, const Work& work) const {
    if (size_ == 1 || count < 2) {
      for (int64_t i = 0; i < count; ++i) work(i);
      return;
    }
    auto state = std::make_shared<State>();
    // A helper that comes too late finds nothing to take and must not touch
    // `work`, which is gone by then.
    auto take = [state, count, &work] {
      int64_t i;
      while ((i = state->next.fetch_add(1)) < count) {
        work(i);
        state->done.fetch_add(1, std::memory_order_release);
      }
    };
    for (int64_t i = 1; i < std::min(size_, count); ++i) {
      pool_.Schedule(std::function<void()>(take));
    }
    take();
    while (state->done.load(std::memory_order_acquire) < count) {
      std::this_thread::yield();
    }
  }

  // Cuts [0, size) into parts for Run: part(i, begin, end).
  template <typename Part>
  void RunParts(int64_t size, int64_t parts, const Part& part) const {
    Run(parts, [&](int64_t i) {
      part(i, size * i / parts, size * (i + 1) / parts);
    });
  }

 private:
  struct State {
    std::atomic<int64_t> next{0}, done{0};
  };

  xla::ffi::ThreadPool& pool_;
  int64_t size_;
};

template <typename T>
std::unique_ptr<T[]> Uninitialised(int64_t size) {
  return std::unique_ptr<T[]>(new T[size]);
}

}  // namespace harmonrank

#endif  // HARMONRANK_WORKERS_H_
