/* Decodes random and random-like streams, encodes what came out, searches random lanes and
 * rounds, with buffers of just the right size, for sanitizers. */
#include <stdio.h>
#include <stdlib.h>

#include "library.h"

typedef struct {
    uint64_t state[3];
} Position;

int kronq_open_stream(const uint32_t *, uint64_t, Position *);
int kronq_decode_numbers(const uint32_t *, uint64_t, Position *, int64_t, int64_t *, int64_t,
                         int32_t *);
int kronq_decode_lanes(const uint32_t *, uint64_t, Position *, int64_t, const int64_t *, int64_t *,
                       int64_t, const int64_t *, const int64_t *, int32_t *);
int kronq_encode_numbers(uint32_t *, Position *, int64_t, int64_t *, int64_t, const int32_t *);
int kronq_encode_lanes(uint32_t *, Position *, int64_t, int64_t, const int64_t *, int64_t *,
                       int64_t, const int64_t *, const int64_t *, const uint64_t *,
                       const int64_t *);
int kronq_close_stream(uint32_t *, Position *);
int kronq_search_levels(int64_t, const float *, const float *, const int32_t *, const float *,
                        int64_t, int32_t *, int8_t *);
int kronq_fit_scales(int64_t, int64_t, const float *, int64_t, int64_t, int64_t, const float *,
                     float *, float *);
int kronq_round_rows(int64_t, int64_t, const float *, const float *, int64_t, int64_t, int8_t *,
                     int64_t *);
int kronq_round_channels(int64_t, int64_t, int64_t, const float *, const float *, const float *,
                         const float *, int16_t *, int64_t *);
int kronq_fix_points(int64_t, int64_t, int64_t, const float *, int16_t *, float *);
int kronq_descend(int64_t, int64_t, int64_t, const double *, const double *, const double *,
                  const double *, const double *, const double *, const int16_t *, const int16_t *,
                  int16_t *, int64_t *);
int kronq_inner_products(int64_t, int64_t, int64_t, const int16_t *, const int16_t *, double *,
                         double *);
int kronq_fit_pairs(int64_t, int64_t, int64_t, int64_t, const int16_t *, const double *,
                    const double *, const double *, int16_t *, float *, int64_t *, int64_t,
                    const int16_t *, const double *, const double *, const double *, int16_t *,
                    float *, int64_t *);
int kronq_normalize_rows(int64_t, int64_t, const float *, float *, float *);
int kronq_pack_channels(const int8_t *, int64_t, const uint8_t *, int64_t, uint8_t *);
int kronq_unpack_channels(const uint8_t *, int64_t, int64_t, const uint8_t *, int64_t, int8_t *);
int kronq_sizes_at_price(int64_t, int64_t, int64_t, int64_t, int64_t, const double *,
                         const double *, const int64_t *, const double *, const int64_t *,
                         const int64_t *, int64_t *);

static uint64_t seed = 1;

static uint64_t draw(uint64_t n) {
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return seed % n;
}

static float number(float scale) {
    return scale * ((float)draw(2001) / 1000 - 1);
}

/* Searches lanes of values of any size, not-a-number among them. */
static int search_some(void) {
    int64_t lanes = (int64_t)draw(40), rows = 1 + (int64_t)draw(3);
    int64_t magnitudes = 1 + (int64_t)draw(30), size = lanes * LANE;
    float *values = malloc(size * sizeof *values), *weights = malloc(size * sizeof *weights);
    float *codes = malloc(rows * 2 * magnitudes * 2 * sizeof *codes);
    int32_t *row = malloc(lanes * sizeof *row), *levels = malloc(size * sizeof *levels);
    int8_t *odd = malloc(size);
    float scale = (float[]){1, 30, 4e6f, 1e30f}[draw(4)];
    for (int64_t i = 0; i < size; i++) values[i] = number(scale), weights[i] = number(1) + 1;
    if (size && !draw(9)) values[draw(size)] = 0.0f / 0.0f;
    for (int64_t i = 0; i < lanes; i++) row[i] = (int32_t)draw(rows);
    for (int64_t i = 0; i < rows * 4 * magnitudes; i++) codes[i] = number(5);
    int failed = kronq_search_levels(lanes, values, weights, row, codes, magnitudes, levels, odd);
    free(odd), free(levels), free(row), free(codes), free(weights), free(values);
    return failed;
}

