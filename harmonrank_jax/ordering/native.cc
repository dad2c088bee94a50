// The CPU's own forms of the ordering room: sorting lists, soft ranks with
// their derivative, and the partition of an isotonic fit.
//
// What XLA does for these on a CPU is parallel in depth and pays for it in
// passes over memory; a core would rather go once from left to right. Lists,
// or parts of a long list, are spread over the cores by XLA's own thread pool.
// `native.py` binds these functions and says where they are used; results
// are those of the pure forms to rounding.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "../workers.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;

using harmonrank::Uninitialised;
using harmonrank::Workers;

using Slots = ffi::Buffer<ffi::S32>;
using SlotsOut = ffi::Result<Slots>;

// Work of fewer items than this is not worth a second thread, and a list of
// fewer is not worth cutting.
constexpr int64_t kFewItems = 1 << 13;
constexpr int64_t kLongList = 1 << 16;
// So short a list sorts faster by counting than by digits.
constexpr int64_t kShortList = 64;

// ---- Argsort: a stable radix sort of `word << 32 | index`. ----

using Entry = uint64_t;

struct SortScratch {
  explicit SortScratch(int64_t size, int64_t num_parts)
      : front(Uninitialised<Entry>(size)),
        back(Uninitialised<Entry>(size)),
        parts(num_parts) {}

  std::unique_ptr<Entry[]> front, back;
  int64_t parts;
  std::vector<int32_t> counts;
};

// Places every entry by how many stand before it: no branch depends on data.
void CountEntries(int64_t size, SortScratch& scratch) {
  uint32_t words[kShortList];
  const Entry* from = scratch.front.get();
  for (int64_t i = 0; i < size; ++i) words[i] = from[i] >> 32;
  for (int64_t i = 0; i < size; ++i) {
    const uint32_t word = words[i];
    uint32_t before = 0;
    for (int64_t j = 0; j < i; ++j) before += words[j] <= word;
    for (int64_t j = i + 1; j < size; ++j) before += words[j] < word;
    scratch.back[before] = from[i];
  }
  scratch.front.swap(scratch.back);
}

// Sorts the entries in scratch.front by their upper half.
void SortEntries(int64_t size, const Workers& workers, SortScratch& scratch) {
  const int bits = size < (1 << 12) ? 8 : 11;
  const int64_t parts = scratch.parts, digits = int64_t{1} << bits;
  scratch.counts.resize(parts * digits);
  for (int shift = 32; shift < 64; shift += bits) {
    const Entry* from = scratch.front.get();
    Entry* to = scratch.back.get();
    auto digit = [=](Entry entry) { return (entry >> shift) & (digits - 1); };
    int32_t* counts = scratch.counts.data();
    workers.RunParts(size, parts, [&](int64_t part, int64_t i, int64_t end) {
      int32_t* own = counts + part * digits;
      std::fill(own, own + digits, 0);
      for (; i < end; ++i) ++own[digit(from[i])];
    });
    int64_t like_first = 0;
    for (int64_t part = 0; part < parts; ++part) {
      like_first += counts[part * digits + digit(from[0])];
    }
    if (like_first == size) continue;  // All have this digit.
    if (parts == 1) {
      std::exclusive_scan(counts, counts + digits, counts, 0);
    } else {
      int32_t sum = 0;
      for (int64_t d = 0; d < digits; ++d) {
        for (int64_t part = 0; part < parts; ++part) {
          sum += std::exchange(counts[part * digits + d], sum);
        }
      }
    }
    workers.RunParts(size, parts, [&](int64_t part, int64_t i, int64_t end) {
      int32_t* next = counts + part * digits;
      for (; i < end; ++i) to[next[digit(from[i])]++] = from[i];
    });
    scratch.front.swap(scratch.back);
  }
}

// One pass of an argsort: `order`, sorted by `word(index)`, ties as they are.
template <typename Word>
void SortPass(int64_t size, bool is_first, const Word& word, int32_t* order,
              const Workers& workers, SortScratch& scratch) {
  Entry* entries = scratch.front.get();
  workers.RunParts(size, scratch.parts,
                   [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const uint32_t index = is_first ? i : order[i];
      entries[i] = Entry{word(index)} << 32 | index;
    }
  });
  if (size <= kShortList) {
    CountEntries(size, scratch);
  } else {
    SortEntries(size, workers, scratch);
  }
  entries = scratch.front.get();
  workers.RunParts(size, scratch.parts,
                   [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      order[i] = static_cast<int32_t>(static_cast<uint32_t>(entries[i]));
    }
  });
}

