// The native form of the greedy loop of `engine.py`: same picks, to the
// rounding of gains, which are called keys here.
//
// What XLA does for one pick is a chain of operations, each with its own pass
// over memory and its own cost of a call. Here a list stays in cache: its unit
// features are laid out once in panels of kLanes candidates, feature by
// feature, so that all candidates of a panel advance in step (none sums in
// another order than its copy: equal candidates have equal keys), and one pass
// over the panels applies a direction, makes the keys of the next slot and
// finds the largest.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "../workers.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;

using harmonrank::Uninitialised;
using harmonrank::Workers;

// As many numbers as one instruction works on at best; with less to the
// instruction the compiler makes several of one.
constexpr int64_t kVector = 16;
typedef float Vector
    __attribute__((vector_size(4 * kVector), aligned(4), may_alias));

// Vectors of a panel: their sums are held in registers.
constexpr int64_t kVectors = 4;
constexpr int64_t kLanes = kVectors * kVector;
// Work of fewer products than this is not worth a second thread.
constexpr int64_t kFewProducts = 1 << 21;
constexpr float kTolerance = 1e-5f;
constexpr float kNone = -std::numeric_limits<float>::infinity();

enum Criterion { kDpp = 0, kMmr = 1, kSsd = 2 };

struct Settings {
  int32_t criterion;
  bool windowed, fill;
  float ridge;  // Of the kernel; negative: none.
};

int64_t RoundUp(int64_t size, int64_t step) {
  return (size + step - 1) / step * step;
}

// The largest key of each lane, the first panel that has it, and the largest
// key of all.
struct Best {
  float key[kLanes];
  int32_t panel[kLanes];
  float largest = kNone;

  Best() {
    std::fill(key, key + kLanes, kNone);
    std::fill(panel, panel + kLanes, 0);
  }
};

// One list: its candidates in panels.
struct List {
  int64_t size, num_features, num_panels;
  const float* panels;         // [panels, D, lanes]
  std::unique_ptr<float[]> relevance;   // [panels * lanes], -inf: taken
  std::unique_ptr<float[]> value;       // [panels * lanes]
  std::unique_ptr<int32_t[]> category;  // [panels * lanes], or none
  std::unique_ptr<int64_t[]> applied;  // [panels], directions in the values
  // [panels], what no key of the panel is above, but for the offset.
  std::unique_ptr<float[]> bound;
};

// What one pass does.
struct Pass {
  const float* rows;  // [num_rows, stride] directions
  int64_t num_rows, stride;
  int32_t criterion;
  bool windowed, keys_fall;
  float weight, volume;
  const float* offset;  // [C], added by category
  float most;           // The largest of them.
};

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define HARMONRANK_CAN_SHUFFLE 1
#endif
#endif

#define HARMONRANK_UNIT baseline
#define HARMONRANK_TARGET
#include "passes.h"
#undef HARMONRANK_UNIT
#undef HARMONRANK_TARGET

#if defined(__x86_64__)
#define HARMONRANK_UNIT avx2
#define HARMONRANK_TARGET __attribute__((target("avx2,fma")))
#include "passes.h"
#undef HARMONRANK_UNIT
#undef HARMONRANK_TARGET

#define HARMONRANK_UNIT avx512
#define HARMONRANK_TARGET \
  __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")))
#include "passes.h"
#undef HARMONRANK_UNIT
#undef HARMONRANK_TARGET
#endif

// The passes of one vector unit.
struct Unit {
  decltype(&baseline::RunPass) run_pass;
  decltype(&baseline::AddDirection) add_direction;
  decltype(&baseline::Pack) pack;
};

const Unit& ThisUnit() {
  static const Unit unit = [] {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
      return Unit{avx512::RunPass, avx512::AddDirection, avx512::Pack};
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
      return Unit{avx2::RunPass, avx2::AddDirection, avx2::Pack};
    }
#endif
    return Unit{baseline::RunPass, baseline::AddDirection, baseline::Pack};
  }();
  return unit;
}

// Unit features in panels; 0 for who has none.
struct Packed {
  std::unique_ptr<float[]> panels;

