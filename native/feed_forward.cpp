// A feed-forward head in fp32: activations of sums, and their products with the classifier's weights.
// ReLU of all pairs: max(a + b, 0) = max(a, -b) + b, and what b adds under the classifier's weights is the right text's
// own. So a hidden number of a pair costs a maximum and a multiply-add, and no addition.
// Instructions: AVX-512. Bound by: arithmetic; in all pairs, a load of 16 right numbers serves four left rows.
#include "feed_forward.h"

#include <omp.h>

#include <memory>

#include "byte_bounds.h"
#include "threads.h"

namespace distilmatch {
namespace {

constexpr int kLeftRows = 4;  // left rows that share what is loaded of 16 right ones
constexpr int64_t kLeftChunk = 512;

// Which of 16 numbers are not finite.
__mmask16 odd_ones(__m512 numbers) {
  constexpr int kNan = 0x81, kInfinite = 0x18;  // quiet and signalling; of either sign
  return _mm512_fpclass_ps_mask(numbers, kNan | kInfinite);
}

// 16 right texts side by side, (width, 16), their summands for ReLU with the other sign; and then what they add to the
// logits by themselves, (labels, 16).
template <bool use_gelu>
void interleave(const float* right, int64_t count, int hidden, int width, int labels, const float* read, float* panel,
                float* own) {
  const __m512i places = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                            _mm512_set1_epi32(width));
  const __mmask16 real = first_lanes(static_cast<int>(count));
  for (int x = 0; x < width; ++x) {
    const __m512 numbers = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), real, places, right + x, 4);
    _mm512_store_ps(panel + x * 16, use_gelu || x >= hidden ? numbers : _mm512_sub_ps(_mm512_setzero_ps(), numbers));
  }
  for (int c = 0; c < labels; ++c) {
    __m512 sum = _mm512_setzero_ps();
    if (!use_gelu)
      for (int x = 0; x < hidden; ++x)
        sum = _mm512_fnmadd_ps(_mm512_load_ps(panel + x * 16), _mm512_set1_ps(read[c * hidden + x]), sum);
    _mm512_store_ps(own + c * 16, sum);
  }
}

// What the classifier reads of a hidden number: of ReLU less the right text's part, which `interleave` has summed.
template <bool use_gelu>
inline __m512 hidden_number(__m512 right, float left) {
  return use_gelu ? gelu(_mm512_add_ps(right, _mm512_set1_ps(left))) : _mm512_max_ps(right, _mm512_set1_ps(left));
}

// sums (2, 4, 16) of four left rows and two panels of right ones, of one label: a load of a left number serves both.
template <bool use_gelu>
void two_panel_sums(const float* const* left, const float* panel, const float* next, const float* read, int hidden,
                    int width, __m512* sums) {
  __m512 one[kLeftRows], other[kLeftRows];
  for (int i = 0; i < kLeftRows; ++i) one[i] = other[i] = _mm512_setzero_ps();
  for (int x = 0; x < hidden; ++x) {
    const __m512 b = _mm512_load_ps(panel + x * 16), d = _mm512_load_ps(next + x * 16), w = _mm512_set1_ps(read[x]);
#pragma GCC unroll 4
    for (int i = 0; i < kLeftRows; ++i) {
      one[i] = _mm512_fmadd_ps(hidden_number<use_gelu>(b, left[i][x]), w, one[i]);
      other[i] = _mm512_fmadd_ps(hidden_number<use_gelu>(d, left[i][x]), w, other[i]);
    }
  }
  for (int x = hidden; x < width; ++x) {
    const __m512 b = _mm512_load_ps(panel + x * 16), d = _mm512_load_ps(next + x * 16);
#pragma GCC unroll 4
    for (int i = 0; i < kLeftRows; ++i) {
      const __m512 a = _mm512_set1_ps(left[i][x]);
      one[i] = _mm512_fmadd_ps(b, a, one[i]);
      other[i] = _mm512_fmadd_ps(d, a, other[i]);
    }
  }
  for (int i = 0; i < kLeftRows; ++i) sums[i] = one[i], sums[kLeftRows + i] = other[i];
}

