// A folded transformer head: attention over the other text, then the feed-forward layer of a tile of pairs.
// Instructions: AVX512-BF16, and the multiplier's. Bound by: loads in attention, where a pair uses each key and value
// once; arithmetic in the products, which a tile of pairs shares.
#include "transformer.h"

#include <omp.h>

#include <limits>
#include <memory>

#include "threads.h"

namespace distilmatch {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

void convert(const float* from, size_t count, bf16* to) {
  for (size_t i = 0; i < count; ++i) to[i] = to_bf16(from[i]);
}

void copy_float(const float* from, size_t count, Buffer<float>& to) {
  if (count) std::memcpy(to.data(), from, count * sizeof(float));
}

// For each text, the places of its real tokens.
std::vector<int> real_tokens(const uint8_t* mask, int kept) {
  std::vector<int> places;
  for (int token = 0; token < kept; ++token)
    if (mask[token]) places.push_back(token);
  return places;
}

template <class Arrays>
Packed packed_for(const TransformerShape& shape, const Arrays& from) {
  return {
      shape.width, shape.heads, shape.labels, from.similar_width, from.tokens != nullptr, from.token_gaps != nullptr};
}

// The largest number of each of 16 vectors, in the lane of its number.
__m512 largest_of_each(const __m512* rows) {
  __m512 pairs[8], fours[4], eights[2];
  for (int i = 0; i < 8; ++i)
    pairs[i] = _mm512_max_ps(_mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]),
                             _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]));
  // A quarter of a vector has now, of two rows, two maxima each: row, next, row, next.
  for (int i = 0; i < 4; ++i)
    fours[i] = _mm512_max_ps(_mm512_shuffle_ps(pairs[2 * i], pairs[2 * i + 1], _MM_SHUFFLE(1, 0, 1, 0)),
                             _mm512_shuffle_ps(pairs[2 * i], pairs[2 * i + 1], _MM_SHUFFLE(3, 2, 3, 2)));
  // A quarter has one maximum of each of four rows: quarters are joined, those of four rows in one quarter at the end.
  for (int i = 0; i < 2; ++i)
    eights[i] = _mm512_max_ps(_mm512_shuffle_f32x4(fours[2 * i], fours[2 * i + 1], _MM_SHUFFLE(1, 0, 1, 0)),
                              _mm512_shuffle_f32x4(fours[2 * i], fours[2 * i + 1], _MM_SHUFFLE(3, 2, 3, 2)));
  return _mm512_max_ps(_mm512_shuffle_f32x4(eights[0], eights[1], _MM_SHUFFLE(2, 0, 2, 0)),
                       _mm512_shuffle_f32x4(eights[0], eights[1], _MM_SHUFFLE(3, 1, 3, 1)));
}

struct Moments {
  float mean, scale;
};

// Mean, and one over the standard deviation, of a row.
Moments moments(const float* row, int width, float epsilon) {
  __m512 sum = _mm512_setzero_ps(), squares = sum;
  for (int x = 0; x < width; x += 16) sum = _mm512_add_ps(sum, _mm512_loadu_ps(row + x));
  const float mean = _mm512_reduce_add_ps(sum) / width;
  const __m512 all = _mm512_set1_ps(mean);
  for (int x = 0; x < width; x += 16) {
    const __m512 centred = _mm512_sub_ps(_mm512_loadu_ps(row + x), all);
    squares = _mm512_fmadd_ps(centred, centred, squares);
  }
  return {mean, 1.f / std::sqrt(_mm512_reduce_add_ps(squares) / width + epsilon)};
}

}  // namespace

