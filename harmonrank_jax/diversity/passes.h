// What the greedy loop spends its time on. Included by native.cc once for each
// vector unit that a machine may have: HARMONRANK_UNIT names a namespace,
// HARMONRANK_TARGET goes before every function.

namespace HARMONRANK_UNIT {

// log of numbers in (0, 2], by the series of the inverse hyperbolic tangent;
// exact at 1. The same instructions for every lane.
HARMONRANK_TARGET inline float Log(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  // The mantissa in [sqrt(1/2), sqrt(2)).
  const int32_t shifted = static_cast<int32_t>(bits - 0x3f3504f3u) >> 23;
  bits -= static_cast<uint32_t>(shifted) << 23;
  float m;
  std::memcpy(&m, &bits, sizeof(m));
  const float s = (m - 1) / (m + 1), z = s * s;
  const float series =
      ((((2.0f / 9) * z + 2.0f / 7) * z + 2.0f / 5) * z + 2.0f / 3) * z;
  return static_cast<float>(shifted) * 0.693147181f + (2 * s + s * series);
}

HARMONRANK_TARGET inline float Term(int32_t criterion, float value,
                                    float volume) {
  switch (criterion) {
    case kDpp: return value > kTolerance ? Log(value) : kNone;
    case kMmr: return volume * -value;  // The volume is 1, or 0 for no picks.
    default: return volume * std::sqrt(value > kTolerance ? value : 0);
  }
}

// Of one row with all candidates of a panel.
HARMONRANK_TARGET inline void Products(const float* panel, const float* row,
                                       int64_t num_features,
                                       float* products) {
  Vector sum[kVectors] = {};
  const Vector* feature = reinterpret_cast<const Vector*>(panel);
  for (int64_t d = 0; d < num_features; ++d, feature += kVectors) {
    for (int v = 0; v < kVectors; ++v) sum[v] += row[d] * feature[v];
  }
  std::memcpy(products, sum, sizeof(sum));
}

HARMONRANK_TARGET inline float Largest(const float* numbers) {
  float most[kVector];
  for (int k = 0; k < kVector; ++k) most[k] = numbers[k];
  for (int64_t from = kVector; from < kLanes; from += kVector) {
    for (int k = 0; k < kVector; ++k) {
      const float x = numbers[from + k];
      most[k] = x > most[k] ? x : most[k];
    }
  }
  for (int half = kVector / 2; half > 0; half /= 2) {
    for (int k = 0; k < half; ++k) {
      most[k] = most[k] > most[k + half] ? most[k] : most[k + half];
    }
  }
  return most[0];
}

// Brings panel p up to date with all rows and makes its keys.
HARMONRANK_TARGET inline void RunPanel(const List& list, const Pass& pass,
                                       int64_t p, Best& best) {
  float* value = list.value.get() + p * kLanes;
  const float* relevance = list.relevance.get() + p * kLanes;
  const float* panel = list.panels + p * list.num_features * kLanes;
  float now[kLanes], raw[kLanes], key[kLanes];
  const float start = pass.criterion == kMmr ? -1 : 1;
  const int64_t applied = list.applied[p];
  for (int k = 0; k < kLanes; ++k) now[k] = applied ? value[k] : start;
  for (int64_t r = applied; r < pass.num_rows; ++r) {
    float sum[kLanes];
    Products(panel, pass.rows + r * pass.stride, list.num_features, sum);
    if (pass.criterion == kMmr) {
      for (int k = 0; k < kLanes; ++k) {
        now[k] = now[k] > sum[k] ? now[k] : sum[k];
      }
    } else {
      for (int k = 0; k < kLanes; ++k) now[k] -= sum[k] * sum[k];
    }
  }
  for (int k = 0; k < kLanes; ++k) value[k] = now[k];
  list.applied[p] = pass.windowed ? 0 : pass.num_rows;
  switch (pass.criterion) {
    case kDpp:
      for (int k = 0; k < kLanes; ++k) raw[k] = Term(kDpp, now[k], pass.volume);
      break;
    case kMmr:
      for (int k = 0; k < kLanes; ++k) raw[k] = Term(kMmr, now[k], pass.volume);
      break;
    default:
      for (int k = 0; k < kLanes; ++k) raw[k] = Term(kSsd, now[k], pass.volume);
  }
  for (int k = 0; k < kLanes; ++k) raw[k] = relevance[k] + pass.weight * raw[k];
  const int32_t* category =
      list.category ? list.category.get() + p * kLanes : nullptr;
  for (int k = 0; k < kLanes; ++k) {
    key[k] = raw[k] + pass.offset[category ? category[k] : 0];
  }
  const int32_t panel_index = static_cast<int32_t>(p);
  for (int k = 0; k < kLanes; ++k) {
    const bool better = key[k] > best.key[k] ||
        (key[k] == best.key[k] && panel_index < best.panel[k]);
    best.key[k] = better ? key[k] : best.key[k];
    best.panel[k] = better ? panel_index : best.panel[k];
  }
  best.largest = std::max(best.largest, Largest(key));
  list.bound[p] = Largest(raw);
}

// The best of panels `begin` to `end`. Keys without a window only fall, but
// for what a slot adds: panels that had no key of interest when they were last
// looked at are left for later, and then catch up.
HARMONRANK_TARGET
void RunPass(const List& list, const Pass& pass, int64_t begin, int64_t end,
             Best& best) {
  if (begin == end) return;
  int64_t first = begin;
  for (int64_t p = begin; p < end; ++p) {
    if (list.bound[p] > list.bound[first]) first = p;
  }
  RunPanel(list, pass, first, best);
  for (int64_t p = begin; p < end; ++p) {
    const bool can_wait =
        pass.keys_fall && list.bound[p] + pass.most < best.largest;
    if (p != first && !can_wait) RunPanel(list, pass, p, best);
  }
}

HARMONRANK_TARGET inline float Total(const Vector& sum) {
  float numbers[kVector];
  std::memcpy(numbers, &sum, sizeof(sum));
  for (int64_t half = kVector / 2; half > 0; half /= 2) {
    for (int64_t k = 0; k < half; ++k) numbers[k] += numbers[k + half];
  }
  return numbers[0];
}

// Sizes are multiples of kVector.
HARMONRANK_TARGET inline float Dot(const float* a, const float* b,
                                   int64_t size) {
  Vector sum = {};
  for (int64_t i = 0; i < size; i += kVector) {
    sum += *reinterpret_cast<const Vector*>(a + i) *
           *reinterpret_cast<const Vector*>(b + i);
  }
  return Total(sum);
}

HARMONRANK_TARGET inline void Subtract(float scale, const float* from,
                                       float* to, int64_t size) {
  for (int64_t i = 0; i < size; i += kVector) {
    *reinterpret_cast<Vector*>(to + i) -=
        scale * *reinterpret_cast<const Vector*>(from + i);
  }
}

// `direction` of directions.py: writes it after `count` others and returns what
// the unit feature had left beside them; `along` is room for `count` numbers.
HARMONRANK_TARGET
float AddDirection(const float* feature, float ridge, int64_t count,
                   int64_t stride, float* rows, float* along) {
  float* rest = rows + count * stride;
  if (ridge >= 0) {
    float left = 1;
    for (int64_t i = 0; i < stride; ++i) rest[i] = ridge * feature[i];
    for (int64_t r = 0; r < count; ++r) {
      along[r] = Dot(rows + r * stride, feature, stride);
      left -= along[r] * along[r];
    }
    for (int64_t r = 0; r < count; ++r) {
      Subtract(along[r], rows + r * stride, rest, stride);
    }
    left = std::max(left, kTolerance);
    const float scale = 1 / std::sqrt(left);
    for (int64_t i = 0; i < stride; ++i) rest[i] *= scale;
    return left;
  }
  std::copy(feature, feature + stride, rest);
  // An item without features is in no span.
  if (!(Dot(feature, feature, stride) > 0)) return 1;
  for (int pass = 0; pass < 2; ++pass) {
    for (int64_t r = 0; r < count; ++r) {
      along[r] = Dot(rows + r * stride, rest, stride);
    }
    for (int64_t r = 0; r < count; ++r) {
      Subtract(along[r], rows + r * stride, rest, stride);
    }
  }
  const float left = Dot(rest, rest, stride);
  const float scale = left > kTolerance ? 1 / std::sqrt(left) : 0;
  for (int64_t i = 0; i < stride; ++i) rest[i] *= scale;
  return left;
}

HARMONRANK_TARGET inline float ToFloat(float x) { return x; }
HARMONRANK_TARGET inline float ToFloat(uint16_t bfloat) {
  const uint32_t bits = static_cast<uint32_t>(bfloat) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

// `inverse_norms` of directions.py, of one feature whose squares do not fit.
HARMONRANK_TARGET inline float CarefulInverseNorm(const float* feature,
                                                  int64_t size) {
  float largest = 0, square = 0;
  for (int64_t d = 0; d < size; ++d) {
    if (!std::isfinite(feature[d])) return 0;
    largest = std::max(largest, std::fabs(feature[d]));
  }
  if (largest < std::numeric_limits<float>::min()) return 0;
  for (int64_t d = 0; d < size; ++d) {
    const float x = feature[d] / largest;
    square += x * x;
  }
  return 1 / (largest * std::sqrt(square));
}

// The transpose of kVector by kVector numbers; rows are `from_stride` apart,
// and `to_stride` in the result.
HARMONRANK_TARGET inline void Transpose(const float* from, int64_t from_stride,
                                        float* to, int64_t to_stride) {
#if HARMONRANK_CAN_SHUFFLE
  Vector front[kVector], back[kVector];
  for (int i = 0; i < kVector; ++i) {
    front[i] = *reinterpret_cast<const Vector*>(from + i * from_stride);
  }
  // Shuffled like cards four times, row i with row i + 8.
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < kVector / 2; ++i) {
      const Vector a = front[i], b = front[i + kVector / 2];
      back[2 * i] = __builtin_shufflevector(
          a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      back[2 * i + 1] = __builtin_shufflevector(
          a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    }
    std::memcpy(front, back, sizeof(back));
  }
  for (int j = 0; j < kVector; ++j) {
    *reinterpret_cast<Vector*>(to + j * to_stride) = front[j];
  }
#else
  for (int j = 0; j < kVector; ++j) {
    for (int i = 0; i < kVector; ++i) {
      to[j * to_stride + i] = from[i * from_stride + j];
    }
  }
#endif
}

// One panel of unit features from kLanes rows of features.
HARMONRANK_TARGET inline void PackPanel(const float* rows,
                                        int64_t num_features, float* panel) {
  for (int64_t k = 0; k < kLanes; k += kVector) {
    const float* from = rows + k * num_features;
    int64_t d = 0;
    for (; d + kVector <= num_features; d += kVector) {
      Transpose(from + d, num_features, panel + d * kLanes + k, kLanes);
    }
    for (; d < num_features; ++d) {
      for (int64_t i = 0; i < kVector; ++i) {
        panel[d * kLanes + k + i] = from[i * num_features + d];
      }
    }
  }
  Vector square[kVectors] = {};
  Vector* feature = reinterpret_cast<Vector*>(panel);
  for (int64_t d = 0; d < num_features; ++d) {
    for (int v = 0; v < kVectors; ++v) {
      const Vector x = feature[d * kVectors + v];
      square[v] += x * x;
    }
  }
  float scale[kLanes];
  std::memcpy(scale, square, sizeof(scale));
  for (int64_t k = 0; k < kLanes; ++k) {
    // No square that matters has vanished, none is too large, or NaN.
    const bool fits = scale[k] > 1e-24f && scale[k] < 1e36f;
    scale[k] = fits ? 1 / std::sqrt(scale[k]) : -1;
  }
  for (int64_t k = 0; k < kLanes; ++k) {
    if (scale[k] < 0) {
      scale[k] = CarefulInverseNorm(rows + k * num_features, num_features);
    }
    if (scale[k] > 0) continue;
    for (int64_t d = 0; d < num_features; ++d) panel[d * kLanes + k] = 0;
  }
  Vector factor[kVectors];
  std::memcpy(factor, scale, sizeof(scale));
  for (int64_t d = 0; d < num_features; ++d) {
    for (int v = 0; v < kVectors; ++v) feature[d * kVectors + v] *= factor[v];
  }
}

// Panels `begin` to `end` of candidates `order[0]`, ..., or of all.
template <typename T>
HARMONRANK_TARGET inline void PackPanels(
    const T* features, const int32_t* order, int64_t size,
    int64_t num_features, int64_t begin, int64_t end, float* panels) {
  // Read through in order, memory is faster than tile by tile.
  std::vector<float> rows(kLanes * num_features);
  for (int64_t p = begin; p < end; ++p) {
    for (int64_t k = 0; k < kLanes; ++k) {
      const int64_t i = p * kLanes + k;
      float* row = rows.data() + k * num_features;
      if (i >= size) {
        std::fill_n(row, num_features, 0.0f);
        continue;
      }
      const T* feature = features + (order ? order[i] : i) * num_features;
      for (int64_t d = 0; d < num_features; ++d) row[d] = ToFloat(feature[d]);
    }
    PackPanel(rows.data(), num_features, panels + p * num_features * kLanes);
  }
}

HARMONRANK_TARGET
void Pack(const void* features, bool is_bfloat, const int32_t* order,
          int64_t size, int64_t num_features, int64_t begin, int64_t end,
          float* panels) {
  if (is_bfloat) {
    PackPanels(static_cast<const uint16_t*>(features), order, size,
               num_features, begin, end, panels);
  } else {
    PackPanels(static_cast<const float*>(features), order, size, num_features,
               begin, end, panels);
  }
}

}  // namespace HARMONRANK_UNIT
