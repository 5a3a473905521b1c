/* Runs the operators without ONNX Runtime and without Python: for processors that have neither here.
 *
 *   operator_driver LIBRARY          the library, by its one function, on one layer, in every type of numbers
 *   operator_driver LIBRARY CHANGES  the same with so many damaged records and pools, and shapes, for sanitizers
 *
 * The sums are compared with float64's, and two runs with each other. Exit status 0: all is well.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ort.h"

#if defined(_WIN32)
#include <windows.h>
static void* symbol(const char* library, const char* name) {
  HMODULE opened = LoadLibraryA(library);
  return opened ? (void*)GetProcAddress(opened, name) : NULL;
}
#else
#include <dlfcn.h>
static void* symbol(const char* library, const char* name) {
  void* opened = dlopen(library, RTLD_NOW);
  return opened ? dlsym(opened, name) : NULL;
}
#endif

enum { A_OUT = 6, A_IN = 4, B_OUT = 11, B_IN = 13, RANK = 5, WIDE = 8, COLUMNS = 16, TOKENS = 37 };
enum { D_IN = A_IN * B_IN, D_OUT = A_OUT * B_OUT, FRONT = 128, SCALE = FRONT + 32, A_AT = SCALE + 4 * WIDE };
enum { B2_AT = A_AT + 96, LARGEST = (B2_AT + 4 * B_IN * WIDE + 4 * RANK * COLUMNS + 63) / 64 * 64 };
static const int types[] = {2, 3, 4, 5, 6, 7, 8, 16, 17, 32};

static float x[TOKENS * D_IN], y[TOKENS * D_OUT], z[TOKENS * D_OUT];
static float a[A_OUT * A_IN], scale[RANK], b1[RANK * B_OUT], b2[B_IN * RANK];
static const OrtCustomOp *of_record, *of_pool, *of_offsets, *of_products;
static OrtApi api;
static int64_t rows[TOKENS], tags[TOKENS];
static const char* message; /* of an error */

typedef struct {
  void* data;
  int64_t shape[3];
  size_t rank;
} Value;
static Value values[] = {{x, {TOKENS, D_IN}, 2}, {y, {TOKENS, D_OUT}, 2}, {NULL, {0}, 1},
                         {rows, {TOKENS}, 1},    {tags, {TOKENS}, 1},     {z, {TOKENS, D_OUT}, 2}};

static float draw(void) {
  static uint32_t state = 1;
  state = state * 1664525u + 1013904223u;
  return (float)(state >> 8) / 8388608.0f - 1.0f;
}

static int index_of(const void* value) { return (int)(intptr_t)value - 1; }
static void* handle(size_t index) { return (void*)(intptr_t)(index + 1); }

static OrtStatus* create_status(int code, const char* text) {
  static char kept[200];
  (void)code, snprintf(kept, sizeof kept, "%s", text);
  return message = kept, handle(0);
}
static OrtStatus* make_domain(const char* name, OrtCustomOpDomain** out) { return (void)name, *out = handle(0), NULL; }
static OrtStatus* add_operator(OrtCustomOpDomain* domain, const OrtCustomOp* op) {
  (void)domain;
  if (!strcmp(op->GetName(op), "RecordSlots_1")) of_record = op;
  if (!strcmp(op->GetName(op), "PoolSlots_1")) of_pool = op;
  if (!strcmp(op->GetName(op), "BlockOffsets_1")) of_offsets = op;
  if (!strcmp(op->GetName(op), "BlockProducts_1")) of_products = op;
  return NULL;
}
static OrtStatus* add_domain(OrtSessionOptions* options, OrtCustomOpDomain* domain) {
  return (void)options, (void)domain, NULL;
}
static OrtStatus* get_data(OrtValue* value, void** out) { return *out = values[index_of(value)].data, NULL; }
static OrtStatus* get_info(const OrtValue* value, OrtTensorTypeAndShapeInfo** out) {
  return *out = (OrtTensorTypeAndShapeInfo*)value, NULL;
}
static OrtStatus* get_rank(const OrtTensorTypeAndShapeInfo* info, size_t* out) {
  return *out = values[index_of(info)].rank, NULL;
}
static OrtStatus* get_shape(const OrtTensorTypeAndShapeInfo* info, int64_t* out, size_t count) {
  memcpy(out, values[index_of(info)].shape, count * sizeof *out);
  return NULL;
}
static OrtStatus* get_number(const OrtKernelInfo* info, const char* name, int64_t* out) {
  return (void)info, *out = strcmp(name, "d_in") ? 0 : D_IN, NULL;
}
static OrtStatus* get_numbers(const OrtKernelInfo* info, const char* name, int64_t* out, size_t* size) {
  return (void)info, *out = strcmp(name, "d_out") ? !strcmp(name, "layer") : D_OUT, *size = 1, NULL;
}
static OrtStatus* get_input(const OrtKernelContext* context, size_t index, const OrtValue** out) {
  return (void)context, *out = handle(index), NULL;
}
static OrtStatus* get_output(OrtKernelContext* context, size_t index, const int64_t* shape, size_t rank,
                             OrtValue** out) {
  return (void)context, (void)index, (void)shape, (void)rank, *out = handle(5), NULL;
}
static void release_info(OrtTensorTypeAndShapeInfo* info) { (void)info; }
static OrtStatus* each(const OrtKernelContext* context, void (*call)(void*, size_t), size_t total, size_t batches,
                       void* with) {
  (void)context, (void)batches;
  for (size_t i = total; i-- > 0;) call(with, i); /* any order will do */
  return NULL;
}
static const OrtApi* get_api(uint32_t version) { return (void)version, &api; }

