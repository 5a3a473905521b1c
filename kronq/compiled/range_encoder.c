/* Levels to an entropy-coded stream: formats/SPEC.md, "Coded matrices", and the same words as
 * constriction's RangeEncoder writes for kronq/trellis/range_coder.py.
 *
 * Each of the up to three symbols of a code fills at most one word, and the end takes two. That is
 * the room that a list of numbers needs.
 */
#include "contexts.h"

typedef struct {
    uint64_t low, range;
    uint64_t next; /* how many words are written */
} Position;

typedef struct {
    uint32_t *words;
    Position at;
} Encoder;

static void add_to_low(Encoder *encoder, uint64_t more) {
    encoder->at.low += more;
    if (encoder->at.low < more) /* a carry */
        for (uint64_t i = encoder->at.next; i > 0 && ++encoder->words[i - 1] == 0; i--) continue;
}

static void put(Encoder *encoder, uint32_t before, uint32_t frequency) {
    Position *at = &encoder->at;
    uint64_t scale = at->range >> PRECISION;
    add_to_low(encoder, scale * before);
    at->range = scale * frequency;
    if (at->range >> 32 == 0) {
        encoder->words[at->next++] = (uint32_t)(at->low >> 32);
        at->low <<= 32;
        at->range <<= 32;
    }
}

static void put_uniform(Encoder *encoder, uint32_t n, uint32_t symbol) {
    uint32_t each = (1u << PRECISION) / n, before = symbol * each;
    put(encoder, before, symbol < n - 1 ? each : (1u << PRECISION) - before);
}

/* Writes how far a code is beyond the edge of its table: how many bits that takes, and then they. */
static int put_escape(Encoder *encoder, int64_t rest) {
    uint32_t length = 0;
    while ((rest + 1) >> (length + 1)) length++;
    if (length >= ESCAPE_BITS) return OUT_OF_RANGE;
    put_uniform(encoder, ESCAPE_BITS, length);
    if (length) put_uniform(encoder, 1u << length, (uint32_t)(rest + 1 - (1ll << length)));
    return OK;
}

static int64_t magnitude(int32_t code) {
    return code < 0 ? -(int64_t)code : code;
}

/* Writes the symbols of codes[at[0]], codes[at[1]], ..., and then their escapes. */
static int write_block(Encoder *encoder, Context *context, const int32_t *codes, const int64_t *at,
                       int64_t n) {
    int64_t largest = context->largest;
    int escapes = 0, failed = OK;
    for (int64_t i = 0; i < n; i++) {
        int32_t code = codes[at[i]];
        int64_t symbol = magnitude(code) < largest ? code : code < 0 ? -largest : largest;
        const uint32_t *before = context->before + largest + symbol;
        put(encoder, before[0], before[1] - before[0]);
        count(context, code);
        escapes |= magnitude(code) >= largest;
    }
    for (int64_t i = 0; escapes && !failed && i < n; i++)
        if (magnitude(codes[at[i]]) >= largest)
            failed = put_escape(encoder, magnitude(codes[at[i]]) - largest);
    return failed;
}

/* Writes a list of n whole numbers; its counts [largest + 1] are changed. */
EXPORT int kronq_encode_numbers(uint32_t *words, Position *position, int64_t largest,
                                int64_t *counts, int64_t n, const int32_t *numbers) {
    Encoder encoder = {words, *position};
    Context *context = new_contexts(1, &largest, counts);
    int64_t *at = malloc((size_t)(n + 1) * sizeof *at);
    int failed = context && at ? OK : NO_MEMORY;
    for (int64_t i = 0; !failed && i < n; i++) at[i] = i;
    for (int64_t start = 0, size; !failed && start < n; start += size) {
        size = block_size(start, n);
        failed = write_block(&encoder, context, numbers, at + start, size);
        renew(context);
    }
    free(at);
    free_contexts(context, 1);
    *position = encoder.at;
    return failed;
}

typedef struct {
    Context *contexts; /* of even states, and behind it of odd ones */
    int64_t lanes, last; /* how many, and the length of the last one */
    const void *levels;
    int64_t width; /* of a level, in bytes */
    uint8_t *states; /* of each lane */
} Run;

