// The Python module `distilmatch.engine._native`: kernels for CPUs that multiply bf16 numbers in vectors (AVX512-BF16).
// Arguments are checked in Python, with the user's names for them, and here again: no call of this module ends the
// process.
// Instructions: scalar, for any x86-64. Bound by: memory, a pass over weights, masks and row numbers.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>

#include "checks.h"
#include "feed_forward.h"
#include "threads.h"
#include "transformer.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace distilmatch;

namespace {

using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Numbers = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Mask = nb::ndarray<const bool, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

template <class Array>
const float* sized(const Array& array, size_t size, const char* name) {
  need(array.size() == size, std::string(name) + " has another size than the head's shape gives");
  return array.data();
}

const float* sized(const std::optional<Floats>& array, size_t size, const char* name) {
  return array ? sized(*array, size, name) : nullptr;
}

// The width of the vectors of similarities, which is the head's, or twice that where texts have lexical vectors too.
size_t similar_width(const std::optional<Floats>& similar, size_t width) {
  if (!similar) return 0;
  const size_t own = similar->ndim() ? similar->shape(similar->ndim() - 1) : 0;
  need(own == width || own == 2 * width, "similar has another size than the head's shape gives");
  return own;
}

// Weights, which a division by the largest of them must not turn into NaN.
template <class Array>
const float* weights_of(const Array& array, size_t size, const char* name) {
  const float* numbers = sized(array, size, name);
  bool finite = true;
  for (size_t i = 0; i < size; ++i) finite &= std::isfinite(numbers[i]);
  need(finite, std::string(name) + " holds numbers that are not finite");
  return numbers;
}

const uint8_t* flags(const Mask& mask) { return reinterpret_cast<const uint8_t*>(mask.data()); }

// A FloatingPointError with the numbers of the first pair whose score is no finite number.
void refuse(const Odd& odd) {
  if (!odd.any()) return;
  PyErr_SetObject(PyExc_FloatingPointError, nb::make_tuple(odd.left(), odd.right()).ptr());
  throw nb::python_error();
}

int whole(size_t number, const char* name) {
  need(number <= static_cast<size_t>(kMostWidth), std::string(name) + " is too large");
  return static_cast<int>(number);
}

// (p, 2) row numbers and the (p, labels) logits that they are scored into.
void check_pairs(const Rows& rows, const Output& logits, int64_t left, int64_t right, int labels) {
  need(rows.shape(1) == 2, "rows must be (pairs, 2)");
  need(logits.shape(0) == rows.shape(0) && logits.shape(1) == static_cast<size_t>(labels),
       "logits must be (pairs, labels)");
  check_rows(rows.data(), static_cast<int64_t>(rows.shape(0)), left, right);
}

int64_t check_summands(const Matrix& summands, int hidden, const char* name) {
  need(summands.shape(1) == static_cast<size_t>(hidden),
       std::string(name) + " must be (texts, " + std::to_string(hidden) + ")");
  return static_cast<int64_t>(summands.shape(0));
}

template <class T>
nb::ndarray<nb::numpy, T> owned(std::vector<T>&& values, std::initializer_list<size_t> shape) {
  auto* kept = new std::vector<T>(std::move(values));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::ndarray<nb::numpy, T>(kept->data(), shape, owner);
}

nb::tuple best(TopK& top) {
  const Filled used(&top, top.first(), 0, "this TopK");
  const size_t n = top.rows(), k = top.k();
  std::vector<float> scores(n * k, -std::numeric_limits<float>::infinity());
  std::vector<int64_t> ids(n * k, -1);
  {
    nb::gil_scoped_release release;
    std::vector<Hit> ranked;
    for (size_t row = 0; row < n; ++row) {
      top.ranked(top.first() + static_cast<int64_t>(row), ranked);
      for (size_t i = 0; i < ranked.size(); ++i) {
        scores[row * k + i] = ranked[i].score;
        ids[row * k + i] = ranked[i].id;
      }
    }
  }
  return nb::make_tuple(owned(std::move(scores), {n, k}), owned(std::move(ids), {n, k}));
}

nb::tuple matches(std::vector<Match>&& found) {
  const size_t n = found.size();
  std::vector<int64_t> rows(2 * n);
  std::vector<float> scores(n);
  for (size_t i = 0; i < n; ++i)
    rows[2 * i] = found[i].left, rows[2 * i + 1] = found[i].right, scores[i] = found[i].score;
  return nb::make_tuple(owned(std::move(rows), {n, size_t{2}}), owned(std::move(scores), {n}));
}

// The two sides of a call as Python gives them to a head, checked; `pass_to` hands them on as the head takes them.
template <class Head>
struct Sides;

template <>
struct Sides<TransformerHead> {
  using Left = const LeftTexts&;
  using Right = const RightTexts&;

