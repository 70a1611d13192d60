// Products on the CPU's matrix unit (AMX), and on one that plain loops imitate.
// Instructions: AMX tiles in bf16, AVX-512 to finish. Bound by: the unit and its loads, 4 tiles for 4 products.
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "product.h"

namespace distilmatch {
namespace {

// A block of 32 rows and 32 columns: two tiles of rows, two of columns, four of sums; 16 rows of 64 bytes each.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// The compiler's tile intrinsics want literal numbers.
struct Hardware {
  static void begin() {
    static const TileConfig config;
    _tile_loadconfig(&config);
  }
  static void end() { _tile_release(); }
  static void zero() {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  static void multiply(const bf16* rows, int row_stride, const bf16* columns) {
    _tile_loadd(4, rows, row_stride * sizeof(bf16));
    _tile_loadd(5, rows + 16 * static_cast<size_t>(row_stride), row_stride * sizeof(bf16));
    _tile_loadd(6, columns, PairPanels::kStep * sizeof(bf16));
    _tile_loadd(7, columns + 32, PairPanels::kStep * sizeof(bf16));
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  static void store(float* sums) {
    _tile_stored(0, sums, 32 * sizeof(float));
    _tile_stored(1, sums + 16, 32 * sizeof(float));
    _tile_stored(2, sums + 16 * 32, 32 * sizeof(float));
    _tile_stored(3, sums + 16 * 32 + 16, 32 * sizeof(float));
  }

  // 16 rows with one block of lanes. A sum waits for the product before it, three times as long as a product keeps the
  // unit busy: four sums take turns over the numbers of a row, and are added up at the end.
  static void one_block(const bf16* rows, int width, const bf16* lanes, float* products, int stride) {
    zero();
    const int bytes = width * static_cast<int>(sizeof(bf16));
    constexpr int kLanes = LaneBlock::kRow * sizeof(bf16);
    int k = 0;
    for (; k + 128 <= width; k += 128) {
      _tile_loadd(4, rows + k, bytes);
      _tile_loadd(5, lanes + LaneBlock::row(k / 2), kLanes);
      _tile_dpbf16ps(0, 4, 5);
      _tile_loadd(6, rows + k + 32, bytes);
      _tile_loadd(7, lanes + LaneBlock::row(k / 2 + 16), kLanes);
      _tile_dpbf16ps(1, 6, 7);
      _tile_loadd(4, rows + k + 64, bytes);
      _tile_loadd(5, lanes + LaneBlock::row(k / 2 + 32), kLanes);
      _tile_dpbf16ps(2, 4, 5);
      _tile_loadd(6, rows + k + 96, bytes);
      _tile_loadd(7, lanes + LaneBlock::row(k / 2 + 48), kLanes);
      _tile_dpbf16ps(3, 6, 7);
    }
    for (; k < width; k += 32) {
      _tile_loadd(4, rows + k, bytes);
      _tile_loadd(5, lanes + LaneBlock::row(k / 2), kLanes);
      _tile_dpbf16ps(0, 4, 5);
    }
    alignas(64) float parts[4][256];
    _tile_stored(0, parts[0], 64);
    _tile_stored(1, parts[1], 64);
    _tile_stored(2, parts[2], 64);
    _tile_stored(3, parts[3], 64);
    for (int i = 0; i < 16; ++i)
      _mm512_storeu_ps(
          products + static_cast<size_t>(i) * stride,
          _mm512_add_ps(_mm512_add_ps(_mm512_load_ps(parts[0] + 16 * i), _mm512_load_ps(parts[1] + 16 * i)),
                        _mm512_add_ps(_mm512_load_ps(parts[2] + 16 * i), _mm512_load_ps(parts[3] + 16 * i))));
  }

  // 16 rows with three blocks of lanes.
  static void three_blocks(const bf16* rows, int width, const bf16* lanes, float* products, int stride) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    const size_t block = LaneBlock::size(width);
    for (int k = 0; k < width; k += 32) {
      const bf16* at = lanes + LaneBlock::row(k / 2);
      constexpr int kLanes = LaneBlock::kRow * sizeof(bf16);
      _tile_loadd(4, rows + k, width * sizeof(bf16));
      _tile_loadd(5, at, kLanes);
      _tile_loadd(6, at + block, kLanes);
      _tile_loadd(7, at + 2 * block, kLanes);
      _tile_dpbf16ps(0, 4, 5);
      _tile_dpbf16ps(1, 4, 6);
      _tile_dpbf16ps(2, 4, 7);
    }
    _tile_stored(0, products, stride * sizeof(float));
    _tile_stored(1, products + 16, stride * sizeof(float));
    _tile_stored(2, products + 32, stride * sizeof(float));
  }
};

// The same in plain loops, so that layouts can be tested where there is no matrix unit.
struct Imitated {
  static inline thread_local float held[32][32];
  static void begin() {}
  static void end() {}
  static void zero() { std::memset(held, 0, sizeof held); }
  static float to_float(bf16 number) {
    const uint32_t bits = static_cast<uint32_t>(number) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  }
  static void multiply(const bf16* rows, int row_stride, const bf16* columns) {
    for (int i = 0; i < 32; ++i)
      for (int j = 0; j < 32; ++j)
        for (int pair = 0; pair < 16; ++pair)
          for (int t = 0; t < 2; ++t)
            held[i][j] += to_float(rows[static_cast<size_t>(i) * row_stride + 2 * pair + t]) *
                          to_float(columns[PairPanels::step(pair) + 2 * j + t]);
  }
  static void store(float* sums) { std::memcpy(sums, held, sizeof held); }
  static void one_block(const bf16* rows, int width, const bf16* lanes, float* products, int stride) {
    for (int i = 0; i < 16; ++i)
      for (int lane = 0; lane < 16; ++lane) {
        float sum = 0;
        for (int x = 0; x < width; ++x)
          sum += to_float(rows[static_cast<size_t>(i) * width + x]) * to_float(lanes[LaneBlock::place(lane, x)]);
        products[static_cast<size_t>(i) * stride + lane] = sum;
      }
  }
  static void three_blocks(const bf16* rows, int width, const bf16* lanes, float* products, int stride) {
    for (int block = 0; block < 3; ++block)
      one_block(rows, width, lanes + block * LaneBlock::size(width), products + 16 * block, stride);
  }
};

template <Then then>
void finish_block(const float* block, const float* bias, bf16* activated, float* sums, int stride) {
  const __m512 bias0 = bias ? _mm512_loadu_ps(bias) : _mm512_setzero_ps();
  const __m512 bias1 = bias ? _mm512_loadu_ps(bias + 16) : _mm512_setzero_ps();
  for (int i = 0; i < 32; ++i) {
    const __m512 x0 = _mm512_add_ps(_mm512_load_ps(block + i * 32), bias0);
    const __m512 x1 = _mm512_add_ps(_mm512_load_ps(block + i * 32 + 16), bias1);
    if constexpr (then == Then::add) {
      float* to = sums + static_cast<size_t>(i) * stride;
      _mm512_storeu_ps(to, _mm512_add_ps(x0, _mm512_loadu_ps(to)));
      _mm512_storeu_ps(to + 16, _mm512_add_ps(x1, _mm512_loadu_ps(to + 16)));
    } else {
      const __m512 y0 = then == Then::gelu ? gelu(x0) : relu(x0), y1 = then == Then::gelu ? gelu(x1) : relu(x1);
      _mm512_storeu_si512(activated + static_cast<size_t>(i) * stride, (__m512i)_mm512_cvtne2ps_pbh(y1, y0));
    }
  }
}

template <class Tiles, Then then>
void all_blocks(const bf16* rows, int inputs, const bf16* packed, int outputs, const float* bias, bf16* activated,
                float* sums) {
  alignas(64) float block[32 * 32];
  for (int column = 0; column < outputs; column += kPanel)
    for (int row = 0; row < kMostTileRows; row += 32) {
      Tiles::zero();
      for (int k = 0; k < inputs; k += 32)
        Tiles::multiply(rows + static_cast<size_t>(row) * inputs + k, inputs,
                        packed + PairPanels::panel(column, inputs) + PairPanels::step(k / 2));
      Tiles::store(block);
      const size_t to = static_cast<size_t>(row) * outputs + column;
      finish_block<then>(block, bias ? bias + column : nullptr, activated ? activated + to : nullptr,
                         sums ? sums + to : nullptr, outputs);
    }
}

template <class Tiles>
void product(Then then, const bf16* rows, int inputs, const void* weights, int outputs, const float* bias,
             bf16* activated, float* sums) {
  const bf16* packed = static_cast<const bf16*>(weights);
  with_constant(then, [&](auto constant) {
    all_blocks<Tiles, constant.value>(rows, inputs, packed, outputs, bias, activated, sums);
  });
}

template <class Tiles>
void similarities(const bf16* rows, int, int width, const bf16* lanes, int blocks, float* products) {
  int block = 0;
  for (; block + 3 <= blocks; block += 3)
    Tiles::three_blocks(rows, width, lanes + block * LaneBlock::size(width), products + 16 * block, 16 * blocks);
  for (; block < blocks; ++block)
    Tiles::one_block(rows, width, lanes + block * LaneBlock::size(width), products + 16 * block, 16 * blocks);
}

// Leaf 7 of CPUID, EDX: bit 24 is AMX-TILE, bit 22 AMX-BF16. Not every compiler has names for them.
bool has_matrix_unit() {
  unsigned a, b, c, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 24 & 1) && (d >> 22 & 1);
}

bool ask_system() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

bool matrix_unit_allowed() {
  static const bool allowed = has_matrix_unit() && ask_system();
  return allowed;
}

const Multiplier& matrix_multiplier() {
  static const Multiplier chosen{kMostTileRows, &Hardware::begin,   &Hardware::end,         &packed_weights_bytes,
                                 &pack_weights, &product<Hardware>, &similarities<Hardware>};
  return chosen;
}

const Multiplier& imitated_multiplier() {
  static const Multiplier chosen{kMostTileRows, &Imitated::begin,   &Imitated::end,         &packed_weights_bytes,
                                 &pack_weights, &product<Imitated>, &similarities<Imitated>};
  return chosen;
}

}  // namespace distilmatch