// Integers in the order of the numbers: those of NaN are above all of them.
uint32_t Key(float score) {
  uint32_t bits;
  std::memcpy(&bits, &score, sizeof bits);
  // -0 ties with 0. By bits: XLA's threads take subnormal numbers for 0.
  if (bits << 1 == 0) bits = 0;
  return bits >> 31 ? ~bits : bits | uint32_t{1} << 31;
}

uint64_t Key(double score) {
  uint64_t bits;
  std::memcpy(&bits, &score, sizeof bits);
  if (bits << 1 == 0) bits = 0;
  return bits >> 63 ? ~bits : bits | uint64_t{1} << 63;
}

// A row of items and of slots; what is not given is null.
template <typename T, typename Id>
struct Row {
  const T* scores;
  const bool* where;
  const Id* ids;
  int32_t* order;
  int32_t* start;
  int32_t* end;
  bool* valid;

  Row At(int64_t i) const {
    return {scores ? scores + i : nullptr, where ? where + i : nullptr,
            ids ? ids + i : nullptr, order + i, start + i, end + i, valid + i};
  }

  bool TakesPart(int64_t i) const {
    return (!where || where[i]) && !(scores && std::isnan(scores[i]));
  }
};

// Sorts `size` items of a row, the first of which is item `offset` of all.
template <typename T, typename Id>
void SortRow(const Row<T, Id>& row, int64_t size, int64_t offset,
             const Workers& workers, SortScratch& scratch) {
  bool is_first = true;
  auto pass = [&](const auto& word) {
    SortPass(size, is_first, word, row.order, workers, scratch);
    is_first = false;
  };
  // The last pass decides first: the list, then who takes part, the score.
  if (row.scores) {
    auto key = [&](int64_t i) {
      auto found = Key(row.scores[i]);
      return row.TakesPart(i) ? found : ~decltype(found){0};
    };
    if constexpr (sizeof(T) == 8) {
      pass([&](int64_t i) { return static_cast<uint32_t>(key(i)); });
      pass([&](int64_t i) { return static_cast<uint32_t>(key(i) >> 32); });
    } else {
      pass(key);
    }
  } else if (row.where) {
    pass([&](int64_t i) { return uint32_t{!row.where[i]}; });
  }
  if (row.ids) {
    pass([&](int64_t i) { return static_cast<uint32_t>(row.ids[i]); });
    if constexpr (sizeof(Id) == 8) {
      pass([&](int64_t i) { return static_cast<uint32_t>(row.ids[i] >> 32); });
    }
  }

  const int64_t parts = scratch.parts;
  if (!row.ids) {
    // One list, and who takes no part is at the end.
    std::vector<int64_t> counts(parts);
    workers.RunParts(size, parts, [&](int64_t part, int64_t i, int64_t last) {
      int64_t count = 0;
      for (; i < last; ++i) count += row.TakesPart(i);
      counts[part] = count;
    });
    int64_t count = 0;
    for (int64_t part : counts) count += part;
    workers.RunParts(size, parts, [&](int64_t, int64_t i, int64_t last) {
      for (; i < last; ++i) {
        const bool valid = i < count;
        row.valid[i] = valid;
        row.start[i] = static_cast<int32_t>(offset + (valid ? 0 : i));
        row.end[i] = static_cast<int32_t>(offset + (valid ? count : i + 1));
        row.order[i] += static_cast<int32_t>(offset);
      }
    });
    return;
  }
  for (int64_t start = 0, end; start < size; start = end) {
    const int32_t item = row.order[start];
    const bool valid = row.TakesPart(item);
    end = start + 1;
    while (valid && end < size && row.ids[row.order[end]] == row.ids[item] &&
           row.TakesPart(row.order[end])) {
      ++end;
    }
    for (int64_t i = start; i < end; ++i) {
      row.valid[i] = valid;
      row.start[i] = static_cast<int32_t>(offset + start);
      row.end[i] = static_cast<int32_t>(offset + end);
    }
  }
  for (int64_t i = 0; i < size; ++i) {
    row.order[i] += static_cast<int32_t>(offset);
  }
}

