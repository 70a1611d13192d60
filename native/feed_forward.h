// A feed-forward head of one hidden layer, folded: act(a + b) read by the classifier.
// Instructions: those of feed_forward.cpp. Bound by: arithmetic, which `hidden_numbers_per_s` measures.
#pragma once
#include <atomic>
#include <cstdint>
#include <vector>

#include "buffer.h"
#include "numbers.h"
#include "ranking.h"

namespace distilmatch {

class FeedForwardHead {
 public:
  // read (labels, hidden) and its bias, fp32; hidden and products are multiples of 16. With products there is one
  // label.
  FeedForwardHead(int hidden, int labels, bool use_gelu, const float* read, const float* read_bias, int products = 0);
  // (p, c) logits of pairs of row numbers, (p, 2), of fp32 rows (n, width): a text's summands, (hidden,), then its
  // numbers of the products, which are multiplied with the other text's and added.
  void score(const float* left, const float* right, const int64_t* rows, int64_t pairs, float* logits,
             int threads) const;
  // All of `left` (n, width) against all of `right` (m, width).
  void top_k(const float* left, int64_t left_count, const float* right, int64_t right_count, const Rank& rank,
             TopK* of_left, TopK* of_right, int64_t left_offset, int64_t right_offset, int threads, Odd& odd) const;
  void above(const float* left, int64_t left_count, const float* right, int64_t right_count, const Rank& rank,
             float threshold, int64_t left_offset, int64_t right_offset, int threads, std::vector<Match>& found,
             Odd& odd) const;
  // Pairs that were left out because a bound of their logits was below what was asked for.
  int64_t left_out() const { return left_out_; }
  int width() const { return hidden + products; }
  const int hidden, products, labels;
  const bool use_gelu;
  bool use_bounds = true;

 private:
  bool bounds_pay(int64_t left_count, int64_t right_count) const;
  int64_t chunk_of(int64_t left_count, int64_t right_count) const;
  template <class Take>
  void all_pairs(const float* left, int64_t left_count, const float* right, int64_t right_count, int threads,
                 Take take) const;
  Buffer<float> read_;
  std::vector<float> read_bias_;
  mutable std::atomic<int64_t> left_out_{0};
};

// What a hidden number of a pair costs on registers alone: of ReLU a maximum and a multiply-add, of GELU an addition,
// the activation and a multiply-add. How many of them `threads` threads do a second, measured for so many seconds. No
// kernel with these instructions is faster.
double hidden_numbers_per_s(bool use_gelu, int threads, double seconds);

}  // namespace distilmatch