  Sides(const TransformerHead& head, Left given_left, Right given_right) : left(given_left), right(given_right) {
    check_packed(left, right, head.shape);
  }
  static int labels(const TransformerHead& head) { return head.shape.labels; }
  int64_t left_count() const { return left.count; }
  int64_t right_count() const { return right.count; }
  template <class Call>
  void pass_to(Call call) const {
    call(left, right);
  }

  Left left;
  Right right;
};

template <>
struct Sides<FeedForwardHead> {
  using Left = Matrix;
  using Right = Matrix;

  Sides(const FeedForwardHead& head, const Matrix& given_left, const Matrix& given_right)
      : left(given_left),
        right(given_right),
        lefts(check_summands(left, head.width(), "left")),
        rights(check_summands(right, head.width(), "right")) {}
  static int labels(const FeedForwardHead& head) { return head.labels; }
  int64_t left_count() const { return lefts; }
  int64_t right_count() const { return rights; }
  template <class Call>
  void pass_to(Call call) const {
    call(left.data(), lefts, right.data(), rights);
  }

  const Matrix& left;
  const Matrix& right;
  const int64_t lefts, rights;
};

// Runs `work` without the interpreter's lock, then refuses what was odd.
template <class Work>
void run_and_refuse(Work work) {
  Odd odd;
  {
    nb::gil_scoped_release release;
    work(odd);
  }
  refuse(odd);
}

// The methods `top_k` and `above`, which every head has: all of the left texts against all of the right ones.
template <class Head>
void bind_all_pairs(nb::class_<Head>& head) {
  using Left = typename Sides<Head>::Left;
  using Right = typename Sides<Head>::Right;
  head.def(
      "top_k",
      [](const Head& self, Left left, Right right, const std::string& by, int label, const std::vector<float>& values,
         TopK* of_left, TopK* of_right, int64_t left_offset, int64_t right_offset, int threads) {
        const Rank rank = checked_rank(by, label, values, Sides<Head>::labels(self));
        check_threads(threads);
        const Sides<Head> sides(self, left, right);
        check_offsets(left_offset, right_offset);
        const Filled one(of_left, left_offset, sides.left_count(), "of_left");
        const Filled other(of_right, right_offset, sides.right_count(), "of_right");
        run_and_refuse([&](Odd& odd) {
          sides.pass_to([&](const auto&... given) {
            self.top_k(given..., rank, of_left, of_right, left_offset, right_offset, threads, odd);
          });
        });
      },
      "left"_a, "right"_a, "by"_a, "label"_a, "values"_a, "of_left"_a.none(), "of_right"_a.none(), "left_offset"_a,
      "right_offset"_a, "threads"_a);
  head.def(
      "above",
      [](const Head& self, Left left, Right right, const std::string& by, int label, const std::vector<float>& values,
         float threshold, int64_t left_offset, int64_t right_offset, int threads) {
        std::vector<Match> found;
        const Rank rank = checked_rank(by, label, values, Sides<Head>::labels(self));
        check_threads(threads);
        const Sides<Head> sides(self, left, right);
        check_offsets(left_offset, right_offset);
        run_and_refuse([&](Odd& odd) {
          sides.pass_to([&](const auto&... given) {
            self.above(given..., rank, threshold, left_offset, right_offset, threads, found, odd);
          });
        });
        return matches(std::move(found));
      },
      "left"_a, "right"_a, "by"_a, "label"_a, "values"_a, "threshold"_a, "left_offset"_a, "right_offset"_a,
      "threads"_a);
}

const Multiplier& find_multiplier(const std::string& name) {
  if (name == "amx") {
    if (!matrix_unit_allowed()) throw std::invalid_argument("this CPU has no matrix unit that this process may use");
    return matrix_multiplier();
  }
  if (name == "int8") {
    if (!__builtin_cpu_supports("avx512vnni"))
      throw std::invalid_argument("this CPU has no vectors of bytes (AVX512-VNNI)");
    return byte_multiplier();
  }
  need(name == "vector" || name == "imitated", "multiplier must be vector, amx, int8 or imitated");
  return name == "imitated" ? imitated_multiplier() : vector_multiplier();
}

bool supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bf16");
}

