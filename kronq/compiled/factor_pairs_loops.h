/* One pass over the channels, with WIDTH numbers at once, in functions of NAME FOR_PROCESSOR. */
#define VECTORS (BLOCK / WIDTH)
typedef double NAME(Doubles) __attribute__((vector_size(8 * WIDTH)));
typedef double NAME(Stored) __attribute__((vector_size(8 * WIDTH), aligned(8), may_alias));
typedef int64_t NAME(Masks) __attribute__((vector_size(8 * WIDTH)));

FOR_PROCESSOR static inline NAME(Doubles)
    NAME(add_product)(NAME(Doubles) sum, double weight, NAME(Stored) number) {
#if defined(X86) && WIDTH == 4
    return _mm256_fmadd_pd(_mm256_set1_pd(weight), number, sum);
#else
    return sum + weight * number;
#endif
}

/* Numbers brought between two others. */
FOR_PROCESSOR static inline NAME(Doubles)
    NAME(within)(NAME(Doubles) numbers, NAME(Doubles) low, NAME(Doubles) high) {
#if defined(X86) && WIDTH == 4
    return _mm256_min_pd(_mm256_max_pd(numbers, low), high);
#elif defined(X86)
    return _mm_min_pd(_mm_max_pd(numbers, low), high);
#else
    NAME(Masks) above = numbers > low;
    numbers = (NAME(Doubles))((above & (NAME(Masks))numbers) | (~above & (NAME(Masks))low));
    NAME(Masks) below = numbers < high;
    return (NAME(Doubles))((below & (NAME(Masks))numbers) | (~below & (NAME(Masks))high));
#endif
}

FOR_PROCESSOR static inline void NAME(load)(const Layer *layer, int64_t at) {
    for (int64_t k = 0; k < layer->channels; k++) {
        const int16_t *targets = layer->targets + k * layer->length + at;
        const int16_t *codes = layer->codes + k * layer->length + at;
        double *own = layer->numbers + k * BLOCK, *other = own + layer->channels * BLOCK;
        for (int i = 0; i < BLOCK; i++) own[i] = targets[i], other[i] = codes[i];
    }
}

FOR_PROCESSOR static inline void NAME(store)(const Layer *layer, int64_t at) {
    for (int64_t k = 0; k < layer->channels; k++) {
        int16_t *made = layer->made + k * layer->length + at;
        const double *codes = layer->numbers + (layer->channels + k) * BLOCK;
        for (int i = 0; i < BLOCK; i++) made[i] = (int16_t)(int32_t)codes[i];
    }
}

FOR_PROCESSOR static int64_t NAME(descend)(const Layer *layer) {
    int64_t channels = layer->channels, clipped = 0;
    NAME(Doubles) none = {0};
    for (int64_t at = 0; at < layer->length; at += BLOCK) {
        NAME(Masks) beyond = {0};
        NAME(load)(layer, at);
        for (int64_t k = 0; k < channels; k++) {
            NAME(Doubles) sums[VECTORS];
            for (int v = 0; v < VECTORS; v++) sums[v] = none;
            const double *weights = layer->weights + 2 * k * channels;
            for (int64_t j = 0; j < 2 * channels; j++) {
                if (j == channels + k) continue; /* its weight is 0 */
                const NAME(Stored) *row = (const NAME(Stored) *)(layer->numbers + j * BLOCK);
                for (int v = 0; v < VECTORS; v++)
                    sums[v] = NAME(add_product)(sums[v], weights[j], row[v]);
            }
            NAME(Doubles) low = none + layer->low[k], high = none + layer->high[k];
            NAME(Stored) *own = (NAME(Stored) *)(layer->numbers + (channels + k) * BLOCK);
            for (int v = 0; v < VECTORS; v++) {
                NAME(Doubles) code = NAME(within)(sums[v] * layer->units[k], low - 1, high + 1);
                code = (code + INTEGER) - INTEGER;
                own[v] = NAME(within)(code, low, high);
                beyond -= code != own[v];
            }
        }
        NAME(store)(layer, at);
        for (int i = 0; i < WIDTH; i++) clipped += beyond[i];
    }
    return clipped;
}
#undef VECTORS
