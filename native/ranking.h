// What a pair is ranked by, and the best of what was seen.
// Instructions: scalar. Bound by: exp where a rank needs it, otherwise the comparison with the worst hit kept.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include "buffer.h"

namespace distilmatch {

enum class RankBy { logit, probability, expectation };

// One number of c logits: a logit, the log-odds of a class, or the mean of `values` under the probabilities. Log-odds
// are in the order of the probabilities and do not end at 1, where fp32 has one number for all that is nearly certain.
struct Rank {
  RankBy by = RankBy::logit;
  int label = 0;
  std::vector<float> values;

  float operator()(const float* logits, int labels) const {
    if (by == RankBy::logit) return logits[label];
    if (by == RankBy::probability) return log_odds(logits, labels);
    float top = logits[0], total = 0, wanted = 0;
    for (int c = 1; c < labels; ++c) top = std::max(top, logits[c]);
    for (int c = 0; c < labels; ++c) {
      const float share = std::exp(logits[c] - top);
      total += share;
      wanted += share * values[c];
    }
    return wanted / total;
  }

 private:
  float log_odds(const float* logits, int labels) const {
    if (labels == 1) return logits[0];
    float top = logits[label == 0 ? 1 : 0], total = 0;
    for (int c = 0; c < labels; ++c)
      if (c != label) top = std::max(top, logits[c]);
    for (int c = 0; c < labels; ++c)
      if (c != label) total += std::exp(logits[c] - top);
    return logits[label] - top - std::log(total);
  }
};

inline bool finite(const float* numbers, int count) {
  bool all = true;
  for (int i = 0; i < count; ++i) all &= std::fabs(numbers[i]) <= std::numeric_limits<float>::max();  // false of NaN
  return all;
}

// The first pair, by its left row and then its right one, whose logits or score are no finite numbers. It would be
// missing from the best without a word.
class Odd {
 public:
  void see(int64_t left, int64_t right) {
    const std::lock_guard<std::mutex> alone(mutex_);
    if (any_ && (left_ < left || (left_ == left && right_ < right))) return;
    any_ = true, left_ = left, right_ = right;
  }
  bool any() const { return any_; }
  int64_t left() const { return left_; }
  int64_t right() const { return right_; }

 private:
  std::mutex mutex_;
  bool any_ = false;
  int64_t left_ = 0, right_ = 0;
};

struct Hit {
  float score;
  int64_t id;
};

// Higher scores first, of equal ones the lower number: the same best ones in whatever order they come.
inline bool better(const Hit& one, const Hit& other) {
  return one.score > other.score || (one.score == other.score && one.id < other.id);
}

// The k best of each of n rows, which are numbered from `first`; a heap a row, the worst kept one first. NaN is never
// kept.
class TopK {
 public:
  TopK(int64_t rows, int k, int64_t first = 0)
      : rows_(rows), first_(first), k_(k), hits_(rows * k), sizes_(rows), locks_(rows) {}
  TopK(const TopK&) = delete;
  TopK& operator=(const TopK&) = delete;
  // Takes it for one call; false where another call has it.
  bool take() { return !taken_.test_and_set(std::memory_order_acquire); }
  void give_back() { taken_.clear(std::memory_order_release); }
  int k() const { return k_; }
  int64_t rows() const { return rows_; }
  int64_t first() const { return first_; }
  const Hit* hits(int64_t row) const { return hits_.data() + (row - first_) * k_; }
  int size(int64_t row) const { return sizes_.data()[row - first_]; }

  // A row that only one thread fills.
  void add(int64_t row, Hit hit) {
    Hit* heap = hits_.data() + (row - first_) * k_;
    int& size = sizes_.data()[row - first_];
    if (size < k_) {
      if (hit.score != hit.score) return;
      heap[size++] = hit;
      std::push_heap(heap, heap + size, better);
    } else if (better(hit, heap[0])) {
      std::pop_heap(heap, heap + k_, better);
      heap[k_ - 1] = hit;
      std::push_heap(heap, heap + k_, better);
    }
  }

  // A row that several threads fill.
  void add_shared(int64_t row, Hit hit) {
    std::atomic<uint8_t>& lock = locks_.data()[row - first_];
    while (lock.exchange(1, std::memory_order_acquire)) {
    }
    add(row, hit);
    lock.store(0, std::memory_order_release);
  }

  // What a row has kept, best first; more can be added to it afterwards.
  void ranked(int64_t row, std::vector<Hit>& into) const {
    into.assign(hits(row), hits(row) + size(row));
    std::sort(into.begin(), into.end(), better);
  }

 private:
  int64_t rows_, first_;
  int k_;
  Zeros<Hit> hits_;
  Zeros<int> sizes_;
  Zeros<std::atomic<uint8_t>> locks_;
  std::atomic_flag taken_ = ATOMIC_FLAG_INIT;
};

// Sees (rows, columns) fp32 scores.
void add_block(TopK& best, int64_t first_row, const float* scores, int64_t rows, int64_t columns, int64_t first_column,
               int threads);

// The best of a block's left texts while several threads score it. Where each text is one thread's, they go straight to
// the target; where threads share texts, each keeps its own best, and `merge` puts them together.
class LeftBest {
 public:
  // `others`: how many texts there are to choose from.
  LeftBest(TopK* target, int64_t texts, int64_t others, int64_t offset, int threads, bool shared)
      : target_(target), texts_(texts), offset_(offset) {
    if (!target || !shared) return;
    const int k = static_cast<int>(std::clamp<int64_t>(others, 1, target->k()));
    for (int thread = 0; thread < threads; ++thread) own_.push_back(std::make_unique<TopK>(texts, k));
  }
  TopK* of(int thread) const { return own_.empty() ? target_ : own_[thread].get(); }
  int64_t offset() const { return own_.empty() ? offset_ : 0; }
  // What a score of the block's text `a` must be to be kept, as far as a thread knows: no less than the worst of its
  // own, or of those that the target had before, where there are enough of either.
  float worth(int64_t a, int thread) const {
    const float before = worst(*target_, offset_ + a);
    return own_.empty() ? before : std::max(before, worst(*own_[thread], a));
  }
  void merge() {
    for (const auto& part : own_)
      for (int64_t row = 0; row < texts_; ++row)
        for (int i = 0; i < part->size(row); ++i) target_->add(offset_ + row, part->hits(row)[i]);
  }

 private:
  static float worst(const TopK& best, int64_t row) {
    return best.size(row) == best.k() ? best.hits(row)[0].score : -std::numeric_limits<float>::infinity();
  }

  TopK* target_;
  int64_t texts_, offset_;
  std::vector<std::unique_ptr<TopK>> own_;
};

// Whether so few left texts, in chunks of one thread each, that threads share them and split the right ones.
inline bool share_left(int64_t texts, int64_t chunk, int threads) {
  return (texts + chunk - 1) / chunk < 4 * static_cast<int64_t>(threads);
}

struct Match {
  int64_t left, right;
  float score;
};

}  // namespace distilmatch
