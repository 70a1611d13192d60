// A one-layer transformer head, folded: what is left of it for a pair.
// Instructions and bounds: those of transformer.cpp. The layouts of packed texts are here.
#pragma once
#include <cstdint>
#include <vector>

#include "buffer.h"
#include "numbers.h"
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

// The most tokens of a text that the kernels have room for on their stacks.
constexpr int kMostTokens = 1024;

// What texts were packed for: they can be scored with one another, and by a head of this shape, where it is the same.
struct Packed {
  int width = 0, heads = 0, labels = 0;
  int similar = 0;  // the width of the vectors of similarities, 0 without
  bool tokens = false, gaps = false;
  bool operator==(const Packed& other) const {
    return width == other.width && heads == other.heads && labels == other.labels && similar == other.similar &&
           tokens == other.tokens && gaps == other.gaps;
  }
};

// Texts of the first side. Tokens are packed with the real ones first; `real` counts them.
struct LeftTexts {
  int64_t count = 0;
  int kept = 0;
  Packed packed;
  Buffer<bf16> query, similar;        // (n, d) scaled; (n, c, d') under the classifier's weights
  Buffer<bf16> tokens;                // (n, k, d), and room for the rows that a multiplier reads past the last
  Buffer<float> own_top, own_sum;     // (n, heads)
  Buffer<float> own_mixed, residual;  // (n, d)
  Buffer<float> token_weights;        // (n, k, c) of a token's largest similarity
  Buffer<float> token_gaps;           // (n, k, c) of the square of what it lacks to one
  std::vector<int> real;
  size_t bytes() const;
};

// Texts of the second side. Keys are in blocks of 16 lanes, for each head one of every 16 tokens, or, where `two_heads`
// (texts of at most 8 tokens), one for two heads, whose lanes are the first one's 8 tokens and the second one's. Tokens
// are in blocks of 16 lanes too. Values stand two tokens at a time: [heads][tokens / 2][width of a head][2].
struct RightTexts {
  int64_t count = 0;
  int kept = 0, groups = 0;
  Packed packed;
  bool two_heads = false;
  size_t key_size = 0, value_size = 0, tokens_size = 0;  // of a text
  Buffer<bf16> key, value, similar, tokens;
  Buffer<float> token_weights, token_gaps;  // (n, c, 16 groups)
  std::vector<int> real;
  size_t bytes() const;

  // Where a text's parts begin in their buffers; `head_width` is the head's. They are not for the innermost loops.
  size_t key_at(int64_t text) const { return text * key_size; }
  size_t value_at(int64_t text, int head, int head_width) const {
    return text * value_size + static_cast<size_t>(head) * ((kept + 1) / 2) * head_width * 2;
  }
  size_t tokens_at(int64_t text, int group) const { return text * tokens_size + group * LaneBlock::size(packed.width); }
  size_t token_weights_at(int64_t text, int label) const { return (text * packed.labels + label) * groups * 16; }
  // The key block of a head, and in a block of two heads its first lane.
  int key_block(int head, int group) const { return two_heads ? head / 2 : head * groups + group; }
  int first_lane(int head) const { return two_heads ? head % 2 * 8 : 0; }
  // Where number x of a pair of tokens stands, from the start of a head's values.
  static size_t value_place(int pair, int x, int head_width) {
    return (static_cast<size_t>(pair) * head_width + x) * 2;
  }
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