  Packed(const void* features, bool is_bfloat, const int32_t* order,
         int64_t size, int64_t num_features, const Workers& workers) {
    const int64_t count = RoundUp(size, kLanes) / kLanes;
    panels = Uninitialised<float>(count * num_features * kLanes);
    workers.RunParts(count, Parts(count, workers),
                     [&](int64_t, int64_t begin, int64_t end) {
      ThisUnit().pack(
          features, is_bfloat, order, size, num_features, begin, end,
          panels.get());
    });
  }

  static int64_t Parts(int64_t num_panels, const Workers& workers) {
    return std::max<int64_t>(1, std::min(workers.size(), num_panels));
  }
};

// Row b of a buffer `[1 or B, ...]`.
template <typename T, typename Buffer>
const T* RowOf(Buffer& buffer, int64_t b) {
  const int64_t rows = buffer.dimensions()[0];
  const int64_t size = rows ? buffer.element_count() / rows : 0;
  return static_cast<const T*>(buffer.untyped_data()) +
         (rows == 1 ? 0 : b * size);
}

// What is picked with: the arguments of `Problem` in problem.py for one list.
struct Arguments {
  const float* slot_bias;  // [K, C]
  const int32_t* quotas;   // [C]
  const float* rows;       // [R, D]
  int64_t num_slots, num_categories, limit, num_rows, size_rows;
  float weight, volume;
};

// Picks of one list, slot after slot.
class Selection {
 public:
  Selection(List& list, const Arguments& arguments, const Settings& settings,
            const Workers& workers)
      : list_(list), a_(arguments), settings_(settings), workers_(workers),
        stride_(RoundUp(std::max<int64_t>(list.num_features, 1), kVector)),
        remaining_(a_.quotas, a_.quotas + a_.num_categories),
        offset_(a_.num_categories),
        feature_(stride_),
        count_(a_.num_rows) {
    const int64_t rows = a_.size_rows + a_.num_slots + 1;
    rows_.resize((settings_.windowed ? a_.size_rows + 1 : rows) * stride_);
    if (settings_.windowed) raw_.resize((a_.size_rows + 1) * stride_);
    float* to = settings_.windowed ? raw_.data() : rows_.data();
    // With a window the rows there are come last.
    const int64_t first = settings_.windowed ? a_.size_rows - a_.num_rows : 0;
    for (int64_t r = 0; r < a_.num_rows; ++r) {
      std::copy_n(a_.rows + (first + r) * list.num_features,
                  list.num_features, to + r * stride_);
    }
    along_.resize(rows);
    volume_ = a_.volume;
  }

  // Writes K indices within the list (-1: none) and gains; returns how many
  // were picked by their key.
  int32_t Run(int32_t* indices, float* gains) {
    int32_t num_valid = 0;
    for (int64_t t = 0; t < a_.num_slots; ++t) {
      indices[t] = -1;
      gains[t] = 0;
      if (t >= a_.limit) continue;
      for (int64_t c = 0; c < a_.num_categories; ++c) {
        offset_[c] = remaining_[c] > 0
            ? a_.slot_bias[t * a_.num_categories + c] : kNone;
      }
      const Pass pass = NextPass();
      int64_t chosen = Largest(pass);
      if (chosen >= 0) {
        ++num_valid;
        gains[t] = Gain(pass, chosen, list_.value[chosen]);
      } else if (settings_.fill && (chosen = MostRelevant()) >= 0) {
        gains[t] = Gain(pass, chosen, std::nextafter(kTolerance, 1.0f));
      }
      indices[t] = static_cast<int32_t>(chosen);
      pending_ = chosen >= 0;
      if (pending_) Take(chosen);
    }
    return num_valid;
  }

 private:
  bool is_orthogonal() const { return settings_.criterion != kMmr; }

  // Compares with what is in the window, or with one pick more than before.
  Pass NextPass() {
    const float* rows = rows_.data();
    if (settings_.windowed) {
      if (is_orthogonal()) {
        volume_ = 1;
        for (int64_t r = 0; r < count_; ++r) AddRow(&raw_[r * stride_], r);
      } else {
        rows = raw_.data();
      }
    } else if (pending_) {
      AddRow(feature_.data(), count_++);
    }
    const float volume = is_orthogonal() ? volume_ : (count_ > 0 ? 1 : 0);
    return Pass{rows, list_.num_features ? count_ : 0, stride_,
                settings_.criterion, settings_.windowed,
                is_orthogonal() && !settings_.windowed, a_.weight, volume,
                offset_.data(),
                *std::max_element(offset_.begin(), offset_.end())};
  }