struct TransformerHead::Scratch {
  explicit Scratch(const TransformerShape& shape, const Multiplier& used)
      : multiplier(used),
        attended(static_cast<size_t>(kMostTileRows) * shape.width),
        normed(static_cast<size_t>(kMostTileRows) * shape.width),
        hidden(static_cast<size_t>(kMostTileRows) * shape.intermediate),
        sums(static_cast<size_t>(kMostTileRows) * shape.width),
        products(static_cast<size_t>(kSimilarRows) * kMostTokens) {
    multiplier.begin();
  }
  ~Scratch() { multiplier.end(); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  const Multiplier& multiplier;
  Buffer<bf16> attended, normed, hidden;
  Buffer<float> sums, products;
};

TransformerHead::TransformerHead(const TransformerShape& given, const TransformerWeights& w,
                                 const Multiplier& multiplier)
    : shape(given), multiplier_(multiplier) {
  const int d = shape.width, f = shape.intermediate, c = shape.labels;
  const auto pack = [&](const float* weights, int outputs, int inputs) {
    Buffer<uint8_t> packed(multiplier.packed_bytes(outputs, inputs));
    multiplier.pack(weights, outputs, inputs, packed.data());
    return packed;
  };
  output_ = pack(w.output, d, d);
  expand_ = pack(w.expand, f, d);
  contract_ = pack(w.contract, d, f);
  expand_bias_.assign(w.expand_bias, w.expand_bias + f);
  contract_bias_.assign(w.contract_bias, w.contract_bias + d);
  inner_norm_.assign(w.inner_norm, w.inner_norm + d);
  inner_norm_bias_.assign(w.inner_norm_bias, w.inner_norm_bias + d);
  // read (g (y - mean) / deviation + b) = (read g . y - mean sum(read g)) / deviation + read . b
  read_.resize(static_cast<size_t>(c) * d);
  read_sum_.assign(c, 0.f);
  read_bias_.assign(w.read_bias, w.read_bias + c);
  for (int label = 0; label < c; ++label) {
    double sum = 0, bias = 0;
    for (int x = 0; x < d; ++x) {
      const size_t at = static_cast<size_t>(label) * d + x;
      read_[at] = w.read[at] * w.outer_norm[x];
      sum += read_[at];
      bias += static_cast<double>(w.read[at]) * w.outer_norm_bias[x];
    }
    read_sum_[label] = static_cast<float>(sum);
    read_bias_[label] += static_cast<float>(bias);
  }
}

LeftTexts TransformerHead::pack_left(int64_t count, int kept, const LeftArrays& from) const {
  const size_t n = count, d = shape.width, c = shape.labels;
  LeftTexts to(packed_for(shape, from), kept);
  make_room(to, count);
  convert(from.query, n * d, to.query.data());
  copy_float(from.own_top, n * shape.heads, to.own_top);
  copy_float(from.own_sum, n * shape.heads, to.own_sum);
  copy_float(from.own_mixed, n * d, to.own_mixed);
  copy_float(from.residual, n * d, to.residual);
  if (from.similar) convert(from.similar, n * c * from.similar_width, to.similar.data());
  for (size_t i = 0; i < n; ++i) {
    const std::vector<int> places = real_tokens(from.mask + i * kept, kept);
    to.real[i] = static_cast<int>(places.size());
    if (!from.tokens) continue;
    for (size_t place = 0; place < places.size(); ++place) {
      const size_t source = i * kept + places[place], target = i * kept + place;
      convert(from.tokens + source * d, d, to.tokens.data() + target * d);
      std::memcpy(to.token_weights.data() + target * c, from.token_weights + source * c, c * sizeof(float));
      if (from.token_gaps)
        std::memcpy(to.token_gaps.data() + target * c, from.token_gaps + source * c, c * sizeof(float));
    }
  }
  return to;
}

RightTexts TransformerHead::pack_right(int64_t count, int kept, const RightArrays& from) const {
  const size_t n = count, d = shape.width, c = shape.labels;
  const int heads = shape.heads, e = shape.head_width();
  RightTexts to(packed_for(shape, from), kept);
  make_room(to, count);
  if (from.similar) convert(from.similar, n * from.similar_width, to.similar.data());
  const auto pack_text = [&](int64_t i) {
    const std::vector<int> places = real_tokens(from.mask + i * kept, kept);
    to.real[i] = static_cast<int>(places.size());
    for (int j = 0; j < to.real[i]; ++j) {
      const int group = j / 16, lane = j % 16;
      // From (n, heads, k, e).
      for (int head = 0; head < heads; ++head) {
        const size_t source = ((static_cast<size_t>(i) * heads + head) * kept + places[j]) * e;
        bf16* key = to.key.data() + to.key_at(i) + to.key_block(head, group) * LaneBlock::size(e);
        bf16* value = to.value.data() + to.value_at(i, head, e);
        for (int x = 0; x < e; ++x) {
          key[LaneBlock::place(to.first_lane(head) + lane, x)] = to_bf16(from.key[source + x]);
          value[RightTexts::value_place(j / 2, x, e) + j % 2] = to_bf16(from.value[source + x]);
        }
      }
      if (!from.tokens) continue;
      const size_t source = i * kept + places[j];
      bf16* tokens = to.tokens.data() + to.tokens_at(i, group);
      for (size_t x = 0; x < d; ++x) tokens[LaneBlock::place(lane, x)] = to_bf16(from.tokens[source * d + x]);
      for (size_t label = 0; label < c; ++label) {
        const size_t target = to.token_weights_at(i, label) + j;
        to.token_weights.data()[target] = from.token_weights[source * c + label];
        if (from.token_gaps) to.token_gaps.data()[target] = from.token_gaps[source * c + label];
      }
    }
  };
  Failure failure;
#pragma omp parallel for num_threads(team_size(omp_get_max_threads())) schedule(static)
  for (int64_t i = 0; i < count; ++i) failure.run([&] { pack_text(i); });
  failure.rethrow();
  return to;
}

// Asks for a text's keys and values while the pair before it is computed: pairs of a list jump about in memory.
void TransformerHead::prefetch(const RightTexts& right, int64_t b) const {
  const char* key = reinterpret_cast<const char*>(right.key.data() + right.key_at(b));
  for (size_t at = 0; at < right.key_size * sizeof(bf16); at += 64) _mm_prefetch(key + at, _MM_HINT_T0);
  const char* value = reinterpret_cast<const char*>(right.value.data() + right.value_at(b, 0, 0));
  for (size_t at = 0; at < right.value_size * sizeof(bf16); at += 64) _mm_prefetch(value + at, _MM_HINT_T0);
}

// What one head mixes: the left text's own part, kept by a share, and the right text's values; normalised.
void TransformerHead::mix(const LeftTexts& left, const RightTexts& right, int64_t a, int64_t b, int head,
                          const bf16* shares, __m512 kept, __m512 scale, bf16* out) const {
  const int e = shape.head_width(), pairs = (right.real[b] + 1) / 2;
  const bf16* value = right.value.data() + right.value_at(b, head, e);
  const float* own = left.own_mixed.data() + a * shape.width + head * e;
  for (int x = 0; x < e; x += 16) {
    __m512 sum = _mm512_mul_ps(_mm512_loadu_ps(own + x), kept);
    for (int j = 0; j < pairs; ++j)
      sum = _mm512_dpbf16_ps(sum, pair_of(shares + 2 * j), load_bf16(value + RightTexts::value_place(j, x, e)));
    store_bf16(out + head * e + x, _mm512_mul_ps(sum, scale));
  }
}

// What the first token of text a mixes of its own side and of text b's tokens, (width), normalised.
void TransformerHead::attend(const LeftTexts& left, const RightTexts& right, int64_t a, int64_t b, bf16* out) const {
  constexpr int kMostGroups = kMostTokens / 16;
  const int heads = shape.heads, e = shape.head_width(), groups = right.groups, real = right.real[b];
  const bf16 *query = left.query.data() + a * shape.width, *key = right.key.data() + right.key_at(b);
  alignas(64) bf16 shares[16 * kMostGroups];
  for (int head = 0; head < heads; ++head) {
    __m512 scores[kMostGroups];
    const __m512 own = _mm512_set1_ps(left.own_top.data()[a * heads + head]);
    __m512 tops = own;
    for (int g = 0; g < groups; ++g) {
      __m512 even = _mm512_setzero_ps(), odd = even;
      const bf16* column = key + (static_cast<size_t>(head) * groups + g) * LaneBlock::size(e);
      for (int s = 0; s < e / 2; s += 2) {
        even = _mm512_dpbf16_ps(even, pair_of(query + head * e + 2 * s), load_bf16(column + LaneBlock::row(s)));
        odd = _mm512_dpbf16_ps(odd, pair_of(query + head * e + 2 * s + 2), load_bf16(column + LaneBlock::row(s + 1)));
      }
      scores[g] = _mm512_mask_blend_ps(first_lanes(real - 16 * g), _mm512_set1_ps(kNothing), _mm512_add_ps(even, odd));
      tops = _mm512_max_ps(tops, scores[g]);
    }
    const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(tops)), kept = exp_of(_mm512_sub_ps(own, top));
    __m512 total = _mm512_setzero_ps();
    for (int g = 0; g < groups; ++g) {
      const __m512 share = _mm512_maskz_mov_ps(first_lanes(real - 16 * g), exp_of(_mm512_sub_ps(scores[g], top)));
      total = _mm512_add_ps(total, share);
      store_bf16(shares + g * 16, share);
    }
    const float all = _mm512_reduce_add_ps(total) + _mm512_cvtss_f32(kept) * left.own_sum.data()[a * heads + head];
    mix(left, right, a, b, head, shares, kept, _mm512_set1_ps(1.f / all), out);
  }
}

