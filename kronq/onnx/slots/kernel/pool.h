/* Rows that name their adapters: where in a pool the record of each begins, and its tag. */
#ifndef KRONQ_POOL_H
#define KRONQ_POOL_H

#include "kernel.h"

#define LOOK_BACK 64 /* parts among which a row looks for its own adapter */

/* Rows of a batch, those of one adapter as one part. */
typedef struct {
  const int64_t *offsets, *tags;
  int64_t count, each;           /* rows, and tokens of each */
  int64_t *part_of, *row, *list; /* of each row its part or -1; of each part its first row; tokens by part */
  size_t parts;
} Rows;

static OrtStatus* read_rows(const Kernel* kernel, const OrtKernelContext* context, const Tensor* x, int64_t tokens,
                            Rows* rows) {
  Tensor offsets, tags;
  TRY(tensor(kernel->ort, context, kernel->outputs + 2, &offsets));
  TRY(tensor(kernel->ort, context, kernel->outputs + 3, &tags));
  const int64_t n = offsets.shape[0], batch = x->shape[0];
  if (offsets.rank != 1 || tags.rank != 1 || tags.shape[0] != n)
    return refuse(kernel->ort, "a record's place and its tag are one number for each row");
  if (x->rank > 2 ? n != batch && (batch != 1 || n != tokens) : tokens % (n ? n : 1) || n > tokens)
    return refuse(kernel->ort, "the batch has other rows than were given adapters");
  *rows = (Rows){.offsets = offsets.data, .tags = tags.data, .count = n, .each = n ? tokens / n : 0};
  return n || !tokens ? NULL : refuse(kernel->ort, "the batch has other rows than were given adapters");
}

/* Gives every row its part, and every part its tokens. */
static void divide(Rows* rows) {
  for (int64_t r = 0; r < rows->count; r++) {
    rows->part_of[r] = -1;
    if (rows->offsets[r] == -1) continue;
    size_t p = rows->parts, last = p > LOOK_BACK ? p - LOOK_BACK : 0;
    while (p > last && (rows->offsets[rows->row[p - 1]] != rows->offsets[r] ||
                        rows->tags[rows->row[p - 1]] != rows->tags[r]))
      p--;
    if (p == last) rows->row[rows->parts++] = r, p = rows->parts;
    rows->part_of[r] = (int64_t)p - 1;
  }
}

/* Lists the tokens of each part. */
static void list_tokens(Rows* rows, Part* parts) {
  for (int64_t r = 0; r < rows->count; r++)
    if (rows->part_of[r] >= 0) parts[rows->part_of[r]].tokens += rows->each;
  int64_t first = 0;
  for (size_t p = 0; p < rows->parts; p++) parts[p].first = first, first += parts[p].tokens, parts[p].tokens = 0;
  for (int64_t r = 0; r < rows->count; r++) {
    if (rows->part_of[r] < 0) continue;
    Part* part = parts + rows->part_of[r];
    const int64_t token = r * rows->each;
    if (!part->tokens)
      part->at = token;
    else if (part->at + part->tokens != token)
      part->at = -1;
    for (int64_t i = 0; i < rows->each; i++) rows->list[part->first + part->tokens++] = token + i;
  }
}

/* Fetches the first lines of all records, which would be waited for one by one. */
static void fetch_heads(const Kernel* kernel, const Rows* rows, const char* pool, int64_t size) {
  for (size_t p = 0; p < rows->parts; p++) {
    const int64_t offset = rows->offsets[rows->row[p]], left = size - offset;
    if (offset < 0 || left < LINE) continue;
    __builtin_prefetch(pool + offset);
    for (size_t i = 0; i < kernel->members; i++) {
      const int64_t index = __atomic_load_n(&kernel->places[i].index, __ATOMIC_RELAXED);
      const int64_t place = __atomic_load_n(&kernel->places[i].offset, __ATOMIC_RELAXED);
      if (LINE + 16 * index < left) __builtin_prefetch(pool + offset + LINE + 16 * index);
      if (place < left) __builtin_prefetch(pool + offset + place);
    }
  }
}

static OrtStatus* open_parts(Kernel* kernel, const Rows* rows, const Tensor* pool, Part* parts, Layer* layers) {
  const int64_t size = pool->shape[0];
  fetch_heads(kernel, rows, pool->data, size);
  for (size_t p = 0; p < rows->parts; p++) {
    Record record;
    const int64_t row = rows->row[p], offset = rows->offsets[row];
    const char* wrong = "no adapter's record begins there";
    parts[p] = (Part){.layers = layers + p * kernel->members};
    if (offset >= 0 && offset < size)
      wrong = open_record((const unsigned char*)pool->data + offset, size - offset, (uint64_t)rows->tags[row], &record);
    if (!wrong) wrong = read_layers(kernel, &record, parts[p].layers);
    if (wrong) {
      char line[160];
      snprintf(line, sizeof line, "row %lld, byte %lld of the pool: %s", (long long)row, (long long)offset, wrong);
      return refuse(kernel->ort, line);
    }
  }
  return NULL;
}

/* Computes with an adapter for each row. */
static OrtStatus* run_pool(Kernel* kernel, OrtKernelContext* context, Batch* batch, const Tensor* x, int64_t tokens) {
  Tensor pool;
  Rows rows;
  TRY(tensor(kernel->ort, context, kernel->outputs + 1, &pool));
  if (pool.rank != 1) return refuse(kernel->ort, "a pool is a row of bytes");
  TRY(read_rows(kernel, context, x, tokens, &rows));
  const size_t n = (size_t)rows.count, numbers = 2 * n + (size_t)tokens;
  const size_t each = sizeof(Part) + kernel->members * sizeof(Layer);
  if (!n) return NULL;
  int64_t* room = malloc(numbers * sizeof *room);
  if (!room) return kernel->ort->CreateStatus(ORT_FAIL, "kronq: out of memory");
  rows.part_of = room, rows.row = room + n, rows.list = room + 2 * n;
  divide(&rows);
  Part* parts = malloc(rows.parts * each + 1);
  OrtStatus* status = NULL;
  if (!parts) {
    status = kernel->ort->CreateStatus(ORT_FAIL, "kronq: out of memory");
  } else {
    status = open_parts(kernel, &rows, &pool, parts, (Layer*)(parts + rows.parts));
    if (!status) {
      list_tokens(&rows, parts);
      batch->part = parts, batch->parts = rows.parts, batch->list = rows.list;
      if (rows.parts) status = run(kernel->ort, context, batch);
    }
  }
  free(parts), free(room);
  return status;
}

#endif
