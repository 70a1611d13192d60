// The Python module `distilmatch.engine._native`: kernels for CPUs that multiply bf16 numbers in vectors (AVX512-BF16).
// Arguments are checked in Python; what is wrong here would be a fault of the package.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "feed_forward.h"
#include "transformer.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace distilmatch;

namespace {

using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Bools = nb::ndarray<const bool, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

const float* pointer(const std::optional<Floats>& array) { return array ? array->data() : nullptr; }

const float* sized(const Floats& array, size_t size, const char* name) {
  if (array.size() != size) throw std::invalid_argument(std::string(name) + " has another size than the head's shape gives");
  return array.data();
}

Rank make_rank(const std::string& by, int label, const std::vector<float>& values) {
  Rank rank;
  rank.by = by == "logit" ? RankBy::logit : by == "probability" ? RankBy::probability : RankBy::expectation;
  rank.label = label;
  rank.values = values;
  return rank;
}

template <class T>
nb::ndarray<nb::numpy, T> owned(std::vector<T>&& values, std::initializer_list<size_t> shape) {
  auto* kept = new std::vector<T>(std::move(values));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::ndarray<nb::numpy, T>(kept->data(), shape, owner);
}

nb::tuple best(TopK& top) {
  const size_t n = top.rows(), k = top.k();
  std::vector<float> scores(n * k, -std::numeric_limits<float>::infinity());
  std::vector<int64_t> ids(n * k, -1);
  {
    nb::gil_scoped_release release;
    top.sort();
    for (size_t row = 0; row < n; ++row)
      for (int i = 0; i < top.size(row); ++i) {
        scores[row * k + i] = top.hits(row)[i].score;
        ids[row * k + i] = top.hits(row)[i].id;
      }
  }
  return nb::make_tuple(owned(std::move(scores), {n, k}), owned(std::move(ids), {n, k}));
}

nb::tuple matches(std::vector<Match>&& found) {
  const size_t n = found.size();
  std::vector<int64_t> rows(2 * n);
  std::vector<float> scores(n);
  for (size_t i = 0; i < n; ++i) rows[2 * i] = found[i].left, rows[2 * i + 1] = found[i].right, scores[i] = found[i].score;
  return nb::make_tuple(owned(std::move(rows), {n, size_t{2}}), owned(std::move(scores), {n}));
}

const Multiplier& find_multiplier(const std::string& name) {
  if (name == "amx") {
    if (!matrix_unit_allowed()) throw std::invalid_argument("this CPU has no matrix unit that this process may use");
    return matrix_multiplier();
  }
  if (name == "int8") {
    if (!__builtin_cpu_supports("avx512vnni")) throw std::invalid_argument("this CPU has no vectors of bytes (AVX512-VNNI)");
    return byte_multiplier();
  }
  return name == "imitated" ? imitated_multiplier() : vector_multiplier();
}

bool supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bf16");
}

}  // namespace

