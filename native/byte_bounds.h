// Upper bounds of the logits of a feed-forward head, in bytes: most pairs are below what anybody asks for,
// and need no exact logit.
//
// max(a, -b) of a hidden number x is put on a grid that both sides share, so that the maximum of two grid points is the
// grid point of the maximum. The steps are chosen so that every weight, times its step, is a whole number from -127 to
// 127 of one unit: a weight has no error. What rounding can take from a logit is at most the sum, over x, of what it
// takes from a or from b, so each text has a number of its own for it. Whoever is below a limit with both added is
// below it in fp32 too. What is not is looked at again in fp32, in whatever order is fast, and only what may still
// reach its limit gets an exact logit. Instructions: AVX512-VNNI. Bound by: arithmetic, a maximum and a multiply-add
// for 64 hidden numbers.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "buffer.h"

namespace distilmatch {

struct Extent;

class ByteBounds {
 public:
  static constexpr int kRows = 4, kPanels = 2;  // whose sums are made together; a panel is 16 right texts
  // The grid of all of `left` (n, hidden) and `right` (m, hidden).
  ByteBounds(const float* read, float bias, int hidden, bool use_gelu, const float* left, int64_t left_count,
             const float* right, int64_t right_count, int threads);
  // Whether there is one: not for numbers that are not finite, or so large that a sum of them is not.
  bool any() const { return any_; }
  // Rows of the left side, (count, hidden) bytes, and what they may lose by rounding, (count,).
  void put_left(const float* rows, int64_t count, uint8_t* bytes, float* losses) const;
  // A panel of right texts from `first` on, (hidden / 4, 16, 4) bytes, and what they add to a logit at most, (16,).
  void put_panel(const float* right, int64_t first, int count, uint8_t* bytes, float* most) const;
  // What the bytes of a row with this loss must reach for a logit to be as high as `logit`.
  float limit(float logit, float loss) const { return logit - slack_ - loss; }
  // (4, 2) masks of the pairs of four left rows and two panels whose logits may reach the rows' limits.
  void reach(const uint8_t* const* left, const uint8_t* panels, const float* most, const float* limits,
             __mmask16* masks) const;
  // No less than the exact logit of a pair, and hardly more.
  float nearly(const float* left, const float* right) const;
  // The exact logits of `count` (1 to kExact) pairs, (count, 2) row numbers, as the fp32 kernel has them to the last
  // bit.
  static constexpr int kExact = 8;
  void exact(const float* left, const float* right, const int64_t* pairs, int count, float* logits) const;

 private:
  double gelu_slack(const Extent& lefts, const Extent& rights) const;
  __m128i on_grid(__m512 numbers, int x, __m512& losses) const;

  const float* read_;
  const float bias_;
  const int hidden_;
  const bool use_gelu_;
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
