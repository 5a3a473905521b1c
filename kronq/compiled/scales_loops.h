/* The search of scales with WIDTH numbers at once, in functions of NAME FOR_PROCESSOR. */
#define VECTORS (LANES / WIDTH)
#define TOGETHER (WIDTH / 4) /* scales that are tried in one pass: what registers hold */
typedef float NAME(Floats) __attribute__((vector_size(4 * WIDTH)));
typedef float NAME(Stored) __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef int32_t NAME(Ints) __attribute__((vector_size(4 * WIDTH)));

/* Numbers brought between two others. */
FOR_PROCESSOR static inline NAME(Floats)
    NAME(within)(NAME(Floats) numbers, NAME(Floats) low, NAME(Floats) high) {
#if defined(X86) && WIDTH == 16
    return _mm512_min_ps(_mm512_max_ps(numbers, low), high);
#elif defined(X86) && WIDTH == 8
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
#if WIDTH == 4
    __m128 four = lanes[0];
#else
#if WIDTH == 16
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(lanes[0]),
                                 _mm512_extractf32x8_ps(lanes[0], 1));
#else
    __m256 eight = lanes[0];
#endif
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
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
#if defined(X86) && WIDTH == 16
    return _mm512_roundscale_ps(codes, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(X86) && WIDTH == 8
    return _mm256_round_ps(codes, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    return (codes + INTEGER) - INTEGER;
#endif
}

/* A sum with a product that is exact, so that fusing it changes nothing. */
FOR_PROCESSOR static inline NAME(Floats)
    NAME(add_exact)(NAME(Floats) sum, NAME(Floats) a, NAME(Floats) b) {
#if defined(X86) && WIDTH == 16
    return _mm512_fmadd_ps(a, b, sum);
#elif defined(X86) && WIDTH == 8
    return _mm256_fmadd_ps(a, b, sum);
#else
    return sum + a * b;
#endif
}

/* |x|^2 - |x - scale * codes|^2 of some scales, and the scales of least squares for the codes. */
FOR_PROCESSOR static inline __attribute__((always_inline)) void
    NAME(gains_of)(const Search *search, const NAME(Stored) * row, const int count,
                   const float *scales, float *gains, float *refits) {
    NAME(Floats) cross[TOGETHER][VECTORS] = {0}, norm[TOGETHER][VECTORS] = {0};
    float inverses[TOGETHER];
    for (int k = 0; k < count; k++) inverses[k] = scales[k] > 0 ? 1 / scales[k] : 0;
    for (int64_t i = 0; i < search->length / WIDTH; i += VECTORS)
        for (int v = 0; v < VECTORS; v++)
            for (int k = 0; k < count; k++) {
                NAME(Floats) codes = NAME(codes_of)(search, row[i + v], inverses[k]);
                cross[k][v] += row[i + v] * codes;
                norm[k][v] = NAME(add_exact)(norm[k][v], codes, codes);
            }
    for (int k = 0; k < count; k++) {
        float xq = NAME(sum_of)(cross[k]), qq = NAME(sum_of)(norm[k]);
        refits[k] = xq / (qq > 1 ? qq : 1);
        gains[k] = scales[k] * (2 * xq - scales[k] * qq);
    }
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

/* Tries some scales, each times the part of the same place; the first of equally good ones stays. */
FOR_PROCESSOR static void NAME(attempt)(const Search *search, const NAME(Stored) * row,
                                        const Trials *trials, Best *best) {
    for (int64_t first = 0, left = trials->count; left > 0; first += TOGETHER, left -= TOGETHER) {
        float scales[TOGETHER], gains[TOGETHER], refits[TOGETHER];
        int count = left < TOGETHER ? (int)left : TOGETHER;
        for (int k = 0; k < count; k++) {
            float scale = trials->scales[first + k];
            scales[k] = nearest_half(scale < 65504 ? scale : 65504);
        }
        if (count == 1)
            NAME(gains_of)(search, row, 1, scales, gains, refits);
        else if (count == 2 && TOGETHER > 2)
            NAME(gains_of)(search, row, 2, scales, gains, refits);
        else if (count == TOGETHER)
            NAME(gains_of)(search, row, TOGETHER, scales, gains, refits);
        else
            NAME(gains_of)(search, row, count, scales, gains, refits);
        for (int k = 0; k < count; k++)
            if (gains[k] > best->gain)
                *best = (Best){gains[k], scales[k], refits[k], trials->parts[first + k]};
    }
}

FOR_PROCESSOR static void NAME(fit)(const Search *search, int64_t rows, const float *values,
                                    float *scales, float *errors) {
    for (int64_t row = 0; row < rows; row++) {
        const float *numbers = values + row * search->length;
        const NAME(Stored) *vectors = (const NAME(Stored) *)numbers;
        float top = largest_of(numbers, search->length) / search->high;
        Best best = {-1, 0, 0, 0};
        Trials trials = {0};
        for (int64_t i = search->every / 2; i < search->trials; i += search->every)
            add_trial(&trials, top * search->parts[i], i);
        NAME(attempt)(search, vectors, &trials, &best);
        if (search->every > 1) {
            int64_t last = search->trials - 1, middle = best.part;
            int64_t before = middle ? middle - 1 : 0, after = middle < last ? middle + 1 : last;
            trials.count = 0;
            add_trial(&trials, top * search->parts[before], before);
            add_trial(&trials, top * search->parts[after], after);
            NAME(attempt)(search, vectors, &trials, &best);
        }
        trials.count = 0;
        add_trial(&trials, best.refit, 0);
        NAME(attempt)(search, vectors, &trials, &best);
        scales[row] = best.scale;
        errors[row] = NAME(error_of)(search, vectors, best.scale);
    }
}
#undef VECTORS
#undef TOGETHER
