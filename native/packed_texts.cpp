// Packed texts, taken apart and put together. The buffers of texts of one kind are shown in one order, by which they
// meet. Instructions: scalar. Bound by: memory, which is copied.
#include "packed_texts.h"

#include <cstring>
#include <type_traits>
#include <vector>

namespace distilmatch {
namespace {

constexpr size_t kAligned = 64;

template <class Buffered>
using NumberOf = std::remove_const_t<std::remove_pointer_t<decltype(std::declval<Buffered&>().data())>>;

size_t aligned(size_t bytes) { return (bytes + kAligned - 1) / kAligned * kAligned; }

// What a multiplier reads past the last text: a vector, or rows of left tokens.
size_t past_the_last(const LeftTexts& kind) {
  return aligned(kAligned + (kind.packed.tokens ? (kSimilarRows - 1) * kind.packed.width * sizeof(bf16) : 0));
}
size_t past_the_last(const RightTexts&) { return kAligned; }

// Texts of the same kind, none yet.
template <class Texts>
Texts none_of(const Texts& kind) {
  return Texts(kind.packed, kind.kept);
}

}  // namespace

RightTexts::RightTexts(const Packed& packed, int kept) : kept(kept), packed(packed) {
  const size_t d = packed.width, heads = packed.heads, e = d / heads;
  groups = (kept + 15) / 16;
  two_heads = kept <= 8 && packed.heads % 2 == 0;
  tokens_size = groups * LaneBlock::size(d);
  key_size = two_heads ? heads / 2 * LaneBlock::size(e) : heads * groups * LaneBlock::size(e);
  value_size = (kept + 1) / 2 * 2 * d;
}

template <class Texts>
void make_room(Texts& texts, int64_t count) {
  texts.count = count;
  Texts::each(texts, [&](auto& buffer, size_t a_text) {
    using Number = NumberOf<decltype(buffer)>;
    buffer = Buffer<Number>(count * a_text + past_the_last(texts) / sizeof(Number));
  });
}

template <class Texts>
size_t bytes_of(const Texts& texts) {
  size_t bytes = 0;
  Texts::each(texts, [&](const auto& buffer, size_t a_text) {
    bytes += texts.count * a_text * sizeof(NumberOf<decltype(buffer)>);
  });
  return bytes;
}

template <class Texts>
Texts part_of(const Texts& texts, int64_t start, int64_t stop) {
  std::vector<const void*> places;
  Texts::each(texts, [&](const auto& buffer, size_t a_text) { places.push_back(buffer.data() + start * a_text); });
  Texts part = none_of(texts);
  part.count = stop - start;
  size_t i = 0;
  Texts::each(part, [&](auto& buffer, size_t a_text) {
    using Number = NumberOf<decltype(buffer)>;
    buffer = Buffer<Number>::view(static_cast<const Number*>(places[i++]), part.count * a_text);
  });
  return part;
}

template <class Texts>
void put(Texts& texts, int64_t start, const Texts& others) {
  std::vector<const void*> places;
  Texts::each(others, [&](const auto& buffer, size_t) { places.push_back(buffer.data()); });
  size_t i = 0;
  Texts::each(texts, [&](auto& buffer, size_t a_text) {
    const size_t bytes = others.count * a_text * sizeof(NumberOf<decltype(buffer)>);
    if (bytes) std::memcpy(buffer.data() + start * a_text, places[i], bytes);
    ++i;
  });
}

template <class Texts>
size_t file_size(const Texts& kind, int64_t count) {
  size_t bytes = past_the_last(kind);
  Texts::each(kind, [&](const auto& buffer, size_t a_text) {
    bytes += aligned(count * a_text * sizeof(NumberOf<decltype(buffer)>));
  });
  return bytes;
}

template <class Texts>
void write_bytes(const Texts& texts, uint8_t* to) {
  const uint8_t* end = to + file_size(texts, texts.count);
  Texts::each(texts, [&](const auto& buffer, size_t a_text) {
    const size_t bytes = texts.count * a_text * sizeof(NumberOf<decltype(buffer)>);
    if (bytes) std::memcpy(to, buffer.data(), bytes);
    std::memset(to + bytes, 0, aligned(bytes) - bytes);
    to += aligned(bytes);
  });
  std::memset(to, 0, end - to);
}

template <class Texts>
Texts texts_in(const Texts& kind, int64_t count, const uint8_t* bytes) {
  Texts texts = none_of(kind);
  texts.count = count;
  Texts::each(texts, [&](auto& buffer, size_t a_text) {
    using Number = NumberOf<decltype(buffer)>;
    buffer = Buffer<Number>::view(reinterpret_cast<const Number*>(bytes), count * a_text);
    bytes += aligned(count * a_text * sizeof(Number));
  });
  return texts;
}

#define DISTILMATCH_PACKED_TEXTS(Texts)                   \
  template void make_room(Texts&, int64_t);               \
  template size_t bytes_of(const Texts&);                 \
  template Texts part_of(const Texts&, int64_t, int64_t); \
  template void put(Texts&, int64_t, const Texts&);       \
  template size_t file_size(const Texts&, int64_t);       \
  template void write_bytes(const Texts&, uint8_t*);      \
  template Texts texts_in(const Texts&, int64_t, const uint8_t*);
DISTILMATCH_PACKED_TEXTS(LeftTexts)
DISTILMATCH_PACKED_TEXTS(RightTexts)
#undef DISTILMATCH_PACKED_TEXTS

}  // namespace distilmatch