static int32_t level_at(const Run *run, int64_t i) {
    if (run->width == 1) return ((const int8_t *)run->levels)[i];
    if (run->width == 2) return ((const int16_t *)run->levels)[i];
    return ((const int32_t *)run->levels)[i];
}

/* Writes position t of all lanes of a run; DAMAGED if a level is none of its state. */
static int write_position(Encoder *encoder, const Run *run, int t, int64_t *at, int32_t *codes) {
    int64_t lanes = run->lanes - (t >= run->last);
    int64_t *even = at, *odd = at + run->lanes;
    int64_t evens = part_lanes(run->states, lanes, even, odd);
    for (int64_t lane = 0; lane < lanes; lane++) {
        unsigned state = run->states[lane];
        int64_t level = level_at(run, lane * LANE + t), size = level < 0 ? -level : level;
        int64_t k = (size + 1) / 2;
        if (2 * k - ((state & 1) && k) != size) return DAMAGED;
        codes[lane] = (int32_t)(level < 0 ? -k : k);
        run->states[lane] = (uint8_t)next_state(state, k & 1);
    }
    int failed = write_block(encoder, run->contexts, codes, even, evens);
    return failed ? failed : write_block(encoder, run->contexts + 1, codes, odd, lanes - evens);
}

/* Writes the levels of all runs. Its arguments are those of kronq_decode_lanes, but the levels of
 * run i are at an address of their own, in whole numbers of widths[i] bytes; and it writes no more
 * than `room` words: TOO_SHORT if they may not be enough. */
EXPORT int kronq_encode_lanes(uint32_t *words, Position *position, int64_t room,
                              int64_t n_contexts, const int64_t *largest, int64_t *counts,
                              int64_t n_runs, const int64_t *of_run, const int64_t *sizes,
                              const uint64_t *levels, const int64_t *widths) {
    Encoder encoder = {words, *position};
    int64_t all = 0, most = 0;
    for (int64_t i = 0; i < n_runs; i++) {
        int64_t lanes = (sizes[i] + LANE - 1) / LANE;
        all += lanes;
        most = lanes > most ? lanes : most;
    }
    Context *contexts = new_contexts(n_contexts, largest, counts);
    Run *runs = malloc((size_t)(n_runs + 1) * sizeof *runs);
    uint8_t *states = calloc((size_t)(all + 1), 1), *state = states;
    int64_t *at = malloc((size_t)(2 * most + 1) * sizeof *at);
    int32_t *codes = malloc((size_t)(most + 1) * sizeof *codes);
    int failed = contexts && runs && states && at && codes ? OK : NO_MEMORY;
    for (int64_t i = 0; !failed && i < n_runs; i++) {
        int64_t lanes = (sizes[i] + LANE - 1) / LANE;
        const void *own = (const void *)(uintptr_t)levels[i];
        Run run = {contexts + of_run[i], lanes, sizes[i] - (lanes - 1) * LANE, own, widths[i],
                   state};
        runs[i] = run;
        state += lanes;
    }
    for (int t = 0; !failed && t < LANE; t++) {
        if (t && (t & (t - 1)) == 0)
            for (int64_t i = 0; i < n_contexts; i++) renew(contexts + i);
        for (int64_t i = 0; !failed && i < n_runs; i++)
            if ((int64_t)encoder.at.next + 3 * runs[i].lanes > room) failed = TOO_SHORT;
            else if (runs[i].lanes) failed = write_position(&encoder, runs + i, t, at, codes);
    }
    free(codes);
    free(at);
    free(states);
    free(runs);
    free_contexts(contexts, n_contexts);
    *position = encoder.at;
    return failed;
}

/* Ends a stream with the fewest words that are within the range, and a zero if more could follow. */
EXPORT int kronq_close_stream(uint32_t *words, Position *position) {
    Encoder encoder = {words, *position};
    if (position->range == UINT64_MAX) return OK; /* nothing was written */
    uint32_t upper = (uint32_t)((position->low + position->range) >> 32);
    add_to_low(&encoder, UINT32_MAX);
    uint32_t word = (uint32_t)(encoder.at.low >> 32);
    words[encoder.at.next++] = word;
    if (word == upper) words[encoder.at.next++] = 0;
    *position = encoder.at;
    return OK;
}