// The same where the right text keeps at most 8 tokens: two heads at a time, one in each half of a vector.
void TransformerHead::attend_two(const LeftTexts& left, const RightTexts& right, int64_t a, int64_t b,
                                 bf16* out) const {
  const int heads = shape.heads, e = shape.head_width(), real = right.real[b];
  const bf16 *query = left.query.data() + a * shape.width, *key = right.key.data() + right.key_at(b);
  const __mmask16 lanes = first_lanes(real) * 0x101;
  alignas(64) bf16 shares[16];
  for (int head = 0; head < heads; head += 2) {
    const bf16 *first = query + head * e, *second = first + e, *column = key + head / 2 * LaneBlock::size(e);
    __m512 even = _mm512_setzero_ps(), odd = even;
    for (int s = 0; s < e / 2; s += 2) {
      even = _mm512_dpbf16_ps(even, pairs_of(first + 2 * s, second + 2 * s), load_bf16(column + LaneBlock::row(s)));
      odd = _mm512_dpbf16_ps(odd, pairs_of(first + 2 * s + 2, second + 2 * s + 2),
                             load_bf16(column + LaneBlock::row(s + 1)));
    }
    const __m512 scores = _mm512_mask_blend_ps(lanes, _mm512_set1_ps(kNothing), _mm512_add_ps(even, odd));
    const __m512 own = in_halves(left.own_top.data()[a * heads + head], left.own_top.data()[a * heads + head + 1]);
    const __m512 own_sum = in_halves(left.own_sum.data()[a * heads + head], left.own_sum.data()[a * heads + head + 1]);
    const __m512 top = _mm512_max_ps(own, half_max(scores)), kept = exp_of(_mm512_sub_ps(own, top));
    const __m512 share = _mm512_maskz_mov_ps(lanes, exp_of(_mm512_sub_ps(scores, top)));
    const __m512 scale = _mm512_div_ps(_mm512_set1_ps(1.f), _mm512_fmadd_ps(kept, own_sum, half_sum(share)));
    store_bf16(shares, share);
    for (int half = 0; half < 2; ++half) {
      const __m512i lane = _mm512_set1_epi32(8 * half);
      mix(left, right, a, b, head + half, shares + 8 * half, _mm512_permutexvar_ps(lane, kept),
          _mm512_permutexvar_ps(lane, scale), out);
    }
  }
}

