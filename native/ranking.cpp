// The best of a block of scores that another program computed.
// Instructions: AVX-512, 16 comparisons at a time. Bound by: memory, a pass over the scores.
#include "ranking.h"

#include <omp.h>

#include <cstddef>

#include "numbers.h"
#include "threads.h"

namespace distilmatch {

void add_block(TopK& best, int64_t first_row, const float* scores, int64_t rows, int64_t columns, int64_t first_column,
               int threads) {
#pragma omp parallel for num_threads(team_size(threads)) schedule(static)
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t row = first_row + i;
    const float* from = scores + i * columns;
    int64_t j = 0;
    for (; j < columns && best.size(row) < best.k(); ++j) best.add(row, {from[j], first_column + j});
    for (; j < columns; j += 16) {  // most are not among the best
      const __mmask16 there = first_lanes(static_cast<int>(std::min<int64_t>(16, columns - j)));
      const __m512 worst = _mm512_set1_ps(best.hits(row)[0].score);
      __mmask16 worth = _mm512_mask_cmp_ps_mask(there, _mm512_maskz_loadu_ps(there, from + j), worst, _CMP_GE_OQ);
      for (; worth; worth &= worth - 1) {
        const int lane = __builtin_ctz(worth);
        best.add(row, {from[j + lane], first_column + j + lane});
      }
    }
  }
}

}  // namespace distilmatch
