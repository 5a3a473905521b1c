/* The three products of a branch, z += (A · (x · B2) · scale) · B1, on a few tokens that fit the caches.
 *
 * processors.h includes this file once for each kind of processor, with PROCESSOR, its name, and TARGET, the
 * attribute that lets the compiler use its instructions. Every function has it: the compiler splits vectors
 * that a function's own processor has not, before it is inlined.
 *
 * Codes become floats a panel at a time, in registers and the innermost cache. Each sum has an order of its own
 * that does not depend on the type of the numbers, nor on the rows that are computed beside it.
 */
#define INLINE TARGET static inline __attribute__((always_inline))
#define load FOR_PROCESSOR(load)
#define store FOR_PROCESSOR(store)
#define number FOR_PROCESSOR(number)
#define from_half FOR_PROCESSOR(from_half)
#define to_half FOR_PROCESSOR(to_half)
#define to_bfloat FOR_PROCESSOR(to_bfloat)
#define widen FOR_PROCESSOR(widen)
#define narrow FOR_PROCESSOR(narrow)
#define row_of FOR_PROCESSOR(row_of)
#define load_words FOR_PROCESSOR(load_words)
#define decode FOR_PROCESSOR(decode)
#define words_in_step FOR_PROCESSOR(words_in_step)
#define row_at FOR_PROCESSOR(row_at)
#define right_sum FOR_PROCESSOR(right_sum)
#define right_row FOR_PROCESSOR(right_row)
#define left_sum FOR_PROCESSOR(left_sum)
#define left_row FOR_PROCESSOR(left_row)
#define panel_of FOR_PROCESSOR(panel_of)
#define right_tile FOR_PROCESSOR(right_tile)
#define right FOR_PROCESSOR(right)
#define middle FOR_PROCESSOR(middle)
#define left_tile FOR_PROCESSOR(left_tile)
#define left_tail FOR_PROCESSOR(left_tail)
#define left_rows FOR_PROCESSOR(left_rows)
#define left FOR_PROCESSOR(left)
#define block_sums FOR_PROCESSOR(block_sums)
#define round_blocks FOR_PROCESSOR(round_blocks)
#define offset_tile FOR_PROCESSOR(offset_tile)
#define offset_rows FOR_PROCESSOR(offset_rows)
#define add_offsets FOR_PROCESSOR(add_offsets)

#include "numbers.h"
#include "sums.h"
#include "one_row.h"

/* Adds rows × LANES floats to h, each sum as CHAINS partial sums. */
INLINE void right_tile(const int rows, const float* x, int64_t k, const unsigned char* b, int64_t pitch,
                       int64_t count, float* h, int64_t width, int more) {
  lanes sums[TILE_ROWS * CHAINS] = {{0}};
  int64_t j = 0;
  for (; j + CHAINS <= count; j += CHAINS)
    UNROLLED for (int n = 0; n < CHAINS; n++) {
      const lanes part = load(b + 4 * (j + n) * pitch);
      UNROLLED for (int r = 0; r < rows; r++) sums[n * rows + r] += x[r * k + j + n] * part;
    }
  for (; j < count; j++)
    UNROLLED for (int r = 0; r < rows; r++) sums[r] += x[r * k + j] * load(b + 4 * j * pitch);
  UNROLLED for (int r = 0; r < rows; r++) {
    lanes sum = (sums[r] + sums[rows + r]) + (sums[2 * rows + r] + sums[3 * rows + r]);
    if (more) sum += load(h + r * width);
    store(h + r * width, sum);
  }
}

/* Computes h [m, lanes] = x [m, b_in] · B2 [b_in, lanes]. */
TARGET static void right(const float* x, const Matrix* b2, float* h, int64_t m) {
  float panel[PANEL * LANES];
  const int64_t k = b2->rows, width = b2->columns;
  if (m == 1) {
    WITH_TYPE(b2->type, right_row, x, b2, h)
    return;
  }
  for (int64_t c = 0; c < width; c += LANES)
    for (int64_t first = 0; first < k; first += PANEL) {
      int64_t pitch, i = 0;
      const int64_t count = k - first < PANEL ? k - first : PANEL;
      const unsigned char* b = panel_of(b2, first, count, c, 1, panel, &pitch);
      const float* from = x + first;
      float* to = h + c;
      for (; i + TILE_ROWS <= m; i += TILE_ROWS)
        right_tile(TILE_ROWS, from + i * k, k, b, pitch, count, to + i * width, width, first > 0);
      for (; i < m; i++) right_tile(1, from + i * k, k, b, pitch, count, to + i * width, width, first > 0);
    }
}