// Adds, for each label, the largest similarity of every token in the other text, weighted, and where there are weights
// of them the square of what it lacks to one. `products` has room for `kSimilarRows` rows of the right text's lanes.
void TransformerHead::largest(const LeftTexts& left, const RightTexts& right, int64_t a, int64_t b, float* products,
                              float* logits) const {
  const int d = shape.width, c = shape.labels, own = left.real[a], other = right.real[b], blocks = (other + 15) / 16;
  __m512 down[kMostTokens / 16];
  for (int g = 0; g < blocks; ++g) down[g] = _mm512_set1_ps(kNothing);
  for (int first = 0; first < own; first += kSimilarRows) {
    const int rows = std::min(kSimilarRows, own - first);
    multiplier_.similarities(left.tokens.data() + (a * left.kept + first) * static_cast<size_t>(d), rows, d,
                             right.tokens.data() + right.tokens_at(b, 0), blocks, products);
    __m512 across[kSimilarRows];
    for (int i = 0; i < kSimilarRows; ++i) across[i] = _mm512_set1_ps(kNothing);
    for (int g = 0; g < blocks; ++g) {
      const __mmask16 real = first_lanes(other - 16 * g);
      for (int i = 0; i < rows; ++i) {
        const __m512 row = _mm512_loadu_ps(products + static_cast<size_t>(i) * 16 * blocks + 16 * g);
        down[g] = _mm512_max_ps(down[g], row);
        across[i] = _mm512_mask_max_ps(across[i], real, across[i], row);
      }
    }
    alignas(64) float found[kSimilarRows];
    _mm512_store_ps(found, largest_of_each(across));
    for (int i = 0; i < rows; ++i) {
      const size_t at = (static_cast<size_t>(a) * left.kept + first + i) * c;
      const float gap = (1 - found[i]) * (1 - found[i]);
      for (int label = 0; label < c; ++label) {
        logits[label] += found[i] * left.token_weights.data()[at + label];
        if (left.packed.gaps) logits[label] += gap * left.token_gaps.data()[at + label];
      }
    }
  }
  for (int g = 0; g < blocks; ++g) {
    const __m512 lacks = _mm512_sub_ps(_mm512_set1_ps(1.f), down[g]), gap = _mm512_mul_ps(lacks, lacks);
    for (int label = 0; label < c; ++label) {
      const size_t at = right.token_weights_at(b, label) + g * 16;
      __m512 sum = _mm512_mul_ps(_mm512_loadu_ps(right.token_weights.data() + at), down[g]);
      if (right.packed.gaps) sum = _mm512_fmadd_ps(_mm512_loadu_ps(right.token_gaps.data() + at), gap, sum);
      logits[label] += _mm512_mask_reduce_add_ps(first_lanes(other - 16 * g), sum);
    }
  }
}

