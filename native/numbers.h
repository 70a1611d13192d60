// Vectors of 16 floats and bf16 numbers: conversions, exp, GELU.
// Instructions: AVX-512, and AVX512-BF16 to round to bf16. Bound by: arithmetic, on registers alone.
#pragma once
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace distilmatch {

using bf16 = uint16_t;

// To the nearest, ties to even; NaN stays NaN.
inline bf16 to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<bf16>((bits >> 16) | 0x40);
  return static_cast<bf16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline __m512bh load_bf16(const bf16* p) { return (__m512bh)_mm512_loadu_si512(p); }
inline __m512 from_bf16(const bf16* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
inline __m512bh pair_of(const bf16* p) {  // two neighbouring numbers in every lane
  int both;
  std::memcpy(&both, p, 4);
  return (__m512bh)_mm512_set1_epi32(both);
}
inline __m512bh pairs_of(const bf16* p, const bf16* q) {  // p's in the lower lanes, q's in the upper
  int low, high;
  std::memcpy(&low, p, 4);
  std::memcpy(&high, q, 4);
  return (__m512bh)_mm512_mask_set1_epi32(_mm512_set1_epi32(low), 0xff00, high);
}
inline __m512 in_halves(float low, float high) {
  return _mm512_mask_broadcastss_ps(_mm512_set1_ps(low), 0xff00, _mm_set_ss(high));
}
// The largest number, or the sum, of each half of a vector, in all of its lanes.
template <class Join>
inline __m512 in_each_half(__m512 x, Join join) {
  x = join(x, _mm512_shuffle_f32x4(x, x, _MM_SHUFFLE(2, 3, 0, 1)));
  x = join(x, _mm512_shuffle_ps(x, x, _MM_SHUFFLE(1, 0, 3, 2)));
  return join(x, _mm512_shuffle_ps(x, x, _MM_SHUFFLE(2, 3, 0, 1)));
}
inline __m512 half_max(__m512 x) {
  return in_each_half(x, [](__m512 a, __m512 b) { return _mm512_max_ps(a, b); });
}
inline __m512 half_sum(__m512 x) {
  return in_each_half(x, [](__m512 a, __m512 b) { return _mm512_add_ps(a, b); });
}
inline void store_bf16(bf16* p, __m512 v) { _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(v)); }
inline __mmask16 first_lanes(int count) {
  return static_cast<__mmask16>(count >= 16 ? 0xffff : count <= 0 ? 0 : (1u << count) - 1);
}

// 2^(x log2 e) with a polynomial of degree 5 on [-1/2, 1/2]; relative error below 3e-7, zero below -87.
inline __m512 exp_of(__m512 x) {
  const __m512 y = _mm512_max_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504089f)), _mm512_set1_ps(-126.f));
  const __m512 whole = _mm512_roundscale_ps(y, 0), part = _mm512_sub_ps(y, whole);
  __m512 e = _mm512_set1_ps(0.0013333558f);
  e = _mm512_fmadd_ps(e, part, _mm512_set1_ps(0.0096181291f));
  e = _mm512_fmadd_ps(e, part, _mm512_set1_ps(0.0555041087f));
  e = _mm512_fmadd_ps(e, part, _mm512_set1_ps(0.2402265069f));
  e = _mm512_fmadd_ps(e, part, _mm512_set1_ps(0.6931471806f));
  e = _mm512_fmadd_ps(e, part, _mm512_set1_ps(1.f));
  return _mm512_scalef_ps(e, whole);
}

// x Phi(x), Phi - 1/2 as an odd polynomial of degree 13 on [-4, 4], fitted to the least largest error of x Phi(x):
// 1.9e-4 for |x| < 6. A bf16 number near one is no nearer than 2e-3.
inline __m512 gelu(__m512 x) {
  const __m512 c = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-4.f)), _mm512_set1_ps(4.f));
  const __m512 t = _mm512_mul_ps(c, c);
  __m512 p = _mm512_set1_ps(2.277568000863539e-08f);
  p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-1.5982860759322648e-06f));
  p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(4.794873530045152e-05f));
  p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-0.0008139439742080867f));
  p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0.008772007189691067f));
  p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-0.06457217782735825f));
  p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0.3978825807571411f));
  return _mm512_mul_ps(x, _mm512_fmadd_ps(p, c, _mm512_set1_ps(0.5f)));
}

inline __m512 relu(__m512 x) { return _mm512_max_ps(x, _mm512_setzero_ps()); }

}  // namespace distilmatch
