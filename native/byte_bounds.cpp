#include "byte_bounds.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "numbers.h"
#include "threads.h"

namespace distilmatch {

constexpr float kLargest = 1e30f;  // of numbers whose sums certainly are finite

// The least and the largest of a column each, (2, hidden), and whether all numbers are finite.
struct Extent {
  Extent(const float* rows, int64_t count, int hidden, int threads) : columns(2 * static_cast<size_t>(hidden)) {
    float *low = columns.data(), *high = low + hidden;
    for (int x = 0; x < hidden; ++x) low[x] = kLargest, high[x] = -kLargest;
    Failure failure;
#pragma omp parallel num_threads(threads)
    {
      Buffer<float> own;
      __mmask16 odd = 0;
      failure.run([&] {
        own = Buffer<float>(2 * static_cast<size_t>(hidden));
        std::memcpy(own.data(), columns.data(), own.bytes());
      });
#pragma omp barrier
#pragma omp for schedule(static) nowait
      for (int64_t row = 0; row < count; ++row)
        failure.run([&] {
          for (int x = 0; x < hidden; x += 16) {
            float *least = own.data() + x, *most = least + hidden;
            const __m512 numbers = _mm512_loadu_ps(rows + row * hidden + x);
            odd |= ~_mm512_cmp_ps_mask(_mm512_abs_ps(numbers), _mm512_set1_ps(kLargest), _CMP_LT_OQ);  // also NaN
            _mm512_store_ps(least, _mm512_min_ps(_mm512_load_ps(least), numbers));
            _mm512_store_ps(most, _mm512_max_ps(_mm512_load_ps(most), numbers));
          }
        });
#pragma omp critical(extent)
      failure.run([&] {
        if (odd) usual = false;
        for (int x = 0; x < hidden; ++x) {
          low[x] = std::min(low[x], own[x]);
          high[x] = std::max(high[x], own[hidden + x]);
        }
      });
    }
    failure.rethrow();
  }
  float low(int x) const { return columns[x]; }
  float high(int x) const { return columns[columns.bytes() / sizeof(float) / 2 + x]; }
  float size(int x) const { return std::max(std::fabs(low(x)), std::fabs(high(x))); }

