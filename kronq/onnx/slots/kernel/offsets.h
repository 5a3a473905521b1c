/* kronq::BlockOffsets_1..4: the offsets of blocks of weights, of the layers that read one input, as one operator.
 *
 * Inputs are X [..., d_in], the layers' products Y_i [..., width_i] and their offsets O_i [blocks, width_i], all
 * float32; outputs are Z_i = Y_i + sums(X) · O_i, where sums(X) [..., blocks] are the sums of X's blocks.
 * A base made of a GGUF file of Q4_1 has five ONNX operators for it.
 */
#ifndef KRONQ_OFFSETS_H
#define KRONQ_OFFSETS_H

#include "kernel.h"

#define SHARE 256 /* columns that are one thread's at a time, a multiple of 2·LANES */

typedef struct {
  const Products* products;
  const float *sums, *offset[OUTPUTS];
  float* z[OUTPUTS];
  int64_t tokens, blocks, width[OUTPUTS];
} Offsets;

/* Adds one share of one layer's offsets. */
static void add_share(void* with, size_t index) {
  const Offsets* all = with;
  int64_t share = (int64_t)index;
  size_t i = 0;
  for (; share >= rounded(all->width[i], SHARE) / SHARE; i++) share -= rounded(all->width[i], SHARE) / SHARE;
  const int64_t first = share * SHARE, left_over = all->width[i] - first;
  all->products->add_offsets(all->sums, all->blocks, all->offset[i] + first, all->z[i] + first, all->width[i],
                             all->tokens, left_over < SHARE ? left_over : SHARE);
}

/* Reads the offsets of the outputs that are made. Returns an error where shapes do not fit. */
static OrtStatus* read_offsets(const Kernel* kernel, OrtKernelContext* context, const Tensor* x, Offsets* all) {
  for (size_t i = 0; i < kernel->outputs; i++) {
    Tensor offset;
    TRY(tensor(kernel->ort, context, 1 + kernel->outputs + i, &offset));
    const int64_t blocks = offset.shape[0], d_in = x->shape[x->rank - 1];
    if (offset.rank != 2 || offset.shape[1] != all->width[i] || (i && blocks != all->blocks))
      return refuse(kernel->ort, "offsets of another layer");
    if (blocks < 1 || d_in < 1 || d_in % (blocks * LANES) || all->width[i] % (2 * LANES))
      return refuse(kernel->ort, "blocks of a size that no graph of kronq has");
    all->blocks = blocks, all->offset[i] = offset.data;
  }
  return NULL;
}

static OrtStatus* run_offsets(const Kernel* kernel, OrtKernelContext* context, Batch* batch, const Tensor* x) {
  Offsets all = {.products = batch->products, .tokens = tokens_of(x)};
  float room[ROOM], *sums = room;
  int64_t shares = 0;
  for (size_t i = 0; i < kernel->outputs; i++) {
    all.width[i] = batch->width[i], all.z[i] = (float*)batch->z[i];
    shares += rounded(all.width[i], SHARE) / SHARE;
  }
  TRY(read_offsets(kernel, context, x, &all));
  const int64_t count = all.tokens * all.blocks;
  if (!count || !shares) return NULL;
  if (count > ROOM && !(sums = malloc((size_t)count * sizeof *sums)))
    return kernel->ort->CreateStatus(ORT_FAIL, "kronq: out of memory");
  batch->products->block_sums(x->data, sums, count, x->shape[x->rank - 1] / all.blocks);
  all.sums = sums;
  OrtStatus* status = kernel->ort->KernelContext_ParallelFor(context, add_share, (size_t)shares, 0, &all);
  if (sums != room) free(sums);
  return status;
}

#endif