// sums (labels, 4, 16) of four left rows and 16 right ones.
template <bool use_gelu>
void panel_sums(const float* const* left, const float* panel, const float* read, int hidden, int labels, __m512* sums) {
  for (int i = 0; i < labels * kLeftRows; ++i) sums[i] = _mm512_setzero_ps();
  for (int x = 0; x < hidden; ++x) {
    const __m512 b = _mm512_load_ps(panel + x * 16);
    for (int i = 0; i < kLeftRows; ++i) {
      const __m512 y = hidden_number<use_gelu>(b, left[i][x]);
      for (int c = 0; c < labels; ++c)
        sums[c * kLeftRows + i] = _mm512_fmadd_ps(y, _mm512_set1_ps(read[c * hidden + x]), sums[c * kLeftRows + i]);
    }
  }
}

}  // namespace

FeedForwardHead::FeedForwardHead(int given_hidden, int given_labels, bool given_gelu, const float* read,
                                 const float* read_bias, int given_products)
    : hidden(given_hidden),
      products(given_products),
      labels(given_labels),
      use_gelu(given_gelu),
      read_(static_cast<size_t>(given_hidden) * given_labels),
      read_bias_(read_bias, read_bias + given_labels) {
  std::memcpy(read_.data(), read, sizeof(float) * given_hidden * given_labels);
}

void FeedForwardHead::score(const float* left, const float* right, const int64_t* rows, int64_t pairs, float* logits,
                            int threads) const {
#pragma omp parallel for num_threads(team_size(threads)) schedule(static)
  for (int64_t p = 0; p < pairs; ++p) {
    const float *a = left + rows[2 * p] * width(), *b = right + rows[2 * p + 1] * width();
    __m512 shared = _mm512_setzero_ps();
    for (int x = hidden; x < width(); x += 16)
      shared = _mm512_fmadd_ps(_mm512_loadu_ps(a + x), _mm512_loadu_ps(b + x), shared);
    for (int c = 0; c < labels; ++c) {
      __m512 sum = shared;
      for (int x = 0; x < hidden; x += 16) {
        const __m512 y = _mm512_add_ps(_mm512_loadu_ps(a + x), _mm512_loadu_ps(b + x));
        sum = _mm512_fmadd_ps(use_gelu ? gelu(y) : relu(y), _mm512_loadu_ps(read_.data() + c * hidden + x), sum);
      }
      logits[p * labels + c] = _mm512_reduce_add_ps(sum) + read_bias_[c];
    }
  }
}

namespace {

constexpr int64_t kPanels = 32;             // of right texts, put side by side once for a chunk of left rows
constexpr int64_t kRange = kPanels * 16;    // right texts
constexpr int64_t kBoundedBytes = 1 << 19;  // of left rows, beside which the second cache has room
constexpr int64_t kFewest = 64;             // texts of a side for which a grid is worth making
constexpr int64_t kLongestPause = 8;  // ranges without bounds after those in which too many pairs reached their limits
// Of an exact logit, in looks at a pair in fp32, each of which costs what a pair of a panel does.
constexpr int64_t kLogitCost = 10;

// Left rows of a chunk whose bounds are made.
int64_t bounded_chunk(int width) { return std::max<int64_t>(256, kBoundedBytes / width); }

// The two sides of a call.
struct Block {
  const float *left, *right;
  int64_t left_count, right_count;
};

// What one thread needs to score chunks of left rows against ranges of right texts.
template <class Take>
class Sweep {
 public:
  Sweep(const FeedForwardHead& head, const float* read, const float* read_bias, const Block& block,
        const ByteBounds* bounds, const Take& take)
      : head_(head),
        read_(read),
        read_bias_(read_bias),
        block_(block),
        bounds_(bounds),
        take_(take),
        panels_(static_cast<size_t>(kRange) * head.width()),
        own_(static_cast<size_t>(kRange) * head.labels),
        all_(static_cast<size_t>(head.labels) * 16),
        sums_(static_cast<size_t>(head.labels + 1) * kLeftRows),
        logits_(head.labels) {
    if (!bounds) return;
    const int64_t chunk = bounded_chunk(head.width());
    left_bytes_ = Buffer<uint8_t>(static_cast<size_t>(chunk) * head.width());
    panel_bytes_ = Buffer<uint8_t>(static_cast<size_t>(kRange) * head.width());
    rows_.resize(chunk);
    facts_ = Buffer<ByteBounds::Panel>(kPanels);
  }

