// Checks of what Python hands to the kernels: nothing that passes them reads or writes outside its arrays. A refusal is
// a ValueError that names the argument.
// Instructions: scalar. Bound by: memory, a pass over the masks and the row numbers.
#pragma once
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <fstream>
#include <limits>
#include <stdexcept>
#include <string>

#include "ranking.h"
#include "transformer.h"

namespace distilmatch {

constexpr int kMostWidth = 1 << 16, kMostThreadsAsked = 1024;
constexpr int64_t kMostNumber = int64_t{1} << 62;

// Not for a loop over texts, pairs or weights: `what` is made before it is known whether it is needed.
inline void need(bool holds, const std::string& what) {
  if (!holds) throw std::invalid_argument(what);
}

inline void check_threads(int threads) {
  need(threads >= 1 && threads <= kMostThreadsAsked, "threads must be 1 to " + std::to_string(kMostThreadsAsked));
}

// Bytes of memory that this machine has left.
inline double free_memory() {
  std::ifstream told("/proc/meminfo");
  std::string name, unit;
  for (double kilobytes; told >> name >> kilobytes; std::getline(told, unit))
    if (name == "MemAvailable:") return 1024 * kilobytes;
  return 0.5 * static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGE_SIZE));
}

// Memory for the best of so many rows, in heaps and as they are given out: the system would end a process that fills
// more than there is.
inline void check_best(int64_t rows, int64_t k) {
  need(rows >= 0 && k >= 1, "rows must be 0 or more, and k 1 or more");
  const double n = static_cast<double>(rows), hits = n * static_cast<double>(k);
  const double given_out = hits * (sizeof(float) + sizeof(int64_t));
  need(k <= std::numeric_limits<int>::max() && hits * sizeof(Hit) + n * 8 + given_out <= free_memory(),
       "the best of so many rows need more memory than there is");
}

inline void check_shape(int64_t width, int64_t heads, int64_t intermediate, int64_t labels) {
  need(heads >= 1 && heads <= width, "heads must be 1 to the width");
  need(width >= 32 && width <= kMostWidth && width % 32 == 0, "the width must be a multiple of 32");
  need(width % heads == 0 && width / heads % 16 == 0, "the width of an attention head must be a multiple of 16");
  need(intermediate >= 32 && intermediate <= kMostWidth && intermediate % 32 == 0,
       "the layer between must be a multiple of 32 wide");
  need(labels >= 1 && labels <= kMostWidth, "there must be one label or more");
}

// The (n, kept) mask of texts; every text has a real token.
inline void check_mask(const uint8_t* mask, int64_t count, int64_t kept) {
  need(kept >= 1 && kept <= kMostTokens,
       "a text keeps 1 to " + std::to_string(kMostTokens) + " tokens, not " + std::to_string(kept));
  for (int64_t i = 0; i < count; ++i) {
    bool any = false;
    for (int64_t token = 0; token < kept; ++token) any |= mask[i * kept + token] != 0;
    if (!any) throw std::invalid_argument("text " + std::to_string(i) + " has no real token");
  }
}

// (p, 2) row numbers of pairs.
inline void check_rows(const int64_t* rows, int64_t pairs, int64_t left, int64_t right) {
  for (int64_t p = 0; p < pairs; ++p)
    if (rows[2 * p] < 0 || rows[2 * p] >= left || rows[2 * p + 1] < 0 || rows[2 * p + 1] >= right)
      throw std::invalid_argument("pair " + std::to_string(p) + " names a text that there is none of");
}

// So many texts of a kind: their bytes can be counted.
template <class Texts>
void check_room(const Texts& kind, int64_t count) {
  need(count >= 0, "there are no fewer than 0 texts");
  const double bytes = static_cast<double>(count) * static_cast<double>(file_size(kind, 1));
  need(bytes <= static_cast<double>(kMostNumber), "so many texts have no room anywhere");
}

inline void check_packed(const LeftTexts& left, const RightTexts& right, const TransformerShape& shape) {
  const bool ours =
      left.packed.width == shape.width && left.packed.heads == shape.heads && left.packed.labels == shape.labels;
  need(ours && left.packed == right.packed, "texts that were packed for another head, or for one another's");
}

inline void check_offsets(int64_t left_offset, int64_t right_offset) {
  need(left_offset >= 0 && left_offset <= kMostNumber && right_offset >= 0 && right_offset <= kMostNumber,
       "an offset must be 0 or more");
}

// The best of one side, filled by a call: there is a row for each text, and no other call fills it.
class Filled {
 public:
  Filled(TopK* best, int64_t offset, int64_t texts, const char* name) : best_(best) {
    if (!best_) return;
    const int64_t row = offset - best_->first();
    need(row >= 0 && texts <= best_->rows() && row <= best_->rows() - texts,
         std::string(name) + " is to hold texts of rows that there are none of");
    if (!best_->take()) throw std::runtime_error(std::string(name) + " is being filled by another call");
  }
  ~Filled() {
    if (best_) best_->give_back();
  }
  Filled(const Filled&) = delete;
  Filled& operator=(const Filled&) = delete;

 private:
  TopK* best_;
};

inline Rank checked_rank(const std::string& by, int label, const std::vector<float>& values, int labels) {
  need(by == "logit" || by == "probability" || by == "expectation", "by must be logit, probability or expectation");
  Rank rank;
  rank.by = by == "logit" ? RankBy::logit : by == "probability" ? RankBy::probability : RankBy::expectation;
  if (rank.by == RankBy::expectation)
    need(values.size() == static_cast<size_t>(labels), "an expectation needs a value for each label");
  else
    need(label >= 0 && label < labels, "label must be 0 to " + std::to_string(labels - 1));
  rank.label = label;
  rank.values = values;
  return rank;
}

}  // namespace distilmatch