// Arrays `[R, N]`, or empty for what is not given: scores, float; `where`;
// ids, int32 or int64. The results are those of `sort_lists`.
ffi::Error SortLists(ffi::ThreadPool pool, ffi::AnyBuffer scores,
                     ffi::Buffer<ffi::PRED> where, ffi::AnyBuffer ids,
                     SlotsOut order, SlotsOut start, SlotsOut end,
                     ffi::Result<ffi::Buffer<ffi::PRED>> valid) {
  const int64_t size = order->element_count();
  if (size == 0) return ffi::Error::Success();
  const int64_t row_size = order->dimensions().back();
  const int64_t num_rows = size / row_size;
  const Workers workers(pool, size >= kFewItems);

  auto run = [&](auto score, auto id) {
    using T = decltype(score);
    using Id = decltype(id);
    const Row<T, Id> rows{
        scores.element_count() ? scores.typed_data<T>() : nullptr,
        where.element_count() ? where.typed_data() : nullptr,
        ids.element_count() ? ids.typed_data<Id>() : nullptr,
        order->typed_data(), start->typed_data(), end->typed_data(),
        valid->typed_data()};
    auto sort_row = [&](int64_t row, SortScratch& scratch) {
      const int64_t offset = row * row_size;
      SortRow(rows.At(offset), row_size, offset, workers, scratch);
    };
    if (row_size >= kLongList && num_rows < workers.size()) {
      SortScratch scratch(row_size, workers.size());
      for (int64_t row = 0; row < num_rows; ++row) sort_row(row, scratch);
    } else {
      const int64_t parts = std::min(num_rows, 4 * workers.size());
      workers.RunParts(num_rows, parts, [&](int64_t, int64_t row, int64_t last) {
        SortScratch scratch(row_size, 1);
        for (; row < last; ++row) sort_row(row, scratch);
      });
    }
  };
  const bool wide = scores.element_type() == ffi::F64;
  if (ids.element_type() == ffi::S64) {
    wide ? run(double{}, int64_t{}) : run(float{}, int64_t{});
  } else {
    wide ? run(double{}, int32_t{}) : run(float{}, int32_t{});
  }
  return ffi::Error::Success();
}

// ---- Pool adjacent violators. ----

// A pooled run of slots. Values are measured from that of its first slot, so
// that nothing large is added or cancels.
struct Block {
  int64_t start;
  double first;   // The input at the first slot.
  double sum;     // Of weight times value, less the value at the first slot.
  double weight;  // Of slots that weigh 1, how many they are.
};

// The value of slot i is `scale * input - slope * i`.
struct Line {
  double scale;
  double slope;

  // From the first value of a block to that of the next.
  double Rise(const Block& left, const Block& right) const {
    return (right.first - left.first) * scale - slope * left.weight;
  }
};

bool Violates(const Block& left, const Block& right, double rise) {
  return left.sum * right.weight - right.sum * left.weight >
         rise * left.weight * right.weight;
}

Block Merge(const Block& left, const Block& right, double rise) {
  return {left.start, left.first, left.sum + right.sum + right.weight * rise,
          left.weight + right.weight};
}

// Appends to the `count` blocks of an isotonic fit the blocks that `next`
// gives, until it gives none, and pools what violates. With `until_rest`,
// until one does not pool and `next` has not been asked again.
template <typename Next>
int64_t Pool(const Line& line, bool until_rest, const Next& next, Block* fit,
             int64_t count) {
  Block top, block;
  if (count) {
    top = fit[--count];
  } else if (!next(top)) {
    return 0;
  }
  while (next(block)) {
    double rise = line.Rise(top, block);
    if (!Violates(top, block, rise)) {
      fit[count++] = top;
      top = block;
      if (until_rest) break;
      continue;
    }
    top = Merge(top, block, rise);
    while (count && Violates(fit[count - 1], top,
                             rise = line.Rise(fit[count - 1], top))) {
      top = Merge(fit[--count], top, rise);
    }
  }
  fit[count++] = top;
  return count;
}

// A partition in flat slots, as `segments.Blocks`.
struct Partition {
  const int32_t* start;
  const int32_t* end;
  int64_t size;

  // The first block that starts at `slot` or after it.
  int64_t Snap(int64_t slot) const {
    return slot == size || start[slot] == slot ? slot : end[slot];
  }
};