// What texts of a side say of their kind, in the order of `kind_of`.
template <class Texts>
nb::tuple facts_of(const Texts& texts) {
  const Packed& packed = texts.packed;
  return nb::make_tuple(packed.width, packed.heads, packed.labels, packed.similar, packed.tokens, packed.gaps,
                        texts.kept);
}

// Texts of the kind that such facts name, none yet.
template <class Texts>
Texts kind_of(const std::vector<int64_t>& facts) {
  need(facts.size() == 7, "facts must be seven numbers");
  const int64_t width = facts[0], heads = facts[1], labels = facts[2], similar = facts[3], kept = facts[6];
  check_shape(width, heads, 32, labels);
  need(similar == 0 || similar == width || similar == 2 * width, "similar must be 0, the width or twice that");
  need(facts[4] >= 0 && facts[4] <= 1 && facts[5] >= 0 && facts[5] <= facts[4], "tokens and gaps are 0 or 1");
  need(kept >= 1 && kept <= kMostTokens, "a text keeps 1 to " + std::to_string(kMostTokens) + " tokens");
  const Packed packed{static_cast<int>(width),   static_cast<int>(heads), static_cast<int>(labels),
                      static_cast<int>(similar), facts[4] != 0,           facts[5] != 0};
  return Texts(packed, static_cast<int>(kept));
}

// Packed texts in parts, put together, and as bytes of a file.
template <class Texts>
void bind_texts(nb::class_<Texts>& texts) {
  texts.def("__len__", [](const Texts& t) { return t.count; })
      .def_prop_ro("nbytes", &bytes_of<Texts>)
      .def_prop_ro("facts", &facts_of<Texts>, "What `room` and `opened` make texts of this kind from.")
      .def(
          "part",
          [](const Texts& self, int64_t start, int64_t stop) {
            need(start >= 0 && start <= stop && stop <= self.count, "a part must be of texts that there are");
            return part_of(self, start, stop);
          },
          "start"_a, "stop"_a, nb::keep_alive<0, 1>(), "Texts `start` to `stop`, in the memory of these.")
      .def(
          "put",
          [](Texts& self, int64_t start, const Texts& others) {
            need(!self.held && self.room, "only texts that `room` made are put together");
            need(self.packed == others.packed && self.kept == others.kept, "texts that were packed for another head");
            need(start >= 0 && start <= self.count && others.count <= self.count - start, "there is no room for them");
            nb::gil_scoped_release release;
            put(self, start, others);
          },
          "start"_a, "others"_a, "Copies texts to the places from `start` on.")
      .def(
          "packed_bytes",
          [](const Texts& self) {
            const size_t size = file_size(self, self.count);
            std::vector<uint8_t> bytes(size);
            {
              nb::gil_scoped_release release;
              write_bytes(self, bytes.data());
            }
            return owned(std::move(bytes), {size});
          },
          "All of them as `opened` reads them.")
      .def_static(
          "room",
          [](int64_t count, const std::vector<int64_t>& facts) {
            Texts made = kind_of<Texts>(facts);
            check_room(made, count);
            need(static_cast<double>(file_size(made, count)) <= free_memory(),
                 "so many texts need more memory than there is");
            make_room(made, count);
            for (int64_t i = 0; i < count; ++i) made.real[i] = 1;
            made.room = true;
            return made;
          },
          "count"_a, "facts"_a, "Room for texts that `put` brings.")
      .def_static(
          "opened",
          [](Bytes bytes, int64_t count, const std::vector<int64_t>& facts) {
            const Texts kind = kind_of<Texts>(facts);
            check_room(kind, count);
            need(bytes.size() == file_size(kind, count), "the bytes are not of so many texts of this kind");
            need(reinterpret_cast<uintptr_t>(bytes.data()) % 4 == 0, "the bytes must start at a multiple of four");
            Texts made = texts_in(kind, count, bytes.data());
            for (int64_t i = 0; i < count; ++i)
              need(made.real[i] >= 1 && made.real[i] <= made.kept, "a text has as many real tokens as it cannot have");
            made.held = std::make_shared<Bytes>(bytes);
            return made;
          },
          "bytes"_a, "count"_a, "facts"_a, "Texts that look at bytes that `packed_bytes` gave.");
}

}  // namespace

