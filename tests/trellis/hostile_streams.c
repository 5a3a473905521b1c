/* Decodes random and random-like streams with buffers of just the right size, for sanitizers. */
#include <stdio.h>
#include <stdlib.h>

#include "range_decoder.c"

static uint64_t seed = 1;

static uint64_t draw(uint64_t n) {
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return seed % n;
}

int main(void) {
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
        free(levels), free(sizes), free(of_run), free(numbers), free(counts), free(largest);
        free(words);
    }
    printf("%d of 400 streams refused\n", failures);
    return 0;
}