  Buffer<float> columns;
  bool usual = true;
};

namespace {

// Columns x to x + 8 of eight rows.
inline void columns(const float* const* rows, int x, __m256* found) {
  __m256 pairs[8], fours[8];
  for (int i = 0; i < 8; i += 2) {
    const __m256 one = _mm256_loadu_ps(rows[i] + x), other = _mm256_loadu_ps(rows[i + 1] + x);
    pairs[i] = _mm256_unpacklo_ps(one, other), pairs[i + 1] = _mm256_unpackhi_ps(one, other);
  }
  for (int i = 0; i < 8; i += 4)
    for (int half = 0; half < 2; ++half) {
      fours[i + 2 * half] = _mm256_shuffle_ps(pairs[i + half], pairs[i + 2 + half], 0x44);
      fours[i + 2 * half + 1] = _mm256_shuffle_ps(pairs[i + half], pairs[i + 2 + half], 0xee);
    }
  for (int i = 0; i < 4; ++i) {
    found[i] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
    found[i + 4] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
  }
}

inline __m512i four_bytes(const void* bytes) {  // in every lane
  int all;
  std::memcpy(&all, bytes, 4);
  return _mm512_set1_epi32(all);
}

}  // namespace

bool byte_bounds_supported() { return __builtin_cpu_supports("avx512vnni"); }

ByteBounds::ByteBounds(const HeadShape& shape, const float* left, int64_t left_count, const float* right,
                       int64_t right_count, int threads)
    : shape_(shape), lows_(shape.hidden), inverses_(shape.hidden), weights_(shape.hidden) {
  const Extent lefts(left, left_count, shape.width(), threads), rights(right, right_count, shape.width(), threads);
  any_ = lefts.usual && rights.usual && left_count > 0 && right_count > 0;
  if (!any_) return;

  const int hidden = shape.hidden;
  std::vector<double> ranges(hidden);  // of what a column adds to a logit
  double largest = 0, magnitude = std::fabs(shape.bias), lowest = 0, half_steps = 0;
  for (int x = 0; x < hidden; ++x) {
    // What is below the other side's least number is never the maximum.
    const float low = std::max(lefts.low(x), -rights.high(x)), high = std::max(lefts.high(x), -rights.low(x));
    lows_[x] = low;
    const double weight = shape.read[x];
    ranges[x] = std::fabs(weight) * (static_cast<double>(high) - low);
    largest = std::max(largest, ranges[x]);
    lowest += weight * low;
    magnitude += std::fabs(weight) * (static_cast<double>(lefts.size(x)) + rights.size(x));
  }
  for (int x = hidden; x < shape.width(); ++x) magnitude += static_cast<double>(lefts.size(x)) * rights.size(x);
  any_ = magnitude < kLargest;
  if (!any_) return;
  const double unit = largest / (255. * 127.);
  for (int x = 0; x < hidden; ++x) {
    if (!(ranges[x] > 0)) continue;
    const double times = std::ceil(127. * (ranges[x] / largest));
    inverses_[x] = static_cast<float>(std::fabs(shape.read[x]) / (unit * times));
    weights_[x] = static_cast<int8_t>(shape.read[x] < 0 ? -times : times);
    half_steps += unit * times / 2;
  }
  unit_ = static_cast<float>(unit);
  fp32_ = static_cast<float>((shape.width() + 64) * 0x1p-22 * magnitude);
  slack_ = static_cast<float>(lowest + half_steps * 0.002 + fp32_ + (shape.use_gelu ? gelu_slack(lefts, rights) : 0));
}

// How much more than with ReLU a logit can be with GELU as the kernel computes it.
double ByteBounds::gelu_slack(const Extent& lefts, const Extent& rights) const {
  constexpr double kMost = 0.1699713, kError = 2.2e-4;  // of ReLU less GELU; of the polynomial up to 6, and a little
  constexpr float kFar = 1024;                          // beyond 4 the error grows with the number
  const double growth =
      std::max(std::fabs(_mm512_cvtss_f32(gelu(_mm512_set1_ps(kFar))) / static_cast<double>(kFar) - 1),
               std::fabs(_mm512_cvtss_f32(gelu(_mm512_set1_ps(-kFar))) / static_cast<double>(kFar)));
  double slack = 0;
  for (int x = 0; x < shape_.hidden; ++x) {
    const float read = shape_.read[x];
    const double weight = std::fabs(read), farthest = static_cast<double>(lefts.size(x)) + rights.size(x);
    slack += (read < 0 ? kMost * weight : 0) + weight * (kError + 1.01 * growth * farthest);
  }
  return slack;
}

// Columns x to x + 16 of a row on the grid; adds what that takes from a logit.
__m128i ByteBounds::on_grid(__m512 numbers, int x, __m512& losses) const {
  const __m512 from_low = _mm512_sub_ps(numbers, _mm512_load_ps(lows_.data() + x)),
               steps =
                   _mm512_max_ps(_mm512_mul_ps(from_low, _mm512_load_ps(inverses_.data() + x)), _mm512_setzero_ps());
  const __m512i whole = _mm512_cvtps_epi32(steps);
  const __m512 lost = _mm512_sub_ps(steps, _mm512_cvtepi32_ps(whole));
  const __m512 times =
      _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(weights_.data() + x))));
  losses = _mm512_add_ps(losses, _mm512_max_ps(_mm512_mul_ps(lost, times), _mm512_setzero_ps()));
  return _mm512_cvtusepi32_epi8(whole);
}

ByteBounds::Rounded ByteBounds::put_products(const float* numbers, int8_t* bytes) const {
  __m512 most = _mm512_setzero_ps(), norm = most, error = most;
  for (int x = 0; x < shape_.products; x += 16) most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_loadu_ps(numbers + x)));
  const float largest = _mm512_reduce_max_ps(most), step = largest > 1e-30f ? largest / 127.f : 1.f;
  for (int x = 0; x < shape_.products; x += 16) {
    const __m512 own = _mm512_loadu_ps(numbers + x);
    const __m512i whole = _mm512_cvtps_epi32(_mm512_div_ps(own, _mm512_set1_ps(step)));
    const __m512 said = _mm512_mul_ps(_mm512_cvtepi32_ps(whole), _mm512_set1_ps(step)),
                 missed = _mm512_sub_ps(own, said);
    norm = _mm512_fmadd_ps(said, said, norm), error = _mm512_fmadd_ps(missed, missed, error);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes + x), _mm512_cvtsepi32_epi8(whole));
  }
  constexpr float kUp = 1.0001f;  // for the rounding of these sums; and of a product of such bytes, by its size
  const float size = kUp * std::sqrt(_mm512_reduce_add_ps(norm));
  return {step, size, kUp * std::sqrt(_mm512_reduce_add_ps(error)) + 1e-6f * size + 1e-20f};
}

