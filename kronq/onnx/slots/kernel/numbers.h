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

/* Decodes `count` words a column, LANES columns, to rows of `pitch` floats. */
INLINE void decode_codes(const int bits, const unsigned char* from, int64_t stride, int64_t count, float* to,
                         int64_t pitch) {
  const int rows = 32 / bits;
  for (int64_t w = 0; w < count; w++, from += 4 * stride, to += rows * pitch) {
    words word;
    memcpy(&word, from, sizeof word);
    UNROLLED for (int n = 0; n < rows; n++)
      store(to + n * pitch, __builtin_convertvector((integers)(word << (32 - bits * (n + 1))) >> (32 - bits), lanes));
  }
}

INLINE void decode_halves(const int type, const unsigned char* from, int64_t stride, int64_t count, float* to,
                          int64_t pitch) {
  for (int64_t w = 0; w < count; w++, from += 4 * stride, to += 2 * pitch) {
    words word;
    memcpy(&word, from, sizeof word);
    if (type == TYPE_FLOAT16) {
      store(to, from_half(word & 0xffff)), store(to + pitch, from_half(word >> 16));
    } else {
      const words low = word << 16, high = word & 0xffff0000;
      memcpy(to, &low, sizeof low), memcpy(to + pitch, &high, sizeof high);
    }
  }
}

TARGET static void decode(int type, const unsigned char* from, int64_t stride, int64_t count, float* to,
                          int64_t pitch) {
  switch (type) {
    case 2: decode_codes(2, from, stride, count, to, pitch); break;
    case 3: decode_codes(3, from, stride, count, to, pitch); break;
    case 4: decode_codes(4, from, stride, count, to, pitch); break;
    case 5: decode_codes(5, from, stride, count, to, pitch); break;
    case 6: decode_codes(6, from, stride, count, to, pitch); break;
    case 7: decode_codes(7, from, stride, count, to, pitch); break;
    case 8: decode_codes(8, from, stride, count, to, pitch); break;
    case TYPE_FLOAT16: decode_halves(TYPE_FLOAT16, from, stride, count, to, pitch); break;
    default: decode_halves(TYPE_BFLOAT16, from, stride, count, to, pitch);
  }
}

/* Returns rows from `first` on of `cols` · LANES columns as floats: those of the matrix, or decoded to a panel. */
INLINE const unsigned char* panel_of(const Matrix* b, int64_t first, int64_t count, int64_t column, int cols,
                                     float* panel, int64_t* pitch) {
  const int64_t rows = rows_in_word(b->type);
  const unsigned char* from = b->words + 4 * (first / rows * b->columns + column);
  *pitch = b->columns;
  if (b->type == TYPE_FLOAT32) return from;
  *pitch = cols * LANES;
  for (int c = 0; c < cols; c++)
    decode(b->type, from + 4 * c * LANES, b->columns, (count + rows - 1) / rows, panel + c * LANES, *pitch);
  return (const unsigned char*)panel;
}