  // A chunk's left rows, `start` to `end`, are those of the next ranges.
  void take_chunk(int64_t start, int64_t end) {
    start_ = start, end_ = end, pause_ = 0, next_pause_ = 1;
    if (!bounds_) return;
    const int width = head_.width();
    for (int64_t a = start; a < end; ++a)
      bounds_->put_left(block_.left + a * width, left_bytes_.data() + (a - start) * width, rows_[a - start]);
  }

  // The chunk against right texts `first` to `last`.
  void score(int64_t first, int64_t last) {
    if (bounds_ && pause_ == 0 && set_limits())
      score_what_reaches(first, last);
    else
      score_all(first, last);
    pause_ -= pause_ > 0;
  }
  // Pairs that got no exact logit.
  int64_t left_out() const { return left_out_; }

 private:
  // False where a row would take whatever comes.
  bool set_limits() {
    for (int64_t a = start_; a < end_; ++a) {
      const float worth = take_.worth(a);
      if (worth == -HUGE_VALF) return false;
      set_limit(a, worth);
    }
    return true;
  }
  void set_limit(int64_t a, float worth) {
    ByteBounds::LeftRow& row = rows_[a - start_];
    row.limit = bounds_->limit(worth, row);
  }

  void score_what_reaches(int64_t first, int64_t last) {
    const int width = head_.width();
    const auto bytes_of = [&](int64_t b) { return panel_bytes_.data() + (b - first) * width; };
    const auto facts_of = [&](int64_t b) { return facts_.data() + (b - first) / 16; };
    for (int64_t b = first; b < last; b += 16)
      bounds_->put_panel(block_.right, b, static_cast<int>(std::min<int64_t>(16, last - b)), bytes_of(b), *facts_of(b));
    const int64_t given_before = given_;
    int64_t reached = 0;
    __mmask16 masks[ByteBounds::kRows * ByteBounds::kPanels];
    for (int64_t b = first; b < last; b += 16 * ByteBounds::kPanels)
      for (int64_t a = start_; a < end_; a += kLeftRows) {
        const uint8_t* bytes[kLeftRows];
        const ByteBounds::LeftRow* rows[kLeftRows];
        for (int i = 0; i < kLeftRows; ++i) {
          const int64_t place = std::min(a + i, end_ - 1) - start_;
          bytes[i] = left_bytes_.data() + place * width, rows[i] = &rows_[place];
        }
        bounds_->reach(bytes, rows, bytes_of(b), facts_of(b), masks);
        for (int i = 0; i < kLeftRows && a + i < end_; ++i)
          for (int panel = 0; panel < ByteBounds::kPanels; ++panel) {
            const int64_t at = b + 16 * panel;
            __mmask16 mask = masks[i * ByteBounds::kPanels + panel] & first_lanes(static_cast<int>(last - at));
            for (; mask; mask &= mask - 1, ++reached) wait_for_logit(a + i, at + __builtin_ctz(mask));
          }
      }
    give_waiting();
    const int64_t pairs = (end_ - start_) * (last - first);
    left_out_ += pairs - reached;
    const bool paid = reached + kLogitCost * (given_ - given_before) < pairs;
    pause_ = paid ? 0 : next_pause_ + 1;
    next_pause_ = paid ? 1 : std::min(2 * next_pause_, kLongestPause);
  }