/* Computes g [m, a_out, lanes] = A [a_out, a_in] · h [m, a_in, lanes] · scale, for each of m tokens. */
TARGET static void middle(const Layer* t, const float* h, float* g, int64_t m) {
  const int64_t width = t->lanes;
  for (int64_t n = 0; n < m; n++, h += t->a_in * width)
    for (int64_t o = 0; o < t->a_out; o++, g += width)
      for (int64_t c = 0; c < width; c += LANES) {
        lanes sum = {0};
        for (int64_t i = 0; i < t->a_in; i++) sum += number(t->a + 4 * (o * t->a_in + i)) * load(h + i * width + c);
        store(g + c, sum * load(t->scale + 4 * c));
      }
}

/* Adds to rows × cols·LANES floats of z. */
INLINE void left_tile(const int rows, const int cols, const float* g, int64_t lanes_, const unsigned char* b,
                      int64_t pitch, int64_t count, float* z, int64_t apart) {
  lanes sums[8];
  UNROLLED for (int r = 0; r < rows; r++)
    UNROLLED for (int c = 0; c < cols; c++) sums[r * cols + c] = load(z + r * apart + c * LANES);
  for (int64_t k = 0; k < count; k++)
    UNROLLED for (int c = 0; c < cols; c++) {
      const lanes part = load(b + 4 * (k * pitch + c * LANES));
      UNROLLED for (int r = 0; r < rows; r++) sums[r * cols + c] += g[r * lanes_ + k] * part;
    }
  UNROLLED for (int r = 0; r < rows; r++)
    UNROLLED for (int c = 0; c < cols; c++) store(z + r * apart + c * LANES, sums[r * cols + c]);
}

/* Adds to the last columns of a row, fewer than LANES. */
INLINE void left_tail(const float* g, int64_t lanes_, const unsigned char* b, int64_t pitch, int64_t count, float* z,
                      int64_t rest) {
  float whole[LANES] = {0};
  memcpy(whole, z, (size_t)rest * sizeof *z);
  left_tile(1, 1, g, lanes_, b, pitch, count, whole, 0);
  memcpy(z, whole, (size_t)rest * sizeof *z);
}

INLINE void left_rows(const int cols, const float* g, int64_t lanes_, const unsigned char* b, int64_t pitch,
                      int64_t count, float* z, int64_t apart, int64_t m) {
  int64_t i = 0;
  for (; i + 4 <= m; i += 4) left_tile(4, cols, g + i * lanes_, lanes_, b, pitch, count, z + i * apart, apart);
  for (; i < m; i++) left_tile(1, cols, g + i * lanes_, lanes_, b, pitch, count, z + i * apart, apart);
}

/* Adds g [tokens, m, rank of lanes] · B1 [rank, b_out] to z: rows `apart` floats apart, tokens `width`. */
TARGET static void left(const Layer* t, const float* g, float* z, int64_t tokens, int64_t m, int64_t apart,
                        int64_t width) {
  float panel[PANEL * 2 * LANES];
  const int64_t n = t->b_out, each = m * t->lanes;
  if (tokens * m == 1) {
    WITH_TYPE(t->b1.type, left_row, g, &t->b1, z, n)
    return;
  }
  for (int64_t j = 0; j < n; j += 2 * LANES) {
    const int cols = n - j > LANES ? 2 : 1;
    for (int64_t first = 0; first < t->rank; first += PANEL) {
      int64_t pitch;
      const int64_t count = t->rank - first < PANEL ? t->rank - first : PANEL;
      const unsigned char* b = panel_of(&t->b1, first, count, j, cols, panel, &pitch);
      for (int64_t token = 0; token < tokens; token++) {
        const float* from = g + token * each + first;
        float* to = z + token * width + j;
        const int64_t whole = (n - j) / LANES < cols ? (n - j) / LANES : cols, rest = n - j - whole * LANES;
        if (whole == 2)
          left_rows(2, from, t->lanes, b, pitch, count, to, apart, m);
        else if (whole)
          left_rows(1, from, t->lanes, b, pitch, count, to, apart, m);
        if (whole < cols)
          for (int64_t i = 0; i < m; i++)
            left_tail(from + i * t->lanes, t->lanes, b + 4 * whole * LANES, pitch, count,
                      to + i * apart + whole * LANES, rest);
      }
    }
  }
}

static const Products FOR_PROCESSOR(products) = {right, middle, left, widen, narrow, block_sums,
                                                        add_offsets, round_blocks};

#undef INLINE
#undef load
#undef store
#undef number
#undef from_half
#undef to_half
#undef to_bfloat
#undef widen
#undef narrow
#undef row_of
#undef load_words
#undef decode
#undef words_in_step
#undef row_at
#undef right_sum
#undef right_row
#undef left_sum
#undef left_row
#undef WITH_TYPE
#undef panel_of
#undef right_tile
#undef right
#undef middle
#undef left_tile
#undef left_tail
#undef left_rows
#undef left
#undef block_sums
#undef round_blocks
#undef offset_tile
#undef offset_rows
#undef add_offsets
#undef PROCESSOR
#undef TARGET
#undef TILE_ROWS