// Parts for the cores of flat slots: some more than cores, for balance.
int64_t PartsOf(int64_t size, const Workers& workers) {
  return std::max<int64_t>(1, std::min(4 * workers.size(), size / 512));
}

// Calls list(begin, end, parts) for every list: many lists at once, in one
// part each, then those that are long one by one, in several.
template <typename List>
void ForLists(const Partition& lists, const Workers& workers,
              const List& list) {
  const int64_t parts = PartsOf(lists.size, workers);
  std::vector<std::vector<int64_t>> long_lists(parts);
  workers.RunParts(
      lists.size, parts, [&](int64_t part, int64_t begin, int64_t end) {
        begin = lists.Snap(begin);
        end = lists.Snap(end);
        for (; begin < end; begin = lists.end[begin]) {
          if (lists.end[begin] - begin >= kLongList && workers.size() > 1) {
            long_lists[part].push_back(begin);
          } else {
            list(begin, int64_t{lists.end[begin]}, 1);
          }
        }
      });
  for (const auto& starts : long_lists) {
    for (int64_t begin : starts) {
      list(begin, int64_t{lists.end[begin]}, 4 * workers.size());
    }
  }
}

// Fits [begin, end) in parts, which start at slots that `snap` allows:
// next(slot, stop, block) reads the block at `slot` and moves `slot` on.
template <typename Next, typename Snap>
int64_t FitList(int64_t begin, int64_t end, int64_t parts, const Line& line,
                const Next& next, const Snap& snap, const Workers& workers,
                Block* fit) {
  struct Part {
    Block* fit;
    int64_t count;
  };
  std::vector<Part> fits(parts);
  workers.RunParts(
      end - begin, parts, [&](int64_t part, int64_t from, int64_t to) {
        int64_t slot = snap(begin + from);
        const int64_t stop = snap(begin + to);
        Block* own = fit + slot - begin;
        fits[part] = {own, Pool(line, false, [&](Block& block) {
          return next(slot, stop, block);
        }, own, 0)};
      });
  int64_t count = fits[0].count;
  for (int64_t part = 1; part < parts; ++part) {
    const Block* block = fits[part].fit;
    const Block* last = block + fits[part].count;
    count = Pool(line, true, [&](Block& read) {
      return block < last && (read = *block++, true);
    }, fit, count);
    // What follows a block that did not pool is isotonic as it is.
    count = std::copy(block, last, fit + count) - fit;
  }
  return count;
}

// ---- Soft ranks. ----