void TransformerHead::score_tile(const LeftTexts& left, const RightTexts& right, const int64_t* rows, int pairs,
                                 float* logits, Scratch& scratch) const {
  const int d = shape.width, f = shape.intermediate, c = shape.labels;
  float* sums = scratch.sums.data();
  for (int i = 0; i < pairs; ++i) {
    if (i + 1 < pairs && rows[2 * i + 3] != rows[2 * i + 1] + 1) prefetch(right, rows[2 * i + 3]);
    bf16* attended = scratch.attended.data() + static_cast<size_t>(i) * d;
    if (right.two_heads)
      attend_two(left, right, rows[2 * i], rows[2 * i + 1], attended);
    else
      attend(left, right, rows[2 * i], rows[2 * i + 1], attended);
    std::memcpy(sums + static_cast<size_t>(i) * d, left.residual.data() + rows[2 * i] * d, d * sizeof(float));
  }
  multiplier_.product(Then::add, scratch.attended.data(), d, output_.data(), d, nullptr, nullptr, sums);
  for (int i = 0; i < pairs; ++i) {
    float* row = sums + static_cast<size_t>(i) * d;
    const Moments own = moments(row, d, shape.inner_epsilon);
    for (int x = 0; x < d; x += 16) {
      const __m512 given = _mm512_loadu_ps(row + x);
      const __m512 standard = _mm512_mul_ps(_mm512_sub_ps(given, _mm512_set1_ps(own.mean)), _mm512_set1_ps(own.scale));
      const __m512 normed = _mm512_fmadd_ps(standard, _mm512_loadu_ps(inner_norm_.data() + x),
                                            _mm512_loadu_ps(inner_norm_bias_.data() + x));
      store_bf16(scratch.normed.data() + static_cast<size_t>(i) * d + x, normed);
      _mm512_storeu_ps(row + x,
                       _mm512_add_ps(shape.pre_norm ? given : normed, _mm512_loadu_ps(contract_bias_.data() + x)));
    }
  }
  bf16* hidden = scratch.hidden.data();
  const Then then = shape.use_gelu ? Then::gelu : Then::relu;
  multiplier_.product(then, scratch.normed.data(), d, expand_.data(), f, expand_bias_.data(), hidden, nullptr);
  multiplier_.product(Then::add, hidden, f, contract_.data(), d, nullptr, nullptr, sums);
  for (int i = 0; i < pairs; ++i) {
    const float* row = sums + static_cast<size_t>(i) * d;
    const Moments own = moments(row, d, shape.outer_epsilon);
    const int64_t a = rows[2 * i], b = rows[2 * i + 1];
    float* of_pair = logits + static_cast<size_t>(i) * c;
    for (int label = 0; label < c; ++label) {
      __m512 dot = _mm512_setzero_ps();
      for (int x = 0; x < d; x += 16)
        dot = _mm512_fmadd_ps(_mm512_loadu_ps(row + x),
                              _mm512_loadu_ps(read_.data() + static_cast<size_t>(label) * d + x), dot);
      of_pair[label] = (_mm512_reduce_add_ps(dot) - own.mean * read_sum_[label]) * own.scale + read_bias_[label];
      if (left.similar) {
        const int width = left.packed.similar;
        __m512 product = _mm512_setzero_ps();
        for (int x = 0; x < width; x += 32)
          product = _mm512_dpbf16_ps(product, load_bf16(left.similar.data() + (a * c + label) * width + x),
                                     load_bf16(right.similar.data() + b * width + x));
        of_pair[label] += _mm512_reduce_add_ps(product);
      }
    }
    if (left.tokens) largest(left, right, a, b, scratch.products.data(), of_pair);
  }
}