static void put(unsigned char* at, const void* from, size_t size) { memcpy(at, from, size); }

/* Puts a matrix [rows, cols] as words of a type, and rounds it to that type's numbers; codes are whole. */
static unsigned char* put_words(unsigned char* at, int type, float* matrix, int count, int cols, int columns) {
  const int per = type == 17 ? 2 : 32 / type, bits = 32 / per == 32 ? 32 : type == 17 ? 16 : type;
  for (int r = 0; r < count; r += per, at += 4 * columns)
    for (int c = 0; c < cols; c++) {
      uint32_t word = 0;
      for (int n = 0; n < per && r + n < count; n++) {
        float* value = matrix + (r + n) * cols + c;
        uint32_t field;
        if (type <= 8) {
          *value = floorf(*value * (float)(1 << (type - 1))), field = (uint32_t)(int32_t)*value;
        } else if (type == 16) { /* of 1.5 · 2^e, exactly */
          const int exponent = (int)floorf(*value * 3);
          *value = ldexpf(*value < 0 ? -1.5f : 1.5f, exponent);
          field = (uint32_t)(*value < 0) << 15 | (uint32_t)(exponent + 15) << 10 | 0x200;
        } else {
          memcpy(&field, value, 4);
          if (type == 17) field &= 0xffff0000, memcpy(value, &field, 4), field >>= 16;
        }
        word |= (bits < 32 ? field & ((1u << bits) - 1) : field) << (bits * n);
      }
      put(at + 4 * c, &word, 4);
    }
  return at;
}

static void fill(float* some, int count) {
  for (int i = 0; i < count; i++) some[i] = draw();
}

/* Writes a record of layer 1 with B1 and B2 of two types; returns its size. */
static int64_t write_record(unsigned char* at, int type_1, int type_2, uint64_t tag) {
  const uint32_t head[] = {1, 1}, sizes[] = {A_OUT, A_IN, B_OUT, B_IN, RANK};
  const uint64_t entry[] = {1, FRONT};
  memset(at, 0, LARGEST);
  fill(a, A_OUT * A_IN), fill(scale, RANK), fill(b1, RANK * B_OUT), fill(b2, B_IN * RANK);
  put(at, "kronqrec", 8), put(at + 8, head, 8), put(at + 24, &tag, 8), put(at + 64, entry, 16);
  put(at + FRONT, sizes, 20), at[FRONT + 20] = (unsigned char)type_1, at[FRONT + 21] = (unsigned char)type_2;
  put(at + SCALE, scale, sizeof scale), put(at + A_AT, a, sizeof a);
  unsigned char* end = put_words(at + B2_AT, type_2, b2, B_IN, RANK, WIDE);
  end = put_words(end, type_1, b1, RANK, B_OUT, COLUMNS);
  const uint64_t size = (uint64_t)(end - at + 63) / 64 * 64;
  put(at + 16, &size, 8);
  return (int64_t)size;
}