NB_MODULE(_native, m) {
  m.def("supported", &supported, "Whether this machine's CPU runs the kernels.");

  m.def(
      "has_bytes", [] { return supported() && __builtin_cpu_supports("avx512vnni"); },
      "Whether it multiplies bytes in vectors.");

  m.def(
      "has_amx", [] { return supported() && matrix_unit_allowed(); }, "Whether it has a matrix unit that may be used.");

  m.def("forked_after_use", &forked_after_use,
        "Whether this process was forked from one that had started the kernels' threads.");

  m.def(
      "hidden_numbers_per_s",
      [](bool use_gelu, int threads, double seconds) {
        check_threads(threads);
        need(std::isfinite(seconds) && seconds > 0 && seconds <= 60, "seconds must be more than 0, and 60 at most");
        nb::gil_scoped_release release;
        return hidden_numbers_per_s(use_gelu, threads, seconds);
      },
      "use_gelu"_a, "threads"_a, "seconds"_a,
      "Activations of sums, and their multiply-adds, a second, on registers alone.");

  nb::class_<TopK>(m, "TopK")
      .def(
          "__init__",
          [](TopK* self, int64_t rows, int64_t k, int64_t first) {
            check_best(rows, k);
            check_offsets(first, first);
            new (self) TopK(rows, static_cast<int>(k), first);
          },
          "rows"_a, "k"_a, "first"_a = 0)
      .def("best", &best)
      .def(
          "restore",
          [](TopK& self, Matrix scores, Rows ids) {
            const size_t n = self.rows(), k = self.k();
            need(scores.shape(0) == n && scores.shape(1) == k && ids.shape(0) == n && ids.shape(1) == k,
                 "scores and ids must be (rows, k)");
            const Filled used(&self, self.first(), static_cast<int64_t>(n), "this TopK");
            nb::gil_scoped_release release;
            for (size_t row = 0; row < n; ++row)
              for (size_t i = row * k; i < (row + 1) * k; ++i)
                if (ids.data()[i] >= 0)
                  self.add(self.first() + static_cast<int64_t>(row), {scores.data()[i], ids.data()[i]});
          },
          "scores"_a, "ids"_a, "Adds what `best` gave before; an id below 0 is none.")
      .def(
          "add",
          [](TopK& self, int64_t first_row, Matrix scores, int64_t first_column, int threads) {
            check_threads(threads);
            check_offsets(first_row, first_column);
            const Filled used(&self, first_row, static_cast<int64_t>(scores.shape(0)), "this TopK");
            nb::gil_scoped_release release;
            add_block(self, first_row, scores.data(), scores.shape(0), scores.shape(1), first_column, threads);
          },
          "first_row"_a, "scores"_a, "first_column"_a, "threads"_a);

  nb::class_<LeftTexts> left_texts(m, "LeftTexts");
  bind_texts(left_texts);
  nb::class_<RightTexts> right_texts(m, "RightTexts");
  bind_texts(right_texts);

  nb::class_<TransformerHead> transformer(m, "TransformerHead");
  transformer
      .def(
          "__init__",
          [](TransformerHead* self, const std::string& multiplier, int heads, bool use_gelu, bool pre_norm,
             float inner_epsilon, float outer_epsilon, Matrix output, Matrix expand, Numbers expand_bias,
             Matrix contract, Numbers contract_bias, Numbers inner_norm, Numbers inner_norm_bias, Numbers outer_norm,
             Numbers outer_norm_bias, Matrix read, Numbers read_bias) {
            const int d = whole(output.shape(0), "output"), f = whole(expand.shape(0), "expand"),
                      c = whole(read.shape(0), "read");
            check_shape(d, heads, f, c);
            const TransformerShape shape{d, heads, f, c, use_gelu, pre_norm, inner_epsilon, outer_epsilon};
            const size_t ds = d, fs = f, cs = c;
            const TransformerWeights weights{weights_of(output, ds * ds, "output"),
                                             weights_of(expand, fs * ds, "expand"),
                                             weights_of(expand_bias, fs, "expand_bias"),
                                             weights_of(contract, fs * ds, "contract"),
                                             weights_of(contract_bias, ds, "contract_bias"),
                                             weights_of(inner_norm, ds, "inner_norm"),
                                             weights_of(inner_norm_bias, ds, "inner_norm_bias"),
                                             weights_of(outer_norm, ds, "outer_norm"),
                                             weights_of(outer_norm_bias, ds, "outer_norm_bias"),
                                             weights_of(read, ds * cs, "read"),
                                             weights_of(read_bias, cs, "read_bias")};
            new (self) TransformerHead(shape, weights, find_multiplier(multiplier));
          },
          "multiplier"_a, "heads"_a, "use_gelu"_a, "pre_norm"_a, "inner_epsilon"_a, "outer_epsilon"_a, "output"_a,
          "expand"_a, "expand_bias"_a, "contract"_a, "contract_bias"_a, "inner_norm"_a, "inner_norm_bias"_a,
          "outer_norm"_a, "outer_norm_bias"_a, "read"_a, "read_bias"_a)
      .def(
          "pack_left",
          [](const TransformerHead& self, Mask mask, Floats query, Floats own_top, Floats own_sum, Floats own_mixed,
             Floats residual, std::optional<Floats> similar, std::optional<Floats> tokens,
             std::optional<Floats> token_weights, std::optional<Floats> token_gaps) {
            const size_t n = mask.shape(0), k = mask.shape(1), d = self.shape.width, h = self.shape.heads,
                         c = self.shape.labels, s = similar_width(similar, d);
            check_mask(flags(mask), static_cast<int64_t>(n), static_cast<int64_t>(k));
            need(tokens.has_value() == token_weights.has_value(), "tokens and token_weights go together");
            need(tokens.has_value() || !token_gaps.has_value(), "token_gaps need tokens");
            const LeftArrays arrays{sized(query, n * d, "query"),
                                    sized(own_top, n * h, "own_top"),
                                    sized(own_sum, n * h, "own_sum"),
                                    sized(own_mixed, n * d, "own_mixed"),
                                    sized(residual, n * d, "residual"),
                                    sized(similar, n * c * s, "similar"),
                                    sized(tokens, n * k * d, "tokens"),
                                    sized(token_weights, n * k * c, "token_weights"),
                                    sized(token_gaps, n * k * c, "token_gaps"),
                                    flags(mask),
                                    static_cast<int>(s)};
            nb::gil_scoped_release release;
            return self.pack_left(static_cast<int64_t>(n), static_cast<int>(k), arrays);
          },
          "mask"_a, "query"_a, "own_top"_a, "own_sum"_a, "own_mixed"_a, "residual"_a, "similar"_a.none(),
          "tokens"_a.none(), "token_weights"_a.none(), "token_gaps"_a.none())
      .def(
          "pack_right",
          [](const TransformerHead& self, Mask mask, Floats key, Floats value, std::optional<Floats> similar,
             std::optional<Floats> tokens, std::optional<Floats> token_weights, std::optional<Floats> token_gaps) {
            const size_t n = mask.shape(0), k = mask.shape(1), d = self.shape.width, c = self.shape.labels,
                         s = similar_width(similar, d);
            check_mask(flags(mask), static_cast<int64_t>(n), static_cast<int64_t>(k));
            need(tokens.has_value() == token_weights.has_value(), "tokens and token_weights go together");
            need(tokens.has_value() || !token_gaps.has_value(), "token_gaps need tokens");
            const RightArrays arrays{sized(key, n * k * d, "key"),
                                     sized(value, n * k * d, "value"),
                                     sized(similar, n * s, "similar"),
                                     sized(tokens, n * k * d, "tokens"),
                                     sized(token_weights, n * k * c, "token_weights"),
                                     sized(token_gaps, n * k * c, "token_gaps"),
                                     flags(mask),
                                     static_cast<int>(s)};
            nb::gil_scoped_release release;
            return self.pack_right(static_cast<int64_t>(n), static_cast<int>(k), arrays);
          },
          "mask"_a, "key"_a, "value"_a, "similar"_a.none(), "tokens"_a.none(), "token_weights"_a.none(),
          "token_gaps"_a.none())
      .def(
          "score",
          [](const TransformerHead& self, const LeftTexts& left, const RightTexts& right, Rows rows, Output logits,
             int threads) {
            check_threads(threads);
            check_packed(left, right, self.shape);
            check_pairs(rows, logits, left.count, right.count, self.shape.labels);
            nb::gil_scoped_release release;
            self.score(left, right, rows.data(), static_cast<int64_t>(rows.shape(0)), logits.data(), threads);
          },
          "left"_a, "right"_a, "rows"_a, nb::arg("logits").noconvert(), "threads"_a);
  bind_all_pairs(transformer);

  nb::class_<FeedForwardHead> feed_forward(m, "FeedForwardHead");
  feed_forward
      .def_rw("use_bounds", &FeedForwardHead::use_bounds,
              "Whether bounds in bytes say which pairs need no exact logit.")
      .def_prop_ro("left_out", &FeedForwardHead::left_out, "Pairs that got no exact logit, of all calls so far.")
      .def(
          "__init__",
          [](FeedForwardHead* self, bool use_gelu, Matrix read, Numbers read_bias, int products) {
            const int c = whole(read.shape(0), "read"), hidden = whole(read.shape(1), "read");
            need(c >= 1, "there must be one label or more");
            need(hidden >= 16 && hidden % 16 == 0, "the hidden width must be a multiple of 16");
            need(products >= 0 && products % 16 == 0 && products <= 1 << 16, "products must be a multiple of 16");
            need(products == 0 || c == 1, "products go with one label");
            new (self) FeedForwardHead(hidden, c, use_gelu, weights_of(read, read.size(), "read"),
                                       weights_of(read_bias, c, "read_bias"), products);
          },
          "use_gelu"_a, "read"_a, "read_bias"_a, "products"_a = 0)
      .def(
          "score",
          [](const FeedForwardHead& self, Matrix left, Matrix right, Rows rows, Output logits, int threads) {
            check_threads(threads);
            const int64_t n = check_summands(left, self.width(), "left"),
                          m = check_summands(right, self.width(), "right");
            check_pairs(rows, logits, n, m, self.labels);
            nb::gil_scoped_release release;
            self.score(left.data(), right.data(), rows.data(), static_cast<int64_t>(rows.shape(0)), logits.data(),
                       threads);
          },
          "left"_a, "right"_a, "rows"_a, nb::arg("logits").noconvert(), "threads"_a);
  bind_all_pairs(feed_forward);
}