void TransformerHead::score(const LeftTexts& left, const RightTexts& right, const int64_t* rows, int64_t pairs,
                            float* logits, int threads) const {
  const int64_t tile = multiplier_.tile_rows;
  Failure failure;
#pragma omp parallel num_threads(team_size(threads))
  {
    std::unique_ptr<Scratch> scratch;
    failure.run([&] { scratch = std::make_unique<Scratch>(shape, multiplier_); });
#pragma omp for schedule(dynamic, 8)
    for (int64_t first = 0; first < pairs; first += tile)
      failure.run([&] {
        score_tile(left, right, rows + 2 * first, static_cast<int>(std::min<int64_t>(tile, pairs - first)),
                   logits + first * shape.labels, *scratch);
      });
  }
  failure.rethrow();
}

// Left texts of a tile, with as many right ones as make it whole: a right text is read from memory once for all of
// them.
constexpr int64_t kLeftChunk = 8;

template <class Take>
void TransformerHead::all_pairs(const LeftTexts& left, const RightTexts& right, int threads, Take take) const {
  const bool shared = share_left(left.count, kLeftChunk, threads);
  const int64_t tile = multiplier_.tile_rows, at_once = (shared ? 8 : 64) * tile;  // right texts that stay in the cache
  const int64_t chunks = (left.count + kLeftChunk - 1) / kLeftChunk, ranges = (right.count + at_once - 1) / at_once;
  const int64_t parts = shared ? ranges : 1;  // of the right texts, a task each
  Failure failure;
#pragma omp parallel num_threads(threads)
  {
    std::unique_ptr<Scratch> scratch;
    std::vector<float> logits;
    failure.run([&] {
      scratch = std::make_unique<Scratch>(shape, multiplier_);
      logits.resize(static_cast<size_t>(kMostTileRows) * shape.labels);
    });
    int64_t rows[2 * kMostTileRows];
    const auto score_block = [&](int64_t a, int64_t left_end, int64_t b, int64_t right_end) {
      int pairs = 0;
      for (int64_t i = a; i < left_end; ++i)
        for (int64_t j = b; j < right_end; ++j, ++pairs) rows[2 * pairs] = i, rows[2 * pairs + 1] = j;
      score_tile(left, right, rows, pairs, logits.data(), *scratch);
      for (int i = 0; i < pairs; ++i)
        take(rows[2 * i], rows[2 * i + 1], logits.data() + static_cast<size_t>(i) * shape.labels);
    };
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < chunks * parts; ++task)
      failure.run([&] {
        const int64_t chunk = task / parts * kLeftChunk, left_end = std::min(chunk + kLeftChunk, left.count);
        const int64_t step = tile / (left_end - chunk);
        const int64_t first = shared ? task % parts : 0, end = shared ? first + 1 : ranges;
        for (int64_t columns = first * at_once; columns < std::min(end * at_once, right.count); columns += at_once) {
          const int64_t last = std::min(columns + at_once, right.count);
          for (int64_t b = columns; b < last; b += step) score_block(chunk, left_end, b, std::min(b + step, last));
        }
      });
  }
  failure.rethrow();
}

