/* The products of one row, whose codes become floats in registers: a part of product.h.
 *
 * A row that has its adapter for itself reads each code once, so a panel would only be written and read again.
 * Sums have the order of right_tile and left_tile.
 */

/* Returns the words of a column that hold whole steps of CHAINS rows. */
INLINE int words_in_step(const int type) {
  const int rows = rows_in_word(type);
  return rows % CHAINS == 0 ? 1 : rows * 2 % CHAINS == 0 ? 2 : 4;
}

/* Returns LANES columns of row j of a matrix that begins at `from`. */
INLINE lanes row_at(const int type, const unsigned char* from, const Matrix* m, int64_t j) {
  const int64_t rows = rows_in_word(type);
  return row_of(type, load_words(from + 4 * m->columns * (j / rows), m->ahead), (int)(j % rows));
}

/* Returns x [count] · b [count, LANES], which begins there in B2. */
INLINE lanes right_sum(const int type, const float* x, const Matrix* b2, const unsigned char* b, int64_t count) {
  const int rows = rows_in_word(type), some = words_in_step(type);
  const unsigned char* at = b;
  lanes sums[CHAINS] = {{0}};
  int64_t j = 0;
  for (; j + some * rows <= count; j += some * rows)
    UNROLLED for (int w = 0; w < some; w++, at += 4 * b2->columns) {
      const words word = load_words(at, b2->ahead);
      UNROLLED for (int n = 0; n < rows; n++)
        sums[(w * rows + n) % CHAINS] += x[j + w * rows + n] * row_of(type, word, n);
    }
  for (; j + CHAINS <= count; j += CHAINS)
    UNROLLED for (int n = 0; n < CHAINS; n++) sums[n] += x[j + n] * row_at(type, b, b2, j + n);
  for (; j < count; j++) sums[0] += x[j] * row_at(type, b, b2, j);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

/* Computes h [lanes] = x [b_in] · B2 [b_in, lanes]. */
INLINE void right_row(const int type, const float* x, const Matrix* b2, float* h) {
  const int64_t k = b2->rows, width = b2->columns;
  for (int64_t c = 0; c < width; c += LANES)
    for (int64_t first = 0; first < k; first += PANEL) {
      const int64_t count = k - first < PANEL ? k - first : PANEL;
      const unsigned char* b = b2->words + 4 * (first / rows_in_word(type) * width + c);
      const lanes sum = right_sum(type, x + first, b2, b, count);
      store(h + c, first ? sum + load(h + c) : sum);
    }
}

/* Returns z [LANES] + g [rank] · LANES columns of B1 [rank, b_out], from column j on. */
INLINE lanes left_sum(const int type, const float* g, const Matrix* b1, int64_t j, lanes z) {
  const unsigned char* b = b1->words + 4 * j;
  const int rows = rows_in_word(type);
  int64_t k = 0;
  for (; k + rows <= b1->rows; k += rows, b += 4 * b1->columns) {
    const words word = load_words(b, b1->ahead);
    UNROLLED for (int n = 0; n < rows; n++) z += g[k + n] * row_of(type, word, n);
  }
  for (int n = 0; k + n < b1->rows; n++) z += g[k + n] * row_of(type, load_words(b, b1->ahead), n);
  return z;
}

/* Adds g [rank] · B1 [rank, b_out] to z. */
INLINE void left_row(const int type, const float* g, const Matrix* b1, float* z, int64_t b_out) {
  int64_t j = 0;
  for (; j + LANES <= b_out; j += LANES)
    store(z + j, left_sum(type, g, b1, j, load(z + j)));
  if (j == b_out) return;
  float whole[LANES] = {0};
  memcpy(whole, z + j, (size_t)(b_out - j) * sizeof *z);
  store(whole, left_sum(type, g, b1, j, load(whole)));
  memcpy(z + j, whole, (size_t)(b_out - j) * sizeof *z);
}
