/* What a function of the library needs to be found in it, and what it may answer. */
#ifndef KRONQ_LIBRARY_H
#define KRONQ_LIBRARY_H

#include <stdint.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

enum { OK = 0, DAMAGED = 1, NO_MEMORY = 2, OUT_OF_RANGE = 3 };

#define LANE 128  /* levels that one path through the trellis makes */
#define STATES 32 /* of the trellis */

static inline unsigned next_state(unsigned state, unsigned parity) {
    return (state >> 1) ^ ((state & 1) ? 18u : 0u) ^ (parity ? 4u : 0u);
}

#endif
