/* Inner products of rows of int16, WIDTH sums at once, in functions of NAME FOR_PROCESSOR. */
#if WIDTH > 1
typedef int32_t NAME(Sums) __attribute__((vector_size(4 * WIDTH)));
typedef int16_t NAME(Numbers) __attribute__((vector_size(4 * WIDTH), aligned(2), may_alias));

FOR_PROCESSOR static inline NAME(Sums)
    NAME(add_products)(NAME(Sums) sums, NAME(Numbers) a, NAME(Numbers) b) {
#if WIDTH == 16
    return (NAME(Sums))_mm512_dpwssd_epi32((__m512i)sums, (__m512i)a, (__m512i)b);
#else
    return sums + (NAME(Sums))_mm256_madd_epi16((__m256i)a, (__m256i)b);
#endif
}

FOR_PROCESSOR static inline int64_t NAME(total_of)(NAME(Sums) sums) {
#if WIDTH == 16
    __m512i low = _mm512_cvtepi32_epi64(_mm512_castsi512_si256((__m512i)sums));
    __m512i high = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64((__m512i)sums, 1));
    return _mm512_reduce_add_epi64(_mm512_add_epi64(low, high));
#else
    __m256i low = _mm256_cvtepi32_epi64(_mm256_castsi256_si128((__m256i)sums));
    __m256i high = _mm256_cvtepi32_epi64(_mm256_extracti128_si256((__m256i)sums, 1));
    __m256i four = _mm256_add_epi64(low, high);
    return _mm256_extract_epi64(four, 0) + _mm256_extract_epi64(four, 1) +
           _mm256_extract_epi64(four, 2) + _mm256_extract_epi64(four, 3);
#endif
}

/* Inner products of a row with TOGETHER others, of which a and b are read once. */
FOR_PROCESSOR static inline void NAME(several)(const int16_t *a, const int16_t *b, int64_t length,
                                               double *products) {
    int64_t totals[TOGETHER] = {0};
    for (int64_t start = 0; start < length; start += LONG_FLUSH) {
        int64_t end = length - start < LONG_FLUSH ? length : start + LONG_FLUSH;
        NAME(Sums) sums[TOGETHER] = {0};
        for (int64_t i = start; i < end; i += 2 * WIDTH)
            for (int k = 0; k < TOGETHER; k++)
                sums[k] = NAME(add_products)(sums[k], *(const NAME(Numbers) *)(a + i),
                                             *(const NAME(Numbers) *)(b + k * length + i));
        for (int k = 0; k < TOGETHER; k++) totals[k] += NAME(total_of)(sums[k]);
    }
    for (int k = 0; k < TOGETHER; k++) products[k] = (double)totals[k];
}
#endif

FOR_PROCESSOR static void NAME(products)(int64_t rows, int64_t length, const int16_t *a,
                                         const int16_t *b, double *products) {
    for (int64_t i = 0; i < rows; i++) {
        int64_t j = 0;
#if WIDTH > 1
        for (; j + TOGETHER <= rows; j += TOGETHER) {
            if (a == b && j + TOGETHER <= i) continue; /* symmetric: known from above */
            NAME(several)(a + i * length, b + j * length, length, products + i * rows + j);
        }
#endif
        for (; j < rows; j++)
            products[i * rows + j] =
                (double)inner_product(a + i * length, b + j * length, length);
    }
    if (a == b)
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < i; j++) products[i * rows + j] = products[j * rows + i];
}