/* Searches scales, rounds, and fits codes of a few layers of any sizes. */
static void round_some(void) {
    int64_t layers = (int64_t)draw(3), channels = 1 + (int64_t)draw(10), rows = layers * channels;
    int64_t length = 1 + (int64_t)draw(1500), filled = (length + 31) / 32 * 32;
    float *values = malloc(rows * filled * sizeof *values), *scales = malloc(rows * sizeof *scales);
    float *errors = malloc(rows * sizeof *errors), *low = malloc(rows * sizeof *low);
    float *high = malloc(rows * sizeof *high), parts[] = {0.3f, 0.5f, 0.7f, 0.9f};
    double *least = malloc(rows * sizeof *least), *most = malloc(rows * sizeof *most);
    double *steps = malloc(rows * sizeof *steps), *wide = malloc(rows * sizeof *wide);
    double *own = malloc(rows * channels * sizeof *own), *cross = malloc(rows * channels * sizeof *cross);
    int16_t *codes = malloc(rows * filled * sizeof *codes), *made = malloc(rows * filled * sizeof *made);
    int16_t *numbers = malloc(rows * filled * sizeof *numbers);
    int8_t *bytes = malloc(rows * filled);
    int64_t *clipped = malloc(rows * sizeof *clipped), bits = 2 + (int64_t)draw(7);
    float size = (float[]){1, 1e-40f, 6e4f, 1e30f}[draw(4)];
    for (int64_t i = 0; i < rows * filled; i++) values[i] = number(size);
    kronq_fit_scales(rows, filled, values, bits, draw(2) ? 3 : 1, 4, parts, scales, errors);
    kronq_round_rows(rows, filled, values, scales, -(1 << (bits - 1)), (1 << (bits - 1)) - 1, bytes,
                     clipped);
    for (int64_t i = 0; i < rows; i++) {
        least[i] = low[i] = (float)-(1 << (bits - 1)), most[i] = high[i] = -low[i] - 1;
        steps[i] = (double[]){1e-9, 1, 1e-300, 1e300}[draw(4)], scales[i] = number(100) + 101;
        wide[i] = (double[]){1e-9, 0, 1, 1e300}[draw(4)];
    }
    kronq_round_channels(rows, length, filled, values, scales, low, high, codes, clipped);
    float *units = malloc(rows * filled * sizeof *units);
    kronq_normalize_rows(rows, filled, values, units, errors);
    free(units);
    kronq_fix_points(rows, length, filled, values, numbers, errors);
    kronq_inner_products(layers, channels, filled, codes, numbers, own, cross);
    kronq_descend(layers, channels, filled, cross, own, steps, wide, least, most, numbers, codes, made,
                  clipped);
    free(values), free(scales), free(errors), free(low), free(high), free(least), free(most);
    free(steps), free(wide), free(own), free(cross), free(codes), free(made), free(numbers), free(bytes);
    free(clipped);
}

/* Numbers of one factor of some layers, of which the channels have any widths. */
typedef struct {
    int64_t length, *clipped;
    int16_t *targets, *codes;
    double *steps, *low, *high;
    float *scales;
} Factor;

static Factor draw_factor(int64_t layers, int64_t channels) {
    int64_t length = 32 * (1 + (int64_t)draw(5)), rows = layers * channels, count = rows * length;
    Factor made = {length,
                   malloc(layers * sizeof(int64_t)),
                   malloc(count * sizeof(int16_t)),
                   malloc(count * sizeof(int16_t)),
                   malloc(rows * sizeof(double)),
                   malloc(rows * sizeof(double)),
                   malloc(rows * sizeof(double)),
                   malloc(rows * sizeof(float))};
    for (int64_t i = 0; i < count; i++)
        made.targets[i] = (int16_t)draw(65536), made.codes[i] = (int8_t)draw(256);
    for (int64_t i = 0; i < rows; i++) {
        double most = (double)((1 << draw(8)) - 1);
        made.steps[i] = number(1e-4f), made.scales[i] = draw(3) ? number(1e-2f) : 0;
        made.low[i] = -most - 1, made.high[i] = most;
    }
    return made;
}

