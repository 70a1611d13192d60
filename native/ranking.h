// What a pair is ranked by, and the best of what was seen.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

namespace distilmatch {

enum class RankBy { logit, probability, expectation };

// One number of c logits: a logit, the log-odds of a class, or the mean of `values` under the probabilities. Log-odds are in the
// order of the probabilities and do not end at 1, where fp32 has one number for all that is nearly certain.
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

struct Hit {
  float score;
  int64_t id;
};

// Higher scores first, of equal ones the lower number: the same best ones in whatever order they come.
inline bool better(const Hit& one, const Hit& other) {
  return one.score > other.score || (one.score == other.score && one.id < other.id);
}

// The k best of each of n rows; a heap a row, the worst kept one first. NaN is never kept.
class TopK {
 public:
  TopK(int64_t rows, int k) : k_(k), hits_(rows * k), sizes_(rows, 0), locks_(rows) {
    for (auto& lock : locks_) lock.clear();
  }
  TopK(const TopK&) = delete;
  TopK& operator=(const TopK&) = delete;
  // Takes it for one call; false where another call has it.
  bool take() { return !taken_.test_and_set(std::memory_order_acquire); }
  void give_back() { taken_.clear(std::memory_order_release); }
  int k() const { return k_; }
  int64_t rows() const { return static_cast<int64_t>(sizes_.size()); }
  const Hit* hits(int64_t row) const { return hits_.data() + row * k_; }
  int size(int64_t row) const { return sizes_[row]; }

  // A row that only one thread fills.
  void add(int64_t row, Hit hit) {
    Hit* heap = hits_.data() + row * k_;
    int& size = sizes_[row];
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
    while (locks_[row].test_and_set(std::memory_order_acquire)) {
    }
    add(row, hit);
    locks_[row].clear(std::memory_order_release);
  }

  void sort() {
    for (int64_t row = 0; row < rows(); ++row) std::sort(hits_.begin() + row * k_, hits_.begin() + row * k_ + sizes_[row], better);
  }

 private:
  int k_;
  std::vector<Hit> hits_;
  std::vector<int> sizes_;
  std::vector<std::atomic_flag> locks_;
  std::atomic_flag taken_ = ATOMIC_FLAG_INIT;
};

// Sees (rows, columns) fp32 scores.
void add_block(TopK& best, int64_t first_row, const float* scores, int64_t rows, int64_t columns, int64_t first_column, int threads);

// The best of a block's left texts while several threads score it. Where each text is one thread's, they go straight to the
// target; where threads share texts, each keeps its own best, and `merge` puts them together.
class LeftBest {
 public:
  LeftBest(TopK* target, int64_t texts, int64_t offset, int threads, bool shared) : target_(target), texts_(texts), offset_(offset) {
    if (!target || !shared) return;
    for (int thread = 0; thread < threads; ++thread) own_.push_back(std::make_unique<TopK>(texts, target->k()));
  }
  TopK* of(int thread) const { return own_.empty() ? target_ : own_[thread].get(); }
  int64_t offset() const { return own_.empty() ? offset_ : 0; }
  void merge() {
    for (const auto& part : own_)
      for (int64_t row = 0; row < texts_; ++row)
        for (int i = 0; i < part->size(row); ++i) target_->add(offset_ + row, part->hits(row)[i]);
  }

 private:
  TopK* target_;
  int64_t texts_, offset_;
  std::vector<std::unique_ptr<TopK>> own_;
};

// Whether so few left texts, in chunks of one thread each, that threads share them and split the right ones.
inline bool share_left(int64_t texts, int64_t chunk, int threads) { return (texts + chunk - 1) / chunk < 4 * static_cast<int64_t>(threads); }

struct Match {
  int64_t left, right;
  float score;
};

}  // namespace distilmatch