/* Returns the largest difference from float64's sums, as a part of the sum of the terms' sizes. */
static double error(void) {
  double most = 0;
  for (int t = 0; t < TOKENS; t++)
    for (int o = 0; o < A_OUT; o++)
      for (int n = 0; n < B_OUT; n++) {
        const int at = t * D_OUT + o * B_OUT + n;
        double sum = y[at], size = fabs(sum);
        for (int i = 0; i < A_IN; i++)
          for (int k = 0; k < RANK; k++)
            for (int j = 0; j < B_IN; j++) {
              const double term = (double)a[o * A_IN + i] * x[t * D_IN + i * B_IN + j] * b2[j * RANK + k] *
                                  scale[k] * b1[k * B_OUT + n];
              sum += term, size += fabs(term);
            }
        const double part = fabs(z[at] - sum) / size;
        if (!(part <= most)) most = part;
      }
  return most;
}

static void* made(const OrtCustomOp* op) {
  void* kernel;
  if (op->CreateKernelV2(op, &api, NULL, &kernel)) fprintf(stderr, "%s\n", message), exit(1);
  return kernel;
}

/* Computes the output twice, which has to give the same bits. */
static void run_twice(const OrtCustomOp* op, void* kernel) {
  const Value* out = values + 5;
  const size_t size = (size_t)(out->shape[0] * out->shape[1]) * sizeof(float);
  float* before = malloc(size);
  for (int i = 0; i < 2; i++) {
    memset(out->data, 0x7f, size);
    if (op->KernelComputeV2(kernel, NULL)) fprintf(stderr, "%s\n", message), exit(1);
    if (i && memcmp(before, out->data, size)) puts("two runs differ"), exit(1);
    memcpy(before, out->data, size);
  }
  free(before);
}

/* Adds the output's bits to a digest, to compare processors by (FNV-1a). */
static uint64_t bits(uint64_t found) {
  const size_t size = (size_t)(values[5].shape[0] * values[5].shape[1]) * sizeof(float);
  for (size_t i = 0; i < size; i++) found = (found ^ ((const unsigned char*)values[5].data)[i]) * 0x100000001b3u;
  return found;
}

static Value matrix(int64_t count, int64_t columns) {
  float* data = malloc((size_t)(count * columns) * sizeof *data); /* so that a sanitizer sees its end */
  for (int64_t i = 0; i < count * columns; i++) data[i] = draw();
  return (Value){data, {count, columns}, 2};
}

/* Makes inputs and output of BlockOffsets_1: X, Y, and offsets [blocks, width]. */
static void make_offsets(int64_t tokens, int64_t d_in, int64_t width, int64_t blocks, int64_t columns) {
  values[0] = matrix(tokens, d_in), values[1] = matrix(tokens, width);
  values[2] = matrix(blocks, columns), values[5] = matrix(tokens, width);
}

static void free_offsets(void) {
  for (int i = 0; i < 6; i++)
    if (i < 3 || i == 5) free(values[i].data);
}

/* Returns the largest difference of Y + sums(X) · offsets from float64's, as a part of the sum of the terms' sizes. */
static double offsets_error(void) {
  const int64_t d_in = values[0].shape[1], blocks = values[2].shape[0], width = values[2].shape[1];
  const float *from = values[0].data, *before = values[1].data, *offset = values[2].data, *after = values[5].data;
  double most = 0;
  for (int64_t i = 0; i < values[5].shape[0] * width; i++) {
    double sum = before[i], size = fabs(sum);
    for (int64_t j = 0; j < d_in; j++) {
      const double term = (double)from[i / width * d_in + j] * offset[j / (d_in / blocks) * width + i % width];
      sum += term, size += fabs(term);
    }
    const double part = fabs(after[i] - sum) / size;
    if (!(part <= most)) most = part;
  }
  return most;
}

/* The offsets of blocks: one token, a few and many; widths of one share of a thread and of two. */
static int run_offsets(void) {
  static const int64_t sizes[][4] = {{1, 576, 336, 18}, {7, 96, 16, 3}, {37, 64, 48, 1}, {3, 48, 576, 6}};
  uint64_t digest = 0xcbf29ce484222325u;
  double worst = 0;
  void* kernel = made(of_offsets);
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    make_offsets(sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3], sizes[i][2]);
    run_twice(of_offsets, kernel);
    const double found = offsets_error();
    if (!(found <= worst)) worst = found;
    digest = bits(digest);
    free_offsets();
  }
  of_offsets->KernelDestroy(kernel);
  printf("offsets: error %.1e of the terms' sizes, bits %016llx\n", worst, (unsigned long long)digest);
  return worst < 1e-6 ? 0 : 1;
}

