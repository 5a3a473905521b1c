/* The path of least distortion and rate through the trellis, as kronq/trellis/viterbi.py finds it,
 * bit for bit: the same operations on float32, in the same order. WIDTH lanes are searched side by
 * side, in vectors of four as GCC and Clang have them for every processor. */
#include <stdlib.h>
#include <string.h>

#if defined(__SSE2__)
#include <xmmintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#include "library.h"

#define WIDTH 16
#define VECTORS (WIDTH / 4)
#define BRANCHES 4 /* 2 * parity of the state + parity of the code */
#define NO_PATH 1e30f
#define LARGEST_VALUE 4194304.0f /* 2^22: all levels near it are exact in float32 */
#define LARGEST_WEIGHT 1e20f     /* costs stay far below NO_PATH */

typedef float Floats __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(16)));

/* Where each state can be reached from, in order, and by which branch. */
typedef struct {
    unsigned previous[STATES][2], branch[STATES][2];
} Trellis;

/* What a code costs, and its shift. */
typedef struct {
    float price, shift;
} Code;

/* [rows, 2, magnitudes], of even states and of odd ones. */
typedef struct {
    const Code *codes;
    int64_t magnitudes;
} Prices;

typedef struct {
    union {
        Floats vectors[LANE][VECTORS];
        float lanes[LANE][WIDTH];
    } values, weights;
    int64_t rows[WIDTH]; /* first index of each lane's prices */
    union {
        Ints vectors[LANE][BRANCHES][VECTORS];
        int32_t lanes[LANE][BRANCHES][WIDTH];
    } codes;
    union {
        Ints vectors[LANE][VECTORS];
        uint32_t lanes[LANE][WIDTH];
    } second; /* bit s: state s is reached from its second predecessor */
    union {
        Floats vectors[STATES][VECTORS];
        float lanes[STATES][WIDTH];
    } metric[2];
} Work;

static Trellis trellis(void) {
    Trellis made;
    unsigned found[STATES] = {0};
    for (unsigned state = 0; state < STATES; state++)
        for (unsigned parity = 0; parity < 2; parity++) {
            unsigned next = next_state(state, parity), i = found[next]++;
            made.previous[next][i] = state;
            made.branch[next][i] = 2 * (state & 1) + parity;
        }
    return made;
}

/* Copies lanes into columns; the columns that are left over are zeros. Returns whether all numbers
 * are in the range that this search is exact for. */
static int load(Work *work, const float *values, const float *weights, const int32_t *rows,
                const Prices *prices, int64_t lanes) {
    int inside = 1;
    for (int lane = 0; lane < WIDTH; lane++) {
        work->rows[lane] = lane < lanes ? rows[lane] * 2 * prices->magnitudes : 0;
        for (int t = 0; t < LANE; t++) {
            float value = lane < lanes ? values[lane * LANE + t] : 0;
            float weight = lane < lanes ? weights[lane * LANE + t] : 0;
            inside &= value < LARGEST_VALUE && value > -LARGEST_VALUE;
            inside &= weight < LARGEST_WEIGHT && weight > -LARGEST_WEIGHT;
            work->values.lanes[t][lane] = value;
            work->weights.lanes[t][lane] = weight;
        }
    }
    return inside;
}

static inline Floats choose(Ints mask, Floats yes, Floats no) {
    return (Floats)((mask & (Ints)yes) | (~mask & (Ints)no));
}

static inline Floats least_of(Floats one, Floats two) {
#if defined(__SSE2__)
    return (Floats)_mm_min_ps((__m128)one, (__m128)two);
#elif defined(__ARM_NEON)
    return (Floats)vminq_f32((float32x4_t)one, (float32x4_t)two);
#else
    return choose(one < two, one, two);
#endif
}

/* The costs of codes k of four lanes in states of a parity; `rows` are those of the lanes. */
static inline Floats costs_of(const Prices *prices, const int64_t *rows, int odd, Floats sizes,
                              Floats weights, Ints k) {
    int32_t largest = (int32_t)prices->magnitudes - 1;
    Ints inside = k < largest, place = (inside & k) | (~inside & largest);
    const Code *codes = prices->codes + odd * prices->magnitudes;
    const Code *c0 = codes + rows[0] + place[0], *c1 = codes + rows[1] + place[1];
    const Code *c2 = codes + rows[2] + place[2], *c3 = codes + rows[3] + place[3];
    Floats price = {c0->price, c1->price, c2->price, c3->price};
    Floats shift = {c0->shift, c1->shift, c2->shift, c3->shift};
    Ints level = 2 * k;
    if (odd) level += k > 0; /* a mask is -1 */
    Floats error = sizes - __builtin_convertvector(level, Floats);
    error += shift;
    error *= error;
    error *= weights;
    return error + price;
}

