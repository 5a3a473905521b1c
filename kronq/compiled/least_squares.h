/* A system of equations of a Gram matrix, as kronq/quantization/mixed/least_squares.py solves it,
 * bit for bit. */
#include <stdint.h>

#define RIDGE 1e-7 /* of the mean of the diagonal */
#define LEAST 1e-30

/* Solves (gram + ridge) x = right for x, which takes the place of `right`; gram is changed. */
static inline void solve_ridge(int64_t size, double *gram, double *right) {
    double trace = 0;
    for (int64_t k = 0; k < size; k++) trace += gram[k * size + k];
    double ridge = RIDGE * (trace / (double)size) + LEAST;
    for (int64_t k = 0; k < size; k++) gram[k * size + k] += ridge;
    for (int64_t k = 0; k < size; k++) {
        const double *row = gram + k * size;
        for (int64_t i = k + 1; i < size; i++) {
            double factor = gram[i * size + k] / row[k];
            for (int64_t j = k + 1; j < size; j++) gram[i * size + j] -= factor * row[j];
            right[i] -= factor * right[k];
        }
    }
    for (int64_t k = size - 1; k >= 0; k--) {
        right[k] /= gram[k * size + k];
        for (int64_t i = 0; i < k; i++) right[i] -= gram[i * size + k] * right[k];
    }
}
