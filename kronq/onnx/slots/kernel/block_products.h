/* kronq::BlockProducts_1..4: the products of the layers that read one input with weights in blocks of 4 bits.
 *
 * Inputs are X [..., d_in], float32, and the weights W_i, uint8 [panels, blocks, 320] (blocks.h); outputs are
 * Y_i [..., 16 · panels], float32. X is rounded to int8 in blocks of 32, once for all layers.
 */
#ifndef KRONQ_BLOCK_PRODUCTS_H
#define KRONQ_BLOCK_PRODUCTS_H

#include "blocks.h"
#include "kernel.h"

#define SHARE_PANELS 8 /* that are one thread's at a time: what the caches hold */

static PanelProduct panel_product; /* of this processor */

typedef struct {
  Rounded x;
  const unsigned char* weight[OUTPUTS];
  float* y[OUTPUTS];
  int64_t tokens, panels[OUTPUTS];
} BlockProducts;

static int64_t shares_of(int64_t panels) { return rounded(panels, SHARE_PANELS) / SHARE_PANELS; }

/* Computes one share of one layer. */
static void multiply_share(void* with, size_t index) {
  const BlockProducts* all = with;
  int64_t share = (int64_t)index;
  size_t i = 0;
  for (; share >= shares_of(all->panels[i]); i++) share -= shares_of(all->panels[i]);
  const int64_t first = share * SHARE_PANELS, left_over = all->panels[i] - first;
  const int64_t end = first + (left_over < SHARE_PANELS ? left_over : SHARE_PANELS);
  for (int64_t p = first; p < end; p++)
    panel_product(&all->x, all->tokens, all->weight[i] + p * all->x.blocks * PANEL_BYTES,
                  all->y[i] + p * PANEL_COLUMNS, all->panels[i] * PANEL_COLUMNS);
}

/* Reads the weights and makes the outputs. */
static OrtStatus* make_products(const Kernel* kernel, OrtKernelContext* context, const Tensor* x, BlockProducts* all) {
  int64_t shape[RANKS];
  memcpy(shape, x->shape, x->rank * sizeof *shape);
  for (size_t i = 0; i < kernel->outputs; i++) {
    Tensor weight;
    OrtValue* out;
    void* y;
    TRY(tensor(kernel->ort, context, 1 + i, &weight));
    if (weight.rank != 3 || weight.shape[2] != PANEL_BYTES || weight.shape[1] != all->x.blocks)
      return refuse(kernel->ort, "weights of another layer");
    all->weight[i] = weight.data, all->panels[i] = weight.shape[0];
    shape[x->rank - 1] = weight.shape[0] * PANEL_COLUMNS;
    TRY(kernel->ort->KernelContext_GetOutput(context, i, shape, x->rank, &out));
    TRY(kernel->ort->GetTensorMutableData(out, &y));
    all->y[i] = y;
  }
  return NULL;
}

static OrtStatus* run_products(const Kernel* kernel, OrtKernelContext* context, const Tensor* x) {
  const int64_t d_in = x->shape[x->rank - 1];
  BlockProducts all = {.x = {.blocks = d_in / BLOCK}, .tokens = tokens_of(x)};
  float room[ROOM];
  int64_t shares = 0;
  if (d_in < 1 || d_in % BLOCK || d_in >= LARGEST) return refuse(kernel->ort, "X is not whole blocks");
  TRY(make_products(kernel, context, x, &all));
  for (size_t i = 0; i < kernel->outputs; i++) shares += shares_of(all.panels[i]);
  if (!all.tokens || !shares) return NULL;
  const int64_t count = all.tokens * all.x.blocks, each = BLOCK / (int64_t)sizeof *room + 3; /* codes, scale, sum, shift */
  float* scratch = count * each > ROOM ? malloc((size_t)(count * each) * sizeof *scratch) : room;
  if (!scratch) return kernel->ort->CreateStatus(ORT_FAIL, "kronq: out of memory");
  float *scales = scratch, *sums = scratch + count;
  int32_t* shifts = (int32_t*)(sums + count);
  int8_t* codes = (int8_t*)(shifts + count);
  products->round_blocks(x->data, codes, scales, shifts, count);
  products->block_sums(x->data, sums, count, BLOCK);
  all.x.codes = codes, all.x.scales = scales, all.x.sums = sums, all.x.shifts = shifts;
  OrtStatus* status = kernel->ort->KernelContext_ParallelFor(context, multiply_share, (size_t)shares, 0, &all);
  if (scratch != room) free(scratch);
  return status;
}

#endif
