/* Bytes of layers at a price of a byte, as kronq/quantization/mixed/bit_allocation.py finds them,
 * bit for bit. */
#include "library.h"

/* Finds the width of least error + price * bytes of one channel; returns its bytes. */
static inline int64_t cheapest(const double *errors, const int64_t *nbytes, int64_t widths,
                               double price, double *cost) {
    double least = errors[0] + price * (double)nbytes[0];
    int64_t best = 0;
    for (int64_t i = 1; i < widths; i++) {
        double found = errors[i] + price * (double)nbytes[i];
        if (found < least) least = found, best = i;
    }
    *cost = least;
    return nbytes[best];
}

/* Bytes of each layer at a price; of those that are as large at two other ones, one below it and one
 * above, that size.
 * errors [gauges, matrices, layers, channels, widths], absent [gauges, layers, channels], nbytes
 * [matrices, layers, widths]; least, most and sizes [layers]. */
EXPORT int kronq_sizes_at_price(int64_t gauges, int64_t matrices, int64_t layers, int64_t channels,
                                int64_t widths, const double *errors, const double *absent,
                                const int64_t *nbytes, const double *price, const int64_t *least,
                                const int64_t *most, int64_t *sizes) {
    for (int64_t layer = 0; layer < layers; layer++) {
        sizes[layer] = least[layer];
        if (least[layer] == most[layer]) continue;
        double lowest = 0;
        for (int64_t gauge = 0; gauge < gauges; gauge++) {
            double cost = 0;
            int64_t size = 0;
            for (int64_t channel = 0; channel < channels; channel++) {
                double present = 0, without = absent[(gauge * layers + layer) * channels + channel];
                int64_t bytes = 0;
                for (int64_t matrix = 0; matrix < matrices; matrix++) {
                    int64_t of_layer = matrix * layers + layer;
                    int64_t at = gauge * matrices * layers + of_layer;
                    double own;
                    bytes += cheapest(errors + (at * channels + channel) * widths,
                                      nbytes + of_layer * widths, widths, *price, &own);
                    present += own;
                }
                int kept = present < without;
                cost += kept ? present : without;
                size += kept ? bytes : 0;
            }
            if (!gauge || cost < lowest) lowest = cost, sizes[layer] = size;
        }
    }
    return OK;
}
