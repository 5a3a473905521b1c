/* The products of product.h for each kind of processor, and the choice among them when the library is loaded.
 *
 * A library travels with a model, so it may use no instruction before it knows that the processor has it. On ARM
 * every processor has NEON. One processor computes the same bits in every run; SSE2, which rounds each product
 * before it is added, differs from the others in the last bits of a sum.
 */
#ifndef KRONQ_PROCESSORS_H
#define KRONQ_PROCESSORS_H

#include <stdint.h>
#include <string.h>

#define LANES 8
#define UNROLLED _Pragma("GCC unroll 8")
#define JOINED_(name, processor) name##_##processor
#define JOINED(name, processor) JOINED_(name, processor)
#define FOR_PROCESSOR(name) JOINED(name, PROCESSOR)

typedef float lanes __attribute__((vector_size(4 * LANES)));

typedef struct {
  void (*right)(const float* x, const float* b2, float* h, int64_t m, int64_t k, int64_t width);
  void (*middle)(const float* a, const float* h, float* g, int64_t m, int64_t a_out, int64_t a_in, int64_t wide,
                 int64_t width);
  void (*left)(const float* g, const float* b1, float* z, int64_t m, int64_t rank, int64_t wide, int64_t n);
} Products;

#define PROCESSOR any
#define TARGET
#include "product.h"

#if defined(__x86_64__)
#include <cpuid.h>

#define PROCESSOR avx2
#define TARGET __attribute__((target("avx2,fma")))
#include "product.h"

#define PROCESSOR avx512
#define TARGET __attribute__((target("avx2,fma,avx512f,avx512dq,avx512bw,avx512vl")))
#include "product.h"

/* Returns the products for this processor, as far as its operating system keeps the registers. */
static const Products* choose_products(void) {
  const unsigned avx512 = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
  unsigned a, b, c, d, kept, high;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_FMA)) return &products_any;
  __asm__("xgetbv" : "=a"(kept), "=d"(high) : "c"(0));
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_AVX2) || (kept & 0x06) != 0x06) return &products_any;
  return (b & avx512) == avx512 && (kept & 0xe6) == 0xe6 ? &products_avx512 : &products_avx2;
}
#else
static const Products* choose_products(void) { return &products_any; }
#endif

#endif
