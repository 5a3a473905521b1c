/* Levels out of an entropy-coded stream: formats/SPEC.md, "Coded matrices", and the same as
 * kronq/trellis/range_coder.py, bit for bit.
 *
 * A stream may come from anyone. Every word is read only if it is there, a symbol is always one of
 * its table, and sizes are the caller's. Nothing here depends on floating point.
 */
#include <stdlib.h>

#include "contexts.h"

typedef struct {
    uint64_t distance; /* point - low */
    uint64_t range;
    uint64_t next; /* the word to be read next */
} Position;

typedef struct {
    const uint32_t *words;
    uint64_t count;
    Position at;
} Decoder;

static uint32_t next_word(Decoder *decoder) {
    Position *at = &decoder->at;
    return at->next < decoder->count ? decoder->words[at->next++] : 0;
}

/* Returns the quantile, and in `scale` what it is a multiple of; 2^24 or more if damaged. */
static uint64_t quantile(const Decoder *decoder, uint64_t *scale) {
    *scale = decoder->at.range >> PRECISION;
    return decoder->at.distance / *scale;
}

/* Makes the range longer than a word again. */
static inline void fill(Decoder *decoder) {
    Position *at = &decoder->at;
    if (at->range >> 32 == 0) {
        at->range <<= 32;
        at->distance = at->distance << 32 | next_word(decoder);
    }
}

static void take(Decoder *decoder, uint64_t scale, uint32_t before, uint32_t frequency) {
    Position *at = &decoder->at;
    at->distance -= scale * before;
    at->range = scale * frequency;
    fill(decoder);
}

/* Reads a symbol that the search by quantile finds. */
static int search_symbol(Decoder *decoder, const Context *context, int32_t *symbol) {
    uint64_t scale, q = quantile(decoder, &scale);
    if (q >> PRECISION) return DAMAGED;
    const uint16_t *place = context->first + q / ((1 << PRECISION) / PLACES);
    uint32_t low = place[0], high = place[1] + 1u;
    const uint32_t *before = context->before;
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        if (before[middle] <= q) low = middle;
        else high = middle;
    }
    take(decoder, scale, before[low], before[low + 1] - before[low]);
    *symbol = (int32_t)low - (int32_t)context->largest;
    return OK;
}

/* Reads one of 2^20 or fewer that are equally likely; the last has what is left of 2^24. */
static int read_uniform(Decoder *decoder, uint32_t n, uint32_t *found) {
    uint64_t scale, q = quantile(decoder, &scale);
    if (q >> PRECISION) return DAMAGED;
    uint32_t each = (1u << PRECISION) / n, symbol = (uint32_t)q / each;
    if (symbol >= n) symbol = n - 1;
    take(decoder, scale, symbol * each, symbol < n - 1 ? each : (1u << PRECISION) - symbol * each);
    *found = symbol;
    return OK;
}

/* Adds to a code at the edge of its table what lies beyond. */
static int read_escape(Decoder *decoder, int32_t *code) {
    uint32_t length, rest = 0;
    if (read_uniform(decoder, ESCAPE_BITS, &length)) return DAMAGED;
    if (length && read_uniform(decoder, 1u << length, &rest)) return DAMAGED;
    int32_t beyond = (int32_t)((1u << length) + rest - 1);
    *code += *code < 0 ? -beyond : beyond;
    return OK;
}

/* Returns `yes` where `condition` is 1 and `no` where it is 0, without a jump. */
static inline uint64_t choose(uint64_t condition, uint64_t yes, uint64_t no) {
    return no ^ ((no ^ yes) & (0 - condition));
}

/* Reads the symbols of one block into codes[at[0]], codes[at[1]], ..., and then their escapes.
 *
 * Most are -1, 0 or 1. Each waits for the one before, so that these take no division, no jump that
 * depends on which it is, and no memory: the table and the position are in registers. */
