/* One pass over at most FEW channels in whole numbers of 32 bits, WIDTH positions at once, in
 * functions of NAME FOR_PROCESSOR.
 *
 * A weight is high * 2^SPLIT + low, both of them at most 2^12, a number at most 2^15: sums of
 * 2 * FEW - 1 products fit into 31 bits. What is left of the low sum, once its upper bits are
 * added to the high one, only tells whether a code lies on or beside the middle of two. */
#define VECTORS (POSITIONS / WIDTH)
typedef int32_t NAME(Words) __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t NAME(Bits) __attribute__((vector_size(4 * WIDTH)));

/* Adds the products of pairs of int16. */
FOR_PROCESSOR static inline NAME(Words)
    NAME(add_pairs)(NAME(Words) sum, NAME(Words) numbers, NAME(Words) weights) {
#if WIDTH == 16
    return (NAME(Words))_mm512_dpwssd_epi32((__m512i)sum, (__m512i)numbers, (__m512i)weights);
#else
    return sum + (NAME(Words))_mm256_madd_epi16((__m256i)numbers, (__m256i)weights);
#endif
}

FOR_PROCESSOR static inline NAME(Words)
    NAME(between)(NAME(Words) codes, NAME(Words) low, NAME(Words) high) {
#if WIDTH == 16
    return (NAME(Words))_mm512_min_epi32(_mm512_max_epi32((__m512i)codes, (__m512i)low),
                                         (__m512i)high);
#else
    return (NAME(Words))_mm256_min_epi32(_mm256_max_epi32((__m256i)codes, (__m256i)low),
                                         (__m256i)high);
#endif
}

/* The codes that sums stand for: divided by a power of two, to the nearest, half to even. */
FOR_PROCESSOR static inline NAME(Words)
    NAME(round_sums)(NAME(Words) high, NAME(Words) low, int32_t shift) {
    NAME(Words) sum = high + (low >> SPLIT), inexact = (low & ((1 << SPLIT) - 1)) != 0;
    sum |= inexact & 1;
    return (sum + ((1 << (shift - 1)) - 1) + (sum >> shift & 1)) >> shift;
}

FOR_PROCESSOR static int64_t NAME(pass)(const Layer *layer, const WholeWeights *whole,
                                        int64_t at, int64_t count) {
    int64_t channels = layer->channels, clipped = 0;
    NAME(Words) numbers[FEW][VECTORS], none = {0}, beyond = {0};
    load_pairs(layer, at, count, (uint32_t *)numbers);
    for (int64_t k = 0; k < channels; k++) {
        NAME(Words) high[VECTORS], low[VECTORS];
        for (int v = 0; v < VECTORS; v++) high[v] = low[v] = none;
        for (int64_t i = 0; i < channels; i++) {
            NAME(Words) upper = none + whole->high[k][i], lower = none + whole->low[k][i];
            for (int v = 0; v < VECTORS; v++) {
                high[v] = NAME(add_pairs)(high[v], numbers[i][v], upper);
                low[v] = NAME(add_pairs)(low[v], numbers[i][v], lower);
            }
        }
        NAME(Words) *own = numbers[(channels + k) / 2];
        int32_t other = (channels + k) % 2 ? 0xffff : ~0xffff;
        int up = (channels + k) % 2 ? 24 : 8; /* UNITS, in either half of a pair */
        NAME(Words) least = none + (int32_t)layer->low[k], most = none + (int32_t)layer->high[k];
        for (int v = 0; v < VECTORS; v++) {
            NAME(Words) code = NAME(round_sums)(high[v], low[v], whole->shifts[k]);
            NAME(Words) kept = NAME(between)(code, least, most);
            beyond -= code != kept;
            own[v] = (own[v] & other) | ((NAME(Words))((NAME(Bits))kept << up) & ~other);
        }
    }
    store_pairs(layer, at, count, (const uint32_t *)numbers);
    for (int i = 0; i < WIDTH; i++) clipped += beyond[i];
    return clipped;
}
#undef VECTORS
