// Products in int8: rows in unsigned bytes with a scale and a zero point each, weights in signed bytes with a scale for
// each output, sums in int32.
// Instructions: AVX512-VNNI, AVX-512 for the scales. Bound by: arithmetic, 28 multiply-adds for 16 loads.
#include <algorithm>
#include <vector>

#include "product.h"

namespace distilmatch {
namespace {

constexpr int kTileRows = 56;
constexpr int kRegisterRows = 14;

// Packed weights: for each output its scale, for each the sum of its bytes, then `FourPanels` of bytes.
template <class Float, class Byte>
struct Parts {
  template <class Void>
  Parts(Void* packed, int outputs)
      : scales(static_cast<Float*>(packed)), sums(scales + outputs), panels(reinterpret_cast<Byte*>(sums + outputs)) {}
  Float *scales, *sums;
  Byte* panels;
};
using Packed = Parts<const float, const int8_t>;
using Packing = Parts<float, int8_t>;

size_t packed_bytes(int outputs, int inputs) {
  return static_cast<size_t>(outputs) * inputs + 2 * static_cast<size_t>(outputs) * sizeof(float);
}

void pack(const float* weights, int outputs, int inputs, void* packed) {
  const Packing to(packed, outputs);
  for (int n = 0; n < outputs; ++n) {
    const float* row = weights + static_cast<size_t>(n) * inputs;
    float largest = 0, sum = 0;
    for (int k = 0; k < inputs; ++k) largest = std::max(largest, std::fabs(row[k]));
    to.scales[n] = largest > 0 ? largest / 127.f : 1.f;
    for (int k = 0; k < inputs; ++k) {
      const float number = std::nearbyint(row[k] / to.scales[n]);
      sum += number;
      to.panels[FourPanels::place(n, k, inputs)] = static_cast<int8_t>(number);
    }
    to.sums[n] = sum;
  }
}

// A tile of rows in bytes: x is about scale (q - zero).
struct Rows {
  std::vector<uint8_t> numbers;
  float scales[kTileRows], zeros[kTileRows];