static void free_factor(Factor factor) {
    free(factor.clipped), free(factor.targets), free(factor.codes), free(factor.steps);
    free(factor.low), free(factor.high), free(factor.scales);
}

/* Fits two factors to each other. */
static void fit_some(void) {
    int64_t layers = (int64_t)draw(3), channels = 1 + (int64_t)draw(11);
    Factor a = draw_factor(layers, channels), b = draw_factor(layers, channels);
    kronq_fit_pairs(layers, channels, 3, a.length, a.targets, a.steps, a.low, a.high, a.codes,
                    a.scales, a.clipped, b.length, b.targets, b.steps, b.low, b.high, b.codes,
                    b.scales, b.clipped);
    free_factor(a), free_factor(b);
}

/* Packs channels, and unpacks them from those bytes and from fewer. */
static int pack_some(void) {
    int64_t channels = (int64_t)draw(5), length = (int64_t)draw(70), size = 0;
    int8_t *codes = malloc(channels * length), *found = malloc(channels * length);
    uint8_t *widths = malloc(channels);
    for (int64_t i = 0; i < channels * length; i++) codes[i] = (int8_t)draw(256);
    for (int64_t i = 0; i < channels; i++) {
        widths[i] = (uint8_t[]){0, 2, 3, 4, 5, 6, 7, 8}[draw(8)];
        size += (length * widths[i] + 7) / 8;
        int unused = widths[i] ? 8 - widths[i] : 8;
        for (int64_t j = i * length; j < (i + 1) * length; j++)
            codes[j] = unused == 8 ? 0 : (int8_t)(codes[j] / (1 << unused));
    }
    uint8_t *data = malloc(size);
    int failed = kronq_pack_channels(codes, channels, widths, length, data) ||
                 kronq_unpack_channels(data, size, channels, widths, length, found) ||
                 memcmp(codes, found, channels * length) ||
                 (size && !kronq_unpack_channels(data, size - 1, channels, widths, length, found));
    free(codes), free(found), free(widths), free(data);
    return failed;
}

/* Finds the sizes of layers of any errors. */
static void allocate_some(void) {
    int64_t gauges = 1 + (int64_t)draw(3), matrices = 1 + (int64_t)draw(2), layers = (int64_t)draw(4);
    int64_t channels = (int64_t)draw(9), widths = 1 + (int64_t)draw(7), of = gauges * layers * channels;
    double *errors = malloc(of * matrices * widths * sizeof *errors);
    double *absent = malloc(of * sizeof *absent), price = (double[]){0, 1e-3, 1e300}[draw(3)];
    int64_t *nbytes = malloc(matrices * layers * widths * sizeof *nbytes);
    int64_t *least = malloc(layers * sizeof *least), *most = malloc(layers * sizeof *most);
    int64_t *sizes = malloc(layers * sizeof *sizes);
    for (int64_t i = 0; i < of * matrices * widths; i++) errors[i] = number(1e30f);
    for (int64_t i = 0; i < of; i++) absent[i] = number(1e30f);
    for (int64_t i = 0; i < matrices * layers * widths; i++) nbytes[i] = (int64_t)draw(1000);
    for (int64_t i = 0; i < layers; i++) least[i] = (int64_t)draw(2), most[i] = (int64_t)draw(2);
    kronq_sizes_at_price(gauges, matrices, layers, channels, widths, errors, absent, nbytes, &price,
                         least, most, sizes);
    free(errors), free(absent), free(nbytes), free(least), free(most), free(sizes);
}

