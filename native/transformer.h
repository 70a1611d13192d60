// A one-layer transformer head, folded: what is left of it for a pair.
// Instructions and bounds: those of transformer.cpp.
#pragma once
#include <cstdint>
#include <vector>

#include "buffer.h"
#include "numbers.h"
#include "packed_texts.h"
#include "product.h"
#include "ranking.h"

namespace distilmatch {

struct TransformerShape {
  int width, heads, intermediate, labels;  // width and intermediate: multiples of 32; width of a head: of 16
  bool use_gelu;                           // ReLU otherwise
  bool pre_norm;
  float inner_epsilon, outer_epsilon;  // of the norm before the feed-forward layer, and of the one after it
  int head_width() const { return width / heads; }
};

// Weights as PyTorch holds them, fp32: (out, in) row-major.
struct TransformerWeights {
  const float *output, *expand, *expand_bias, *contract, *contract_bias;
  const float *inner_norm, *inner_norm_bias, *outer_norm, *outer_norm_bias;
  const float *read, *read_bias;  // (labels, width), (labels)
};

// fp32 arrays of a block of texts, as `distilmatch.engine.folding` names them; null where the head has no such part.
struct LeftArrays {
  const float *query, *own_top, *own_sum, *own_mixed, *residual, *similar, *tokens, *token_weights, *token_gaps;
  const uint8_t* mask;  // 0, or any other number for a real token
  int similar_width;    // d', 0 without
};
struct RightArrays {
  const float *key, *value, *similar, *tokens, *token_weights, *token_gaps;
  const uint8_t* mask;  // 0, or any other number for a real token
  int similar_width;    // d', 0 without
};

class TransformerHead {
 public:
  TransformerHead(const TransformerShape& shape, const TransformerWeights& weights, const Multiplier& multiplier);
  LeftTexts pack_left(int64_t count, int kept, const LeftArrays& arrays) const;
  RightTexts pack_right(int64_t count, int kept, const RightArrays& arrays) const;
  // (p, c) logits of pairs of row numbers, (p, 2).
  void score(const LeftTexts& left, const RightTexts& right, const int64_t* rows, int64_t pairs, float* logits,
             int threads) const;
  // All of left against all of right; numbers in the results are offset by where a block starts.
  void top_k(const LeftTexts& left, const RightTexts& right, const Rank& rank, TopK* of_left, TopK* of_right,
             int64_t left_offset, int64_t right_offset, int threads, Odd& odd) const;
  void above(const LeftTexts& left, const RightTexts& right, const Rank& rank, float threshold, int64_t left_offset,
             int64_t right_offset, int threads, std::vector<Match>& found, Odd& odd) const;
  const TransformerShape shape;

 private:
  struct Scratch;
  const Multiplier& multiplier_;
  template <class Take>
  void all_pairs(const LeftTexts& left, const RightTexts& right, int threads, Take take) const;
  void score_tile(const LeftTexts& left, const RightTexts& right, const int64_t* rows, int pairs, float* logits,
                  Scratch& scratch) const;
  void prefetch(const RightTexts& right, int64_t b) const;
  void attend(const LeftTexts& left, const RightTexts& right, int64_t a, int64_t b, bf16* out) const;
  void attend_two(const LeftTexts& left, const RightTexts& right, int64_t a, int64_t b, bf16* out) const;
  void mix(const LeftTexts& left, const RightTexts& right, int64_t a, int64_t b, int head, const bf16* shares,
           __m512 kept, __m512 scale, bf16* out) const;
  void largest(const LeftTexts& left, const RightTexts& right, int64_t a, int64_t b, float* products,
               float* logits) const;
  Buffer<uint8_t> output_, expand_, contract_;  // packed by the multiplier
  std::vector<float> expand_bias_, contract_bias_, inner_norm_, inner_norm_bias_;
  std::vector<float> read_, read_sum_, read_bias_;  // the outer norm's weights folded in
};

}  // namespace distilmatch
