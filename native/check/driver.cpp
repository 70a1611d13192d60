// The kernels without Python, for sanitizers: random texts are packed, scored, and the best of them and those above a
// threshold found; every result is compared with plain loops. Prints what differs and, where nothing does, `right`.
// Instructions: scalar, beside the kernels. Bound by: the plain loops.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>

#include "../feed_forward.h"
#include "reference.h"

namespace distilmatch::check {
namespace {

int wrong = 0, compared = 0;

void expect(bool holds, const std::string& what) {
  ++compared;
  if (holds) return;
  ++wrong;
  std::printf("WRONG: %s\n", what.c_str());
}

Rank rank_by(RankBy by, int labels) {
  Rank rank;
  rank.by = by;
  rank.label = labels - 1;
  for (int label = 0; label < labels; ++label) rank.values.push_back(label * label);
  return rank;
}

// The best rows of each line of (lines, of) scores by sorting; `step` is from one score of a line to the next.
std::vector<Hit> sorted_hits(const Numbers& scores, int64_t line, int64_t line_step, int64_t of, int64_t step,
                             int64_t first) {
  std::vector<Hit> hits;
  for (int64_t i = 0; i < of; ++i) hits.push_back({scores[line * line_step + i * step], first + i});
  std::sort(hits.begin(), hits.end(), better);
  return hits;
}

// Same scores, and each of a row that has it; where `exactly`, the same rows.
void compare_best(TopK& best, int64_t first_line, int64_t lines, const Numbers& scores, int64_t line_step, int64_t of,
                  int64_t step, int64_t first, bool exactly, float bound, const std::string& name) {
  std::vector<Hit> ranked;
  for (int64_t line = 0; line < lines; ++line) {
    const std::vector<Hit> all = sorted_hits(scores, line, line_step, of, step, first);
    const int wanted = static_cast<int>(std::min<int64_t>(of, best.k()));
    const int64_t row = first_line + line;
    expect(best.size(row) == wanted, name + ": as many as there are");
    best.ranked(row, ranked);
    for (int i = 0; i < std::min(wanted, best.size(row)); ++i) {
      const Hit hit = ranked[i];
      expect(hit.id >= first && hit.id < first + of, name + ": a row that there is");
      expect(std::fabs(hit.score - all[i].score) <= bound, name + ": the best scores, in order");
      expect(std::fabs(hit.score - scores[line * line_step + (hit.id - first) * step]) <= bound,
             name + ": scores of their rows");
      if (exactly) expect(hit.id == all[i].id, name + ": of equal scores the lower row");
    }
  }
}

void compare_above(std::vector<Match> found, const Numbers& scores, int64_t left, int64_t right, int64_t first_left,
                   int64_t first_right, float threshold, float bound, const std::string& name) {
  std::vector<char> seen(left * right);
  for (const Match& match : found) {
    const int64_t a = match.left - first_left, b = match.right - first_right;
    expect(a >= 0 && a < left && b >= 0 && b < right, name + ": rows that there are");
    if (a < 0 || a >= left || b < 0 || b >= right) continue;
    expect(!seen[a * right + b], name + ": each pair once");
    seen[a * right + b] = 1;
    expect(std::fabs(match.score - scores[a * right + b]) <= bound, name + ": scores of their rows");
  }
  for (int64_t i = 0; i < left * right; ++i)
    if (std::fabs(scores[i] - threshold) > bound)
      expect(bool(seen[i]) == (scores[i] > threshold), name + ": all above the threshold");
}

float largest(const std::vector<double>& numbers) {
  double most = 0;
  for (double number : numbers) most = std::max(most, std::fabs(number));
  return static_cast<float>(most);
}

// Runs what both heads have, on what `score`, `top_k` and `above` are for them.
template <class Score, class Top, class Above>
void try_everything(int64_t left, int64_t right, int labels, const std::vector<double>& expected, float bound,
                    bool exactly, const std::string& name, Score score, Top top_k, Above above) {
  std::vector<int64_t> rows;
  for (int64_t a = 0; a < left; ++a)
    for (int64_t b = 0; b < right; ++b) rows.insert(rows.end(), {a, b});
  const int64_t pairs = left * right, first_left = 3, first_right = 7;
  Numbers logits(pairs * labels);
  for (int threads : {1, 3}) {
    std::fill(logits.begin(), logits.end(), NAN);
    score(rows.data(), pairs, logits.data(), threads);
    const float tolerance = bound * std::max(1.f, largest(expected));
    for (size_t i = 0; i < logits.size(); ++i)
      expect(std::fabs(logits[i] - expected[i]) <= tolerance,
             name + ": logits, " + std::to_string(logits[i]) + " for " + std::to_string(expected[i]));
    for (RankBy by : {RankBy::logit, RankBy::probability, RankBy::expectation}) {
      if (labels == 1 && by != RankBy::logit)
        continue;  // the order of one label is that of its logits, and nothing else is asked
      const Rank rank = rank_by(by, labels);
      Numbers scores(pairs);
      for (int64_t p = 0; p < pairs; ++p) scores[p] = rank(logits.data() + p * labels, labels);
      const float near = exactly ? 0 : 1e-3f * std::max(1.f, largest({scores.begin(), scores.end()}));
      const std::string told = name + ", by " + std::to_string(int(by)) + ", " + std::to_string(threads) + " threads";
      Odd odd;
      for (int k : {1, 7}) {
        TopK of_left(left + first_left, k), of_right(right + first_right, k), alone(left + first_left, k);
        top_k(rank, &of_left, &of_right, first_left, first_right, threads, odd);
        top_k(rank, &alone, nullptr, first_left, first_right, threads, odd);
        compare_best(of_left, first_left, left, scores, right, right, 1, first_right, exactly, near,
                     told + ", of left");
        compare_best(alone, first_left, left, scores, right, right, 1, first_right, exactly, near,
                     told + ", of left alone");
        compare_best(of_right, first_right, right, scores, 1, left, right, first_left, exactly, near,
                     told + ", of right");
      }
      const float threshold = pairs ? scores[pairs / 2] : 0;
      std::vector<Match> found;
      above(rank, threshold, first_left, first_right, threads, found, odd);
      expect(!odd.any(), told + ", no score that is no number");
      compare_above(found, scores, left, right, first_left, first_right, threshold, near, told + ", above");
    }
  }
}

struct TransformerCase {
  int width, heads, intermediate, labels, left_kept, right_kept;
  int64_t left, right;
  bool use_gelu, pre_norm, compared;
};

// Texts put together of a part of some and a part of those that look at their written bytes.
template <class Texts>
Texts put_together(const Texts& texts, std::vector<uint8_t>& bytes) {
  bytes.resize(file_size(texts, texts.count));
  write_bytes(texts, bytes.data());
  const Texts written = texts_in(texts, texts.count, bytes.data());
  const int64_t cut = texts.count / 3;
  Texts made(texts.packed, texts.kept);
  make_room(made, texts.count);
  put(made, 0, part_of(texts, 0, cut));
  put(made, cut, part_of(written, cut, texts.count));
  return made;
}

void compare_put_together(const TransformerHead& head, const LeftTexts& left, const RightTexts& right,
                          const std::string& name) {
  std::vector<uint8_t> left_bytes, right_bytes;  // what `put_together` has written
  const LeftTexts lefts = put_together(left, left_bytes), seen_left = texts_in(left, left.count, left_bytes.data());
  const RightTexts rights = put_together(right, right_bytes),
                   seen_right = texts_in(right, right.count, right_bytes.data());
  std::vector<int64_t> rows;
  for (int64_t a = 0; a < left.count; ++a)
    for (int64_t b = 0; b < right.count; ++b) rows.insert(rows.end(), {a, b});
  const int64_t pairs = left.count * right.count;
  std::vector<float> one(pairs * head.shape.labels), other(one.size()), seen(one.size());
  head.score(left, right, rows.data(), pairs, one.data(), 2);
  head.score(lefts, rights, rows.data(), pairs, other.data(), 2);
  head.score(seen_left, seen_right, rows.data(), pairs, seen.data(), 2);
  expect(one == other, name + ": texts put together score as they did");
  expect(one == seen, name + ": texts in a file score as they did");
}

void try_transformer(const TransformerCase& given, const Multiplier& multiplier, float bound,
                     const std::string& multiplied, unsigned seed) {
  Random random(seed);
  const TransformerShape shape{
      given.width, given.heads, given.intermediate, given.labels, given.use_gelu, given.pre_norm, 1e-5f, 1e-5f};
  const std::string name = multiplied + ", width " + std::to_string(given.width) + ", heads " +
                           std::to_string(given.heads) + ", labels " + std::to_string(given.labels) + ", " +
                           std::to_string(given.left) + " (" + std::to_string(given.left_kept) + ") x " +
                           std::to_string(given.right) + " (" + std::to_string(given.right_kept) + ")";
  const Weights weights(shape, random);
  const TransformerHead head(shape, weights.view(), multiplier);
  const Texts lefts(shape, given.left, given.left_kept, true, given.compared, random);
  const Texts rights(shape, given.right, given.right_kept, false, given.compared, random);
  std::vector<double> expected;
  for (int64_t a = 0; a < given.left; ++a)
    for (int64_t b = 0; b < given.right; ++b) {
      const std::vector<double> pair = logits_of(shape, weights, lefts, rights, a, b);
      expected.insert(expected.end(), pair.begin(), pair.end());
    }
  const LeftTexts left = head.pack_left(lefts.count, lefts.kept, lefts.left());
  const RightTexts right = head.pack_right(rights.count, rights.kept, rights.right());
  compare_put_together(head, left, right, name);
  try_everything(
      given.left, given.right, given.labels, expected, bound, true, name,
      [&](const int64_t* rows, int64_t pairs, float* logits, int threads) {
        head.score(left, right, rows, pairs, logits, threads);
      },
      [&](const Rank& rank, TopK* one, TopK* other, int64_t a, int64_t b, int threads, Odd& odd) {
        head.top_k(left, right, rank, one, other, a, b, threads, odd);
      },
      [&](const Rank& rank, float threshold, int64_t a, int64_t b, int threads, std::vector<Match>& found, Odd& odd) {
        head.above(left, right, rank, threshold, a, b, threads, found, odd);
      });
}

void try_feed_forward(int hidden, int labels, int64_t left, int64_t right, bool use_gelu, unsigned seed,
                      int products = 0) {
  Random random(seed);
  const Numbers read = random.numbers(size_t(labels) * hidden, 0.3f), bias = random.numbers(labels, 0.3f);
  const int width = hidden + products;
  const Numbers lefts = random.numbers(left * width, 1), rights = random.numbers(right * width, 1);
  const FeedForwardHead head(hidden, labels, use_gelu, read.data(), bias.data(), products);
  std::vector<double> expected;
  for (int64_t a = 0; a < left; ++a)
    for (int64_t b = 0; b < right; ++b)
      for (int label = 0; label < labels; ++label) {
        double sum = bias[label];
        for (int x = 0; x < hidden; ++x)
          sum += activated(double(lefts[a * width + x]) + rights[b * width + x], use_gelu) * read[label * hidden + x];
        for (int x = hidden; x < width; ++x) sum += double(lefts[a * width + x]) * rights[b * width + x];
        expected.push_back(sum);
      }
  try_everything(
      left, right, labels, expected, 2e-3f, false,
      "feed-forward, hidden " + std::to_string(hidden) + ", labels " + std::to_string(labels) + ", " +
          std::to_string(left) + " x " + std::to_string(right),
      [&](const int64_t* rows, int64_t pairs, float* logits, int threads) {
        head.score(lefts.data(), rights.data(), rows, pairs, logits, threads);
      },
      [&](const Rank& rank, TopK* one, TopK* other, int64_t a, int64_t b, int threads, Odd& odd) {
        head.top_k(lefts.data(), left, rights.data(), right, rank, one, other, a, b, threads, odd);
      },
      [&](const Rank& rank, float threshold, int64_t a, int64_t b, int threads, std::vector<Match>& found, Odd& odd) {
        head.above(lefts.data(), left, rights.data(), right, rank, threshold, a, b, threads, found, odd);
      });
}

void try_blocks() {
  Random random(9);
  for (int threads : {1, 3})
    for (int k : {1, 5, 40}) {
      const int64_t rows = 6, columns = 83;
      Numbers scores = random.numbers(rows * columns, 1);
      for (float& score : scores) score = std::round(2 * score) / 2;  // many equal ones
      TopK best(rows, k);
      for (int64_t first : {int64_t{50}, int64_t{0}}) {
        const int64_t end = first ? columns : 50;
        Numbers block;
        for (int64_t row = 0; row < rows; ++row)
          block.insert(block.end(), scores.begin() + row * columns + first, scores.begin() + row * columns + end);
        add_block(best, 0, block.data(), rows, end - first, first, threads);
      }
      compare_best(best, 0, rows, scores, columns, columns, 1, 0, true, 0, "blocks, k " + std::to_string(k));
    }
}

void try_all() {
  const TransformerCase cases[] = {
      {32, 2, 32, 1, 1, 1, 1, 1, true, false, false},   {32, 2, 64, 1, 3, 4, 5, 61, true, false, true},
      {64, 4, 96, 3, 5, 8, 9, 57, false, true, true},   {32, 1, 64, 2, 2, 7, 6, 20, true, true, true},
      {96, 3, 64, 2, 17, 17, 3, 70, true, false, true}, {32, 2, 64, 2, 4, 16, 30, 9, false, false, false},
      {64, 2, 64, 1, 9, 15, 2, 500, true, true, false}, {32, 2, 32, 4, 12, 33, 4, 13, true, false, true},
      {32, 2, 64, 1, 3, 4, 0, 5, true, false, true},    {32, 2, 64, 1, 3, 4, 5, 0, true, false, true},
  };
  std::vector<TransformerCase> all(std::begin(cases), std::end(cases));
  for (int kept = 1; kept <= 17; ++kept)  // every remainder of a group of 16, and of two heads in one
    all.push_back({32, 2, 32, 1 + kept % 3, kept, 18 - kept, 3, 20, kept % 2 == 0, kept % 4 < 2, kept % 3 > 0});
  unsigned seed = 0;
  for (const TransformerCase& given : all) {
    try_transformer(given, vector_multiplier(), 0.02f, "vectors", ++seed);
    try_transformer(given, imitated_multiplier(), 0.02f, "imitated tiles", seed);
    if (__builtin_cpu_supports("avx512vnni")) try_transformer(given, byte_multiplier(), 0.06f, "bytes", seed);
    if (matrix_unit_allowed()) try_transformer(given, matrix_multiplier(), 0.02f, "tiles", seed);
  }
  for (bool use_gelu : {true, false})
    for (int labels : {1, 3}) {
      try_feed_forward(16, labels, 1, 1, use_gelu, ++seed);
      try_feed_forward(48, labels, 7, 37, use_gelu, ++seed);
      try_feed_forward(32, labels, 3, 1100, use_gelu, ++seed);
      try_feed_forward(32, labels, 70, 1100, use_gelu, ++seed);
      if (labels == 1) try_feed_forward(32, 1, 70, 1100, use_gelu, ++seed, 48);
      try_feed_forward(16, labels, 300, 5, use_gelu, ++seed);
      try_feed_forward(16, labels, 0, 5, use_gelu, ++seed);
    }
  try_blocks();
  expect(hidden_numbers_per_s(true, 2, 0.01) > 0, "a rate of registers");
}

}  // namespace
}  // namespace distilmatch::check

int main() {
  using namespace distilmatch::check;
  try_all();
  std::printf("%d compared, %d wrong\n%s\n", compared, wrong, wrong ? "wrong" : "right");
  return wrong ? 1 : 0;
}
