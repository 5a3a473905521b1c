/* Products with weights in blocks of 32 codes of 4 bits, of activations that are rounded to int8 in blocks of 32.
 *
 * A layer's weights are panels of 16 columns, [panels, blocks, 320] bytes, read from the first to the last. A block of a
 * panel is 16 scales d and 16 offsets m, float16, and four groups of 64 bytes: byte 4·c + i of group g has the codes of
 * column c at 8·g + i, low nibble, and 8·g + 4 + i. A weight is d · code + m, with the code in 0 … 15.
 *
 * As ONNX Runtime's product with the zero point 8 does it, y = Σ over blocks of s · d · Σ (code − 8) · int8 +
 * (m + 8 · d) · Σ x, with the first sum over integers and the last over x that was not rounded.
 * Every product on one processor sums in one order, whatever the number of tokens.
 */
#ifndef KRONQ_BLOCKS_H
#define KRONQ_BLOCKS_H

#include "processors.h"

#define PANEL_COLUMNS 16
#define PANEL_BYTES 320 /* of one block: 2 · 32 of scales and offsets, 256 of codes */
#define CODES_AT 64

/* Rows of activations: int8 [tokens, blocks, 32]; for each block the scale, −8 · their sum, and the sum of x. */
typedef struct {
  const int8_t* codes;
  const float *scales, *sums;
  const int32_t* shifts;
  int64_t blocks;
} Rounded;

/* Computes z [tokens, 16] = x · panel. */
typedef void (*PanelProduct)(const Rounded* x, int64_t tokens, const unsigned char* panel, float* z, int64_t width);

static float half_number(const unsigned char* from) {
  uint16_t half;
  memcpy(&half, from, sizeof half);
  words some = {half};
  return from_half_any(some)[0];
}

/* For processors without a product of their own: slow, and the same sums. */
static void panel_product_any(const Rounded* x, int64_t tokens, const unsigned char* panel, float* z, int64_t width) {
  for (int64_t t = 0; t < tokens; t++) {
    float total[PANEL_COLUMNS] = {0};
    for (int64_t b = 0; b < x->blocks; b++) {
      const unsigned char *at = panel + b * PANEL_BYTES, *codes = at + CODES_AT;
      const int8_t* row = x->codes + (t * x->blocks + b) * BLOCK;
      for (int c = 0; c < PANEL_COLUMNS; c++) {
        const float d = half_number(at + 2 * c), m = half_number(at + 32 + 2 * c);
        int32_t sum = x->shifts[t * x->blocks + b];
        for (int g = 0; g < 4; g++)
          for (int i = 0; i < 4; i++) {
            const int both = codes[64 * g + 4 * c + i];
            sum += (both & 15) * row[8 * g + i] + (both >> 4) * row[8 * g + 4 + i];
          }
        total[c] += (float)sum * (d * x->scales[t * x->blocks + b]);
        total[c] += (m + 8 * d) * x->sums[t * x->blocks + b];
      }
    }
    memcpy(z + t * width, total, sizeof total);
  }
}

#if defined(__x86_64__)
#include <immintrin.h>

static inline int32_t four(const int8_t* from) {
  int32_t found;
  memcpy(&found, from, sizeof found);
  return found;
}

/* Of `rows` tokens; the codes of a block are taken apart once for all. */
__attribute__((target("avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni"), always_inline)) static inline void vnni_rows(
    const int rows, const Rounded* x, int64_t t, const unsigned char* at, float* z, int64_t width) {
  const __m512i low = _mm512_set1_epi8(15);
  const int8_t* row = x->codes + t * x->blocks * BLOCK;
  const float *scales = x->scales + t * x->blocks, *sums = x->sums + t * x->blocks;
  const int32_t* shifts = x->shifts + t * x->blocks;
  const int64_t apart = x->blocks * BLOCK;
  __m512 total[6];
  UNROLLED for (int r = 0; r < rows; r++) total[r] = _mm512_setzero_ps();
  for (int64_t b = 0; b < x->blocks; b++, at += PANEL_BYTES, row += BLOCK) {
    __m512i sum[6], more[6];
    UNROLLED for (int r = 0; r < rows; r++) sum[r] = _mm512_set1_epi32(shifts[r * x->blocks + b]), more[r] = _mm512_setzero_si512();
    UNROLLED for (int g = 0; g < 4; g++) {
      const __m512i both = _mm512_loadu_si512(at + CODES_AT + 64 * g);
      const __m512i first = _mm512_and_si512(both, low);
      const __m512i second = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
      UNROLLED for (int r = 0; r < rows; r++) {
        sum[r] = _mm512_dpbusd_epi32(sum[r], first, _mm512_set1_epi32(four(row + r * apart + 8 * g)));
        more[r] = _mm512_dpbusd_epi32(more[r], second, _mm512_set1_epi32(four(row + r * apart + 8 * g + 4)));
      }
    }
    const __m512 d = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)at));
    __m512 m = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)(at + 32)));
    m = _mm512_fmadd_ps(d, _mm512_set1_ps(8), m);
    UNROLLED for (int r = 0; r < rows; r++) {
      const __m512 whole = _mm512_cvtepi32_ps(_mm512_add_epi32(sum[r], more[r]));
      const __m512 scaled = _mm512_mul_ps(d, _mm512_set1_ps(scales[r * x->blocks + b]));
      total[r] = _mm512_fmadd_ps(whole, scaled, total[r]);
      total[r] = _mm512_fmadd_ps(m, _mm512_set1_ps(sums[r * x->blocks + b]), total[r]);
    }
  }
  UNROLLED for (int r = 0; r < rows; r++) _mm512_storeu_ps(z + (t + r) * width, total[r]);
}