/* The better of the two codes of a branch whose levels are next to each value. */
static inline Floats branch_costs(const Prices *prices, const int64_t *rows, int branch,
                                  Floats sizes, Floats weights, Ints *codes) {
    int odd = branch >> 1, parity = branch & 1;
    float first = (float)(odd ? (parity ? 1 : -1) : 2 * parity);
    Floats place = (sizes - first) * 0.25f, none = {0};
    Ints below = 2 * __builtin_convertvector(choose(place > none, place, none), Ints) + parity;
    Floats one = costs_of(prices, rows, odd, sizes, weights, below);
    Floats two = costs_of(prices, rows, odd, sizes, weights, below + 2);
    Ints better = two < one;
    *codes = below - 2 * better;
    return least_of(two, one);
}

/* One position: from the costs of reaching each state to those one position on. */
static void step(const Trellis *into, Floats costs[BRANCHES][VECTORS],
                 Floats before[STATES][VECTORS], Floats after[STATES][VECTORS], Ints *second) {
    Floats least[VECTORS];
    Ints taken[VECTORS];
    for (int v = 0; v < VECTORS; v++) {
        least[v] = (Floats){0} + 2 * NO_PATH;
        taken[v] = (Ints){0};
    }
    for (unsigned state = 0; state < STATES; state++) {
        const Floats *from0 = before[into->previous[state][0]];
        const Floats *from1 = before[into->previous[state][1]];
        const Floats *cost0 = costs[into->branch[state][0]];
        const Floats *cost1 = costs[into->branch[state][1]];
        for (int v = 0; v < VECTORS; v++) {
            Floats one = from0[v] + cost0[v], two = from1[v] + cost1[v];
            Ints better = two < one;
            Floats best = least_of(two, one);
            taken[v] |= better & (int32_t)(1u << state);
            least[v] = least_of(best, least[v]);
            after[state][v] = best;
        }
    }
    for (unsigned state = 0; state < STATES; state++)
        for (int v = 0; v < VECTORS; v++) after[state][v] -= least[v];
    for (int v = 0; v < VECTORS; v++) second[v] = taken[v];
}

/* Follows the best path of each lane back to its begin. */
static void trace(const Work *work, const Trellis *into, int64_t lanes, int32_t *levels,
                  int8_t *odd) {
    unsigned states[WIDTH] = {0};
    for (unsigned other = 1; other < STATES; other++)
        for (int i = 0; i < WIDTH; i++) {
            const float(*metric)[WIDTH] = work->metric[LANE % 2].lanes;
            if (metric[other][i] < metric[states[i]][i]) states[i] = other;
        }
    for (int t = LANE - 1; t >= 0; t--)
        for (int64_t i = 0; i < lanes; i++) {
            unsigned state = states[i], taken = work->second.lanes[t][i] >> state & 1;
            unsigned branch = into->branch[state][taken];
            int32_t code = work->codes.lanes[t][branch][i];
            int32_t level = 2 * code - ((branch >> 1) & (code > 0));
            int32_t sign = -(work->values.lanes[t][i] < 0);
            levels[i * LANE + t] = (level ^ sign) - sign;
            odd[i * LANE + t] = (int8_t)(branch >> 1);
            states[i] = into->previous[state][taken];
        }
}

static void search(Work *work, const Trellis *into, const Prices *prices, int64_t lanes,
                   int32_t *levels, int8_t *odd) {
    for (int state = 0; state < STATES; state++)
        for (int lane = 0; lane < WIDTH; lane++)
            work->metric[0].lanes[state][lane] = state ? NO_PATH : 0;
    for (int t = 0; t < LANE; t++) {
        Floats costs[BRANCHES][VECTORS], none = {0};
        for (int v = 0; v < VECTORS; v++) {
            Floats value = work->values.vectors[t][v];
            Floats size = choose(value < none, -value, value);
            for (int branch = 0; branch < BRANCHES; branch++)
                costs[branch][v] =
                    branch_costs(prices, work->rows + 4 * v, branch, size,
                                 work->weights.vectors[t][v], &work->codes.vectors[t][branch][v]);
        }
        step(into, costs, work->metric[t % 2].vectors, work->metric[(t + 1) % 2].vectors,
             work->second.vectors[t]);
    }
    trace(work, into, lanes, levels, odd);
}

/* Searches lanes: values and weights [lanes, LANE], the row of each lane's prices, and these;
 * then come the levels, and the parities of their states [lanes, LANE], to be filled in. */
EXPORT int kronq_search_levels(int64_t lanes, const float *values, const float *weights,
                               const int32_t *rows, const Code *codes, int64_t magnitudes,
                               int32_t *levels, int8_t *odd) {
    Trellis into = trellis();
    Prices prices = {codes, magnitudes};
    Work *work = malloc(sizeof *work);
    int failed = work ? OK : NO_MEMORY;
    for (int64_t start = 0; !failed && start < lanes; start += WIDTH) {
        int64_t count = lanes - start < WIDTH ? lanes - start : WIDTH, first = start * LANE;
        if (!load(work, values + first, weights + first, rows + start, &prices, count))
            failed = OUT_OF_RANGE;
        else
            search(work, &into, &prices, count, levels + first, odd + first);
    }
    free(work);
    return failed;
}
