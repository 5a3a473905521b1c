/* What a function of the library needs to be found in it, and what it may answer. */
#ifndef KRONQ_LIBRARY_H
#define KRONQ_LIBRARY_H

#include <stdint.h>
#include <string.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

enum { OK = 0, DAMAGED = 1, NO_MEMORY = 2, OUT_OF_RANGE = 3, TOO_SHORT = 4 };

#define LANE 128  /* levels that one path through the trellis makes */
#define STATES 32 /* of the trellis */

static inline unsigned next_state(unsigned state, unsigned parity) {
    return (state >> 1) ^ ((state & 1) ? 18u : 0u) ^ (parity ? 4u : 0u);
}

/* The largest magnitude of some numbers: as whole numbers their bits have the same order. */
static inline float largest_of(const float *values, int64_t count) {
    int32_t largest = 0;
    for (int64_t i = 0; i < count; i++) {
        int32_t bits;
        memcpy(&bits, values + i, sizeof bits);
        bits &= INT32_MAX;
        largest = bits > largest ? bits : largest;
    }
    float top;
    memcpy(&top, &largest, sizeof top);
    return top;
}

#endif
