/* Scales of least squared error and codes, as kronq/quantization/scale_search.py and
 * grid.py find them, bit for bit.
 *
 * Sums have a defined order: LANES of them side by side, added up by halves. So they do not depend
 * on how many numbers a processor takes at once. */
#include "library.h"
#include "processors.h"

#define LANES 16
#define MOST_TRIALS 16
#define INTEGER 12582912.0f /* 1.5 * 2^23: adding it rounds to a whole number, half to even */

/* Returns the float16 that is nearest to a number of 0 to 65504. */
static float nearest_half(float x) {
    union {
        float number;
        uint32_t bits;
    } rounded = {x};
    if (x < 0x1p-14f) return (x + 0.5f) - 0.5f; /* multiples of 2^-24 */
    rounded.bits += 0xfff + (rounded.bits >> 13 & 1);
    rounded.bits &= ~(uint32_t)0x1fff;
    return rounded.number;
}

typedef struct {
    int64_t length; /* a multiple of LANES */
    float low, high;
    int64_t every, trials;
    const float *parts; /* of the scale at which the largest magnitude gets the largest code */
} Search;

typedef struct {
    float gain, scale, refit;
    int64_t part;
} Best;

typedef struct {
    int64_t count, parts[MOST_TRIALS];
    float scales[MOST_TRIALS];
} Trials;

static inline void add_trial(Trials *trials, float scale, int64_t part) {
    trials->scales[trials->count] = scale;
    trials->parts[trials->count++] = part;
}

#define WIDTH 4
#define FOR_PROCESSOR
#define NAME(name) name##_4
#include "scales_loops.h"
#undef WIDTH
#undef FOR_PROCESSOR
#undef NAME

#ifdef FOR_AVX2
#define WIDTH 8
#define FOR_PROCESSOR FOR_AVX2
#define NAME(name) name##_8
#include "scales_loops.h"
#undef WIDTH
#undef FOR_PROCESSOR
#undef NAME

#define WIDTH 16
#define FOR_PROCESSOR FOR_AVX512
#define NAME(name) name##_16
#include "scales_loops.h"
#endif

/* Finds the scale of each row [rows, length], and the squared error that it leaves. */
EXPORT int kronq_fit_scales(int64_t rows, int64_t length, const float *values, int64_t bits,
                            int64_t every, int64_t trials, const float *parts, float *scales,
                            float *errors) {
    float low = -(float)(1 << (bits - 1));
    Search search = {length, low, -low - 1, every, trials, parts};
    if (trials > MOST_TRIALS) return OUT_OF_RANGE;
#ifdef FOR_AVX2
    if (HAS_AVX512) {
        fit_16(&search, rows, values, scales, errors);
        return OK;
    }
    if (HAS_AVX2) {
        fit_8(&search, rows, values, scales, errors);
        return OK;
    }
#endif
    fit_4(&search, rows, values, scales, errors);
    return OK;
}

/* Divides rows [rows, length] by the largest magnitude of each, unless it is 0. */
EXPORT int kronq_normalize_rows(int64_t rows, int64_t length, const float *values, float *units,
                                float *tops) {
    for (int64_t row = 0; row < rows; row++, values += length, units += length) {
        float top = tops[row] = largest_of(values, length), divisor = top > 0 ? top : 1;
        for (int64_t i = 0; i < length; i++) units[i] = values[i] / divisor;
    }
    return OK;
}

/* Rounds rows [rows, length] to codes at the scale of each, and counts the values of each that lie
 * beyond the cells of the outermost codes. */
EXPORT int kronq_round_rows(int64_t rows, int64_t length, const float *values, const float *scales,
                            int64_t low, int64_t high, int8_t *codes, int64_t *clipped) {
    float least = (float)low, most = (float)high;
    for (int64_t row = 0; row < rows; row++) {
        float scale = scales[row], inverse = scale > 0 ? 1 / scale : 0;
        float above = scale * (most + 0.5f), below = scale * (least - 0.5f);
        const float *own = values + row * length;
        int8_t *made = codes + row * length;
        int32_t beyond = 0;
        for (int64_t i = 0; i < length; i++) {
            beyond += (own[i] > above) | (own[i] < below);
            float code = own[i] * inverse;
            code = code > least ? code : least;
            code = code < most ? code : most;
            made[i] = (int8_t)(int32_t)((code + INTEGER) - INTEGER);
        }
        clipped[row] = scale > 0 ? beyond : 0;
    }
    return OK;
}
