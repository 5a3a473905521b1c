/* Codes of factor pairs, as kronq/quantization/mixed/integer_descent.py fits them, bit for bit.
 *
 * All sums are of whole numbers, in int64 or below 2^53 in double: they are exact in any order, and
 * with or without fused multiplications. */
#include <stdlib.h>

#include "library.h"
#include "processors.h"

#define BLOCK 32   /* positions at once: rows have a multiple of it */
#define FLUSH 512  /* products, each at most 128 * 32767, that an int32 holds */
#define UNITS 256  /* of a code, so that it is as large as a target */
#define LARGEST 32767.0f /* target */
#define INTEGER_FLOAT 12582912.0f /* 1.5 * 2^23: adding it rounds to a whole number */
#define INTEGER 6755399441055744.0 /* 1.5 * 2^52, for double */

typedef struct {
    int64_t channels, length;
    const double *weights; /* [channels, 2, channels]: of targets, and of the other codes */
    const double *units;   /* [channels]: what a sum is multiplied by */
    const double *low, *high;
    const int16_t *targets, *codes; /* [channels, length] */
    int16_t *made;
    double *numbers; /* [2 * channels, BLOCK] */
} Layer;

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

static inline void inner_products(int64_t rows_a, int64_t rows_b, int64_t length, const int16_t *a,
                                  const int16_t *b, double *products) {
    for (int64_t i = 0; i < rows_a; i++)
        for (int64_t j = 0; j < rows_b; j++)
            products[i * rows_b + j] =
                a == b && j < i ? products[j * rows_b + i]
                                : (double)inner_product(a + i * length, b + j * length, length);
}

#define FOR_PROCESSOR
#define NAME(name) name##_2
#define WIDTH 2
#include "factor_pairs_loops.h"
#undef WIDTH
#undef NAME
#undef FOR_PROCESSOR

#ifdef FOR_AVX2
#define FOR_PROCESSOR FOR_AVX2
#define NAME(name) name##_4
#define WIDTH 4
#include "factor_pairs_loops.h"
#endif

/* Inner products of the rows of a [layers, rows_a, length] with those of b [layers, rows_b, length]:
 * [layers, rows_a, rows_b]. Those of a are at most 128. */
EXPORT int kronq_inner_products(int64_t layers, int64_t rows_a, int64_t rows_b, int64_t length,
                                const int16_t *a, const int16_t *b, double *products) {
    for (int64_t layer = 0; layer < layers; layer++) {
        const int16_t *left = a + layer * rows_a * length, *right = b + layer * rows_b * length;
        double *own = products + layer * rows_a * rows_b;
#ifdef FOR_AVX2
        if (HAS_AVX2) {
            products_4(rows_a, rows_b, length, left, right, own);
            continue;
        }
#endif
        products_2(rows_a, rows_b, length, left, right, own);
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

/* Codes each channel anew, the others fixed; counts the values beyond the outermost codes. */
EXPORT int kronq_descend(int64_t layers, int64_t channels, int64_t length, const double *weights,
                         const double *units, const double *low, const double *high,
                         const int16_t *targets, const int16_t *codes, int16_t *made,
                         int64_t *clipped) {
    double *numbers = malloc(2 * channels * BLOCK * sizeof *numbers);
    if (!numbers) return NO_MEMORY;
    for (int64_t i = 0; i < layers; i++) {
        int64_t rows = i * channels, values = rows * length;
        Layer layer = {channels, length, weights + 2 * rows * channels, units + rows, low + rows,
                       high + rows, targets + values, codes + values, made + values, numbers};
#ifdef FOR_AVX2
        if (HAS_AVX2) {
            clipped[i] = descend_4(&layer);
            continue;
        }
#endif
        clipped[i] = descend_2(&layer);
    }
    free(numbers);
    return OK;
}