  // Row `r` of those that candidates are compared with.
  void AddRow(const float* feature, int64_t r) {
    if (!is_orthogonal()) {
      std::copy_n(feature, stride_, rows_.data() + r * stride_);
      return;
    }
    Shrink(ThisUnit().add_direction(feature, settings_.ridge, r, stride_,
                                    rows_.data(), along_.data()));
  }

  void Shrink(float left) {
    volume_ *= left > kTolerance ? std::sqrt(left) : 0;
  }

  // The candidate of the largest key, of equal ones the first; -1 for none.
  int64_t Largest(const Pass& pass) const {
    const int64_t parts = Packed::Parts(list_.num_panels, workers_);
    std::vector<Best> best(parts);
    workers_.RunParts(list_.num_panels, parts,
                      [&](int64_t part, int64_t begin, int64_t end) {
      ThisUnit().run_pass(list_, pass, begin, end, best[part]);
    });
    float key = kNone;
    int64_t chosen = -1;
    for (const Best& each : best) {
      for (int64_t k = 0; k < kLanes; ++k) {
        const int64_t i = each.panel[k] * kLanes + k;
        if (each.key[k] > key || (each.key[k] == key && i < chosen)) {
          key = each.key[k];
          chosen = i;
        }
      }
    }
    return chosen;
  }

  int64_t MostRelevant() const {
    float best = kNone;
    int64_t chosen = -1;
    for (int64_t i = 0; i < list_.size; ++i) {
      if (Base(i) > best) {
        best = Base(i);
        chosen = i;
      }
    }
    return chosen;
  }

  int32_t CategoryOf(int64_t i) const {
    return list_.category ? list_.category[i] : 0;
  }

  float Base(int64_t i) const {
    return list_.relevance[i] + offset_[CategoryOf(i)];
  }

  float Gain(const Pass& pass, int64_t i, float value) const {
    const float term = pass.criterion == kDpp
        ? std::log(value) : baseline::Term(pass.criterion, value, pass.volume);
    return Base(i) + pass.weight * term;
  }

  void Take(int64_t i) {
    --remaining_[CategoryOf(i)];
    list_.relevance[i] = kNone;
    const float* panel =
        list_.panels + i / kLanes * list_.num_features * kLanes + i % kLanes;
    for (int64_t d = 0; d < list_.num_features; ++d) {
      feature_[d] = panel[d * kLanes];
    }
    if (!settings_.windowed || list_.num_features == 0) return;
    std::copy(feature_.begin(), feature_.end(),
              raw_.begin() + count_ * stride_);
    if (count_ < a_.size_rows) {
      ++count_;
    } else {
      std::copy(raw_.begin() + stride_, raw_.end(), raw_.begin());
    }
  }

  List& list_;
  const Arguments& a_;
  const Settings& settings_;
  const Workers& workers_;
  const int64_t stride_;
  std::vector<int32_t> remaining_;
  std::vector<float> offset_, feature_, rows_, raw_, along_;
  int64_t count_;
  float volume_;
  bool pending_ = false;  // `feature_` has not been compared with yet.
};

using Numbers = ffi::Buffer<ffi::F32>;
using Integers = ffi::Buffer<ffi::S32>;