static int run_all(void) {
  static unsigned char packed[LARGEST];
  uint64_t digest = 0xcbf29ce484222325u;
  double worst = 0;
  void* kernel = made(of_record);
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
    values[2] = (Value){packed, {write_record(packed, types[i], types[sizeof types / sizeof *types - 1 - i], 0)}, 1};
    run_twice(of_record, kernel);
    const double found = error();
    if (!(found <= worst)) worst = found;
    digest = bits(digest);
  }
  of_record->KernelDestroy(kernel);
  printf("record: error %.1e of the terms' sizes, bits %016llx\n", worst, (unsigned long long)digest);
  return worst < 1e-6 ? 0 : 1;
}

/* Fills in a float16 of 1.5 · 2^e; returns it. */
static float put_half(unsigned char* at) {
  const int exponent = (int)floorf(draw() * 3), negative = draw() < 0;
  const uint16_t half = (uint16_t)(negative << 15 | (exponent + 15) << 10 | 0x200);
  put(at, &half, 2);
  return ldexpf(negative ? -1.5f : 1.5f, exponent);
}

/* Makes inputs and output of BlockProducts_1, and d and m of each column and block. */
static void make_products(int64_t tokens, int64_t blocks, int64_t panels, float* d, float* m) {
  unsigned char* at = malloc((size_t)(panels * blocks * 320 + 1));
  values[0] = matrix(tokens, 32 * blocks), values[5] = matrix(tokens, 16 * panels);
  values[1] = (Value){at, {panels, blocks, 320}, 3};
  for (int64_t n = 0; n < panels * blocks; n++, at += 320) {
    for (int c = 0; c < 16; c++) d[16 * n + c] = put_half(at + 2 * c), m[16 * n + c] = put_half(at + 32 + 2 * c);
    for (int i = 64; i < 320; i++) at[i] = (unsigned char)((draw() + 1) * 127.99f);
  }
}

/* Returns the largest difference from the sums with x rounded to int8 in float64, as a part of the terms' sizes. */
static double products_error(const float* d, const float* m) {
  const int64_t blocks = values[1].shape[1], width = values[5].shape[1];
  const unsigned char* bytes = values[1].data;
  double most = 0;
  for (int64_t t = 0; t < values[0].shape[0]; t++)
    for (int64_t n = 0; n < width; n++) {
      double sum = 0, size = 0;
      for (int64_t b = 0; b < blocks; b++) {
        const float* from = (const float*)values[0].data + (t * blocks + b) * 32;
        const int64_t block = n / 16 * blocks + b;
        double largest = 0;
        for (int k = 0; k < 32; k++) largest = fmax(largest, fabs(from[k]));
        for (int k = 0; k < 32; k++) {
          const int byte = bytes[block * 320 + 64 + k / 8 * 64 + n % 16 * 4 + k % 4];
          const int code = k % 8 < 4 ? byte & 15 : byte >> 4;
          const double rounded = largest / 127 * rint(from[k] * 127 / largest);
          const double terms[] = {d[16 * block + n % 16] * (code - 8) * rounded,
                                  ((double)m[16 * block + n % 16] + 8 * d[16 * block + n % 16]) * from[k]};
          sum += terms[0] + terms[1], size += fabs(terms[0]) + fabs(terms[1]);
        }
      }
      const double part = fabs(((const float*)values[5].data)[t * width + n] - sum) / size;
      if (!(part <= most)) most = part;
    }
  return most;
}

/* Products with blocks of 4 bits: one token and many, panels of one share of a thread and of two. */
static int run_products(void) {
  static const int64_t sizes[][3] = {{1, 18, 36}, {7, 3, 1}, {21, 1, 9}};
  static float d[16 * 18 * 36], m[16 * 18 * 36];
  uint64_t digest = 0xcbf29ce484222325u;
  double worst = 0;
  void* kernel = made(of_products);
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    make_products(sizes[i][0], sizes[i][1], sizes[i][2], d, m);
    run_twice(of_products, kernel);
    const double found = products_error(d, m);
    if (!(found <= worst)) worst = found;
    digest = bits(digest);
    free(values[0].data), free(values[1].data), free(values[5].data);
  }
  of_products->KernelDestroy(kernel);
  printf("products: error %.1e of the terms' sizes, bits %016llx\n", worst, (unsigned long long)digest);
  return worst < 1e-6 ? 0 : 1;
}

static uint32_t below(uint32_t n) { return (uint32_t)((draw() + 1) / 2 * (float)n) % n; }