  void take(const bf16* rows, int inputs) {
    numbers.resize(static_cast<size_t>(kTileRows) * inputs);
    for (int i = 0; i < kTileRows; ++i) {
      const bf16* row = rows + static_cast<size_t>(i) * inputs;
      __m512 low = _mm512_setzero_ps(), high = low;
      for (int k = 0; k < inputs; k += 16) {
        const __m512 x = from_bf16(row + k);
        low = _mm512_min_ps(low, x);
        high = _mm512_max_ps(high, x);
      }
      const float least = _mm512_reduce_min_ps(low), range = _mm512_reduce_max_ps(high) - least;
      scales[i] = range > 0 ? range / 255.f : 1.f;
      zeros[i] = std::nearbyint(-least / scales[i]);
      const __m512 times = _mm512_set1_ps(1.f / scales[i]), zero = _mm512_set1_ps(zeros[i]);
      for (int k = 0; k < inputs; k += 16) {
        const __m512 q = _mm512_max_ps(_mm512_fmadd_ps(from_bf16(row + k), times, zero), _mm512_setzero_ps());
        _mm_storeu_si128(reinterpret_cast<__m128i*>(numbers.data() + static_cast<size_t>(i) * inputs + k),
                         _mm512_cvtusepi32_epi8(_mm512_cvtps_epu32(q)));
      }
    }
  }
};

inline __m512i four_of(const uint8_t* p) {  // four neighbouring numbers in every lane
  int all;
  std::memcpy(&all, p, 4);
  return _mm512_set1_epi32(all);
}

template <Then then>
inline void register_tile(const Rows& rows, int first, int inputs, const Packed& weights, int column, const float* bias,
                          bf16* activated, float* sums, int stride) {
  __m512i acc[kRegisterRows][2];
#pragma GCC unroll 14
  for (int i = 0; i < kRegisterRows; ++i) acc[i][0] = _mm512_setzero_si512(), acc[i][1] = _mm512_setzero_si512();
  const int8_t* panel = weights.panels + FourPanels::panel(column, inputs);
  const uint8_t* numbers = rows.numbers.data() + static_cast<size_t>(first) * inputs;
  for (int step = 0; step < inputs / 4; ++step) {
    const __m512i w0 = _mm512_loadu_si512(panel + FourPanels::step(step));
    const __m512i w1 = _mm512_loadu_si512(panel + FourPanels::step(step) + 64);
#pragma GCC unroll 14
    for (int i = 0; i < kRegisterRows; ++i) {
      const __m512i x = four_of(numbers + static_cast<size_t>(i) * inputs + 4 * step);
      acc[i][0] = _mm512_dpbusd_epi32(acc[i][0], x, w0);
      acc[i][1] = _mm512_dpbusd_epi32(acc[i][1], x, w1);
    }
  }
  // Finished from memory: indexed in a longer loop, the accumulators would be kept there all along.
  alignas(64) int32_t held[kRegisterRows][kPanel];
#pragma GCC unroll 14
  for (int i = 0; i < kRegisterRows; ++i) {
    _mm512_store_si512(held[i], acc[i][0]);
    _mm512_store_si512(held[i] + 16, acc[i][1]);
  }
  for (int i = 0; i < kRegisterRows; ++i) {
    const __m512 scale = _mm512_set1_ps(rows.scales[first + i]), zero = _mm512_set1_ps(rows.zeros[first + i]);
    const auto finished = [&](int half) {
      const int at = column + 16 * half;
      const __m512 whole = _mm512_fnmadd_ps(zero, _mm512_loadu_ps(weights.sums + at),
                                            _mm512_cvtepi32_ps(_mm512_load_si512(held[i] + 16 * half)));
      const __m512 start = bias ? _mm512_loadu_ps(bias + 16 * half) : _mm512_setzero_ps();
      return _mm512_fmadd_ps(whole, _mm512_mul_ps(scale, _mm512_loadu_ps(weights.scales + at)), start);
    };
    const __m512 x0 = finished(0), x1 = finished(1);
    if constexpr (then == Then::add) {
      float* to = sums + static_cast<size_t>(i) * stride;
      _mm512_storeu_ps(to, _mm512_add_ps(x0, _mm512_loadu_ps(to)));
      _mm512_storeu_ps(to + 16, _mm512_add_ps(x1, _mm512_loadu_ps(to + 16)));
    } else {
      const __m512 y0 = then == Then::gelu ? gelu(x0) : relu(x0), y1 = then == Then::gelu ? gelu(x1) : relu(x1);
      _mm512_storeu_si512(activated + static_cast<size_t>(i) * stride, (__m512i)_mm512_cvtne2ps_pbh(y1, y0));
    }
  }
}

template <Then then>
void tile_product(const bf16* rows, int inputs, const void* packed, int outputs, const float* bias, bf16* activated,
                  float* sums) {
  static thread_local Rows bytes;
  bytes.take(rows, inputs);
  const Packed weights(packed, outputs);
  for (int column = 0; column < outputs; column += kPanel)
    for (int row = 0; row < kTileRows; row += kRegisterRows) {
      const size_t to = static_cast<size_t>(row) * outputs + column;
      register_tile<then>(bytes, row, inputs, weights, column, bias ? bias + column : nullptr,
                          activated ? activated + to : nullptr, sums ? sums + to : nullptr, outputs);
    }
}

void product(Then then, const bf16* rows, int inputs, const void* packed, int outputs, const float* bias,
             bf16* activated, float* sums) {
  with_constant(
      then, [&](auto constant) { tile_product<constant.value>(rows, inputs, packed, outputs, bias, activated, sums); });
}

void nothing() {}

}  // namespace

const Multiplier& byte_multiplier() {
  static const Multiplier chosen{kTileRows, &nothing, &nothing, &packed_bytes, &pack, &product, &vector_similarities};
  return chosen;
}

}  // namespace distilmatch
