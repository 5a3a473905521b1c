/* Offsets of blocks of weights, for one kind of processor: a part of product.h. */

/* Computes the sums of `count` blocks of `size` floats, a multiple of LANES, in the order of ONNX Runtime's ReduceSum. */
TARGET static void block_sums(const float* x, float* sums, int64_t count, int64_t size) {
  for (int64_t b = 0; b < count; b++, x += size) {
    float s[LANES];
    lanes sum = load(x);
    for (int64_t i = LANES; i < size; i += LANES) sum += load(x + i);
    store(s, sum);
    const float even = (s[0] + s[4]) + (s[2] + s[6]), odd = (s[1] + s[5]) + (s[3] + s[7]);
    sums[b] = even + odd;
  }
}

/* Adds to rows × cols·LANES floats of z; the next columns of the offsets are fetched meanwhile. */
INLINE void offset_tile(const int rows, const int cols, const float* sums, int64_t blocks, const float* offset,
                        float* z, int64_t width) {
  lanes shift[8] = {{0}};
  for (int64_t k = 0; k < blocks; k++, offset += width)
    UNROLLED for (int c = 0; c < cols; c++) {
      const lanes part = load(offset + c * LANES);
      if (c % 2 == 0) __builtin_prefetch(offset + (cols + c) * LANES);
      UNROLLED for (int r = 0; r < rows; r++) shift[r * cols + c] += sums[r * blocks + k] * part;
    }
  UNROLLED for (int r = 0; r < rows; r++)
    UNROLLED for (int c = 0; c < cols; c++) {
      float* to = z + r * width + c * LANES;
      store(to, load(to) + shift[r * cols + c]);
    }
}

INLINE void offset_rows(const int cols, const float* sums, int64_t blocks, const float* offset, float* z, int64_t width,
                        int64_t tokens) {
  int64_t i = 0;
  if (cols <= 2)
    for (; i + 4 <= tokens; i += 4) offset_tile(4, 2, sums + i * blocks, blocks, offset, z + i * width, width);
  for (; i < tokens; i++) offset_tile(1, cols, sums + i * blocks, blocks, offset, z + i * width, width);
}

/* Adds sums [tokens, blocks] · offset [blocks, width] to `columns` columns of z [tokens, width], multiples of 2·LANES. */
TARGET static void add_offsets(const float* sums, int64_t blocks, const float* offset, float* z, int64_t width,
                               int64_t tokens, int64_t columns) {
  int64_t j = 0;
  if (tokens < 4)
    for (; j + 8 * LANES <= columns; j += 8 * LANES)
      offset_rows(8, sums, blocks, offset + j, z + j, width, tokens);
  for (; j < columns; j += 2 * LANES) offset_rows(2, sums, blocks, offset + j, z + j, width, tokens);
}
