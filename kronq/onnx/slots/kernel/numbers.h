/* Codes and floats of every type as vectors of floats, for one kind of processor: a part of product.h. */

INLINE lanes load(const void* from) {
  lanes found;
  memcpy(&found, from, sizeof found);
  return found;
}

INLINE void store(float* to, lanes found) { memcpy(to, &found, sizeof found); }

INLINE float number(const unsigned char* from) {
  float found;
  memcpy(&found, from, sizeof found);
  return found;
}

/* Returns float16 numbers, in the lower halves, as floats; those below 2^-14 have no leading one. */
INLINE lanes from_half(words half) {
  const words whole = (half & 0x7fff) << 13, exponent = whole & 0x0f800000;
  const words small = (words)(exponent == 0), endless = (words)(exponent == 0x0f800000);
  const words normal = whole + 0x38000000 + (endless & 0x38000000);
  const words bits = whole + 0x38800000;
  lanes below;
  memcpy(&below, &bits, sizeof below);
  below -= 6.103515625e-05f;
  words found;
  memcpy(&found, &below, sizeof found);
  found = (found & small) | (normal & ~small) | (half & 0x8000) << 16;
  lanes floats;
  memcpy(&floats, &found, sizeof floats);
  return floats;
}

/* Returns floats as float16, in the lower halves, rounded to the nearest, to even ones between two. */
INLINE words to_half(words bits) {
  const words size = bits & 0x7fffffff, is_nan = (words)(size > 0x7f800000), large = (words)(size >= 0x47800000);
  const words small = (words)(size < 0x38800000);
  lanes below;
  memcpy(&below, &size, sizeof below);
  below += 0.5f; /* whose last bit is float16's smallest number */
  words found;
  memcpy(&found, &below, sizeof found);
  const words normal = (size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13;
  found = ((found - 0x3f000000) & small) | (normal & ~small);
  found = (found & ~large) | (large & 0x7c00) | (is_nan & 0x0200);
  return found | (bits >> 16 & 0x8000);
}

INLINE words to_bfloat(words bits) {
  const words is_nan = (words)((bits & 0x7fffffff) > 0x7f800000);
  return (((bits + 0x7fff + (bits >> 16 & 1)) & ~is_nan) | ((bits | 0x400000) & is_nan)) >> 16;
}

/* Makes `count` numbers of a type floats. */
TARGET static void widen(int type, const void* from, float* to, int64_t count) {
  const uint16_t* half = from;
  if (type == TYPE_FLOAT32) {
    memcpy(to, from, (size_t)count * sizeof *to);
    return;
  }
  for (int64_t i = 0; i < count; i += LANES) {
    uint16_t some[LANES] = {0};
    const size_t left_over = (size_t)(count - i < LANES ? count - i : LANES);
    memcpy(some, half + i, left_over * sizeof *some);
    words bits;
    lanes floats;
    for (int n = 0; n < LANES; n++) bits[n] = some[n];
    if (type == TYPE_FLOAT16)
      floats = from_half(bits);
    else
      bits <<= 16, memcpy(&floats, &bits, sizeof floats);
    memcpy(to + i, &floats, left_over * sizeof *to);
  }
}

/* Rounds `count` floats to a type. */
TARGET static void narrow(int type, const float* from, void* to, int64_t count) {
  uint16_t* half = to;
  if (type == TYPE_FLOAT32) {
    memcpy(to, from, (size_t)count * sizeof *from);
    return;
  }
  for (int64_t i = 0; i < count; i += LANES) {
    uint16_t some[LANES];
    const size_t left_over = (size_t)(count - i < LANES ? count - i : LANES);
    words bits = {0};
    memcpy(&bits, from + i, left_over * sizeof *from);
    bits = type == TYPE_FLOAT16 ? to_half(bits) : to_bfloat(bits);
    for (int n = 0; n < LANES; n++) some[n] = (uint16_t)bits[n];
    memcpy(half + i, some, left_over * sizeof *some);
  }
}

/* Loads words, and fetches those that lie `ahead` of them to the second cache. */
INLINE words load_words(const unsigned char* from, int64_t ahead) {
  words found;
  __builtin_prefetch(from + ahead, 0, 2);
  memcpy(&found, from, sizeof found);
  return found;
}

/* Returns row n of those in a word: codes, float16, bfloat16 or a float. */
INLINE lanes row_of(const int type, words word, int n) {
  if (type <= CODES_END)
    return __builtin_convertvector((integers)(word << (32 - type * (n + 1))) >> (32 - type), lanes);
  if (type == TYPE_FLOAT16) return from_half(n ? word >> 16 : word & 0xffff);
  if (type == TYPE_BFLOAT16) word = n ? word & 0xffff0000 : word << 16;
  lanes found;
  memcpy(&found, &word, sizeof found);
  return found;
}

/* Calls a function with the type as a constant, for which the compiler unrolls its loops. */
#define WITH_TYPE(type, function, ...)                                  \
  switch (type) {                                                       \
    case 2: function(2, __VA_ARGS__); break;                            \
    case 3: function(3, __VA_ARGS__); break;                            \
    case 4: function(4, __VA_ARGS__); break;                            \
    case 5: function(5, __VA_ARGS__); break;                            \
    case 6: function(6, __VA_ARGS__); break;                            \
    case 7: function(7, __VA_ARGS__); break;                            \
    case 8: function(8, __VA_ARGS__); break;                            \
    case TYPE_FLOAT16: function(TYPE_FLOAT16, __VA_ARGS__); break;      \
    case TYPE_BFLOAT16: function(TYPE_BFLOAT16, __VA_ARGS__); break;    \
    default: function(TYPE_FLOAT32, __VA_ARGS__);                       \
  }

/* Decodes `count` words a column, LANES columns, to rows of `pitch` floats. */
INLINE void decode(const int type, const unsigned char* from, int64_t ahead, int64_t stride, int64_t count, float* to,
                   int64_t pitch) {
  const int rows = rows_in_word(type);
  for (int64_t w = 0; w < count; w++, from += 4 * stride, to += rows * pitch) {
    const words word = load_words(from, ahead);
    UNROLLED for (int n = 0; n < rows; n++) store(to + n * pitch, row_of(type, word, n));
  }
}

/* Returns rows from `first` on of `cols` · LANES columns as floats: those of the matrix, or decoded to a panel. */
INLINE const unsigned char* panel_of(const Matrix* b, int64_t first, int64_t count, int64_t column, int cols,
                                     float* panel, int64_t* pitch) {
  const int64_t rows = rows_in_word(b->type);
  const unsigned char* from = b->words + 4 * (first / rows * b->columns + column);
  *pitch = b->columns;
  if (b->type == TYPE_FLOAT32) {
    for (int64_t j = 0; j < count; j++) __builtin_prefetch(from + b->ahead + 4 * j * b->columns, 0, 2);
    return from;
  }
  *pitch = cols * LANES;
  for (int c = 0; c < cols; c++, from += 4 * LANES)
    WITH_TYPE(b->type, decode, from, b->ahead, b->columns, (count + rows - 1) / rows, panel + c * LANES, *pitch)
  return (const unsigned char*)panel;
}
