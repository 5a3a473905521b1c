/* Codes of factor pairs, as kronq/quantization/mixed/integer_descent.py fits them, bit for bit.
 *
 * All sums are of whole numbers, in int64 or below 2^53 in double: they are exact in any order, and
 * with or without fused multiplications. */
#include <math.h>
#include <stdlib.h>

#include "factor_pairs.h"
#include "library.h"
#include "processors.h"

#define FLUSH 512  /* products, each at most 128 * 32767, that an int32 holds */
#define LONG_FLUSH (8 * FLUSH - BLOCK) /* that eight of them hold */
#define TOGETHER 4 /* inner products with one row */
#define UNITS 256  /* of a code, so that it is as large as a target */
#define WEIGHT_BITS 24
#define LARGEST 32767.0f /* target */
#define INTEGER_FLOAT 12582912.0f /* 1.5 * 2^23: adding it rounds to a whole number */
#define INTEGER 6755399441055744.0 /* 1.5 * 2^52, for double */
#define FEW 8        /* channels whose sums fit into 32 bits */
#define SPLIT 12     /* bits of the lower part of a weight */
#define POSITIONS 64 /* of few channels at once */

typedef void Products(int64_t rows, int64_t length, const int16_t *a, const int16_t *b,
                      double *products);

static inline int64_t inner_product(const int16_t *a, const int16_t *b, int64_t length) {
    int64_t total = 0;
    for (int64_t start = 0; start < length; start += FLUSH) {
        int64_t end = length - start < FLUSH ? length : start + FLUSH;
        int32_t sum = 0;
        for (int64_t i = start; i < end; i++) sum += (int32_t)a[i] * b[i];
        total += sum;
    }
    return total;
}

/* What a code comes from, as _whole_weights of integer_descent.py says. */
static void find_weights(const Layer *layer, const double *cross, const double *gram,
                         const double *steps, const double *scales) {
    int64_t channels = layer->channels;
    for (int64_t k = 0; k < channels; k++) {
        double own = gram[k * channels + k] * scales[k], inverse = own > 0 ? 1 / own : 0, top = 0;
        double *targets = layer->weights + 2 * k * channels, *codes = targets + channels;
        for (int64_t j = 0; j < channels; j++) {
            targets[j] = cross[k * channels + j] * steps[j] * inverse;
            codes[j] = j == k ? 0 : gram[k * channels + j] * (scales[j] / -UNITS) * inverse;
            double larger = fabs(targets[j]) > fabs(codes[j]) ? fabs(targets[j]) : fabs(codes[j]);
            top = larger > top ? larger : top;
        }
        int exponent;
        frexp(top, &exponent);
        exponent = WEIGHT_BITS - exponent;
        layer->units[k] = ldexp(1, -exponent);
        int large = exponent > 1023; /* 2^exponent is too large a number, not the weights */
        double power = ldexp(1, large ? 1023 : exponent), rest = ldexp(1, large ? exponent - 1023 : 0);
        for (int64_t j = 0; j < channels; j++) {
            targets[j] = (targets[j] * power * rest + INTEGER) - INTEGER;
            codes[j] = ((codes[j] * power * rest + INTEGER) - INTEGER) * UNITS;
        }
    }
}

#define FOR_PROCESSOR
#define NAME(name) name##_2
#define WIDTH 2
#include "factor_pairs_loops.h"
#undef WIDTH
#undef NAME

#define NAME(name) name##_1
#define WIDTH 1
#include "inner_products_loops.h"
#undef WIDTH
#undef NAME
#undef FOR_PROCESSOR

#ifdef FOR_AVX2
#define FOR_PROCESSOR FOR_AVX2
#define NAME(name) name##_4
#define WIDTH 4
#include "factor_pairs_loops.h"
#undef WIDTH
#undef NAME

/* Weights of pairs of numbers, in two int16 of an int32: upper and lower parts. */
typedef struct {
    int32_t high[FEW][FEW], low[FEW][FEW], shifts[FEW];
} WholeWeights;

static int32_t pair(int32_t first, int32_t second) {
    return (int32_t)((uint32_t)(uint16_t)first | (uint32_t)second << 16);
}

