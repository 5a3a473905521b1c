/* One layer's codes, fitted to its targets by factor_pairs.c. */
#ifndef KRONQ_FACTOR_PAIRS_H
#define KRONQ_FACTOR_PAIRS_H

#include <stdint.h>

#define BLOCK 32      /* positions at once: rows have a multiple of it */
#define CACHE_LINE 64 /* bytes: vectors that cross it take twice as long */

typedef struct {
    int64_t channels, length;
    const double *low, *high; /* [channels]: the outermost codes */
    const int16_t *targets, *codes; /* [channels, length] */
    int16_t *made; /* the same; may be the codes */
    double *weights; /* [channels, 2, channels]: whole ones of targets, and of the other codes */
    double *units;   /* [channels]: what a sum is multiplied by */
    double *numbers; /* [2 * channels, BLOCK], on a cache line */
} Layer;

/* Bytes of memory for weights, units and numbers. */
static inline size_t layer_room(int64_t channels) {
    int64_t numbers = 2 * channels * (channels + BLOCK) + channels;
    return (size_t)numbers * sizeof(double) + CACHE_LINE;
}

static inline void take_room(Layer *layer, void *memory) {
    char *bytes = memory;
    layer->numbers = (double *)(bytes + CACHE_LINE - (uintptr_t)bytes % CACHE_LINE);
    layer->weights = layer->numbers + 2 * layer->channels * BLOCK;
    layer->units = layer->weights + 2 * layer->channels * layer->channels;
}

/* Codes each channel of a layer anew, the others fixed; returns how many values are beyond the
 * outermost codes.
 *
 * cross, gram: [channels, channels]; steps, scales: [channels], of targets and codes. */
int64_t kronq_descend_layer(const Layer *layer, const double *cross, const double *gram,
                            const double *steps, const double *scales);

/* Inner products of the rows of codes [rows, length], at most 128, with others: [rows, rows]. */
void kronq_row_products(int64_t rows, int64_t length, const int16_t *codes, const int16_t *others,
                        double *products);

#endif
