/* The three products of a branch, z += (A · (x · B2)) · B1, on a few tokens that fit the caches.
 *
 * processors.h includes this file once for each kind of processor, with PROCESSOR, its name, and TARGET, the
 * attribute that lets the compiler use its instructions. Every function has it: the compiler splits vectors
 * that a function's own processor has not, before it is inlined.
 * Ranks come padded to multiples of LANES, so that only a row's last columns need care.
 */
#define INLINE TARGET static inline __attribute__((always_inline))
#define load FOR_PROCESSOR(load)
#define store FOR_PROCESSOR(store)
#define right_tile FOR_PROCESSOR(right_tile)
#define right FOR_PROCESSOR(right)
#define middle FOR_PROCESSOR(middle)
#define left_tile FOR_PROCESSOR(left_tile)
#define left FOR_PROCESSOR(left)

INLINE lanes load(const float* from) {
  lanes found;
  memcpy(&found, from, sizeof found);
  return found;
}

INLINE void store(float* to, lanes found) { memcpy(to, &found, sizeof found); }

/* Computes rows × LANES floats of h, each sum as `chains` partial sums: as many as the registers hold. */
INLINE void right_tile(const int rows, const int chains, const float* x, const float* b2, float* h, int64_t k,
                       int64_t width) {
  lanes sums[8] = {{0}};
  int64_t j = 0;
  for (; j + chains <= k; j += chains)
    UNROLLED for (int n = 0; n < chains; n++) {
      const lanes b = load(b2 + (j + n) * width);
      UNROLLED for (int r = 0; r < rows; r++) sums[n * rows + r] += x[r * k + j + n] * b;
    }
  for (; j < k; j++)
    UNROLLED for (int r = 0; r < rows; r++) sums[r] += x[r * k + j] * load(b2 + j * width);
  UNROLLED for (int r = 0; r < rows; r++) {
    lanes sum = sums[r];
    UNROLLED for (int n = 1; n < chains; n++) sum += sums[n * rows + r];
    store(h + r * width, sum);
  }
}

/* Computes h [m, width] = x [m, k] · b2 [k, width]. */
TARGET static void right(const float* x, const float* b2, float* h, int64_t m, int64_t k, int64_t width) {
  for (int64_t c = 0; c < width; c += LANES) {
    int64_t i = 0;
    for (; i + 8 <= m; i += 8) right_tile(8, 1, x + i * k, b2 + c, h + i * width + c, k, width);
    for (; i + 4 <= m; i += 4) right_tile(4, 2, x + i * k, b2 + c, h + i * width + c, k, width);
    for (; i < m; i++) right_tile(1, 8, x + i * k, b2 + c, h + i * width + c, k, width);
  }
}

/* Computes g [m, a_out, wide] = a [a_out, a_in] · h [m, a_in, wide of width], for each of m tokens. */
TARGET static void middle(const float* a, const float* h, float* g, int64_t m, int64_t a_out, int64_t a_in,
                               int64_t wide, int64_t width) {
  for (int64_t t = 0; t < m; t++, h += a_in * width)
    for (int64_t o = 0; o < a_out; o++, g += wide)
      for (int64_t c = 0; c < wide; c += LANES) {
        lanes sum = {0};
        for (int64_t i = 0; i < a_in; i++) sum += a[o * a_in + i] * load(h + i * width + c);
        store(g + c, sum);
      }
}

/* Adds to rows × cols·LANES floats of z. */
INLINE void left_tile(const int rows, const int cols, const float* g, const float* b1, float* z, int64_t rank,
                      int64_t wide, int64_t n) {
  lanes sums[8];
  UNROLLED for (int r = 0; r < rows; r++)
    UNROLLED for (int c = 0; c < cols; c++) sums[r * cols + c] = load(z + r * n + c * LANES);
  for (int64_t k = 0; k < rank; k++)
    UNROLLED for (int c = 0; c < cols; c++) {
      const lanes b = load(b1 + k * n + c * LANES);
      UNROLLED for (int r = 0; r < rows; r++) sums[r * cols + c] += g[r * wide + k] * b;
    }
  UNROLLED for (int r = 0; r < rows; r++)
    UNROLLED for (int c = 0; c < cols; c++) store(z + r * n + c * LANES, sums[r * cols + c]);
}

/* Computes z [m, n] += g [m, rank of wide] · b1 [rank, n]. */
TARGET static void left(const float* g, const float* b1, float* z, int64_t m, int64_t rank, int64_t wide,
                             int64_t n) {
  int64_t j = 0;
  for (; j + 2 * LANES <= n; j += 2 * LANES) {
    int64_t i = 0;
    for (; i + 4 <= m; i += 4) left_tile(4, 2, g + i * wide, b1 + j, z + i * n + j, rank, wide, n);
    for (; i < m; i++) left_tile(1, 2, g + i * wide, b1 + j, z + i * n + j, rank, wide, n);
  }
  for (; j + LANES <= n; j += LANES)
    for (int64_t i = 0; i < m; i++) left_tile(1, 1, g + i * wide, b1 + j, z + i * n + j, rank, wide, n);
  for (; j < n; j++)
    for (int64_t i = 0; i < m; i++)
      for (int64_t k = 0; k < rank; k++) z[i * n + j] += g[i * wide + k] * b1[k * n + j];
}

static const Products FOR_PROCESSOR(products) = {right, middle, left};

#undef INLINE
#undef load
#undef store
#undef right_tile
#undef right
#undef middle
#undef left_tile
#undef left
#undef PROCESSOR
#undef TARGET
