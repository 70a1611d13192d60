// Upper bounds of the logits of a feed-forward head, in bytes: most pairs are below what anybody asks for, and need no
// exact logit.
//
// max(a, -b) of a hidden number x is put on a grid that both sides share, so that the maximum of two grid points is the
// grid point of the maximum. The steps are chosen so that every weight, times its step, is a whole number from -127 to
// 127 of one unit: a weight has no error. What rounding can take from a logit is at most the sum, over x, of what it
// takes from a or from b, so each text has a number of its own for it. GELU is ReLU less something from 0 to 0.17,
// which only negative weights turn into more. Of the product of two texts' vectors l and r, l' and r' in bytes with a
// step of each text's own, the bytes miss at most |l| |r - r'| + |l - l'| |r'| (Cauchy and Schwarz). Whoever is below a
// limit with all that added is below it in fp32 too. What is not is looked at again in fp32, in whatever order is fast,
// and only what may still reach its limit gets an exact logit. Instructions: AVX512-VNNI. Bound by: arithmetic, a
// maximum and a multiply-add for 64 hidden numbers.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "buffer.h"

namespace distilmatch {

struct Extent;

// What the classifier of a head of one label reads: hidden numbers under `read` (hidden,), then so many products of the
// two texts' numbers, whose weights are in the left ones. A text's row is its summands, then its numbers of the
// products.
struct HeadShape {
  const float* read;
  float bias;
  int hidden, products;
  bool use_gelu;
  int width() const { return hidden + products; }
};

class ByteBounds {
 public:
  static constexpr int kRows = 4, kPanels = 2;  // whose sums are made together; a panel is 16 right texts

  // A left row on the grid: (width,) bytes, and what its bound needs beside them.
  struct LeftRow {
    float loss;         // of a logit by rounding
    float step;         // of its products' bytes
    int32_t offset;     // 128 times their sum
    float norm, error;  // |l| and |l - l'|
    float limit;        // what the rest must reach
  };
  // 16 right texts side by side: (width / 4, 16, 4) bytes, and what their bounds need beside them.
  struct Panel {
    alignas(64) float most[16];                          // what a text adds to a logit by itself, rounding included
    alignas(64) float steps[16], errors[16], norms[16];  // of its products: |r - r'| and |r'|
  };

  // The grid of all of `left` (n, width) and `right` (m, width).
  ByteBounds(const HeadShape& shape, const float* left, int64_t left_count, const float* right, int64_t right_count,
             int threads);
  // Whether there is one: not for numbers that are not finite, or so large that a sum of them is not.
  bool any() const { return any_; }
  void put_left(const float* row, uint8_t* bytes, LeftRow& facts) const;
  void put_panel(const float* right, int64_t first, int count, uint8_t* bytes, Panel& facts) const;
  // What the bytes of a row must reach for a logit to be as high as `logit`.
  float limit(float logit, const LeftRow& row) const { return logit - slack_ - row.loss; }
  // (4, 2) masks of the pairs of four left rows and two panels whose logits may reach the rows' limits.
  void reach(const uint8_t* const* left, const LeftRow* const* rows, const uint8_t* panel_bytes, const Panel* panels,
             __mmask16* masks) const;
  // No less than the exact logit of a pair, and hardly more.
  float nearly(const float* left, const float* right) const;
  // The exact logits of `count` (1 to kExact) pairs, (count, 2) row numbers, as the fp32 kernel has them to the last
  // bit.
  static constexpr int kExact = 8;
  void exact(const float* left, const float* right, const int64_t* pairs, int count, float* logits) const;

 private:
  void add_products(const uint8_t* const* left, const LeftRow* const* rows, const uint8_t* panel_bytes,
                    const Panel* panels, __m512 (*bounds)[kPanels]) const;
  double gelu_slack(const Extent& lefts, const Extent& rights) const;
  __m128i on_grid(__m512 numbers, int x, __m512& losses) const;
  // Numbers of products in signed bytes; the step, the norm of what the bytes say, and that of what they miss.
  struct Rounded {
    float step, norm, error;
  };
  Rounded put_products(const float* numbers, int8_t* bytes) const;

  const HeadShape shape_;
  bool any_ = true;
  float unit_ = 0;   // of the sums of bytes
  float slack_ = 0;  // what the grid's lowest points add to a logit, and what its own rounding and fp32's may take
  float fp32_ = 0;   // how far two fp32 sums of a pair's numbers are from one another at most
  Buffer<float> lows_, inverses_;  // (hidden,): a grid's lowest point, one by its step
  Buffer<int8_t> weights_;         // (hidden,)
};

// Whether this CPU has the instructions.
bool byte_bounds_supported();

}  // namespace distilmatch
