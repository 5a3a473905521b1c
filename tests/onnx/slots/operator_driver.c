/* Runs the operator without ONNX Runtime and without Python: for processors that have neither here.
 *
 *   operator_driver LIBRARY    the library, by its one function, on one group of layers
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

enum { A_OUT = 6, A_IN = 4, B_OUT = 11, B_IN = 13, RANK = 5, WIDE = 8, TOKENS = 37 };
enum { D_IN = A_IN * B_IN, D_OUT = A_OUT * B_OUT, HEAD = 64, RECORD = 64 };
enum { B2 = B_IN * WIDE, A = A_OUT * A_IN, B1 = RANK * B_OUT, BYTES = HEAD + RECORD + 4 * (B2 + A + B1) };

static float x[TOKENS * D_IN], y[TOKENS * D_OUT], z[TOKENS * D_OUT], first[TOKENS * D_OUT];
static _Alignas(64) unsigned char packed[BYTES];
static const OrtCustomOp* operator_1;
static OrtApi api;

static struct {
  void* data;
  int64_t shape[2];
  size_t rank;
} values[] = {{x, {TOKENS, D_IN}, 2}, {y, {TOKENS, D_OUT}, 2}, {packed, {BYTES}, 1}, {z, {TOKENS, D_OUT}, 2}};

static float draw(void) {
  static uint32_t state = 1;
  state = state * 1664525u + 1013904223u;
  return (float)(state >> 8) / 8388608.0f - 1.0f;
}

static int index_of(const void* value) { return (int)(intptr_t)value - 1; }
static void* handle(size_t index) { return (void*)(intptr_t)(index + 1); }

static OrtStatus* create_status(int code, const char* message) {
  fprintf(stderr, "error %d: %s\n", code, message);
  exit(1);
}
static OrtStatus* make_domain(const char* name, OrtCustomOpDomain** out) { return (void)name, *out = handle(0), NULL; }
static OrtStatus* add_operator(OrtCustomOpDomain* domain, const OrtCustomOp* op) {
  (void)domain;
  if (op->GetInputTypeCount(op) == 3) operator_1 = op;
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
  return (void)info, *out = strcmp(name, "d_out") ? 0 : D_OUT, *size = 1, NULL;
}
static OrtStatus* get_input(const OrtKernelContext* context, size_t index, const OrtValue** out) {
  return (void)context, *out = handle(index), NULL;
}
static OrtStatus* get_output(OrtKernelContext* context, size_t index, const int64_t* shape, size_t rank,
                             OrtValue** out) {
  return (void)context, (void)index, (void)shape, (void)rank, *out = handle(3), NULL;
}
static void release_info(OrtTensorTypeAndShapeInfo* info) { (void)info; }
static OrtStatus* each(const OrtKernelContext* context, void (*call)(void*, size_t), size_t total, size_t batches,
                       void* with) {
  (void)context, (void)batches;
  for (size_t i = total; i-- > 0;) call(with, i); /* any order will do */
  return NULL;
}
static const OrtApi* get_api(uint32_t version) { return (void)version, &api; }

static float *b2, *a, *b1;

static void fill(void) {
  const int64_t head[] = {1, HEAD}, record[] = {A_IN, B_IN, A_OUT, B_OUT, RANK};
  memcpy(packed, head, sizeof head), memcpy(packed + HEAD, record, sizeof record);
  b2 = (float*)(packed + HEAD + RECORD), a = b2 + B2, b1 = a + A;
  for (int i = 0; i < B2; i++) b2[i] = i % WIDE < RANK ? draw() : 0;
  for (int i = 0; i < A + B1; i++) a[i] = draw();
  for (int i = 0; i < TOKENS * D_IN; i++) x[i] = draw();
  for (int i = 0; i < TOKENS * D_OUT; i++) y[i] = draw();
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
              const double term = (double)a[o * A_IN + i] * x[t * D_IN + i * B_IN + j] * b2[j * WIDE + k] *
                                  b1[k * B_OUT + n];
              sum += term, size += fabs(term);
            }
        const double part = fabs(z[at] - sum) / size;
        if (!(part <= most)) most = part;
      }
  return most;
}

static double run_twice(void* kernel) {
  for (int i = 0; i < 2; i++) {
    memset(z, 0x7f, sizeof z);
    if (operator_1->KernelComputeV2(kernel, NULL)) exit(1);
    if (i && memcmp(first, z, sizeof z)) puts("two runs differ"), exit(1);
    memcpy(first, z, sizeof z);
  }
  return error();
}

/* Returns a digest of the outputs' bits, to compare processors by (FNV-1a). */
static uint64_t bits(void) {
  uint64_t found = 0xcbf29ce484222325u;
  for (size_t i = 0; i < sizeof z; i++) found = (found ^ ((const unsigned char*)z)[i]) * 0x100000001b3u;
  return found;
}

int main(int count, char** arguments) {
  OrtStatus* (*registers)(OrtSessionOptions*, const OrtApiBase*);
  void* found = count == 2 ? symbol(arguments[1], "RegisterCustomOps") : NULL;
  if (!found) return fprintf(stderr, "usage: operator_driver LIBRARY\n"), 2;
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
  void* kernel;
  fill();
  if (registers(NULL, &base) || operator_1->CreateKernelV2(operator_1, &api, NULL, &kernel)) return 1;
  const double worst = run_twice(kernel);
  operator_1->KernelDestroy(kernel);
  printf("error %.1e of the terms' sizes, bits %016llx\n", worst, (unsigned long long)bits());
  return worst < 1e-6 ? 0 : 1;
}