/* Splits the weights of few channels; returns whether all of them, and their sums, fit. */
static int split_weights(const Layer *layer, WholeWeights *whole) {
    int64_t channels = layer->channels;
    if (channels > FEW) return 0;
    for (int64_t k = 0; k < channels; k++) {
        const double *weights = layer->weights + 2 * k * channels;
        int32_t high[2 * FEW], low[2 * FEW];
        int exponent; /* of twice the unit, a power of two */
        frexp(layer->units[k], &exponent);
        int shift = 1 - exponent - SPLIT;
        if (shift < 2 || shift > 27) return 0;
        for (int64_t j = 0; j < 2 * channels; j++) {
            double weight = j < channels ? weights[j] : weights[j] / UNITS;
            if (!(fabs(weight) <= 1 << WEIGHT_BITS)) return 0;
            int32_t number = (int32_t)weight;
            high[j] = (number + (1 << (SPLIT - 1))) >> SPLIT;
            low[j] = number - high[j] * (1 << SPLIT);
        }
        for (int64_t i = 0; i < channels; i++) {
            whole->high[k][i] = pair(high[2 * i], high[2 * i + 1]);
            whole->low[k][i] = pair(low[2 * i], low[2 * i + 1]);
        }
        whole->shifts[k] = shift;
    }
    return 1;
}

/* Interleaves two rows, each times its units; inlined for a count that is constant. */
FOR_AVX2 static inline void interleave(const int16_t *first, const int16_t *second,
                                       const int32_t *units, int64_t count, uint32_t *numbers) {
    for (int64_t i = 0; i < count; i++)
        numbers[i] = (uint32_t)(first[i] * units[0] & 0xffff) |
                     (uint32_t)(second[i] * units[1]) << 16;
}

/* Interleaves pairs of rows, of the targets and then of the codes, which become as large. */
FOR_AVX2 static void load_pairs(const Layer *layer, int64_t at, int64_t count, uint32_t *numbers) {
    int64_t channels = layer->channels, length = layer->length;
    for (int64_t i = 0; i < channels; i++, numbers += POSITIONS) {
        const int16_t *rows[2];
        int32_t units[2];
        for (int64_t j = 0; j < 2; j++) {
            int64_t row = 2 * i + j, code = row - channels;
            rows[j] = code < 0 ? layer->targets + row * length : layer->codes + code * length;
            units[j] = code < 0 ? 1 : UNITS;
        }
        if (count == POSITIONS)
            interleave(rows[0] + at, rows[1] + at, units, POSITIONS, numbers);
        else
            interleave(rows[0] + at, rows[1] + at, units, count, numbers);
        for (int64_t j = count; j < POSITIONS; j++) numbers[j] = 0;
    }
}

FOR_AVX2 static void store_pairs(const Layer *layer, int64_t at, int64_t count,
                                 const uint32_t *numbers) {
    for (int64_t k = 0; k < layer->channels; k++) {
        int64_t row = layer->channels + k;
        const uint32_t *own = numbers + row / 2 * POSITIONS;
        int16_t *made = layer->made + k * layer->length + at;
        int up = row % 2 ? 0 : 16;
        for (int64_t i = 0; i < count; i++) made[i] = (int16_t)((int32_t)(own[i] << up) >> 24);
    }
}

#define NAME(name) name##_8
#define WIDTH 8
#include "descent_loops.h"
#include "inner_products_loops.h"
#undef WIDTH
#undef NAME
#undef FOR_PROCESSOR

#define FOR_PROCESSOR FOR_AVX512
#define NAME(name) name##_16
#define WIDTH 16
#include "descent_loops.h"
#include "inner_products_loops.h"

static int64_t descend_few(const Layer *layer, const WholeWeights *whole) {
    int64_t clipped = 0;
    for (int64_t at = 0; at < layer->length; at += POSITIONS) {
        int64_t left = layer->length - at, count = left < POSITIONS ? left : POSITIONS;
        clipped += HAS_AVX512 ? pass_16(layer, whole, at, count) : pass_8(layer, whole, at, count);
    }
    return clipped;
}
#endif

void kronq_row_products(int64_t rows, int64_t length, const int16_t *codes, const int16_t *others,
                        double *products) {
    Products *multiply = products_1;
#ifdef FOR_AVX2
    if (HAS_AVX2) multiply = HAS_AVX512 ? products_16 : products_8;
#endif
    multiply(rows, length, codes, others, products);
}

