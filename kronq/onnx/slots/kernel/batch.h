/* A batch of tokens and the adapters that they are computed with: those of one adapter together, a few at a time. */
#ifndef KRONQ_BATCH_H
#define KRONQ_BATCH_H

#include <stdlib.h>

#include "processors.h"

#define OUTPUTS 4
#define MEMBERS 16
#define ROOM 4096       /* floats of scratch: 16 KB of stack */
#define STAGED 32768    /* the same where tokens are copied: 128 KB of the heap */
#define MOST_TOKENS 32  /* tokens of a step: the steps of a long prompt are shared among threads */
#define AHEAD 16384     /* bytes of a layer's part that are fetched before they are used */

/* Tokens of one adapter, and what it has for the layers. */
typedef struct {
  Layer* layers;
  int64_t at;            /* its first token, where they are neighbours; else -1 */
  int64_t first, tokens; /* in the batch's list of tokens */
  int64_t step, room, units;
} Part;

typedef struct {
  const Products* products;
  size_t members, outputs, parts;
  const int64_t *target, *start; /* of each member */
  int64_t d_in, width[OUTPUTS];
  int type;
  const char* x;
  char* z[OUTPUTS];
  const int64_t* list; /* numbers of the parts' tokens */
  Part* part;
  int failed;
} Batch;

static int is_staged(const Batch* batch, const Part* part) { return part->at < 0 || batch->type != TYPE_FLOAT32; }

/* Sets the tokens of each step of a part, and the floats of scratch that it takes. */
static void plan_part(const Batch* batch, Part* part) {
  const int staged = is_staged(batch, part);
  int64_t most = 0, each = 0;
  for (size_t i = 0; i < batch->members; i++) {
    const Layer* t = part->layers + i;
    if (t->rank && (t->a_in + t->a_out) * t->lanes > most) most = (t->a_in + t->a_out) * t->lanes;
  }
  for (size_t i = 0; i < batch->outputs; i++)
    if (batch->width[i] > each) each = batch->width[i];
  each = most + (staged ? batch->d_in + each : 0);
  part->step = each ? (staged ? STAGED : ROOM) / each : MOST_TOKENS;
  if (part->step > MOST_TOKENS) part->step = MOST_TOKENS;
  if (part->step > part->tokens) part->step = part->tokens;
  if (part->step < 1) part->step = 1;
  part->room = most ? each * part->step : 0;
  part->units = most ? (part->tokens + part->step - 1) / part->step : 0;
}

/* Adds one layer's outputs to z, whose tokens are `width` floats apart. */
static void add_layer(const Products* products, const Layer* t, const float* x, float* z, int64_t m, int64_t width,
                      float* room) {
  float *h = room, *g = room + m * t->a_in * t->lanes;
  products->right(x, &t->b2, h, m * t->a_in);
  products->middle(t, h, g, m);
  if (t->a_out == 1)
    products->left(t, g, z, 1, m, width, 0);
  else if (t->a_out * t->b_out == width)
    products->left(t, g, z, 1, m * t->a_out, t->b_out, 0);
  else
    products->left(t, g, z, m, t->a_out, t->b_out, width);
}

/* Computes m tokens from `first` on, with the outputs in place. */
static void add_in_place(const Batch* batch, const Part* part, int64_t first, int64_t m, float* room) {
  const float* x = (const float*)batch->x + first * batch->d_in;
  for (size_t i = 0; i < batch->members; i++) {
    const int64_t target = batch->target[i], width = batch->width[target];
    float* z = (float*)batch->z[target] + first * width + batch->start[i];
    if (part->layers[i].rank) add_layer(batch->products, part->layers + i, x, z, m, width, room);
  }
}

/* Copies m tokens of an array [tokens, width] to floats, or these back. */
static void copy(const Batch* batch, const Part* part, int64_t first, int64_t m, char* array, int64_t width, float* own,
                 int back) {
  const size_t size = batch->type == TYPE_FLOAT32 ? 4 : 2;
  for (int64_t n = 0; n < m; n++, own += width) {
    const int64_t token = part->at < 0 ? batch->list[part->first + first + n] : part->at + first + n;
    char* there = array + (size_t)(token * width) * size;
    if (back)
      batch->products->narrow(batch->type, own, there, width);
    else
      batch->products->widen(batch->type, there, own, width);
  }
}

/* The same with tokens that are not neighbours or no floats: they are copied, and the outputs copied back. */
static void add_staged(const Batch* batch, const Part* part, int64_t first, int64_t m, float* room) {
  float *x = room, *z = x + m * batch->d_in;
  copy(batch, part, first, m, (char*)batch->x, batch->d_in, x, 0);
  for (size_t o = 0; o < batch->outputs; o++) {
    const int64_t width = batch->width[o];
    int used = 0;
    for (size_t i = 0; i < batch->members; i++) used |= batch->target[i] == (int64_t)o && part->layers[i].rank;
    if (!used) continue;
    copy(batch, part, first, m, batch->z[o], width, z, 0);
    for (size_t i = 0; i < batch->members; i++)
      if (batch->target[i] == (int64_t)o && part->layers[i].rank)
        add_layer(batch->products, part->layers + i, x, z + batch->start[i], m, width, z + m * width);
    copy(batch, part, first, m, batch->z[o], width, z, 1);
  }
}

/* Fetches bytes that the base's weights have pushed out of the caches since the last token: to the second cache, whose
 * misses do not hold up the products meanwhile. */
static void fetch(const unsigned char* at, const unsigned char* end) {
  for (const unsigned char* last = at + AHEAD; at < end && at < last; at += LINE) __builtin_prefetch(at, 0, 2);
}

static int is_alike(const Matrix* one, const Matrix* other) {
  return one->rows == other->rows && one->columns == other->columns && one->type == other->type;
}

/* Has the numbers of the next part fetched word by word, when those in their places are read, where it has such. */
static void look_ahead(const Batch* batch, const Part* part, const Part* next) {
  for (size_t i = 0; i < batch->members; i++) {
    Layer* now = part->layers + i;
    const Layer* then = next->layers + i;
    if (!now->rank || !then->rank || !is_alike(&now->b1, &then->b1) || !is_alike(&now->b2, &then->b2)) continue;
    now->b2.ahead = then->b2.words - now->b2.words, now->b1.ahead = then->b1.words - now->b1.words;
  }
}

/* Fetches what a part's layers will read, except for what is fetched with that of the part before. */
static void fetch_part(const Batch* batch, const Part* part, const Part* before) {
  for (size_t i = 0; i < batch->members; i++) {
    const Layer* t = part->layers + i;
    const int with_before = before && before->layers[i].b2.ahead;
    if (t->rank) fetch(t->scale, with_before ? t->b2.words : t->b1.words + 4 * words_of(&t->b1));
  }
}

/* Computes one step of one part. */
static void work(void* with, size_t index) {
  Batch* batch = with;
  Part* part = batch->part;
  int64_t unit = (int64_t)index;
  while (unit >= part->units) unit -= part->units, part++;
  if (!unit && part + 1 < batch->part + batch->parts) fetch_part(batch, part + 1, part);
  const int64_t first = unit * part->step, left_over = part->tokens - first;
  const int64_t m = left_over < part->step ? left_over : part->step;
  float room[ROOM], *scratch = part->room > ROOM ? malloc((size_t)part->room * sizeof *scratch) : room;
  if (!scratch)
    batch->failed = 1;
  else if (is_staged(batch, part))
    add_staged(batch, part, first, m, scratch);
  else
    add_in_place(batch, part, part->at + first, m, scratch);
  if (scratch != room) free(scratch);
}

#endif