template <typename T>
void SoftRankOf(const T* scores, const int32_t* order, const Partition& lists,
                const bool* valid, const T* strengths, int64_t num_strengths,
                T* ranks, int32_t* block_start, int32_t* block_end,
                const Workers& workers) {
  auto sorted_scores = Uninitialised<T>(lists.size);
  auto all_fits = Uninitialised<Block>(lists.size);
  T* sorted = sorted_scores.get();
  const int64_t slots_of_strength =
      num_strengths ? std::max<int64_t>(1, lists.size / num_strengths) : 1;

  // Ties that are ranked hard: no derivative, so each a block of its own.
  auto rank_hard = [=](int64_t start, int64_t stop, int64_t begin) {
    while (start < stop) {
      int64_t end = start + 1;
      while (end < stop && Key(sorted[end]) == Key(sorted[start])) ++end;
      const T rank = 0.5 * static_cast<double>(start + end + 1 - 2 * begin);
      for (; start < end; ++start) {
        ranks[order[start]] = rank;
        block_start[start] = static_cast<int32_t>(start);
        block_end[start] = static_cast<int32_t>(start + 1);
      }
    }
  };

  ForLists(lists, workers, [&](int64_t begin, int64_t end, int64_t parts) {
    if (!valid[begin]) {
      ranks[order[begin]] = 0;
      block_start[begin] = static_cast<int32_t>(begin);
      block_end[begin] = static_cast<int32_t>(end);
      return;
    }
    workers.RunParts(end - begin, parts, [=](int64_t, int64_t from, int64_t to) {
      for (int64_t i = begin + from; i < begin + to; ++i) {
        sorted[i] = scores[order[i]];
      }
    });
    const double strength = strengths[order[begin] / slots_of_strength];
    int64_t low = begin, high = end;
    while (low < end && std::isinf(sorted[low]) && sorted[low] < 0) ++low;
    while (high > low && std::isinf(sorted[high - 1])) --high;
    if (!(strength > 0)) high = low;
    rank_hard(begin, low, begin);
    rank_hard(high, end, begin);
    if (low == high) return;

    const Line line{1 / strength, 1};
    auto snap = [=](int64_t slot) {
      while (slot > low && slot < high && sorted[slot] == sorted[slot - 1]) {
        ++slot;
      }
      return slot;
    };
    // Ties always pool, so they enter as one block.
    auto next = [=](int64_t& slot, int64_t stop, Block& block) {
      if (slot == stop) return false;
      const int64_t start = slot;
      const T score = sorted[start];
      while (++slot < stop && sorted[slot] == score) {
      }
      const double size = static_cast<double>(slot - start);
      block = {start, score, -0.5 * size * (size - 1), size};
      return true;
    };
    Block* fit = all_fits.get() + low;
    const int64_t count =
        FitList(low, high, parts, line, next, snap, workers, fit);

    workers.RunParts(count, parts, [=](int64_t, int64_t from, int64_t to) {
      if (from == to) return;
      const int64_t stop = to < count ? fit[to].start : high;
      // By slots and not by blocks: most blocks are too short for a loop.
      const Block* block = fit + from - 1;
      int64_t start = 0, next_start = fit[from].start;
      double first = 0, level = 0;
      for (int64_t i = next_start; i < stop; ++i) {
        if (i == next_start) {
          ++block;
          start = block->start;
          next_start = block + 1 < fit + count ? block[1].start : high;
          first = block->first;
          level = static_cast<double>(start - begin + 1) -
                  block->sum / block->weight;
        }
        ranks[order[i]] = level + (sorted[i] - first) * line.scale;
        block_start[i] = static_cast<int32_t>(start);
        block_end[i] = static_cast<int32_t>(next_start);
      }
    });
  });
}

// Scores `[S]` in the order of the items, strengths `[S]` or a divisor of S.
ffi::Error SoftRank(ffi::ThreadPool pool, ffi::AnyBuffer scores, Slots order,
                    Slots list_start, Slots list_end,
                    ffi::Buffer<ffi::PRED> valid, ffi::AnyBuffer strength,
                    ffi::Result<ffi::AnyBuffer> ranks, SlotsOut block_start,
                    SlotsOut block_end) {
  const int64_t size = scores.element_count();
  const Workers workers(pool, size >= kFewItems);
  const Partition lists{list_start.typed_data(), list_end.typed_data(), size};
  auto run = [&](auto number) {
    using T = decltype(number);
    SoftRankOf<T>(scores.typed_data<T>(), order.typed_data(), lists,
                  valid.typed_data(), strength.typed_data<T>(),
                  strength.element_count(), ranks->typed_data<T>(),
                  block_start->typed_data(), block_end->typed_data(), workers);
  };
  scores.element_type() == ffi::F64 ? run(double{}) : run(float{});
  return ffi::Error::Success();
}

// Values `[S]` in the order of the items, each less the mean of its block; 0
// for what is alone in its block, whatever it holds.
template <typename T>
void DeviationOf(const T* values, const int32_t* order,
                 const Partition& blocks, T* deviations,
                 const Workers& workers) {
  workers.RunParts(blocks.size, PartsOf(blocks.size, workers),
                   [=](int64_t, int64_t start, int64_t last) {
    start = blocks.Snap(start);
    last = blocks.Snap(last);
    for (int64_t end; start < last; start = end) {
      end = blocks.end[start];
      if (end - start == 1) {
        deviations[order[start]] = 0;
        continue;
      }
      // Measured from the first of the block, as ranks are.
      const double first = values[order[start]];
      double sum = 0;
      for (int64_t i = start; i < end; ++i) sum += values[order[i]] - first;
      const double mean = sum / static_cast<double>(end - start);
      for (int64_t i = start; i < end; ++i) {
        deviations[order[i]] = (values[order[i]] - first) - mean;
      }
    }
  });
}