void TransformerHead::top_k(const LeftTexts& left, const RightTexts& right, const Rank& rank, TopK* of_left,
                            TopK* of_right, int64_t left_offset, int64_t right_offset, int threads, Odd& odd) const {
  const int team = team_size(threads);
  LeftBest best(of_left, left.count, right.count, left_offset, team, share_left(left.count, kLeftChunk, team));
  all_pairs(left, right, team, [&](int64_t a, int64_t b, const float* logits) {
    const float score = rank(logits, shape.labels);
    if (!finite(logits, shape.labels) || !finite(&score, 1)) return odd.see(left_offset + a, right_offset + b);
    if (of_left) best.of(omp_get_thread_num())->add(best.offset() + a, {score, right_offset + b});
    if (of_right) of_right->add_shared(right_offset + b, {score, left_offset + a});
  });
  best.merge();
}

void TransformerHead::above(const LeftTexts& left, const RightTexts& right, const Rank& rank, float threshold,
                            int64_t left_offset, int64_t right_offset, int threads, std::vector<Match>& found,
                            Odd& odd) const {
  const int team = team_size(threads);
  std::vector<std::vector<Match>> own(team);
  all_pairs(left, right, team, [&](int64_t a, int64_t b, const float* logits) {
    const float score = rank(logits, shape.labels);
    if (!finite(logits, shape.labels) || !finite(&score, 1)) return odd.see(left_offset + a, right_offset + b);
    if (score > threshold) own[omp_get_thread_num()].push_back({left_offset + a, right_offset + b, score});
  });
  for (const auto& part : own) found.insert(found.end(), part.begin(), part.end());
}

}  // namespace distilmatch