NB_MODULE(_native, m) {
  m.def("supported", &supported, "Whether this machine's CPU runs the kernels.");

  m.def("has_bytes", [] { return supported() && __builtin_cpu_supports("avx512vnni"); }, "Whether it multiplies bytes in vectors.");

  m.def("has_amx", [] { return supported() && matrix_unit_allowed(); }, "Whether it has a matrix unit that may be used.");

  m.def("hidden_numbers_per_s", &hidden_numbers_per_s, "use_gelu"_a, "threads"_a, "seconds"_a,
        "Additions, activations and multiply-adds a second, on registers alone.");

  nb::class_<TopK>(m, "TopK").def(nb::init<int64_t, int>(), "rows"_a, "k"_a).def("best", &best)
      .def(
          "add",
          [](TopK& self, int64_t first_row, Matrix scores, int64_t first_column, int threads) {
            if (first_row < 0 || first_row + static_cast<int64_t>(scores.shape(0)) > self.rows())
              throw std::invalid_argument("scores of rows that there are none of");
            nb::gil_scoped_release release;
            add_block(self, first_row, scores.data(), scores.shape(0), scores.shape(1), first_column, threads);
          },
          "first_row"_a, "scores"_a, "first_column"_a, "threads"_a);

  nb::class_<LeftTexts>(m, "LeftTexts")
      .def("__len__", [](const LeftTexts& t) { return t.count; })
      .def_prop_ro("nbytes", &LeftTexts::bytes);
  nb::class_<RightTexts>(m, "RightTexts")
      .def("__len__", [](const RightTexts& t) { return t.count; })
      .def_prop_ro("nbytes", &RightTexts::bytes);

  nb::class_<TransformerHead>(m, "TransformerHead")
      .def(
          "__init__",
          [](TransformerHead* self, const std::string& multiplier, int heads, bool use_gelu, bool pre_norm, float inner_epsilon, float outer_epsilon,
             Floats output, Floats expand, Floats expand_bias, Floats contract, Floats contract_bias, Floats inner_norm,
             Floats inner_norm_bias, Floats outer_norm, Floats outer_norm_bias, Floats read, Floats read_bias) {
            const int d = static_cast<int>(output.shape(0)), f = static_cast<int>(expand.shape(0));
            const int c = static_cast<int>(read.shape(0));
            if (d % 32 || f % 32 || (d / heads) % 16) throw std::invalid_argument("widths that the kernels cannot do");
            const TransformerShape shape{d, heads, f, c, use_gelu, pre_norm, inner_epsilon, outer_epsilon};
            const size_t ds = d, fs = f;
            const TransformerWeights weights{sized(output, ds * ds, "output"),
                                             sized(expand, fs * ds, "expand"),
                                             sized(expand_bias, fs, "expand_bias"),
                                             sized(contract, fs * ds, "contract"),
                                             sized(contract_bias, ds, "contract_bias"),
                                             sized(inner_norm, ds, "inner_norm"),
                                             sized(inner_norm_bias, ds, "inner_norm_bias"),
                                             sized(outer_norm, ds, "outer_norm"),
                                             sized(outer_norm_bias, ds, "outer_norm_bias"),
                                             sized(read, ds * c, "read"),
                                             sized(read_bias, c, "read_bias")};
            new (self) TransformerHead(shape, weights, find_multiplier(multiplier));
          },
          "multiplier"_a, "heads"_a, "use_gelu"_a, "pre_norm"_a, "inner_epsilon"_a, "outer_epsilon"_a, "output"_a, "expand"_a, "expand_bias"_a,
          "contract"_a, "contract_bias"_a, "inner_norm"_a, "inner_norm_bias"_a, "outer_norm"_a, "outer_norm_bias"_a, "read"_a,
          "read_bias"_a)
      .def(
          "pack_left",
          [](const TransformerHead& self, Bools mask, Floats query, Floats own_top, Floats own_sum, Floats own_mixed,
             Floats residual, std::optional<Floats> similar, std::optional<Floats> tokens, std::optional<Floats> token_weights) {
            const size_t n = mask.shape(0), d = self.shape.width, h = self.shape.heads;
            const LeftArrays arrays{sized(query, n * d, "query"),
                                    sized(own_top, n * h, "own_top"),
                                    sized(own_sum, n * h, "own_sum"),
                                    sized(own_mixed, n * d, "own_mixed"),
                                    sized(residual, n * d, "residual"),
                                    pointer(similar),
                                    pointer(tokens),
                                    pointer(token_weights),
                                    mask.data()};
            nb::gil_scoped_release release;
            return self.pack_left(static_cast<int64_t>(n), static_cast<int>(mask.shape(1)), arrays);
          },
          "mask"_a, "query"_a, "own_top"_a, "own_sum"_a, "own_mixed"_a, "residual"_a, "similar"_a.none(), "tokens"_a.none(),
          "token_weights"_a.none())
      .def(
          "pack_right",
          [](const TransformerHead& self, Bools mask, Floats key, Floats value, std::optional<Floats> similar,
             std::optional<Floats> tokens, std::optional<Floats> token_weights) {
            const size_t n = mask.shape(0), k = mask.shape(1), d = self.shape.width;
            const RightArrays arrays{sized(key, n * k * d, "key"), sized(value, n * k * d, "value"), pointer(similar),
                                     pointer(tokens), pointer(token_weights), mask.data()};
            nb::gil_scoped_release release;
            return self.pack_right(static_cast<int64_t>(n), static_cast<int>(k), arrays);
          },
          "mask"_a, "key"_a, "value"_a, "similar"_a.none(), "tokens"_a.none(), "token_weights"_a.none())
      .def(
          "score",
          [](const TransformerHead& self, const LeftTexts& left, const RightTexts& right, Rows rows, Output logits, int threads) {
            nb::gil_scoped_release release;
            self.score(left, right, rows.data(), static_cast<int64_t>(rows.shape(0)), logits.data(), threads);
          },
          "left"_a, "right"_a, "rows"_a, "logits"_a, "threads"_a)
      .def(
          "top_k",
          [](const TransformerHead& self, const LeftTexts& left, const RightTexts& right, const std::string& by, int label, const std::vector<float>& values, TopK* of_left, TopK* of_right,
             int64_t left_offset, int64_t right_offset, int threads) {
            const Rank rank = make_rank(by, label, values);
            nb::gil_scoped_release release;
            self.top_k(left, right, rank, of_left, of_right, left_offset, right_offset, threads);
          },
          "left"_a, "right"_a, "by"_a, "label"_a, "values"_a, "of_left"_a.none(), "of_right"_a.none(),
          "left_offset"_a, "right_offset"_a, "threads"_a)
      .def(
          "above",
          [](const TransformerHead& self, const LeftTexts& left, const RightTexts& right, const std::string& by, int label, const std::vector<float>& values, float threshold, int64_t left_offset,
             int64_t right_offset, int threads) {
            std::vector<Match> found;
            const Rank rank = make_rank(by, label, values);
            {
              nb::gil_scoped_release release;
              self.above(left, right, rank, threshold, left_offset, right_offset, threads, found);
            }
            return matches(std::move(found));
          },
          "left"_a, "right"_a, "by"_a, "label"_a, "values"_a, "threshold"_a, "left_offset"_a,
          "right_offset"_a, "threads"_a);

  nb::class_<FeedForwardHead>(m, "FeedForwardHead")
      .def(
          "__init__",
          [](FeedForwardHead* self, bool use_gelu, Floats read, Floats read_bias) {
            const int c = static_cast<int>(read.shape(0)), hidden = static_cast<int>(read.shape(1));
            if (hidden % 16) throw std::invalid_argument("a width that the kernels cannot do");
            new (self) FeedForwardHead(hidden, c, use_gelu, read.data(), sized(read_bias, c, "read_bias"));
          },
          "use_gelu"_a, "read"_a, "read_bias"_a)
      .def(
          "score",
          [](const FeedForwardHead& self, Floats left, Floats right, Rows rows, Output logits, int threads) {
            nb::gil_scoped_release release;
            self.score(left.data(), right.data(), rows.data(), static_cast<int64_t>(rows.shape(0)), logits.data(), threads);
          },
          "left"_a, "right"_a, "rows"_a, "logits"_a, "threads"_a)
      .def(
          "top_k",
          [](const FeedForwardHead& self, Floats left, Floats right, const std::string& by, int label,
             const std::vector<float>& values, TopK* of_left, TopK* of_right, int64_t left_offset, int64_t right_offset,
             int threads) {
            const Rank rank = make_rank(by, label, values);
            nb::gil_scoped_release release;
            self.top_k(left.data(), left.shape(0), right.data(), right.shape(0), rank, of_left, of_right, left_offset,
                       right_offset, threads);
          },
          "left"_a, "right"_a, "by"_a, "label"_a, "values"_a, "of_left"_a.none(), "of_right"_a.none(), "left_offset"_a,
          "right_offset"_a, "threads"_a)
      .def(
          "above",
          [](const FeedForwardHead& self, Floats left, Floats right, const std::string& by, int label,
             const std::vector<float>& values, float threshold, int64_t left_offset, int64_t right_offset, int threads) {
            std::vector<Match> found;
            const Rank rank = make_rank(by, label, values);
            {
              nb::gil_scoped_release release;
              self.above(left.data(), left.shape(0), right.data(), right.shape(0), rank, threshold, left_offset, right_offset,
                         threads, found);
            }
            return matches(std::move(found));
          },
          "left"_a, "right"_a, "by"_a, "label"_a, "values"_a, "threshold"_a, "left_offset"_a, "right_offset"_a, "threads"_a);
}
