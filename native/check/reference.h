// What the kernels compute, in plain loops over fp64: slow, and nothing to hide an error behind.
// Instructions: scalar. Bound by: arithmetic.
#pragma once
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "../transformer.h"

namespace distilmatch::check {

using Numbers = std::vector<float>;

struct Random {
  explicit Random(unsigned seed) : engine(seed) {}
  std::mt19937 engine;
  Numbers numbers(size_t count, float scale, float shift = 0) {
    std::normal_distribution<float> normal(shift, scale);
    Numbers found(count);
    for (float& number : found) number = normal(engine);
    return found;
  }
  int64_t below(int64_t end) { return std::uniform_int_distribution<int64_t>(0, end - 1)(engine); }
  // (n, kept), with holes; every text has a real token.
  std::vector<uint8_t> mask(int64_t texts, int kept) {
    std::vector<uint8_t> found(texts * kept);
    for (auto& token : found) token = below(3) > 0;
    for (int64_t i = 0; i < texts; ++i) found[i * kept + below(kept)] = 1;
    return found;
  }
};

inline double activated(double x, bool use_gelu) {
  return use_gelu ? 0.5 * x * (1 + std::erf(x / std::sqrt(2.))) : std::max(x, 0.);
}

// A transformer head's weights, as a model holds them.
struct Weights {
  Weights(const TransformerShape& shape, Random& random)
      : output(random.numbers(size_t(shape.width) * shape.width, 0.2f)),
        expand(random.numbers(size_t(shape.intermediate) * shape.width, 0.2f)),
        expand_bias(random.numbers(shape.intermediate, 0.2f)),
        contract(random.numbers(size_t(shape.width) * shape.intermediate, 0.2f)),
        contract_bias(random.numbers(shape.width, 0.2f)),
        inner_norm(random.numbers(shape.width, 0.2f, 1)),
        inner_norm_bias(random.numbers(shape.width, 0.2f)),
        outer_norm(random.numbers(shape.width, 0.2f, 1)),
        outer_norm_bias(random.numbers(shape.width, 0.2f)),
        read(random.numbers(size_t(shape.labels) * shape.width, 0.3f)),
        read_bias(random.numbers(shape.labels, 0.3f)) {}
  TransformerWeights view() const {
    return {output.data(),          expand.data(),     expand_bias.data(),     contract.data(),
            contract_bias.data(),   inner_norm.data(), inner_norm_bias.data(), outer_norm.data(),
            outer_norm_bias.data(), read.data(),       read_bias.data()};
  }
  Numbers output, expand, expand_bias, contract, contract_bias, inner_norm, inner_norm_bias, outer_norm,
      outer_norm_bias, read, read_bias;
};

// Folded texts of either side; `similar` and `tokens` are empty where the head has no such part.
struct Texts {
  int64_t count;
  int kept;
  int similar_width = 0;  // twice the head's, as with lexical vectors
  std::vector<uint8_t> mask;
  Numbers query, own_top, own_sum, own_mixed, residual;  // of the left side
  Numbers key, value;                                    // of the right side
  Numbers similar, tokens, token_weights, token_gaps;

  Texts(const TransformerShape& shape, int64_t texts, int kept_tokens, bool left, bool compared, Random& random)
      : count(texts), kept(kept_tokens), mask(random.mask(texts, kept_tokens)) {
    const size_t n = texts, k = kept, d = shape.width, h = shape.heads, c = shape.labels;
    if (left) {
      query = random.numbers(n * d, 0.3f);
      own_top = random.numbers(n * h, 1);
      own_sum = random.numbers(n * h, 0.5f, 2);
      for (float& sum : own_sum) sum = std::max(1.f, sum);
      own_mixed = random.numbers(n * d, 1);
      residual = random.numbers(n * d, 1);
    } else {
      key = random.numbers(n * k * d, 1);
      value = random.numbers(n * k * d, 1);
    }
    if (!compared) return;
    similar_width = 2 * shape.width;
    similar = random.numbers(n * similar_width * (left ? c : 1), 0.2f);
    tokens = random.numbers(n * k * d, 0.2f);
    token_weights = random.numbers(n * k * c, 0.3f);
    token_gaps = random.numbers(n * k * c, 0.3f);
  }

  LeftArrays left() const {
    return {query.data(), own_top.data(),      own_sum.data(),   own_mixed.data(), residual.data(), part(similar),
            part(tokens), part(token_weights), part(token_gaps), mask.data(),      similar_width};
  }
  RightArrays right() const {
    return {key.data(),          value.data(),     part(similar), part(tokens),
            part(token_weights), part(token_gaps), mask.data(),   similar_width};
  }

