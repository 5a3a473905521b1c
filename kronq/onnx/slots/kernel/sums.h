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

/* Rounds `count` blocks of BLOCK floats to int8, a scale and −8 times their sum: to the nearest, to even ones between two. */
TARGET static void round_blocks(const float* x, int8_t* codes, float* scales, int32_t* shifts, int64_t count) {
  for (int64_t b = 0; b < count; b++, x += BLOCK, codes += BLOCK) {
    words most = {0};
    UNROLLED for (int i = 0; i < BLOCK; i += LANES) { /* sizes of floats are in the order of their bits */
      words size;
      memcpy(&size, x + i, sizeof size);
      size &= 0x7fffffff;
      const words more = (words)(size > most);
      most = (size & more) | (most & ~more);
    }
    uint32_t highest = 0;
    float size;
    for (int i = 0; i < LANES; i++) highest = most[i] > highest ? most[i] : highest;
    memcpy(&size, &highest, sizeof size);
    scales[b] = size / 127.0f;
    const float inverse = size > 0 ? 127.0f / size : 0;
    words sum = {0};
    UNROLLED for (int i = 0; i < BLOCK; i += LANES) {
      const lanes shifted = load(x + i) * inverse + 12582912.0f; /* 1.5 · 2^23: the last byte is the number */
      words bits;
      memcpy(&bits, &shifted, sizeof bits);
      for (int n = 0; n < LANES; n++) codes[i + n] = (int8_t)(bits[n] & 0xff);
      sum += (bits & 0xff) - ((bits & 0x80) << 1);
    }
    uint32_t all = 0;
    for (int n = 0; n < LANES; n++) all += sum[n];
    shifts[b] = -8 * (int32_t)all;
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