__attribute__((target("avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni"))) static void panel_product_vnni(
    const Rounded* x, int64_t tokens, const unsigned char* panel, float* z, int64_t width) {
  int64_t t = 0;
  for (; t + 6 <= tokens; t += 6) vnni_rows(6, x, t, panel, z, width);
  for (; t + 2 <= tokens; t += 2) vnni_rows(2, x, t, panel, z, width);
  for (; t < tokens; t++) vnni_rows(1, x, t, panel, z, width);
}

/* Eight columns; 15 · 127 · 16 products of codes fit in int16. */
__attribute__((target("avx2,fma,f16c"), always_inline)) static inline void avx2_rows(
    const int rows, const Rounded* x, int64_t t, const unsigned char* at, int half, float* z, int64_t width) {
  const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  const int8_t* row = x->codes + t * x->blocks * BLOCK;
  const float *scales = x->scales + t * x->blocks, *sums = x->sums + t * x->blocks;
  const int32_t* shifts = x->shifts + t * x->blocks;
  const int64_t apart = x->blocks * BLOCK;
  __m256 total[4];
  UNROLLED for (int r = 0; r < rows; r++) total[r] = _mm256_setzero_ps();
  for (int64_t b = 0; b < x->blocks; b++, at += PANEL_BYTES, row += BLOCK) {
    __m256i sum[4];
    UNROLLED for (int r = 0; r < rows; r++) sum[r] = _mm256_setzero_si256();
    UNROLLED for (int g = 0; g < 4; g++) {
      const __m256i both = _mm256_loadu_si256((const __m256i*)(at + CODES_AT + 64 * g + 32 * half));
      const __m256i first = _mm256_and_si256(both, low);
      const __m256i second = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
      UNROLLED for (int r = 0; r < rows; r++) {
        const int8_t* from = row + r * apart + 8 * g;
        const __m256i one = _mm256_maddubs_epi16(first, _mm256_set1_epi32(four(from)));
        const __m256i other = _mm256_maddubs_epi16(second, _mm256_set1_epi32(four(from + 4)));
        sum[r] = _mm256_add_epi16(sum[r], _mm256_add_epi16(one, other));
      }
    }
    const __m256 d = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(at + 16 * half)));
    __m256 m = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(at + 32 + 16 * half)));
    m = _mm256_fmadd_ps(d, _mm256_set1_ps(8), m);
    UNROLLED for (int r = 0; r < rows; r++) {
      const __m256 whole = _mm256_cvtepi32_ps(
          _mm256_add_epi32(_mm256_madd_epi16(sum[r], ones), _mm256_set1_epi32(shifts[r * x->blocks + b])));
      const __m256 scaled = _mm256_mul_ps(d, _mm256_set1_ps(scales[r * x->blocks + b]));
      total[r] = _mm256_fmadd_ps(whole, scaled, total[r]);
      total[r] = _mm256_fmadd_ps(m, _mm256_set1_ps(sums[r * x->blocks + b]), total[r]);
    }
  }
  UNROLLED for (int r = 0; r < rows; r++) _mm256_storeu_ps(z + (t + r) * width + 8 * half, total[r]);
}

__attribute__((target("avx2,fma,f16c"))) static void panel_product_avx2(const Rounded* x, int64_t tokens,
                                                                         const unsigned char* panel, float* z,
                                                                         int64_t width) {
  for (int half = 0; half < 2; half++) {
    int64_t t = 0;
    for (; t + 4 <= tokens; t += 4) avx2_rows(4, x, t, panel, half, z, width);
    for (; t < tokens; t++) avx2_rows(1, x, t, panel, half, z, width);
  }
}

static PanelProduct choose_panel_product(void) {
  unsigned a, b, c, d;
  const Products* products = choose_products();
  if (products == &products_any || !__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_F16C)) return panel_product_any;
  __get_cpuid_count(7, 0, &a, &b, &c, &d);
  return products == &products_avx512 && (c & bit_AVX512VNNI) ? panel_product_vnni : panel_product_avx2;
}
#else
static PanelProduct choose_panel_product(void) { return panel_product_any; }
#endif

#endif