ffi::Error Deviation(ffi::ThreadPool pool, ffi::AnyBuffer values, Slots order,
                     Slots block_start, Slots block_end,
                     ffi::Result<ffi::AnyBuffer> deviations) {
  const int64_t size = values.element_count();
  const Workers workers(pool, size >= kFewItems);
  const Partition blocks{block_start.typed_data(), block_end.typed_data(),
                         size};
  auto run = [&](auto number) {
    using T = decltype(number);
    DeviationOf<T>(values.typed_data<T>(), order.typed_data(), blocks,
                   deviations->typed_data<T>(), workers);
  };
  values.element_type() == ffi::F64 ? run(double{}) : run(float{});
  return ffi::Error::Success();
}

// ---- The partition of an isotonic fit. ----

template <typename T>
void IsotonicOf(const T* values, const T* weights, const Partition& lists,
                int32_t* block_start, int32_t* block_end,
                const Workers& workers) {
  auto all_fits = Uninitialised<Block>(lists.size);
  auto next = [=](int64_t& slot, int64_t stop, Block& block) {
    if (slot == stop) return false;
    const double weight = weights ? static_cast<double>(weights[slot]) : 1;
    block = {slot, static_cast<double>(values[slot]), 0, weight};
    ++slot;
    return true;
  };
  auto anywhere = [](int64_t slot) { return slot; };
  ForLists(lists, workers, [&](int64_t begin, int64_t end, int64_t parts) {
    Block* fit = all_fits.get() + begin;
    const int64_t count = FitList(begin, end, parts, Line{1, 0}, next, anywhere,
                                  workers, fit);
    for (int64_t k = 0; k < count; ++k) {
      const int64_t stop = k + 1 < count ? fit[k + 1].start : end;
      for (int64_t i = fit[k].start; i < stop; ++i) {
        block_start[i] = static_cast<int32_t>(fit[k].start);
        block_end[i] = static_cast<int32_t>(stop);
      }
    }
  });
}

// Values `[S]`; weights `[S]`, or none for 1.
ffi::Error Isotonic(ffi::ThreadPool pool, Slots list_start, Slots list_end,
                    ffi::AnyBuffer values, ffi::RemainingArgs weights,
                    SlotsOut block_start, SlotsOut block_end) {
  const int64_t size = values.element_count();
  const Workers workers(pool, size >= kFewItems);
  const Partition lists{list_start.typed_data(), list_end.typed_data(), size};
  const void* weight = nullptr;
  if (weights.size() > 0) {
    auto buffer = weights.get<ffi::AnyBuffer>(0);
    if (!buffer.has_value()) return buffer.error();
    weight = buffer->untyped_data();
  }
  auto run = [&](auto number) {
    using T = decltype(number);
    IsotonicOf<T>(values.typed_data<T>(), static_cast<const T*>(weight), lists,
                  block_start->typed_data(), block_end->typed_data(), workers);
  };
  values.element_type() == ffi::F64 ? run(double{}) : run(float{});
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    harmonrank_sort_lists, SortLists,
    ffi::Ffi::Bind()
        .Ctx<ffi::ThreadPool>()
        .Arg<ffi::AnyBuffer>()
        .Arg<ffi::Buffer<ffi::PRED>>()
        .Arg<ffi::AnyBuffer>()
        .Ret<Slots>()
        .Ret<Slots>()
        .Ret<Slots>()
        .Ret<ffi::Buffer<ffi::PRED>>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    harmonrank_soft_rank, SoftRank,
    ffi::Ffi::Bind()
        .Ctx<ffi::ThreadPool>()
        .Arg<ffi::AnyBuffer>()
        .Arg<Slots>()
        .Arg<Slots>()
        .Arg<Slots>()
        .Arg<ffi::Buffer<ffi::PRED>>()
        .Arg<ffi::AnyBuffer>()
        .Ret<ffi::AnyBuffer>()
        .Ret<Slots>()
        .Ret<Slots>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    harmonrank_deviation, Deviation,
    ffi::Ffi::Bind()
        .Ctx<ffi::ThreadPool>()
        .Arg<ffi::AnyBuffer>()
        .Arg<Slots>()
        .Arg<Slots>()
        .Arg<Slots>()
        .Ret<ffi::AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    harmonrank_isotonic, Isotonic,
    ffi::Ffi::Bind()
        .Ctx<ffi::ThreadPool>()
        .Arg<Slots>()
        .Arg<Slots>()
        .Arg<ffi::AnyBuffer>()
        .RemainingArgs()
        .Ret<Slots>()
        .Ret<Slots>());
