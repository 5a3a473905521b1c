/* The products of product.h for each kind of processor, and the choice among them when the library is loaded.
 *
 * A library travels with a model, so it may use no instruction before it knows that the processor has it. On ARM
 * every processor has NEON. One processor computes the same bits in every run; SSE2, which rounds each product
 * before it is added, differs from the others in the last bits of a sum.
 */
#ifndef KRONQ_PROCESSORS_H
#define KRONQ_PROCESSORS_H

#include "record.h"

#define LANES 8
#define CHAINS 4 /* partial sums of a dot product, for every number of rows: so many hide an addition's time */
#define PANEL 240 /* rows that are decoded at once: whole words of every type */
#define BLOCK 32 /* activations that are rounded to int8 with one scale */
#define UNROLLED _Pragma("GCC unroll 16")
#define JOINED_(name, processor) name##_##processor
#define JOINED(name, processor) JOINED_(name, processor)
#define FOR_PROCESSOR(name) JOINED(name, PROCESSOR)

typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef int32_t integers __attribute__((vector_size(4 * LANES)));

typedef struct {
  void (*right)(const float* x, const Matrix* b2, float* h, int64_t m);
  void (*middle)(const Layer* t, const float* h, float* g, int64_t m);
  void (*left)(const Layer* t, const float* g, float* z, int64_t tokens, int64_t m, int64_t apart, int64_t width);
  void (*widen)(int type, const void* from, float* to, int64_t count);
  void (*narrow)(int type, const float* from, void* to, int64_t count);
  void (*block_sums)(const float* x, float* sums, int64_t count, int64_t size);
  void (*add_offsets)(const float* sums, int64_t blocks, const float* offset, float* z, int64_t width, int64_t tokens,
                      int64_t columns);
  void (*round_blocks)(const float* x, int8_t* codes, float* scales, int32_t* shifts, int64_t count);
} Products;

#if defined(__aarch64__)
#define TILE_ROWS 4 /* rows whose sums the registers hold */
#else
#define TILE_ROWS 2
#endif
#define PROCESSOR any
#define TARGET
#include "product.h"

#if defined(__x86_64__)
#include <cpuid.h>

#define PROCESSOR avx2
#define TILE_ROWS 2
#define TARGET __attribute__((target("avx2,fma")))
#include "product.h"

#define PROCESSOR avx512
#define TILE_ROWS 4
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
