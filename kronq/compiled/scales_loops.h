/* The search of scales with WIDTH numbers at once, in functions of NAME FOR_PROCESSOR. */
#define VECTORS (LANES / WIDTH)
typedef float NAME(Floats) __attribute__((vector_size(4 * WIDTH)));
typedef float NAME(Stored) __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef int32_t NAME(Ints) __attribute__((vector_size(4 * WIDTH)));

/* Numbers brought between two others. */
FOR_PROCESSOR static inline NAME(Floats)
    NAME(within)(NAME(Floats) numbers, NAME(Floats) low, NAME(Floats) high) {
#if defined(X86) && WIDTH == 8
    return _mm256_min_ps(_mm256_max_ps(numbers, low), high);
#elif defined(X86)
    return _mm_min_ps(_mm_max_ps(numbers, low), high);
#else
    NAME(Ints) above = numbers > low;
    numbers = (NAME(Floats))((above & (NAME(Ints))numbers) | (~above & (NAME(Ints))low));
    NAME(Ints) below = numbers < high;
    return (NAME(Floats))((below & (NAME(Ints))numbers) | (~below & (NAME(Ints))high));
#endif
}

/* Adds up lanes by halves: the first half and the second, until one is left. */
FOR_PROCESSOR static inline float NAME(sum_of)(NAME(Floats) lanes[VECTORS]) {
    for (int half = VECTORS / 2; half; half /= 2)
        for (int v = 0; v < half; v++) lanes[v] += lanes[v + half];
#if defined(X86)
#if WIDTH == 8
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(lanes[0]), _mm256_extractf128_ps(lanes[0], 1));
#else
    __m128 four = lanes[0];
#endif
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
#else
    float left[WIDTH];
    memcpy(left, lanes, sizeof left);
    for (int half = WIDTH / 2; half; half /= 2)
        for (int i = 0; i < half; i++) left[i] += left[i + half];
    return left[0];
#endif
}

/* The codes of some values, as numbers. */
FOR_PROCESSOR static inline NAME(Floats)
    NAME(codes_of)(const Search *search, NAME(Floats) values, float inverse) {
    NAME(Floats) none = {0};
    NAME(Floats) codes = NAME(within)(values * inverse, none + search->low, none + search->high);
    return (codes + INTEGER) - INTEGER;
}

/* A sum with a product that is exact, so that fusing it changes nothing. */
FOR_PROCESSOR static inline NAME(Floats)
    NAME(add_exact)(NAME(Floats) sum, NAME(Floats) a, NAME(Floats) b) {
#if defined(X86) && WIDTH == 8
    return _mm256_fmadd_ps(a, b, sum);
#else
    return sum + a * b;
#endif
}

/* |x|^2 - |x - scale * codes|^2, and the scale of least squares for the codes. */
FOR_PROCESSOR static float NAME(gain_of)(const Search *search, const NAME(Stored) * row,
                                         float scale, float *refit) {
    NAME(Floats) cross[VECTORS] = {0}, norm[VECTORS] = {0};
    float inverse = scale > 0 ? 1 / scale : 0;
    for (int64_t i = 0; i < search->length / WIDTH; i += VECTORS)
        for (int v = 0; v < VECTORS; v++) {
            NAME(Floats) codes = NAME(codes_of)(search, row[i + v], inverse);
            cross[v] += row[i + v] * codes;
            norm[v] = NAME(add_exact)(norm[v], codes, codes);
        }
    float xq = NAME(sum_of)(cross), qq = NAME(sum_of)(norm);
    *refit = xq / (qq > 1 ? qq : 1);
    return scale * (2 * xq - scale * qq);
}

FOR_PROCESSOR static float NAME(error_of)(const Search *search, const NAME(Stored) * row,
                                          float scale) {
    NAME(Floats) sums[VECTORS] = {0}, none = {0}, less = none - scale;
    float inverse = scale > 0 ? 1 / scale : 0;
    for (int64_t i = 0; i < search->length / WIDTH; i += VECTORS)
        for (int v = 0; v < VECTORS; v++) {
            NAME(Floats) codes = NAME(codes_of)(search, row[i + v], inverse);
            NAME(Floats) error = NAME(add_exact)(row[i + v], codes, less);
            sums[v] += error * error;
        }
    return NAME(sum_of)(sums);
}

FOR_PROCESSOR static inline void NAME(attempt)(const Search *search, const NAME(Stored) * row,
                                               float scale, int64_t part, Best *best) {
    float refit, tried = nearest_half(scale < 65504 ? scale : 65504);
    float gain = NAME(gain_of)(search, row, tried, &refit);
    if (gain > best->gain) *best = (Best){gain, tried, refit, part};
}

FOR_PROCESSOR static void NAME(fit)(const Search *search, int64_t rows, const float *values,
                                    float *scales, float *errors) {
    for (int64_t row = 0; row < rows; row++) {
        const float *numbers = values + row * search->length;
        const NAME(Stored) *vectors = (const NAME(Stored) *)numbers;
        float top = largest_of(numbers, search->length) / search->high;
        Best best = {-1, 0, 0, 0};
        for (int64_t i = search->every / 2; i < search->trials; i += search->every)
            NAME(attempt)(search, vectors, top * search->parts[i], i, &best);
        if (search->every > 1) {
            int64_t last = search->trials - 1, middle = best.part;
            int64_t before = middle ? middle - 1 : 0, after = middle < last ? middle + 1 : last;
            NAME(attempt)(search, vectors, top * search->parts[before], before, &best);
            NAME(attempt)(search, vectors, top * search->parts[after], after, &best);
        }
        NAME(attempt)(search, vectors, best.refit, 0, &best);
        scales[row] = best.scale;
        errors[row] = NAME(error_of)(search, vectors, best.scale);
    }
}
#undef VECTORS