  void wait_for_logit(int64_t a, int64_t b) {
    const int width = head_.width();
    if (bounds_->nearly(block_.left + a * width, block_.right + b * width) < take_.worth(a)) return;
    waiting_[2 * waits_] = a, waiting_[2 * waits_ + 1] = b;
    if (++waits_ == ByteBounds::kExact) give_waiting();
  }

  void give_waiting() {
    if (waits_ == 0) return;
    float logits[ByteBounds::kExact];
    bounds_->exact(block_.left, block_.right, waiting_, waits_, logits);
    for (int i = 0; i < waits_; ++i) {
      const int64_t a = waiting_[2 * i];
      take_.add(a, waiting_[2 * i + 1], logits[i]);
      set_limit(a, take_.worth(a));
    }
    given_ += waits_;
    waits_ = 0;
  }

  void score_all(int64_t first, int64_t last) {
    const int hidden = head_.hidden, width = head_.width(), labels = head_.labels;
    const bool use_gelu = head_.use_gelu;
    for (int64_t b = first; b < last; b += 16)
      (use_gelu ? interleave<true> : interleave<false>)(block_.right + b * width,
                                                        static_cast<int>(std::min<int64_t>(16, last - b)), hidden,
                                                        width, labels, read_, panels_.data() + (b - first) * width,
                                                        own_.data() + (b - first) * labels);
    // A panel stays in the nearest cache while the chunk's left rows go by.
    const int together = labels == 1 ? 2 : 1;  // panels
    for (int64_t b = first; b < last; b += 16 * together) {
      const float *panel = panels_.data() + (b - first) * width, *next = panel + 16 * width;
      for (int64_t a = start_; a < end_; a += kLeftRows) {
        const float* rows[kLeftRows];
        for (int i = 0; i < kLeftRows; ++i) rows[i] = block_.left + std::min(a + i, end_ - 1) * width;
        if (labels == 1)
          (use_gelu ? two_panel_sums<true> : two_panel_sums<false>)(rows, panel, next, read_, hidden, width,
                                                                    sums_.data());
        else
          (use_gelu ? panel_sums<true> : panel_sums<false>)(rows, panel, read_, hidden, labels, sums_.data());
        for (int part = 0; part < together && b + 16 * part < last; ++part) {
          const int64_t at = b + 16 * part;
          const int count = static_cast<int>(std::min<int64_t>(16, last - at));
          for (int i = 0; i < kLeftRows && a + i < end_; ++i)
            give(a + i, sums_.data() + part * kLeftRows + i, at, count, own_.data() + (at - first) * labels);
        }
      }
    }
  }

  // One left text and a panel of `count` right ones, of the row's sums and the right texts' own.
  void give(int64_t a, const __m512* sums, int64_t b, int count, const float* own) {
    const int labels = head_.labels;
    __mmask16 odd = 0;
    for (int c = 0; c < labels; ++c) {
      const __m512 base = _mm512_add_ps(_mm512_load_ps(own + c * 16), _mm512_set1_ps(read_bias_[c])),
                   of_label = _mm512_add_ps(sums[c * kLeftRows], base);
      odd |= odd_ones(of_label);
      _mm512_store_ps(all_.data() + c * 16, of_label);
    }
    if (odd & first_lanes(count)) return take_.see(a, b + __builtin_ctz(odd & first_lanes(count)));
    if (labels == 1) return take_.one(a, b, all_.data(), count);
    for (int j = 0; j < count; ++j) {
      for (int c = 0; c < labels; ++c) logits_[c] = all_.data()[c * 16 + j];
      take_.many(a, b + j, logits_.data());
    }
  }

  const FeedForwardHead& head_;
  const float *read_, *read_bias_;
  const Block& block_;
  const ByteBounds* bounds_;
  const Take& take_;
  Buffer<float> panels_, own_, all_;
  Buffer<uint8_t> left_bytes_, panel_bytes_;
  Buffer<ByteBounds::Panel> facts_;
  std::vector<ByteBounds::LeftRow> rows_;
  std::vector<__m512> sums_;
  std::vector<float> logits_;
  int64_t waiting_[2 * ByteBounds::kExact];
  int waits_ = 0;
  int64_t start_ = 0, end_ = 0, pause_ = 0, next_pause_ = 1, given_ = 0, left_out_ = 0;
};

}  // namespace

