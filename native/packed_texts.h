// Texts packed for a folded transformer head: their layouts, parts of them, and their bytes for a file.
// Instructions: scalar. Bound by: memory, which is copied.
#pragma once
#include <cstdint>
#include <memory>

#include "buffer.h"
#include "numbers.h"
#include "product.h"

namespace distilmatch {

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
  LeftTexts() = default;
  LeftTexts(const Packed& packed, int kept) : kept(kept), packed(packed) {}  // of no text yet

  int64_t count = 0;
  int kept = 0;
  Packed packed;
  Buffer<bf16> query, similar;        // (n, d) scaled; (n, c, d') under the classifier's weights
  Buffer<bf16> tokens;                // (n, k, d), and room for the rows that a multiplier reads past the last
  Buffer<float> own_top, own_sum;     // (n, heads)
  Buffer<float> own_mixed, residual;  // (n, d)
  Buffer<float> token_weights;        // (n, k, c) of a token's largest similarity
  Buffer<float> token_gaps;           // (n, k, c) of the square of what it lacks to one
  Buffer<int> real;
  bool room = false;                 // made empty, to be put into
  std::shared_ptr<const void> held;  // keeps memory that the buffers only look at

  // Shows each buffer that these texts have, with how many numbers a text has in it.
  template <class Texts, class See>
  static void each(Texts& texts, See see) {
    const size_t d = texts.packed.width, heads = texts.packed.heads, c = texts.packed.labels, kept = texts.kept;
    see(texts.query, d), see(texts.own_top, heads), see(texts.own_sum, heads), see(texts.own_mixed, d);
    see(texts.residual, d), see(texts.real, 1);
    if (texts.packed.similar) see(texts.similar, c * texts.packed.similar);
    if (texts.packed.tokens) see(texts.tokens, kept * d), see(texts.token_weights, kept * c);
    if (texts.packed.gaps) see(texts.token_gaps, kept * c);
  }
};

// Texts of the second side. Keys are in blocks of 16 lanes, for each head one of every 16 tokens, or, where `two_heads`
// (texts of at most 8 tokens), one for two heads, whose lanes are the first one's 8 tokens and the second one's. Tokens
// are in blocks of 16 lanes too. Values stand two tokens at a time: [heads][tokens / 2][width of a head][2].
struct RightTexts {
  RightTexts() = default;
  RightTexts(const Packed& packed, int kept);  // of no text yet

  int64_t count = 0;
  int kept = 0, groups = 0;
  Packed packed;
  bool two_heads = false;
  size_t key_size = 0, value_size = 0, tokens_size = 0;  // of a text
  Buffer<bf16> key, value, similar, tokens;
  Buffer<float> token_weights, token_gaps;  // (n, c, 16 groups)
  Buffer<int> real;
  bool room = false;                 // made empty, to be put into
  std::shared_ptr<const void> held;  // keeps memory that the buffers only look at

  // Shows each buffer that these texts have, with how many numbers a text has in it.
  template <class Texts, class See>
  static void each(Texts& texts, See see) {
    const size_t weights = static_cast<size_t>(texts.packed.labels) * texts.groups * 16;
    see(texts.key, texts.key_size), see(texts.value, texts.value_size), see(texts.real, 1);
    if (texts.packed.similar) see(texts.similar, texts.packed.similar);
    if (texts.packed.tokens) see(texts.tokens, texts.tokens_size), see(texts.token_weights, weights);
    if (texts.packed.gaps) see(texts.token_gaps, weights);
  }

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

// Room for `count` texts, all zeros.
template <class Texts>
void make_room(Texts& texts, int64_t count);

// Bytes in memory.
template <class Texts>
size_t bytes_of(const Texts& texts);

// Texts `start` to `stop` of others, whose memory they look at.
template <class Texts>
Texts part_of(const Texts& texts, int64_t start, int64_t stop);

// Copies other texts of the same kind to the places from `start` on.
template <class Texts>
void put(Texts& texts, int64_t start, const Texts& others);

// Bytes of a file of `count` texts of this kind, and what is written there: one buffer after another, each from a
// multiple of 64 bytes on, and room for what is read past the last.
template <class Texts>
size_t file_size(const Texts& kind, int64_t count);
template <class Texts>
void write_bytes(const Texts& texts, uint8_t* to);

// `count` texts of this kind that look at such bytes.
template <class Texts>
Texts texts_in(const Texts& kind, int64_t count, const uint8_t* bytes);

}  // namespace distilmatch
