// Products in bf16 vectors with fp32 sums.
// Instructions: AVX512-BF16. Bound by: arithmetic, 28 multiply-adds for 16 loads.
#include <algorithm>

#include "product.h"

namespace distilmatch {
namespace {

constexpr int kTileRows = 56;  // four times as many as registers hold beside two columns of weights
constexpr int kRegisterRows = 14;

template <Then then>
inline void register_tile(const bf16* rows, int inputs, const bf16* panel, const float* bias, bf16* activated,
                          float* sums, int stride) {
  __m512 acc[kRegisterRows][2];
  const __m512 bias0 = bias ? _mm512_loadu_ps(bias) : _mm512_setzero_ps();
  const __m512 bias1 = bias ? _mm512_loadu_ps(bias + 16) : _mm512_setzero_ps();
#pragma GCC unroll 14
  for (int i = 0; i < kRegisterRows; ++i) acc[i][0] = bias0, acc[i][1] = bias1;
  for (int step = 0; step < inputs / 2; ++step) {
    const __m512bh w0 = load_bf16(panel + PairPanels::step(step));
    const __m512bh w1 = load_bf16(panel + PairPanels::step(step) + 32);
#pragma GCC unroll 14
    for (int i = 0; i < kRegisterRows; ++i) {
      const __m512bh x = pair_of(rows + static_cast<size_t>(i) * inputs + 2 * step);
      acc[i][0] = _mm512_dpbf16_ps(acc[i][0], x, w0);
      acc[i][1] = _mm512_dpbf16_ps(acc[i][1], x, w1);
    }
  }
#pragma GCC unroll 14
  for (int i = 0; i < kRegisterRows; ++i) {
    if constexpr (then == Then::add) {
      float* to = sums + static_cast<size_t>(i) * stride;
      _mm512_storeu_ps(to, _mm512_add_ps(acc[i][0], _mm512_loadu_ps(to)));
      _mm512_storeu_ps(to + 16, _mm512_add_ps(acc[i][1], _mm512_loadu_ps(to + 16)));
    } else {
      const __m512 y0 = then == Then::gelu ? gelu(acc[i][0]) : relu(acc[i][0]);
      const __m512 y1 = then == Then::gelu ? gelu(acc[i][1]) : relu(acc[i][1]);
      _mm512_storeu_si512(activated + static_cast<size_t>(i) * stride, (__m512i)_mm512_cvtne2ps_pbh(y1, y0));
    }
  }
}

template <Then then>
void tile_product(const bf16* rows, int inputs, const bf16* packed, int outputs, const float* bias, bf16* activated,
                  float* sums) {
  for (int column = 0; column < outputs; column += kPanel)
    for (int row = 0; row < kTileRows; row += kRegisterRows)
      register_tile<then>(rows + static_cast<size_t>(row) * inputs, inputs, packed + PairPanels::panel(column, inputs),
                          bias ? bias + column : nullptr,
                          activated ? activated + static_cast<size_t>(row) * outputs + column : nullptr,
                          sums ? sums + static_cast<size_t>(row) * outputs + column : nullptr, outputs);
}

void product(Then then, const bf16* rows, int inputs, const void* weights, int outputs, const float* bias,
             bf16* activated, float* sums) {
  const bf16* packed = static_cast<const bf16*>(weights);
  with_constant(
      then, [&](auto constant) { tile_product<constant.value>(rows, inputs, packed, outputs, bias, activated, sums); });
}

void nothing() {}

constexpr int kRowsAtOnce = 8;

// Products of 8 rows with the lanes of a block, a vector each.
inline void similar_rows(const bf16* const* row, int width, const bf16* lanes, __m512* sums) {
#pragma GCC unroll 8
  for (int i = 0; i < kRowsAtOnce; ++i) sums[i] = _mm512_setzero_ps();
  for (int s = 0; s < width / 2; ++s) {
    const __m512bh lane = load_bf16(lanes + LaneBlock::row(s));
#pragma GCC unroll 8
    for (int i = 0; i < kRowsAtOnce; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], pair_of(row[i] + 2 * s), lane);
  }
}

}  // namespace

void vector_similarities(const bf16* rows, int count, int width, const bf16* lanes, int blocks, float* products) {
  for (int block = 0; block < blocks; ++block)
    for (int first = 0; first < count; first += kRowsAtOnce) {
      const bf16* row[kRowsAtOnce];
      for (int i = 0; i < kRowsAtOnce; ++i)  // rows past the last repeat it
        row[i] = rows + static_cast<size_t>(std::min(first + i, count - 1)) * width;
      __m512 sums[kRowsAtOnce];
      similar_rows(row, width, lanes + block * LaneBlock::size(width), sums);
      float* to = products + static_cast<size_t>(first) * 16 * blocks + 16 * block;
#pragma GCC unroll 8
      for (int i = 0; i < kRowsAtOnce; ++i) _mm512_storeu_ps(to + static_cast<size_t>(i) * 16 * blocks, sums[i]);
    }
}

const Multiplier& vector_multiplier() {
  static const Multiplier chosen{
      kTileRows, &nothing, &nothing, &packed_weights_bytes, &pack_weights, &product, &vector_similarities};
  return chosen;
}

}  // namespace distilmatch