bool FeedForwardHead::bounds_pay(int64_t left_count, int64_t right_count) const {
  return use_bounds && labels == 1 && std::min(left_count, right_count) >= kFewest && byte_bounds_supported();
}

int64_t FeedForwardHead::chunk_of(int64_t left_count, int64_t right_count) const {
  return bounds_pay(left_count, right_count) ? bounded_chunk(width()) : kLeftChunk;
}

template <class Take>
void FeedForwardHead::all_pairs(const float* left, int64_t left_count, const float* right, int64_t right_count,
                                int threads, Take take) const {
  const Block block{left, right, left_count, right_count};
  std::unique_ptr<ByteBounds> bounds;
  if (take.limited() && bounds_pay(left_count, right_count)) {
    const HeadShape shape{read_.data(), read_bias_[0], hidden, products, use_gelu};
    bounds = std::make_unique<ByteBounds>(shape, left, left_count, right, right_count, threads);
    if (!bounds->any()) bounds.reset();
  }
  const int64_t rows = chunk_of(left_count, right_count);
  const bool shared = share_left(left_count, rows, threads);
  const int64_t chunks = (left_count + rows - 1) / rows, ranges = (right_count + kRange - 1) / kRange;
  const int64_t parts = shared ? ranges : 1;  // of the right texts, a task each
  Failure failure;
#pragma omp parallel num_threads(threads)
  {
    std::unique_ptr<Sweep<Take>> sweep;
    failure.run([&] {
      sweep = std::make_unique<Sweep<Take>>(*this, read_.data(), read_bias_.data(), block, bounds.get(), take);
    });
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < chunks * parts; ++task)
      failure.run([&] {
        const int64_t start = task / parts * rows;
        sweep->take_chunk(start, std::min(start + rows, left_count));
        const int64_t first = shared ? task % parts : 0, after = shared ? first + 1 : ranges;
        for (int64_t range = first; range < after; ++range)
          sweep->score(range * kRange, std::min((range + 1) * kRange, right_count));
      });
    if (sweep) left_out_ += sweep->left_out();
  }
  failure.rethrow();
}

namespace {

// What is done with a block's finite logits, `one` label's 16 at a time or a pair's `many`; pairs that have others are
// `see`n.
template <class Self>
struct Takes {
  const Rank& rank;
  int labels;
  int64_t left_offset, right_offset;
  Odd& odd;

  void see(int64_t a, int64_t b) const { odd.see(left_offset + a, right_offset + b); }
  void one(int64_t a, int64_t b, const float* scores, int count) const {
    static_cast<const Self*>(this)->add_panel(a, b, scores, count);
  }
  void many(int64_t a, int64_t b, const float* logits) const {
    const float score = rank(logits, labels);
    if (rank.by != RankBy::logit && !finite(&score, 1)) return see(a, b);
    static_cast<const Self*>(this)->add(a, b, score);
  }
};

struct TakeBest : Takes<TakeBest> {
  TakeBest(const Takes<TakeBest>& common, const LeftBest& left, bool keeps, TopK* right)
      : Takes(common), of_left(left), keeps_left(keeps), of_right(right) {}
  const LeftBest& of_left;
  bool keeps_left;
  TopK* of_right;