void ByteBounds::put_left(const float* row, uint8_t* bytes, LeftRow& facts) const {
  __m512 lost = _mm512_setzero_ps();
  for (int x = 0; x < shape_.hidden; x += 16)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes + x), on_grid(_mm512_loadu_ps(row + x), x, lost));
  facts.loss = unit_ * _mm512_reduce_add_ps(lost);
  int8_t* products = reinterpret_cast<int8_t*>(bytes + shape_.hidden);
  const Rounded rounded = put_products(row + shape_.hidden, products);
  int sum = 0;
  for (int x = 0; x < shape_.products; ++x) sum += products[x];
  facts.step = rounded.step, facts.offset = 128 * sum;
  facts.norm = rounded.norm + rounded.error, facts.error = rounded.error;
}

void ByteBounds::put_panel(const float* right, int64_t first, int count, uint8_t* bytes, Panel& facts) const {
  const int hidden = shape_.hidden;
  Buffer<int8_t> products(shape_.products);
  const auto put = [&](int x, int j, __m128i sixteen) {
    alignas(16) uint32_t fours[4];
    _mm_store_si128(reinterpret_cast<__m128i*>(fours), sixteen);
    for (int i = 0; i < 4; ++i) std::memcpy(bytes + (x / 4 + i) * 64 + j * 4, &fours[i], 4);
  };
  for (int j = 0; j < count; ++j) {
    const float* row = right + (first + j) * shape_.width();
    __m512 lost = _mm512_setzero_ps(), own = _mm512_setzero_ps();
    for (int x = 0; x < hidden; x += 16) {
      const __m512 numbers = _mm512_loadu_ps(row + x);
      own = _mm512_fmadd_ps(numbers, _mm512_loadu_ps(shape_.read + x), own);
      put(x, j, on_grid(_mm512_sub_ps(_mm512_setzero_ps(), numbers), x, lost));
    }
    facts.most[j] = _mm512_reduce_add_ps(_mm512_fmadd_ps(lost, _mm512_set1_ps(unit_), own)) + shape_.bias;
    if (!shape_.products) continue;
    const Rounded rounded = put_products(row + hidden, products.data());
    for (int x = 0; x < shape_.products; x += 16) {
      const __m128i signed_bytes = _mm_load_si128(reinterpret_cast<const __m128i*>(products.data() + x));
      put(hidden + x, j, _mm_add_epi8(signed_bytes, _mm_set1_epi8(-128)));  // 128 more, without a sign
    }
    facts.steps[j] = rounded.step, facts.norms[j] = rounded.norm, facts.errors[j] = rounded.error;
  }
}

float ByteBounds::nearly(const float* left, const float* right) const {
  __m512 sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  for (int x = 0; x < shape_.hidden; x += 16) {
    const __m512 sum = _mm512_add_ps(_mm512_loadu_ps(right + x), _mm512_loadu_ps(left + x)),
                 read = _mm512_loadu_ps(shape_.read + x);
    sums[x / 16 % 2] = _mm512_fmadd_ps(shape_.use_gelu ? gelu(sum) : relu(sum), read, sums[x / 16 % 2]);
  }
  for (int x = shape_.hidden; x < shape_.width(); x += 16)
    sums[x / 16 % 2] = _mm512_fmadd_ps(_mm512_loadu_ps(right + x), _mm512_loadu_ps(left + x), sums[x / 16 % 2]);
  return _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1])) + shape_.bias + fp32_;
}

