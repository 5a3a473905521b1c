/* Adaptive tables of the range coder, as kronq/trellis/context_counts.py makes them. */
#ifndef KRONQ_CONTEXTS_H
#define KRONQ_CONTEXTS_H

#include <stdlib.h>

#include "library.h"

#define PRECISION 24 /* frequencies add up to 2^24 */
#define COUNTED 4096 /* what a symbol adds to its count */
#define SUM_BITS 38  /* of the counts that frequencies are made of */
#define PLACES 256   /* of a quantile: where to begin to look for its symbol */
#define ESCAPE_BITS 20
#define SHORTEST_BLOCK 16 /* of numbers; later ones are half as long as what is before them */

/* Counts of the magnitudes 0 to `largest`, and the table of -largest to largest made of them. */
typedef struct {
    int64_t largest;
    int64_t *counts;
    uint32_t *before;        /* [2 largest + 2]: the sum of the frequencies before each symbol */
    uint16_t first[PLACES + 1]; /* the symbol of the quantile place * 2^24 / PLACES */
} Context;

static int64_t signed_count(const Context *context, int64_t symbol) {
    int64_t k = symbol - context->largest;
    return k ? context->counts[k < 0 ? -k : k] : 2 * context->counts[0];
}

/* Makes the table of the counts. */
static void renew(Context *context) {
    int64_t symbols = 2 * context->largest + 1, sum = 0, shifted = 0, given = 0;
    int64_t free_ = (1 << PRECISION) - symbols, shift = 0;
    for (int64_t i = 0; i < symbols; i++) sum += signed_count(context, i);
    while (sum >> shift >> SUM_BITS) shift++;
    for (int64_t i = 0; i < symbols; i++) shifted += signed_count(context, i) >> shift;
    for (int64_t i = 0; i < symbols; i++) {
        int64_t share = (signed_count(context, i) >> shift) * free_ / shifted;
        context->before[i] = (uint32_t)(share + 1);
        given += share;
    }
    context->before[context->largest] += (uint32_t)(free_ - given);
    uint32_t start = 0, place = 0;
    for (int64_t i = 0; i < symbols; i++) {
        uint32_t frequency = context->before[i];
        context->before[i] = start;
        start += frequency;
        for (; place < PLACES && place * ((1 << PRECISION) / PLACES) < start; place++)
            context->first[place] = (uint16_t)i;
    }
    context->before[symbols] = start;
    context->first[PLACES] = (uint16_t)(symbols - 1);
}

static void count(Context *context, int32_t code) {
    int64_t magnitude = code < 0 ? -(int64_t)code : code;
    context->counts[magnitude < context->largest ? magnitude : context->largest] += COUNTED;
}

static void free_contexts(Context *contexts, int64_t n) {
    for (int64_t i = 0; contexts && i < n; i++) free(contexts[i].before);
    free(contexts);
}

/* Returns contexts with the counts that lie one after the other in `counts`; NULL without memory. */
static Context *new_contexts(int64_t n, const int64_t *largest, int64_t *counts) {
    Context *contexts = calloc((size_t)(n > 0 ? n : 1), sizeof *contexts);
    for (int64_t i = 0; contexts && i < n; i++) {
        contexts[i].largest = largest[i];
        contexts[i].counts = counts;
        counts += largest[i] + 1;
        contexts[i].before = malloc((size_t)(2 * largest[i] + 2) * sizeof *contexts[i].before);
        if (!contexts[i].before) {
            free_contexts(contexts, n);
            return NULL;
        }
        renew(contexts + i);
    }
    return contexts;
}

/* Parts lanes by the parity of their states, each part in order; returns how many are even. */
static int64_t part_lanes(const uint8_t *states, int64_t lanes, int64_t *even, int64_t *odd) {
    int64_t evens = 0, odds = 0;
    for (int64_t lane = 0; lane < lanes; lane++) {
        int parity = states[lane] & 1;
        even[evens] = odd[odds] = lane;
        evens += !parity;
        odds += parity;
    }
    return evens;
}

/* Returns how many of n whole numbers the block that begins at start has. */
static inline int64_t block_size(int64_t start, int64_t n) {
    int64_t size = start / 2 > SHORTEST_BLOCK ? start / 2 : SHORTEST_BLOCK;
    return size > n - start ? n - start : size;
}

#endif