  // Whether what is not worth having can be told by the left row alone; and from which logit on a pair is.
  bool limited() const { return keeps_left && !of_right; }
  float worth(int64_t a) const { return of_left.worth(a, omp_get_thread_num()); }
  void add(int64_t a, int64_t b, float score) const {
    if (keeps_left) of_left.of(omp_get_thread_num())->add(of_left.offset() + a, {score, right_offset + b});
    if (of_right) of_right->add_shared(right_offset + b, {score, left_offset + a});
  }
  void add_panel(int64_t a, int64_t b, const float* scores, int count) const {
    if (limited()) {  // most of 16 are not among the best
      const __m512 worst = _mm512_set1_ps(worth(a));
      __mmask16 wanted = _mm512_cmp_ps_mask(_mm512_load_ps(scores), worst, _CMP_GE_OQ) & first_lanes(count);
      for (; wanted; wanted &= wanted - 1) {
        const int j = __builtin_ctz(wanted);
        add(a, b + j, scores[j]);
      }
      return;
    }
    for (int j = 0; j < count; ++j) add(a, b + j, scores[j]);
  }
};

struct TakeAbove : Takes<TakeAbove> {
  TakeAbove(const Takes<TakeAbove>& common, float above, std::vector<std::vector<Match>>* into)
      : Takes(common), threshold(above), found(into) {}
  float threshold;
  std::vector<std::vector<Match>>* found;

  bool limited() const { return true; }
  float worth(int64_t) const { return threshold; }
  void add(int64_t a, int64_t b, float score) const {
    if (score > threshold) (*found)[omp_get_thread_num()].push_back({left_offset + a, right_offset + b, score});
  }
  void add_panel(int64_t a, int64_t b, const float* scores, int count) const {
    for (int j = 0; j < count; ++j) add(a, b + j, scores[j]);
  }
};

}  // namespace

void FeedForwardHead::top_k(const float* left, int64_t left_count, const float* right, int64_t right_count,
                            const Rank& rank, TopK* of_left, TopK* of_right, int64_t left_offset, int64_t right_offset,
                            int threads, Odd& odd) const {
  const int team = team_size(threads);
  LeftBest best(of_left, left_count, right_count, left_offset, team,
                share_left(left_count, chunk_of(left_count, right_count), team));
  all_pairs(left, left_count, right, right_count, team,
            TakeBest{{rank, labels, left_offset, right_offset, odd}, best, of_left != nullptr, of_right});
  best.merge();
}

void FeedForwardHead::above(const float* left, int64_t left_count, const float* right, int64_t right_count,
                            const Rank& rank, float threshold, int64_t left_offset, int64_t right_offset, int threads,
                            std::vector<Match>& found, Odd& odd) const {
  const int team = team_size(threads);
  std::vector<std::vector<Match>> own(team);
  all_pairs(left, left_count, right, right_count, team,
            TakeAbove{{rank, labels, left_offset, right_offset, odd}, threshold, &own});
  for (const auto& part : own) found.insert(found.end(), part.begin(), part.end());
}

namespace {

template <bool use_gelu>
double register_rate(int threads, double seconds) {
  constexpr int kSteps = 1 << 16;
  double rate = 0;
#pragma omp parallel num_threads(team_size(threads)) reduction(+ : rate)
  {
    __m512 sums[2 * kLeftRows], left[kLeftRows];
    for (auto& sum : sums) sum = _mm512_setzero_ps();
    for (int i = 0; i < kLeftRows; ++i) left[i] = _mm512_set1_ps(0.25f * i);
    __m512 right = _mm512_set1_ps(-0.5f), weight = _mm512_set1_ps(0.125f);
    int64_t steps = 0;
    const double start = omp_get_wtime();
    double end = start;
    for (; end - start < seconds; end = omp_get_wtime(), steps += kSteps)
      for (int step = 0; step < kSteps; step += 2)
#pragma GCC unroll 8
        for (int i = 0; i < 2 * kLeftRows; ++i) {
          asm volatile("" : "+v"(right));  // as if it were another one each time
          sums[i] = _mm512_fmadd_ps(
              use_gelu ? gelu(_mm512_add_ps(right, left[i % kLeftRows])) : _mm512_max_ps(right, left[i % kLeftRows]),
              weight, sums[i]);
        }
    for (auto& sum : sums) asm volatile("" : : "v"(sum));
    rate += 16. * kLeftRows * steps / (end - start);
  }
  return rate;
}

}  // namespace

double hidden_numbers_per_s(bool use_gelu, int threads, double seconds) {
  return use_gelu ? register_rate<true>(threads, seconds) : register_rate<false>(threads, seconds);
}

}  // namespace distilmatch