static int read_block(Decoder *decoder, Context *context, int32_t *codes, const int64_t *at,
                      int64_t n) {
    Decoder own = *decoder;
    const uint32_t *zero = context->before + context->largest; /* at least 1 */
    const uint64_t left = zero[-1], middle = zero[0], right = zero[1], beyond = zero[2];
    int64_t zeros = 0, ones = 0;
    int escapes = context->largest == 1;
    for (int64_t i = 0; i < n; i++) {
        uint64_t scale = own.at.range >> PRECISION, distance = own.at.distance;
        uint64_t begin = scale * left, end = scale * beyond;
        int32_t code;
        if (distance >= begin && distance < end) {
            uint64_t in_middle = scale * middle, in_right = scale * right;
            uint64_t not_left = distance >= in_middle, is_right = distance >= in_right;
            end = choose(is_right, end, choose(not_left, in_right, in_middle));
            begin = choose(is_right, in_right, choose(not_left, in_middle, begin));
            code = (int32_t)(not_left + is_right) - 1;
            zeros += (int64_t)(not_left - is_right);
            ones++;
            own.at.distance = distance - begin;
            own.at.range = end - begin;
            fill(&own);
        } else {
            if (search_symbol(&own, context, &code)) return DAMAGED;
            count(context, code);
            escapes |= code == context->largest || code == -context->largest;
        }
        codes[at[i]] = code;
    }
    context->counts[0] += COUNTED * zeros;
    context->counts[1] += COUNTED * (ones - zeros);
    *decoder = own;
    for (int64_t i = 0; escapes && i < n; i++) {
        int32_t code = codes[at[i]];
        if (code != context->largest && code != -context->largest) continue;
        if (read_escape(decoder, codes + at[i])) return DAMAGED;
    }
    return OK;
}

/* Begins a stream: sets its position before the first symbol. */
EXPORT int kronq_open_stream(const uint32_t *words, uint64_t count, Position *position) {
    Decoder decoder = {words, count, {0, UINT64_MAX, 0}};
    uint64_t upper = next_word(&decoder);
    decoder.at.distance = upper << 32 | next_word(&decoder);
    *position = decoder.at;
    return OK;
}

/* Reads a list of n whole numbers; its counts [largest + 1] are changed. */
EXPORT int kronq_decode_numbers(const uint32_t *words, uint64_t count, Position *position,
                                int64_t largest, int64_t *counts, int64_t n, int32_t *numbers) {
    Decoder decoder = {words, count, *position};
    Context *context = new_contexts(1, &largest, counts);
    int64_t *at = malloc((size_t)(n > 0 ? n : 1) * sizeof *at);
    int failed = context && at ? OK : NO_MEMORY;
    for (int64_t i = 0; !failed && i < n; i++) at[i] = i;
    for (int64_t start = 0, size; !failed && start < n; start += size) {
        size = block_size(start, n);
        failed = read_block(&decoder, context, numbers, at + start, size);
        renew(context);
    }
    free(at);
    free_contexts(context, 1);
    *position = decoder.at;
    return failed;
}

typedef struct {
    int64_t even, odd; /* indices of contexts */
    int64_t lanes, last; /* how many, and the length of the last one */
    int32_t *levels;
    uint8_t *states; /* of each lane */
} Run;

/* Reads position t of all lanes of a run: first those in even states. `at` and `codes` are scratch
 * for as many numbers as there are lanes, `at` for twice as many. */
static int read_position(Decoder *decoder, Context *contexts, const Run *run, int t, int64_t *at,
                         int32_t *codes) {
    int64_t lanes = run->lanes - (t >= run->last);
    int64_t *even = at, *odd = at + run->lanes;
    int64_t evens = part_lanes(run->states, lanes, even, odd);
    if (read_block(decoder, contexts + run->even, codes, even, evens)) return DAMAGED;
    if (read_block(decoder, contexts + run->odd, codes, odd, lanes - evens)) return DAMAGED;
    uint8_t *restrict states = run->states;
    int32_t *restrict levels = run->levels + t;
    for (int64_t lane = 0; lane < lanes; lane++) {
        unsigned state = states[lane];
        int32_t code = codes[lane], sign = (code > 0) - (code < 0);
        levels[lane * LANE] = 2 * code - sign * (int32_t)(state & 1);
        states[lane] = (uint8_t)next_state(state, code & 1);
    }
    return OK;
}