int main(void) {
    for (int round = 0; round < 200; round++) round_some(), allocate_some(), fit_some();
    for (int round = 0; round < 400; round++)
        if (pack_some()) return 3;
    int far = 0;
    for (int round = 0; round < 100; round++) far += search_some() == OUT_OF_RANGE;
    if (far < 10 || far > 90) return 1;

    int failures = 0;
    for (int round = 0; round < 400; round++) {
        uint64_t n_words = draw(60), kind = draw(3);
        uint32_t *words = malloc(n_words * sizeof *words);
        for (uint64_t i = 0; i < n_words; i++)
            words[i] = kind == 0 ? UINT32_MAX : kind == 1 ? (uint32_t)draw(1ull << 32) : 0;
        if (kind == 2 && n_words) words[draw(n_words)] = (uint32_t)draw(1ull << 32);
        Position position;
        kronq_open_stream(words, n_words, &position);

        int64_t n_contexts = 2 * (int64_t)(1 + draw(4)), total = 0;
        int64_t *largest = malloc(n_contexts * sizeof *largest);
        for (int64_t i = 0; i < n_contexts; i++) {
            largest[i] = 4 + (int64_t)draw(draw(4) ? 20 : 3073);
            total += largest[i] + 1;
        }
        int64_t *counts = malloc(total * sizeof *counts);
        for (int64_t i = 0; i < total; i++) counts[i] = 64 + (int64_t)draw(1 << draw(18));
        int64_t n = (int64_t)draw(300);
        int32_t *numbers = malloc(n * sizeof *numbers);
        int failed =
            kronq_decode_numbers(words, n_words, &position, largest[0], counts, n, numbers);

        int64_t n_runs = (int64_t)draw(6), levels_in_all = 0;
        int64_t *of_run = malloc(n_runs * sizeof *of_run), *sizes = malloc(n_runs * sizeof *sizes);
        for (int64_t i = 0; i < n_runs; i++) {
            of_run[i] = 2 * (int64_t)draw(n_contexts / 2);
            sizes[i] = (int64_t)draw(3) ? (int64_t)draw(1000) : 128 * (int64_t)draw(3);
            levels_in_all += sizes[i];
        }
        int32_t *levels = malloc(levels_in_all * sizeof *levels);
        if (!failed)
            failed = kronq_decode_lanes(words, n_words, &position, n_contexts, largest, counts,
                                        n_runs, of_run, sizes, levels);
        failures += failed;
        if (!failed) {
            int64_t room = 3 * (n + levels_in_all), most = draw(2) ? room : (int64_t)draw(room + 1);
            uint32_t *written = malloc((most + 3 * n + 2) * sizeof *written);
            uint64_t *places = malloc(n_runs * sizeof *places);
            int64_t *widths = malloc(n_runs * sizeof *widths), begin = 0;
            for (int64_t i = 0; i < n_runs; begin += sizes[i++]) {
                int64_t largest_level = 0;
                for (int64_t k = 0; k < sizes[i]; k++) {
                    int64_t level = levels[begin + k];
                    if (llabs(level) > largest_level) largest_level = llabs(level);
                }
                widths[i] = largest_level < 128 ? 1 : largest_level < 32768 ? 2 : 4;
                void *own = malloc(sizes[i] * widths[i]);
                for (int64_t k = 0; k < sizes[i]; k++) {
                    int32_t level = levels[begin + k];
                    if (widths[i] == 1) ((int8_t *)own)[k] = (int8_t)level;
                    if (widths[i] == 2) ((int16_t *)own)[k] = (int16_t)level;
                    if (widths[i] == 4) ((int32_t *)own)[k] = level;
                }
                places[i] = (uint64_t)(uintptr_t)own;
            }
            Position end = {{0, UINT64_MAX, 0}};
            int wrong = kronq_encode_numbers(written, &end, largest[0], counts, n, numbers);
            if (!wrong)
                wrong = kronq_encode_lanes(written, &end, most + 3 * n, n_contexts, largest, counts,
                                           n_runs, of_run, sizes, places, widths);
            if (wrong == TOO_SHORT && most < room)
                wrong = OK;
            else if (!wrong)
                wrong = kronq_close_stream(written, &end);
            for (int64_t i = 0; i < n_runs; i++) free((void *)(uintptr_t)places[i]);
            free(widths), free(places), free(written);
            if (wrong) return 2; /* all that is decoded can be encoded */
        }
        free(levels), free(sizes), free(of_run), free(numbers), free(counts), free(largest);
        free(words);
    }
    printf("%d of 400 streams refused\n", failures);
    return 0;
}