/* Inner products of the rows of codes [layers, channels, length], at most 128, with each other and
 * with targets: [layers, channels, channels]. */
EXPORT int kronq_inner_products(int64_t layers, int64_t channels, int64_t length,
                                const int16_t *codes, const int16_t *targets, double *own,
                                double *with_targets) {
    for (int64_t layer = 0; layer < layers; layer++) {
        kronq_row_products(channels, length, codes, codes, own);
        kronq_row_products(channels, length, codes, targets, with_targets);
        codes += channels * length, targets += channels * length;
        own += channels * channels, with_targets += channels * channels;
    }
    return OK;
}

/* Rounds rows [rows, length] at the inverse scale of each to codes [rows, filled], the rest of which
 * are zeros; counts the values of each row beyond the outermost codes. */
EXPORT int kronq_round_channels(int64_t rows, int64_t length, int64_t filled, const float *values,
                                const float *inverses, const float *low, const float *high,
                                int16_t *codes, int64_t *clipped) {
    for (int64_t row = 0; row < rows; row++) {
        const float *own = values + row * length;
        float least = low[row], most = high[row];
        int32_t beyond = 0;
        for (int64_t i = 0; i < length; i++) {
            float code = own[i] * inverses[row];
            code = code > least - 1 ? code : least - 1;
            code = code < most + 1 ? code : most + 1;
            code = (code + INTEGER_FLOAT) - INTEGER_FLOAT;
            beyond += (code < least) | (code > most);
            code = code > least ? code : least;
            code = code < most ? code : most;
            codes[row * filled + i] = (int16_t)(int32_t)code;
        }
        for (int64_t i = length; i < filled; i++) codes[row * filled + i] = 0;
        clipped[row] = beyond;
    }
    return OK;
}

/* Rounds rows [rows, length] to whole numbers [rows, filled] of which the largest is LARGEST, the
 * rest zeros; returns the largest value of each row. */
EXPORT int kronq_fix_points(int64_t rows, int64_t length, int64_t filled, const float *values,
                            int16_t *numbers, float *tops) {
    for (int64_t row = 0; row < rows; row++) {
        const float *own = values + row * length;
        float top = largest_of(own, length);
        float divisor = top > 0 ? top : 1;
        int16_t *made = numbers + row * filled;
        for (int64_t i = 0; i < length; i++) {
            float number = own[i] / divisor * LARGEST;
            made[i] = (int16_t)(int32_t)((number + INTEGER_FLOAT) - INTEGER_FLOAT);
        }
        for (int64_t i = length; i < filled; i++) made[i] = 0;
        tops[row] = top;
    }
    return OK;
}

int64_t kronq_descend_layer(const Layer *layer, const double *cross, const double *gram,
                            const double *steps, const double *scales) {
    find_weights(layer, cross, gram, steps, scales);
#ifdef FOR_AVX2
    if (HAS_AVX2) {
        WholeWeights whole;
        return split_weights(layer, &whole) ? descend_few(layer, &whole) : descend_4(layer);
    }
#endif
    return descend_2(layer);
}

/* Codes each channel anew, the others fixed; counts the values beyond the outermost codes. */
EXPORT int kronq_descend(int64_t layers, int64_t channels, int64_t length, const double *cross,
                         const double *gram, const double *steps, const double *scales,
                         const double *low, const double *high, const int16_t *targets,
                         const int16_t *codes, int16_t *made, int64_t *clipped) {
    double *memory = malloc(layer_room(channels));
    if (!memory) return NO_MEMORY;
    for (int64_t i = 0; i < layers; i++) {
        int64_t rows = i * channels, values = rows * length, pairs = rows * channels;
        Layer layer = {.channels = channels,
                       .length = length,
                       .low = low + rows,
                       .high = high + rows,
                       .targets = targets + values,
                       .codes = codes + values,
                       .made = made + values};
        take_room(&layer, memory);
        clipped[i] = kronq_descend_layer(&layer, cross + pairs, gram + pairs, steps + rows,
                                         scales + rows);
    }
    free(memory);
    return OK;
}