void ByteBounds::reach(const uint8_t* const* left, const LeftRow* const* rows, const uint8_t* panel_bytes,
                       const Panel* panels, __mmask16* masks) const {
  __m512i sums[kRows][kPanels];
  for (auto& row : sums)
    for (auto& sum : row) sum = _mm512_setzero_si512();
  const uint8_t* next = panel_bytes + 16 * static_cast<size_t>(shape_.width());
  const int hidden = shape_.hidden;
  for (int x = 0; x < hidden; x += 4) {
    const __m512i b = _mm512_load_si512(panel_bytes + x * 16), d = _mm512_load_si512(next + x * 16);
    const __m512i weights = four_bytes(weights_.data() + x);
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      const __m512i a = four_bytes(left[i] + x);
      sums[i][0] = _mm512_dpbusd_epi32(sums[i][0], _mm512_max_epu8(b, a), weights);
      sums[i][1] = _mm512_dpbusd_epi32(sums[i][1], _mm512_max_epu8(d, a), weights);
    }
  }
  __m512 bounds[kRows][kPanels];
  const __m512 unit = _mm512_set1_ps(unit_);
  for (int panel = 0; panel < kPanels; ++panel)
    for (int i = 0; i < kRows; ++i)
      bounds[i][panel] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[i][panel]), unit, _mm512_load_ps(panels[panel].most));
  if (shape_.products) add_products(left, rows, panel_bytes, panels, bounds);
  for (int panel = 0; panel < kPanels; ++panel)
    for (int i = 0; i < kRows; ++i)
      masks[i * kPanels + panel] = _mm512_cmp_ps_mask(bounds[i][panel], _mm512_set1_ps(rows[i]->limit), _CMP_GE_OQ);
}

// Adds to the bounds what the products of the texts' numbers are at most.
void ByteBounds::add_products(const uint8_t* const* left, const LeftRow* const* rows, const uint8_t* panel_bytes,
                              const Panel* panels, __m512 (*bounds)[kPanels]) const {
  __m512i sums[kRows][kPanels];
  for (auto& row : sums)
    for (auto& sum : row) sum = _mm512_setzero_si512();
  const uint8_t* next = panel_bytes + 16 * static_cast<size_t>(shape_.width());
  for (int x = shape_.hidden; x < shape_.width(); x += 4) {
    const __m512i b = _mm512_load_si512(panel_bytes + x * 16), d = _mm512_load_si512(next + x * 16);
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      const __m512i a = four_bytes(left[i] + x);
      sums[i][0] = _mm512_dpbusd_epi32(sums[i][0], b, a);
      sums[i][1] = _mm512_dpbusd_epi32(sums[i][1], d, a);
    }
  }
  for (int panel = 0; panel < kPanels; ++panel) {
    const __m512 steps = _mm512_load_ps(panels[panel].steps), errors = _mm512_load_ps(panels[panel].errors),
                 norms = _mm512_load_ps(panels[panel].norms);
    for (int i = 0; i < kRows; ++i) {
      const __m512i own = _mm512_sub_epi32(sums[i][panel], _mm512_set1_epi32(rows[i]->offset));
      const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(own), _mm512_set1_ps(rows[i]->step));
      __m512& bound = bounds[i][panel];
      bound = _mm512_fmadd_ps(product, steps, bound);
      bound = _mm512_fmadd_ps(_mm512_set1_ps(rows[i]->norm), errors, bound);
      bound = _mm512_fmadd_ps(_mm512_set1_ps(rows[i]->error), norms, bound);
    }
  }
}

void ByteBounds::exact(const float* left, const float* right, const int64_t* pairs, int count, float* logits) const {
  const float *a[kExact], *b[kExact];
  for (int i = 0; i < kExact; ++i) {
    const int64_t* pair = pairs + 2 * std::min(i, count - 1);
    a[i] = left + pair[0] * shape_.width(), b[i] = right + pair[1] * shape_.width();
  }
  __m512 sums = _mm512_setzero_ps(), own = _mm512_setzero_ps();
  __m256 lefts[8], rights[8];
  for (int x = 0; x < shape_.width(); ++x) {
    if (x % 8 == 0) columns(a, x, lefts), columns(b, x, rights);
    const __m512 one = _mm512_castps256_ps512(lefts[x % 8]), other = _mm512_castps256_ps512(rights[x % 8]);
    if (x >= shape_.hidden) {
      sums = _mm512_fmadd_ps(other, one, sums);
      continue;
    }
    const __m512 weight = _mm512_set1_ps(shape_.read[x]);
    if (shape_.use_gelu) {
      sums = _mm512_fmadd_ps(gelu(_mm512_add_ps(other, one)), weight, sums);
    } else {
      sums = _mm512_fmadd_ps(_mm512_max_ps(_mm512_sub_ps(_mm512_setzero_ps(), other), one), weight, sums);
      own = _mm512_fmadd_ps(other, weight, own);
    }
  }
  alignas(64) float all[16];
  _mm512_store_ps(all, _mm512_add_ps(sums, _mm512_add_ps(own, _mm512_set1_ps(shape_.bias))));
  std::copy(all, all + count, logits);
}

}  // namespace distilmatch