 private:
  static const float* part(const Numbers& numbers) { return numbers.empty() ? nullptr : numbers.data(); }
};

// y += W x, of (outputs, inputs) weights.
inline void add_product(const Numbers& weights, const std::vector<double>& x, std::vector<double>& y) {
  for (size_t o = 0; o < y.size(); ++o)
    for (size_t i = 0; i < x.size(); ++i) y[o] += double(weights[o * x.size() + i]) * x[i];
}

inline std::vector<double> normalised(const std::vector<double>& x, const Numbers& scale, const Numbers& shift,
                                      double epsilon) {
  double mean = 0, variance = 0;
  for (double number : x) mean += number / x.size();
  for (double number : x) variance += (number - mean) * (number - mean) / x.size();
  std::vector<double> found(x.size());
  for (size_t i = 0; i < x.size(); ++i) found[i] = (x[i] - mean) / std::sqrt(variance + epsilon) * scale[i] + shift[i];
  return found;
}

inline void add_similarities(const TransformerShape& shape, const Texts& left, const Texts& right, int64_t a, int64_t b,
                             std::vector<double>& logits) {
  const int d = shape.width, c = shape.labels, s = left.similar_width;
  for (int label = 0; label < c; ++label)
    for (int x = 0; x < s; ++x)
      logits[label] += double(left.similar[(a * c + label) * s + x]) * right.similar[b * s + x];
  std::vector<double> of_left(left.kept, -INFINITY), of_right(right.kept, -INFINITY);
  for (int i = 0; i < left.kept; ++i)
    for (int j = 0; j < right.kept; ++j) {
      if (!left.mask[a * left.kept + i] || !right.mask[b * right.kept + j]) continue;
      double product = 0;
      for (int x = 0; x < d; ++x)
        product += double(left.tokens[(a * left.kept + i) * d + x]) * right.tokens[(b * right.kept + j) * d + x];
      of_left[i] = std::max(of_left[i], product);
      of_right[j] = std::max(of_right[j], product);
    }
  const auto add = [&](const Texts& texts, int64_t text, const std::vector<double>& largest) {
    for (int i = 0; i < texts.kept; ++i) {
      if (!texts.mask[text * texts.kept + i]) continue;
      const double gap = (1 - largest[i]) * (1 - largest[i]);
      for (int label = 0; label < c; ++label) {
        const size_t at = (text * texts.kept + i) * c + label;
        logits[label] += largest[i] * texts.token_weights[at] + gap * texts.token_gaps[at];
      }
    }
  };
  add(left, a, of_left);
  add(right, b, of_right);
}

// (labels) logits of a pair.
inline std::vector<double> logits_of(const TransformerShape& shape, const Weights& weights, const Texts& left,
                                     const Texts& right, int64_t a, int64_t b) {
  const int d = shape.width, e = shape.head_width(), k = right.kept;
  std::vector<double> attended(d), tokens(left.residual.begin() + a * d, left.residual.begin() + (a + 1) * d);
  for (int head = 0; head < shape.heads; ++head) {
    const double own = left.own_top[a * shape.heads + head];
    std::vector<double> scores(k, -INFINITY);
    double top = own;
    for (int j = 0; j < k; ++j) {
      if (!right.mask[b * k + j]) continue;
      scores[j] = 0;
      for (int x = 0; x < e; ++x)
        scores[j] += double(left.query[a * d + head * e + x]) * right.key[((b * shape.heads + head) * k + j) * e + x];
      top = std::max(top, scores[j]);
    }
    const double kept = std::exp(own - top);
    double total = kept * left.own_sum[a * shape.heads + head];
    for (int x = 0; x < e; ++x) attended[head * e + x] = kept * left.own_mixed[a * d + head * e + x];
    for (int j = 0; j < k; ++j) {
      if (!right.mask[b * k + j]) continue;
      const double share = std::exp(scores[j] - top);
      total += share;
      for (int x = 0; x < e; ++x)
        attended[head * e + x] += share * right.value[((b * shape.heads + head) * k + j) * e + x];
    }
    for (int x = 0; x < e; ++x) attended[head * e + x] /= total;
  }
  add_product(weights.output, attended, tokens);
  const std::vector<double> normed =
      normalised(tokens, weights.inner_norm, weights.inner_norm_bias, shape.inner_epsilon);
  std::vector<double> hidden(weights.expand_bias.begin(), weights.expand_bias.end());
  add_product(weights.expand, normed, hidden);
  for (double& number : hidden) number = activated(number, shape.use_gelu);
  std::vector<double> merged = shape.pre_norm ? tokens : normed;
  for (int x = 0; x < d; ++x) merged[x] += weights.contract_bias[x];
  add_product(weights.contract, hidden, merged);
  std::vector<double> logits(weights.read_bias.begin(), weights.read_bias.end());
  add_product(weights.read, normalised(merged, weights.outer_norm, weights.outer_norm_bias, shape.outer_epsilon),
              logits);
  if (!left.similar.empty()) add_similarities(shape, left, right, a, b, logits);
  return logits;
}

}  // namespace distilmatch::check