ffi::Error Greedy(ffi::ThreadPool pool, ffi::AnyBuffer features,
                  Numbers relevance, Integers lists, Integers categories,
                  Integers limits, Integers quotas, Numbers slot_bias,
                  Numbers weight, Numbers rows, Integers num_rows,
                  Numbers volume, ffi::Result<Integers> indices,
                  ffi::Result<Numbers> gains, ffi::Result<Integers> num_valid,
                  int32_t criterion, bool windowed, float ridge, bool fill) {
  const Settings settings{criterion, windowed, fill, ridge};
  const int64_t num_problems = indices->dimensions()[0];
  const int64_t num_lists = indices->dimensions()[1];
  const int64_t num_slots = indices->dimensions()[2];
  const int64_t num_items = relevance.dimensions()[1];
  const int64_t num_features = features.dimensions()[2];
  const int64_t num_categories = quotas.dimensions()[1];
  const bool is_bfloat = features.element_type() == ffi::BF16;
  const int64_t products =
      num_items * std::max<int64_t>(num_features, 1) * num_slots;
  const int64_t tasks = num_problems * num_lists;
  const bool few = tasks < pool.num_threads();
  const int64_t of_task = products / num_lists;
  const Workers outer(pool, !few && tasks * of_task > kFewProducts);
  const Workers inner(pool, few && of_task > kFewProducts);
  std::unique_ptr<Packed> shared;
  if (features.dimensions()[0] == 1 && num_lists == 1) {
    shared = std::make_unique<Packed>(features.untyped_data(), is_bfloat,
                                      nullptr, num_items, num_features, inner);
  }
  outer.Run(tasks, [&](int64_t task) {
    const int64_t b = task / num_lists, g = task % num_lists;
    std::vector<int32_t> order;
    if (num_lists > 1) {
      const int32_t* list_of = RowOf<int32_t>(lists, b);
      for (int64_t i = 0; i < num_items; ++i) {
        if (list_of[i] == g) order.push_back(static_cast<int32_t>(i));
      }
    }
    const int64_t size = num_lists > 1 ? order.size() : num_items;
    const int32_t* chosen = num_lists > 1 ? order.data() : nullptr;
    std::unique_ptr<Packed> own;
    if (!shared) {
      const char* first = RowOf<char>(features, 0);
      const int64_t bytes = num_items * num_features * (is_bfloat ? 2 : 4);
      own = std::make_unique<Packed>(
          first + (features.dimensions()[0] == 1 ? 0 : b * bytes), is_bfloat,
          chosen, size, num_features, inner);
    }
    const Packed& packed = shared ? *shared : *own;
    const int64_t padded = RoundUp(size, kLanes);
    List list{size, num_features, padded / kLanes, packed.panels.get(),
              Uninitialised<float>(padded), Uninitialised<float>(padded),
              num_categories > 1 ? Uninitialised<int32_t>(padded) : nullptr,
              Uninitialised<int64_t>(padded / kLanes),
              Uninitialised<float>(padded / kLanes)};
    std::fill_n(list.applied.get(), list.num_panels, 0);
    std::fill_n(list.bound.get(), list.num_panels, -kNone);
    const float* relevance_of = RowOf<float>(relevance, b);
    const int32_t* category_of = RowOf<int32_t>(categories, b);
    for (int64_t i = 0; i < padded; ++i) {
      const int64_t item = i < size ? (chosen ? chosen[i] : i) : 0;
      const bool there = i < size;
      list.relevance[i] = there ? relevance_of[item] : kNone;
      if (list.category) list.category[i] = there ? category_of[item] : 0;
    }
    const Arguments arguments{
        RowOf<float>(slot_bias, b), RowOf<int32_t>(quotas, b),
        RowOf<float>(rows, b), num_slots, num_categories,
        RowOf<int32_t>(limits, b)[g], *RowOf<int32_t>(num_rows, b),
        rows.dimensions()[1], *RowOf<float>(weight, b),
        *RowOf<float>(volume, b)};
    int32_t* index = indices->typed_data() + task * num_slots;
    num_valid->typed_data()[task] =
        Selection(list, arguments, settings, inner).Run(
            index, gains->typed_data() + task * num_slots);
    if (chosen) {
      for (int64_t t = 0; t < num_slots; ++t) {
        if (index[t] >= 0) index[t] = chosen[index[t]];
      }
    }
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    harmonrank_greedy, Greedy,
    ffi::Ffi::Bind()
        .Ctx<ffi::ThreadPool>()
        .Arg<ffi::AnyBuffer>()
        .Arg<Numbers>()
        .Arg<Integers>()
        .Arg<Integers>()
        .Arg<Integers>()
        .Arg<Integers>()
        .Arg<Numbers>()
        .Arg<Numbers>()
        .Arg<Numbers>()
        .Arg<Integers>()
        .Arg<Numbers>()
        .Ret<Integers>()
        .Ret<Numbers>()
        .Ret<Integers>()
        .Attr<int32_t>("criterion")
        .Attr<bool>("windowed")
        .Attr<float>("ridge")
        .Attr<bool>("fill"));
