// The multipliers: products of a tile of bf16 rows with packed weights, added up in fp32 or written as bf16.
// Instructions: scalar here, which packs a head's weights once; each multiplier has its own. Bound by: memory.
#pragma once
#include <type_traits>

#include "numbers.h"

namespace distilmatch {

constexpr int kMostTileRows = 64;
constexpr int kPanel = 32;
constexpr int kSimilarRows = 16;  // at most, of a call of `similarities`

enum class Then { add, gelu, relu };

// Multiplies `tile_rows` rows (tile_rows, inputs) with weights that it packed from (outputs, inputs); both are
// multiples of 32. The result, with the bias if there is one, is added to `sums` (tile_rows, outputs), or activated and
// written to `activated`. `begin` and `end` frame a thread's use.
//
// `similarities` multiplies `count` rows (count, width), at most `kSimilarRows`, with the lanes of `blocks` blocks,
// each a `LaneBlock`; `width` is a multiple of 32. All `kSimilarRows` rows may be read. The result is written to
// `products` (kSimilarRows, 16 blocks), of which rows past `count` mean nothing.
struct Multiplier {
  int tile_rows;
  void (*begin)();
  void (*end)();
  size_t (*packed_bytes)(int outputs, int inputs);
  void (*pack)(const float* weights, int outputs, int inputs, void* packed);
  void (*product)(Then then, const bf16* rows, int inputs, const void* packed, int outputs, const float* bias,
                  bf16* activated, float* sums);
  void (*similarities)(const bf16* rows, int count, int width, const bf16* lanes, int blocks, float* products);
};

void vector_similarities(const bf16* rows, int count, int width, const bf16* lanes, int blocks, float* products);

const Multiplier& vector_multiplier();    // AVX512-BF16
const Multiplier& matrix_multiplier();    // AMX
const Multiplier& byte_multiplier();      // AVX512-VNNI, int8
const Multiplier& imitated_multiplier();  // AMX's layouts in plain loops, for tests
bool matrix_unit_allowed();               // whether the CPU has AMX and the system lets this process use it

// The layout of a block of 16 lanes, a token each: [numbers of a token / 2][16][2]. A row of it is one vector.
struct LaneBlock {
  static constexpr size_t kRow = 32;
  static size_t size(size_t numbers) { return numbers * 16; }
  // Where a lane's number x stands.
  static size_t place(size_t lane, size_t x) { return (x / 2 * 16 + lane) * 2 + x % 2; }
  // Where a row begins, which has every lane's numbers 2 row and 2 row + 1.
  static size_t row(int number) { return static_cast<size_t>(number) * kRow; }
};

// Calls `work` with a constant of what comes after a product, so that it is compiled for each.
template <class Work>
void with_constant(Then then, Work work) {
  if (then == Then::add)
    work(std::integral_constant<Then, Then::add>{});
  else if (then == Then::gelu)
    work(std::integral_constant<Then, Then::gelu>{});
  else
    work(std::integral_constant<Then, Then::relu>{});
}

// The layout of packed weights (n, k): panels of 32 outputs, `together` inputs of an output side by side, so
// [n / 32][k / together][32][together]. A step of a panel is what one k / together holds.
template <int together>
struct Panels {
  static constexpr int kStep = kPanel * together;
  // Where the panel begins whose first output this is.
  static size_t panel(int output, int inputs) { return static_cast<size_t>(output) * inputs; }
  // Where a step begins, from its panel's start.
  static size_t step(int number) { return static_cast<size_t>(number) * kStep; }
  // Where any weight stands.
  static size_t place(int output, int input, int inputs) {
    const int column = output % kPanel;
    return panel(output - column, inputs) + step(input / together) + column * together + input % together;
  }
};
using PairPanels = Panels<2>;  // bf16
using FourPanels = Panels<4>;  // int8

// fp32 row-major weights to `PairPanels`.
inline void pack_weights(const float* weights, int outputs, int inputs, void* to) {
  bf16* packed = static_cast<bf16*>(to);
  for (int panel = 0; panel < outputs / kPanel; ++panel)
    for (int step = 0; step < inputs / 2; ++step)
      for (int j = 0; j < kPanel; ++j)
        for (int t = 0; t < 2; ++t)
          *packed++ = to_bf16(weights[static_cast<size_t>(panel * kPanel + j) * inputs + 2 * step + t]);
}

inline size_t packed_weights_bytes(int outputs, int inputs) {
  return static_cast<size_t>(outputs) * inputs * sizeof(bf16);
}

}  // namespace distilmatch