/* Reads the levels of all runs.
 *
 * largest and counts are those of n_contexts contexts, the counts one after the other; they are
 * changed. Run i has sizes[i] levels, the context of_run[i] in even states and the next one in
 * odd ones. The levels of the runs lie one after the other in `levels`. */
EXPORT int kronq_decode_lanes(const uint32_t *words, uint64_t count, Position *position,
                              int64_t n_contexts, const int64_t *largest, int64_t *counts,
                              int64_t n_runs, const int64_t *of_run, const int64_t *sizes,
                              int32_t *levels) {
    Decoder decoder = {words, count, *position};
    int64_t all = 0, most = 0;
    for (int64_t i = 0; i < n_runs; i++) {
        int64_t lanes = (sizes[i] + LANE - 1) / LANE;
        all += lanes;
        most = lanes > most ? lanes : most;
    }
    Context *contexts = new_contexts(n_contexts, largest, counts);
    Run *runs = malloc((size_t)(n_runs + 1) * sizeof *runs);
    uint8_t *states = calloc((size_t)(all + 1), 1);
    int64_t *at = malloc((size_t)(2 * most + 1) * sizeof *at);
    int32_t *codes = malloc((size_t)(most + 1) * sizeof *codes);
    int failed = contexts && runs && states && at && codes ? OK : NO_MEMORY;
    uint8_t *state = states;
    for (int64_t i = 0; !failed && i < n_runs; i++) {
        int64_t lanes = (sizes[i] + LANE - 1) / LANE;
        Run run = {of_run[i], of_run[i] + 1, lanes, sizes[i] - (lanes - 1) * LANE, levels,
                   state};
        runs[i] = run;
        levels += sizes[i];
        state += lanes;
    }
    for (int t = 0; !failed && t < LANE; t++) {
        if (t && (t & (t - 1)) == 0)
            for (int64_t i = 0; i < n_contexts; i++) renew(contexts + i);
        for (int64_t i = 0; !failed && i < n_runs; i++)
            if (runs[i].lanes) failed = read_position(&decoder, contexts, runs + i, t, at, codes);
    }
    free(codes);
    free(at);
    free(states);
    free(runs);
    free_contexts(contexts, n_contexts);
    *position = decoder.at;
    return failed;
}

/* Copies the levels of channels to matrices of one shape, one after the other in `out`. Those of
 * channel c of matrix m begin at begins[m * channels + c] and go to its entry c * apart, in steps;
 * a negative begin is a channel of zeros, as `out` has them already. */
EXPORT int kronq_place_levels(const int32_t *levels, const int64_t *begins, int64_t matrices,
                              int64_t channels, int64_t length, int64_t apart, int64_t step,
                              int32_t *out) {
    for (int64_t m = 0; m < matrices; m++, out += channels * length)
        for (int64_t c = 0; c < channels; c++, begins++) {
            if (*begins < 0) continue;
            const int32_t *from = levels + *begins;
            int32_t *to = out + c * apart;
            for (int64_t k = 0; k < length; k++) to[k * step] = from[k];
        }
    return OK;
}

/* Puts the levels' points, points[level + largest], times each channel's scale, to out: channel c
 * of matrix m begins at entry at[m] + c * apart. Returns OUT_OF_RANGE if one is not finite. */
EXPORT int kronq_place_points(const int32_t *levels, const int64_t *begins, int64_t matrices,
                              int64_t channels, int64_t length, int64_t apart, int64_t step,
                              const float *points, int64_t largest, const float *scales,
                              const int64_t *at, float *out) {
    int bad = 0;
    points += largest;
    for (int64_t m = 0; m < matrices; m++)
        for (int64_t c = 0; c < channels; c++, begins++, scales++) {
            if (*begins < 0) continue;
            const int32_t *from = levels + *begins;
            float *to = out + at[m] + c * apart;
            for (int64_t k = 0; k < length; k++) {
                float value = points[from[k]] * *scales;
                to[k * step] = value;
                bad |= !(value - value == 0.0f);
            }
        }
    return bad ? OUT_OF_RANGE : OK;
}
