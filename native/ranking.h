// What a pair is ranked by, and the best of what was seen.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <vector>

namespace distilmatch {

enum class RankBy { logit, probability, expectation };

// One number of c logits: a logit, the probability of a class, or the mean of `values` under the probabilities.
struct Rank {
  RankBy by = RankBy::logit;
  int label = 0;
  std::vector<float> values;

  float operator()(const float* logits, int labels) const {
    if (by == RankBy::logit) return logits[label];
    float top = logits[0], total = 0, wanted = 0;
    for (int c = 1; c < labels; ++c) top = std::max(top, logits[c]);
    for (int c = 0; c < labels; ++c) {
      const float share = std::exp(logits[c] - top);
      total += share;
      wanted += by == RankBy::probability ? (c == label ? share : 0.f) : share * values[c];
    }
    return wanted / total;
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
};

struct Match {
  int64_t left, right;
  float score;
};

}  // namespace distilmatch