/* Changes a few bytes of a pool of two records, mostly of their heads, and cuts it. */
static int run_damaged(long changes) {
  long refused = 0;
  void *record = made(of_record), *pool = made(of_pool);
  for (long i = 0; i < changes; i++) {
    static unsigned char whole[2 * LARGEST];
    const int64_t second = write_record(whole, types[below(10)], types[below(10)], 0);
    int64_t size = second + write_record(whole + second, types[below(10)], types[below(10)], i % 3 ? 1 : 0);
    for (uint32_t n = below(4); n-- > 0;) {
      const uint32_t at = below(3) ? below(FRONT + 22) : below((uint32_t)second);
      whole[(below(2) ? second : 0) + at] = (unsigned char)(below(3) ? below(4) * 85 : below(256));
    }
    if (!below(4)) size -= below((uint32_t)size);
    unsigned char* exact = malloc((size_t)size); /* so that a sanitizer sees its end */
    memcpy(exact, whole, (size_t)size);
    values[2] = (Value){exact, {size}, 1};
    for (int r = 0; r < TOKENS; r++) {
      rows[r] = below(8) ? (int64_t)below(2) * second : (int64_t)below((uint32_t)size + 64) - 32;
      tags[r] = rows[r] == second && i % 3;
      if (!below(6)) rows[r] = -1;
    }
    refused += of_record->KernelComputeV2(record, NULL) != NULL;
    refused += of_pool->KernelComputeV2(pool, NULL) != NULL;
    free(exact);
  }
  of_record->KernelDestroy(record), of_pool->KernelDestroy(pool);
  printf("%ld of %ld refused\n", refused, 2 * changes);
  return refused > changes / 4 && refused < 2 * changes ? 0 : 1;
}

/* Offsets of shapes that fit and of others, where nothing outside of the tensors may be touched. */
static int run_shapes(long changes) {
  long refused = 0;
  void* kernel = made(of_offsets);
  for (long i = 0; i < changes; i++) {
    const int64_t blocks = below(4), width = 16 * below(40) + (below(4) ? 0 : below(16));
    const int64_t d_in = below(8) ? blocks * 8 * below(5) : below(90);
    make_offsets(below(10), d_in, width, blocks, below(4) ? width : below(640));
    refused += of_offsets->KernelComputeV2(kernel, NULL) != NULL;
    free_offsets();
  }
  of_offsets->KernelDestroy(kernel);
  kernel = made(of_products);
  for (long i = 0; i < changes; i++) {
    static float unused[16 * 4 * 12];
    const int64_t blocks = below(4), panels = below(12);
    make_products(below(10), blocks, panels, unused, unused);
    if (!below(4)) values[below(2)].shape[1] -= below(3); /* a part of what there is */
    if (values[0].shape[1] < 0 || values[1].shape[1] < 0) values[0].shape[1] = values[1].shape[1] = 0;
    refused += of_products->KernelComputeV2(kernel, NULL) != NULL;
    free(values[0].data), free(values[1].data), free(values[5].data);
  }
  of_products->KernelDestroy(kernel), changes *= 2;
  printf("%ld of %ld shapes refused\n", refused, changes);
  return refused > changes / 4 && refused < changes ? 0 : 1;
}

int main(int count, char** arguments) {
  OrtStatus* (*registers)(OrtSessionOptions*, const OrtApiBase*);
  void* found = count > 1 ? symbol(arguments[1], "RegisterCustomOps") : NULL;
  if (!found) return fprintf(stderr, "usage: operator_driver LIBRARY [CHANGES]\n"), 2;
  memcpy(&registers, &found, sizeof found);
  api = (OrtApi){
      .CreateStatus = create_status, .CreateCustomOpDomain = make_domain, .CustomOpDomain_Add = add_operator,
      .AddCustomOpDomain = add_domain, .GetTensorMutableData = get_data, .GetTensorTypeAndShape = get_info,
      .GetDimensionsCount = get_rank, .GetDimensions = get_shape, .KernelInfoGetAttribute_int64 = get_number,
      .KernelInfoGetAttributeArray_int64 = get_numbers, .KernelContext_GetInput = get_input,
      .KernelContext_GetOutput = get_output, .ReleaseTensorTypeAndShapeInfo = release_info,
      .KernelContext_ParallelFor = each,
  };
  const OrtApiBase base = {.GetApi = get_api};
  if (registers(NULL, &base)) return 1;
  fill(x, TOKENS * D_IN), fill(y, TOKENS * D_OUT);
  if (count < 3) return run_all() || run_offsets() || run_products();
  return run_damaged(atol(arguments[2])) || run_shapes(atol(arguments[2]) / 20);
}
