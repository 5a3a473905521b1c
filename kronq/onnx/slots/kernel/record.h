/* Reads the record of an adapter, whose layout kronq/onnx/slots/record/layout.py documents.
 *
 * The bytes may come from anyone, and may change between two runs: every number is copied before it is checked,
 * and nothing is read before it is known to lie inside.
 */
#ifndef KRONQ_RECORD_H
#define KRONQ_RECORD_H

#include <stdint.h>
#include <string.h>

#define LINE 64
#define LARGEST ((int64_t)1 << 26)      /* side of a layer: no product of two sizes overflows */
#define LARGEST_RANK ((int64_t)1 << 20) /* the same with a rank */
#define CODES_END 8                     /* a type up to it is an integer of so many bits */
enum { TYPE_FLOAT16 = 16, TYPE_BFLOAT16 = 17, TYPE_FLOAT32 = 32 };

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "an adapter's numbers are little-endian"
#endif

typedef struct {
  const unsigned char* at;
  int64_t size, layers;
} Record;

/* B1ᵀ or B2ᵀ: words [rows / rows in a word, columns]. With each of them, what lies `ahead` bytes further on is fetched:
 * 0 is the word itself. */
typedef struct {
  const unsigned char* words;
  int64_t rows, columns, ahead;
  int type;
} Matrix;

/* One layer of an adapter; without a rank it adds nothing. */
typedef struct {
  const unsigned char *scale, *a;
  Matrix b1, b2;
  int64_t a_out, a_in, b_out, b_in, rank, lanes;
} Layer;

/* Where a layer was last found. Adapters of one training have it in the same place: that is tried first. */
typedef struct {
  int64_t index, offset, size;
} Place;

static int64_t rounded(int64_t size, int64_t multiple) { return (size + multiple - 1) / multiple * multiple; }

static int rows_in_word(int type) { return type == TYPE_BFLOAT16 ? 2 : 32 / type; }

static int64_t words_of(const Matrix* m) {
  const int64_t rows = rows_in_word(m->type);
  return (m->rows + rows - 1) / rows * m->columns;
}

/* Finds a record's size and directory, with `left` bytes from its first one on. Returns NULL, or an error. */
static const char* open_record(const unsigned char* at, int64_t left, uint64_t tag, Record* found) {
  struct {
    char magic[8];
    uint32_t version, layers;
    uint64_t size, tag;
  } head;
  if (left < LINE) return "no adapter's record begins there";
  memcpy(&head, at, sizeof head);
  if (memcmp(head.magic, "kronqrec", 8)) return "no adapter's record begins there";
  if (head.version != 1) return "the adapter's record is of another version of kronq";
  if (head.tag != tag) return "another adapter's record begins there";
  if (head.size < LINE || head.size > (uint64_t)left || head.layers > (head.size - LINE) / 16)
    return "the adapter's record is damaged";
  *found = (Record){at, (int64_t)head.size, head.layers};
  return NULL;
}

static void entry(const Record* record, int64_t index, uint64_t* id, int64_t* offset) {
  memcpy(id, record->at + LINE + 16 * index, 8);
  memcpy(offset, record->at + LINE + 16 * index + 8, 8);
}

/* Returns the offset of a layer's part; 0 where the adapter does not have the layer. */
static int64_t find_layer(const Record* record, uint64_t layer, Place* place) {
  uint64_t id;
  int64_t offset, index = __atomic_load_n(&place->index, __ATOMIC_RELAXED);
  if (index < record->layers) {
    entry(record, index, &id, &offset);
    if (id == layer) return offset;
  }
  int64_t first = 0, end = record->layers;
  while (first < end) {
    index = first + (end - first) / 2;
    entry(record, index, &id, &offset);
    if (id == layer) {
      __atomic_store_n(&place->index, index, __ATOMIC_RELAXED);
      return offset;
    }
    if (id < layer)
      first = index + 1;
    else
      end = index;
  }
  return 0;
}

static int is_type(int type) {
  return (type >= 2 && type <= CODES_END) || type == TYPE_FLOAT16 || type == TYPE_BFLOAT16 || type == TYPE_FLOAT32;
}

/* Reads the part of a layer [d_out, d_in]. Returns NULL, or an error. */
static const char* read_layer(const Record* record, uint64_t id, int64_t d_out, int64_t d_in, Place* place,
                              Layer* layer) {
  uint32_t sizes[5];
  const int64_t offset = find_layer(record, id, place), head = 32;
  layer->rank = 0;
  if (!offset) return NULL;
  if (offset < LINE || offset > record->size - head) return "a layer lies outside of the adapter's record";
  const unsigned char* at = record->at + offset;
  memcpy(sizes, at, sizeof sizes);
  const int64_t a_out = sizes[0], a_in = sizes[1], b_out = sizes[2], b_in = sizes[3], rank = sizes[4];
  const int b1 = at[20], b2 = at[21];
  if (a_out < 1 || b_out < 1 || a_out > d_out || b_out > d_out || a_out * b_out != d_out)
    return "the adapter does not fit the layers' outputs";
  if (a_in < 1 || b_in < 1 || a_in > d_in || b_in > d_in || a_in * b_in != d_in)
    return "the adapter does not fit the layers' inputs";
  if (rank < 1 || rank > LARGEST_RANK || !is_type(b1) || !is_type(b2)) return "the adapter's record is damaged";
  const int64_t lanes = rounded(rank, 8);
  Layer made = {.a_out = a_out, .a_in = a_in, .b_out = b_out, .b_in = b_in, .rank = rank, .lanes = lanes};
  made.b2 = (Matrix){.rows = b_in, .columns = lanes, .type = b2};
  made.b1 = (Matrix){.rows = rank, .columns = rounded(b_out, 8), .type = b1};
  const int64_t a_at = head + 4 * lanes, b2_at = a_at + rounded(4 * a_out * a_in, 32);
  const int64_t b1_at = b2_at + 4 * words_of(&made.b2), end = b1_at + 4 * words_of(&made.b1);
  if (end > record->size - offset) return "a layer lies outside of the adapter's record";
  made.scale = at + head, made.a = at + a_at, made.b2.words = at + b2_at, made.b1.words = at + b1_at;
  *layer = made;
  __atomic_store_n(&place->offset, offset, __ATOMIC_RELAXED);
  __atomic_store_n(&place->size, end, __ATOMIC_RELAXED);
  return NULL;
}

#endif
