/* Sweeps over two factors of a layer, each fitted in turn to the codes of the other, as
 * kronq/quantization/mixed/factor_pairs.py makes them, bit for bit. */
#include <stdlib.h>

#include "factor_pairs.h"
#include "least_squares.h"
#include "library.h"

/* A factor of one layer. */
typedef struct {
    Layer layer; /* whose codes are those of the last sweep */
    const double *steps;
    double *scales;
    double *own, *with_targets; /* [channels, channels]: inner products of the codes */
    double *gram, *cross;       /* the same, of values with values and with targets */
    int64_t clipped;
} Factor;

/* Codes of least error so far, in arrays of all layers. */
typedef struct {
    int16_t *codes;
    float *scales;
    int64_t *clipped;
} Best;

static void scale_products(const Factor *factor) {
    int64_t channels = factor->layer.channels;
    const double *scales = factor->scales;
    for (int64_t i = 0; i < channels; i++)
        for (int64_t j = 0; j < channels; j++) {
            int64_t at = i * channels + j;
            factor->gram[at] = factor->own[at] * scales[i] * scales[j];
            factor->cross[at] = factor->with_targets[at] * scales[i] * factor->steps[j];
        }
}

static void multiply_codes(const Factor *factor) {
    const Layer *layer = &factor->layer;
    kronq_row_products(layer->channels, layer->length, layer->codes, layer->codes, factor->own);
    kronq_row_products(layer->channels, layer->length, layer->codes, layer->targets,
                       factor->with_targets);
    scale_products(factor);
}

static void fit_codes(Factor *factor, const Factor *other) {
    factor->clipped = kronq_descend_layer(&factor->layer, other->cross, other->gram,
                                          factor->steps, factor->scales);
    multiply_codes(factor);
}

/* Fits the scales of all components by least squares, and stores them with the first factor. */
static void fit_scales(Factor *one, const Factor *two, double *gram, double *right) {
    int64_t channels = one->layer.channels;
    for (int64_t i = 0; i < channels; i++) {
        right[i] = 0;
        for (int64_t at = i * channels; at < (i + 1) * channels; at++) {
            gram[at] = one->gram[at] * two->gram[at];
            right[i] += one->cross[at] * two->cross[at];
        }
    }
    solve_ridge(channels, gram, right);
    for (int64_t i = 0; i < channels; i++) {
        double factor = right[i] < 0.5 ? 0.5 : right[i] > 2 ? 2 : right[i];
        one->scales[i] = (float)one->scales[i] * (float)factor;
    }
    scale_products(one);
}

/* The error, less the norm of the target. */
static double error_of(const Factor *one, const Factor *two) {
    double error = 0;
    for (int64_t at = 0; at < one->layer.channels * one->layer.channels; at++)
        error += one->gram[at] * two->gram[at] - 2 * (one->cross[at] * two->cross[at]);
    return error;
}

static void keep(const Factor *factor, const Best *best) {
    const Layer *layer = &factor->layer;
    memcpy(best->codes, layer->codes, (size_t)(layer->channels * layer->length) * sizeof(int16_t));
    for (int64_t i = 0; i < layer->channels; i++) best->scales[i] = (float)factor->scales[i];
    *best->clipped = factor->clipped;
}

/* A factor of all layers, as Python has it. */
typedef struct {
    int64_t length;
    const int16_t *targets;
    const double *steps, *low, *high;
    Best best; /* at first the codes to begin with */
} Side;

static double *take(double **memory, int64_t count) {
    double *taken = *memory;
    *memory += count;
    return taken;
}

static void begin(Factor *factor, const Side *side, int64_t channels, double **memory) {
    int64_t pairs = channels * channels;
    factor->layer = (Layer){.channels = channels, .length = side->length};
    factor->own = take(memory, pairs), factor->with_targets = take(memory, pairs);
    factor->gram = take(memory, pairs), factor->cross = take(memory, pairs);
    factor->scales = take(memory, channels);
}

/* Sets a factor to the codes that a layer of the side begins with. */
static void load(Factor *factor, const Side *side, int16_t *codes) {
    Layer *layer = &factor->layer;
    layer->targets = side->targets, layer->low = side->low, layer->high = side->high;
    layer->codes = layer->made = codes;
    factor->steps = side->steps;
    for (int64_t i = 0; i < layer->channels; i++) factor->scales[i] = side->best.scales[i];
    memcpy(codes, side->best.codes, (size_t)(layer->channels * layer->length) * sizeof(int16_t));
    multiply_codes(factor);
}

static void next_layer(Side *side, int64_t channels) {
    side->targets += channels * side->length, side->best.codes += channels * side->length;
    side->steps += channels, side->low += channels, side->high += channels;
    side->best.scales += channels, side->best.clipped++;
}

/* Fits codes [layers, channels, length] and scales [layers, channels] of two factors in sweeps; those
 * of least error take the place of the given ones. */
EXPORT int kronq_fit_pairs(int64_t layers, int64_t channels, int64_t sweeps, int64_t length1,
                           const int16_t *targets1, const double *steps1, const double *low1,
                           const double *high1, int16_t *codes1, float *scales1, int64_t *clipped1,
                           int64_t length2, const int16_t *targets2, const double *steps2,
                           const double *low2, const double *high2, int16_t *codes2,
                           float *scales2, int64_t *clipped2) {
    Side first = {length1, targets1, steps1, low1, high1, {codes1, scales1, clipped1}};
    Side second = {length2, targets2, steps2, low2, high2, {codes2, scales2, clipped2}};
    int64_t numbers = 9 * channels * channels + 3 * channels;
    int64_t codes = channels * (length1 + length2);
    char *memory = malloc(layer_room(channels) + (size_t)numbers * sizeof(double) +
                          (size_t)codes * sizeof(int16_t));
    if (!memory) return NO_MEMORY;
    double *left = (double *)(memory + layer_room(channels));
    Factor one, two;
    begin(&one, &first, channels, &left);
    begin(&two, &second, channels, &left);
    take_room(&one.layer, memory);
    take_room(&two.layer, memory);
    double *gram = take(&left, channels * channels), *right = take(&left, channels);
    int16_t *current = (int16_t *)left;
    for (int64_t i = 0; i < layers; i++) {
        load(&one, &first, current);
        load(&two, &second, current + channels * length1);
        double least = error_of(&one, &two);
        for (int64_t sweep = 0; sweep < sweeps; sweep++) {
            fit_codes(&one, &two);
            fit_codes(&two, &one);
            fit_scales(&one, &two, gram, right);
            double error = error_of(&one, &two);
            if (!(error < least)) continue;
            least = error;
            keep(&one, &first.best);
            keep(&two, &second.best);
        }
        next_layer(&first, channels);
        next_layer(&second, channels);
    }
    free(memory);
    return OK;
}
