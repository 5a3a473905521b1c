/* One pass over the channels, with WIDTH numbers at once, in functions of NAME FOR_PROCESSOR. */
#define VECTORS (BLOCK / WIDTH)
typedef double NAME(Doubles) __attribute__((vector_size(8 * WIDTH)));
typedef double NAME(Stored) __attribute__((vector_size(8 * WIDTH), aligned(8), may_alias));

FOR_PROCESSOR static void NAME(products)(int64_t rows_a, int64_t rows_b, int64_t length,
                                         const int16_t *a, const int16_t *b, double *products) {
    inner_products(rows_a, rows_b, length, a, b, products);
}

FOR_PROCESSOR static inline NAME(Doubles)
    NAME(add_product)(NAME(Doubles) sum, double weight, NAME(Stored) number) {
#if defined(__x86_64__) && WIDTH == 4
    return _mm256_fmadd_pd(_mm256_set1_pd(weight), number, sum);
#else
    return sum + weight * number;
#endif
}

FOR_PROCESSOR static inline void NAME(load)(const Layer *layer, int64_t at) {
    for (int64_t k = 0; k < layer->channels; k++) {
        const int16_t *targets = layer->targets + k * layer->length + at;
        const int16_t *codes = layer->codes + k * layer->length + at;
        double *own = layer->numbers + k * BLOCK, *other = own + layer->channels * BLOCK;
        for (int i = 0; i < BLOCK; i++) own[i] = targets[i], other[i] = UNITS * codes[i];
    }
}

FOR_PROCESSOR static int64_t NAME(descend)(const Layer *layer) {
    int64_t clipped = 0, channels = layer->channels;
    for (int64_t at = 0; at < layer->length; at += BLOCK) {
        NAME(load)(layer, at);
        for (int64_t k = 0; k < channels; k++) {
            union {
                NAME(Doubles) vectors[VECTORS];
                double each[BLOCK];
            } sums = {0};
            const double *weights = layer->weights + 2 * k * channels;
            for (int64_t j = 0; j < 2 * channels; j++) {
                const NAME(Stored) *row = (const NAME(Stored) *)(layer->numbers + j * BLOCK);
                for (int v = 0; v < VECTORS; v++)
                    sums.vectors[v] = NAME(add_product)(sums.vectors[v], weights[j], row[v]);
            }
            double low = layer->low[k], high = layer->high[k], unit = layer->units[k];
            double *own = layer->numbers + (channels + k) * BLOCK;
            int16_t *made = layer->made + k * layer->length + at;
            for (int i = 0; i < BLOCK; i++) {
                double code = sums.each[i] * unit;
                code = code > low - 1 ? code : low - 1;
                code = code < high + 1 ? code : high + 1;
                code = (code + INTEGER) - INTEGER;
                clipped += code < low || code > high;
                code = code > low ? code : low;
                code = code < high ? code : high;
                made[i] = (int16_t)(int32_t)code;
                own[i] = UNITS * code;
            }
        }
    }
    return clipped;
}
#undef VECTORS
