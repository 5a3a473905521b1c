/* Codes of a packed file to codes in bytes and back, and those to the words of a record: the same as
 * unpack_channels and pack_channels in kronq/model/bit_packing.py and
 * kronq/onnx/slots/record/words.py.
 */
#include "library.h"

/* Unpacks one channel; inlined for each width, whose shifts are then constants. */
static inline void unpack_channel(const uint8_t *data, const uint8_t *end, unsigned width,
                                  int64_t length, int8_t *codes) {
    unsigned mask = (1u << width) - 1, sign = 1u << (width - 1);
    int64_t i = 0;
    for (; i + 8 <= length && end - data >= 8; i += 8, data += width) { /* 8 codes: width bytes */
        uint64_t bits;
        memcpy(&bits, data, sizeof bits);
        for (unsigned j = 0; j < 8; j++)
            codes[i + j] = (int8_t)(((bits >> (j * width) & mask) ^ sign) - sign);
    }
    for (unsigned bits = 0, held = 0; i < length; i++, bits >>= width, held -= width) {
        if (held < width) {
            bits |= (unsigned)*data++ << held;
            held += 8;
        }
        codes[i] = (int8_t)(((bits & mask) ^ sign) - sign);
    }
}

/* Unpacks channels of `length` codes, one after the other in whole bytes, each in codes of its
 * width: 2 to 8, or 0 for none. Returns DAMAGED where one would end behind the `size` bytes. */
EXPORT int kronq_unpack_channels(const uint8_t *data, int64_t size, int64_t channels,
                                 const uint8_t *widths, int64_t length, int8_t *codes) {
    const uint8_t *end = data + size;
    for (int64_t channel = 0; channel < channels; channel++, codes += length) {
        unsigned width = widths[channel];
        int64_t bytes = (length * width + 7) / 8;
        if (width > 8 || bytes > end - data) return DAMAGED;
        switch (width) {
            case 0: memset(codes, 0, (size_t)length); break;
            case 2: unpack_channel(data, end, 2, length, codes); break;
            case 3: unpack_channel(data, end, 3, length, codes); break;
            case 4: unpack_channel(data, end, 4, length, codes); break;
            case 5: unpack_channel(data, end, 5, length, codes); break;
            case 6: unpack_channel(data, end, 6, length, codes); break;
            case 7: unpack_channel(data, end, 7, length, codes); break;
            case 8: memcpy(codes, data, (size_t)length); break;
            default: return DAMAGED;
        }
        data += bytes;
    }
    return OK;
}

/* Packs one channel; inlined for each width. */
static inline void pack_channel(const int8_t *codes, int64_t length, unsigned width,
                                uint8_t *data) {
    uint64_t mask = (1u << width) - 1;
    for (int64_t i = 0; i < length; i += 8, codes += 8) { /* 8 codes: width bytes */
        uint64_t bits = 0;
        unsigned count = length - i < 8 ? (unsigned)(length - i) : 8;
        if (count == 8)
            for (unsigned j = 0; j < 8; j++) bits |= ((uint64_t)codes[j] & mask) << (j * width);
        else
            for (unsigned j = 0; j < count; j++) bits |= ((uint64_t)codes[j] & mask) << (j * width);
        size_t bytes = (count * width + 7) / 8;
        if (count == 8)
            memcpy(data, &bits, width);
        else
            memcpy(data, &bits, bytes);
        data += bytes;
    }
}

/* Packs channels [channels, length], one after the other in whole bytes, each in codes of its
 * width: 2 to 8, or 0 for none. */
EXPORT int kronq_pack_channels(const int8_t *codes, int64_t channels, const uint8_t *widths,
                               int64_t length, uint8_t *data) {
    for (int64_t channel = 0; channel < channels; channel++, codes += length) {
        unsigned width = widths[channel];
        switch (width) {
            case 0: break;
            case 2: pack_channel(codes, length, 2, data); break;
            case 3: pack_channel(codes, length, 3, data); break;
            case 4: pack_channel(codes, length, 4, data); break;
            case 5: pack_channel(codes, length, 5, data); break;
            case 6: pack_channel(codes, length, 6, data); break;
            case 7: pack_channel(codes, length, 7, data); break;
            case 8: memcpy(data, codes, (size_t)length); break;
            default: return OUT_OF_RANGE;
        }
        data += (length * width + 7) / 8;
    }
    return OK;
}

/* Packs matrices [rows, cols] of codes into words [words, columns], which are zero so far: matrix m
 * in codes of bits[m] bits, from out[at[m]] on. Its code [i, j] is
 * codes[m * strides[0] + i * strides[1] + j * strides[2]]. */
EXPORT int kronq_pack_words(const int8_t *codes, const int64_t *strides, int64_t matrices,
                            int64_t rows, int64_t cols, const int64_t *bits, int64_t columns,
                            const int64_t *at, uint32_t *out) {
    for (int64_t m = 0; m < matrices; m++, codes += strides[0]) {
        int64_t per_word = 32 / bits[m];
        uint32_t mask = (1u << bits[m]) - 1;
        for (int64_t i = 0; i < rows; i++) {
            const int8_t *row = codes + i * strides[1];
            uint32_t *line = out + at[m] + i / per_word * columns;
            unsigned shift = (unsigned)(i % per_word * bits[m]);
            for (int64_t j = 0; j < cols; j++)
                line[j] |= ((uint32_t)row[j * strides[2]] & mask) << shift;
        }
    }
    return OK;
}

/* Copies matrices [rows, cols] of float32, given as their bits, to words as above. Returns
 * OUT_OF_RANGE if one is not finite. */
EXPORT int kronq_pack_floats(const uint32_t *values, const int64_t *strides, int64_t matrices,
                             int64_t rows, int64_t cols, int64_t columns, const int64_t *at,
                             uint32_t *out) {
    const uint32_t exponent = 0x7f800000u;
    uint32_t bad = 0;
    for (int64_t m = 0; m < matrices; m++, values += strides[0])
        for (int64_t i = 0; i < rows; i++) {
            const uint32_t *row = values + i * strides[1];
            uint32_t *line = out + at[m] + i * columns;
            for (int64_t j = 0; j < cols; j++) {
                line[j] = row[j * strides[2]];
                bad |= (line[j] & exponent) == exponent;
            }
        }
    return bad ? OUT_OF_RANGE : OK;
}
