/* kronq::PackedSlots_1..4: the slots of the layers that read one input, as one operator.
 *
 * Inputs are X [..., d_in], the layers' own outputs Y_i [..., width_i], and a whole adapter as bytes;
 * outputs are Z_i = Y_i + what the adapter adds. The attributes say which record of the adapter is
 * meant (`group`) and, for each layer, its output (`target`), its first column there (`start`) and
 * its columns (`d_out`). An adapter that has no such record adds nothing.
 *
 * The bytes are written by kronq/onnx/slots/packed_input.py, which documents their layout. They may
 * come from anyone: nothing is read before it is known to lie inside of them.
 */
#include <stdlib.h>

#include "ort.h"
#include "processors.h"

#define OUTPUTS 4
#define MEMBERS 16
#define RANKS 16  /* dimensions of activations */
#define ROOM 4096 /* floats of scratch: 16 KB of stack */
#define LARGEST ((int64_t)1 << 26) /* side of a layer: no product of two sizes overflows */
#define MOST_TOKENS 32 /* tokens of a step: the steps of a long prompt are shared among threads */

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "an adapter's numbers are little-endian"
#endif
#define TRY(call)                      \
  do {                                 \
    OrtStatus* status_ = (call);       \
    if (status_) return status_;       \
  } while (0)

typedef struct {
  OrtCustomOp op;
  size_t outputs;
  char name[16];
} Op;

typedef struct {
  const OrtApi* ort;
  size_t outputs, members;
  int64_t group, d_in, target[MEMBERS], start[MEMBERS], d_out[MEMBERS];
} Kernel;

typedef struct {
  const float *a, *b1;
  float* z;
  int64_t a_out, b_out, rank, wide, d_out, width;
} Member;

typedef struct {
  const float *x, *b2;
  size_t members;
  int64_t a_in, b_in, width, tokens, step, room;
  Member member[MEMBERS];
  int failed;
} Job;

static const Products* products; /* of this processor: chosen before the first operator is made */

static int64_t padded(int64_t rank) { return (rank + LANES - 1) / LANES * LANES; }

/* Computes one step of a job: its tokens from index · step on. */
static void work(void* with, size_t index) {
  Job* job = with;
  const int64_t first = (int64_t)index * job->step, left_over = job->tokens - first;
  const int64_t m = left_over < job->step ? left_over : job->step;
  float room[ROOM], *h = job->room > ROOM ? malloc((size_t)job->room * sizeof *h) : room;
  if (!h) {
    job->failed = 1;
    return;
  }
  float* g = h + m * job->a_in * job->width;
  products->right(job->x + first * job->a_in * job->b_in, job->b2, h, m * job->a_in, job->b_in, job->width);
  int64_t column = 0;
  for (const Member* t = job->member; t < job->member + job->members; column += t->wide, t++) {
    if (!t->rank) continue;
    float* z = t->z + first * t->width;
    products->middle(t->a, h + column, g, m, t->a_out, job->a_in, t->wide, job->width);
    if (t->d_out == t->width)
      products->left(g, t->b1, z, m * t->a_out, t->rank, t->wide, t->b_out);
    else
      for (int64_t n = 0; n < m; n++)
        products->left(g + n * t->a_out * t->wide, t->b1, z + n * t->width, t->a_out, t->rank, t->wide, t->b_out);
  }
  if (h != room) free(h);
}

static OrtStatus* tensor(const OrtApi* ort, const OrtKernelContext* context, size_t index, void** data, int64_t* shape,
                         size_t* rank) {
  const OrtValue* value;
  OrtTensorTypeAndShapeInfo* info;
  TRY(ort->KernelContext_GetInput(context, index, &value));
  TRY(ort->GetTensorMutableData((OrtValue*)value, data));
  TRY(ort->GetTensorTypeAndShape(value, &info));
  OrtStatus* status = ort->GetDimensionsCount(info, rank);
  if (!status && (*rank < 1 || *rank > RANKS)) status = ort->CreateStatus(ORT_INVALID_ARGUMENT, "kronq: no such rank");
  if (!status) status = ort->GetDimensions(info, shape, *rank);
  ort->ReleaseTensorTypeAndShapeInfo(info);
  return status;
}

/* Reads a group's record into a job, without members where the adapter has none. Returns NULL, or an error. */
static const char* parse(const Kernel* kernel, const char* bytes, int64_t size, Job* job) {
  int64_t count, offset, cut[2], shape[3 * MEMBERS];
  const int64_t n = (int64_t)kernel->members, head = (2 + 3 * n) * 8, aligned = (head + 63) / 64 * 64;
  job->members = 0;
  if (size < 8) return "kronq: the adapter has no head";
  memcpy(&count, bytes, 8);
  if (count < 0 || count > (size - 8) / 8) return "kronq: the adapter's head is damaged";
  if (kernel->group >= count) return NULL;
  memcpy(&offset, bytes + 8 + 8 * kernel->group, 8);
  if (!offset) return NULL;
  if (offset < 0 || offset > size - aligned) return "kronq: a group lies outside of the adapter";
  memcpy(cut, bytes + offset, sizeof cut);
  memcpy(shape, bytes + offset + sizeof cut, (size_t)(24 * n));
  job->a_in = cut[0], job->b_in = cut[1];
  if (cut[0] < 1 || cut[1] < 1 || cut[0] > kernel->d_in || cut[1] > kernel->d_in || cut[0] * cut[1] != kernel->d_in)
    return "kronq: the adapter does not fit the layers' inputs";
  const float* at = (const float*)(bytes + offset + aligned);
  job->b2 = at, job->width = 0;
  for (int64_t i = 0; i < n; i++) {
    Member* t = job->member + i;
    t->a_out = shape[3 * i], t->b_out = shape[3 * i + 1], t->rank = shape[3 * i + 2];
    t->d_out = kernel->d_out[i];
    if (t->rank < 0 || t->rank > LARGEST / 64 || t->a_out < 1 || t->b_out < 1 || t->a_out > t->d_out ||
        t->b_out > t->d_out || t->a_out * t->b_out != t->d_out)
      return "kronq: the adapter does not fit the layers' outputs";
    t->wide = padded(t->rank);
    job->width += t->wide;
  }
  int64_t needed = job->b_in * job->width;
  for (int64_t i = 0; i < n; i++) {
    Member* t = job->member + i;
    t->a = at + needed, needed += t->a_out * job->a_in;
    t->b1 = at + needed, needed += t->rank * t->b_out;
  }
  if (needed > (size - offset - aligned) / 4) return "kronq: a group lies outside of the adapter";
  /* The base's weights push an adapter out of the caches between two tokens: all of it is prefetched. */
  for (int64_t i = 0; i < needed && i < 16384; i += 16) __builtin_prefetch(at + i);
  job->members = (size_t)n;
  return NULL;
}

/* Sets the tokens of a step, and the floats of scratch that it takes. */
static void plan(Job* job) {
  int64_t most = 0;
  for (size_t i = 0; i < job->members; i++) {
    const int64_t here = job->member[i].a_out * job->member[i].wide;
    if (here > most) most = here;
  }
  const int64_t each = job->a_in * job->width + most;
  job->step = each ? ROOM / each : MOST_TOKENS;
  if (job->step > MOST_TOKENS) job->step = MOST_TOKENS;
  if (job->step < 1) job->step = 1;
  job->room = each * job->step;
}

static OrtStatus* compute(void* self, OrtKernelContext* context) {
  const Kernel* kernel = self;
  const OrtApi* ort = kernel->ort;
  int64_t shape[RANKS], size;
  size_t rank, lead;
  void *data, *y;
  float* z[OUTPUTS];
  int64_t width[OUTPUTS];
  Job job = {.tokens = 1};

  TRY(tensor(ort, context, kernel->outputs + 1, &data, &size, &rank));
  if (rank != 1) return ort->CreateStatus(ORT_INVALID_ARGUMENT, "kronq: an adapter is a row of bytes");
  const char* wrong = parse(kernel, data, size, &job);
  if (wrong) return ort->CreateStatus(ORT_INVALID_ARGUMENT, wrong);
  TRY(tensor(ort, context, 0, &data, shape, &lead));
  job.x = data;
  for (size_t i = 0; i + 1 < lead; i++) job.tokens *= shape[i];
  if (shape[lead - 1] != kernel->d_in) return ort->CreateStatus(ORT_INVALID_ARGUMENT, "kronq: X has another width");
  for (size_t i = 0; i < kernel->outputs; i++) {
    OrtValue* out;
    int64_t tokens = 1;
    TRY(tensor(ort, context, 1 + i, &y, shape, &rank));
    for (size_t j = 0; j + 1 < rank; j++) tokens *= shape[j];
    if (tokens != job.tokens) return ort->CreateStatus(ORT_INVALID_ARGUMENT, "kronq: X and Y have other tokens");
    width[i] = shape[rank - 1];
    TRY(ort->KernelContext_GetOutput(context, i, shape, rank, &out));
    TRY(ort->GetTensorMutableData(out, &data));
    z[i] = data;
    if (data != y) memcpy(data, y, (size_t)(tokens * width[i]) * sizeof(float));
  }
  for (size_t i = 0; i < job.members; i++) {
    Member* t = job.member + i;
    const int64_t target = kernel->target[i], start = kernel->start[i];
    t->width = width[target];
    if (start + t->d_out > t->width) return ort->CreateStatus(ORT_INVALID_ARGUMENT, "kronq: Y has another width");
    t->z = z[target] + start;
  }
  if (!job.members || !job.tokens) return NULL;
  plan(&job);
  const size_t steps = (size_t)((job.tokens + job.step - 1) / job.step);
  if (steps == 1)
    work(&job, 0);
  else
    TRY(ort->KernelContext_ParallelFor(context, work, steps, 0, &job));
  return job.failed ? ort->CreateStatus(ORT_FAIL, "kronq: out of memory") : NULL;
}

static OrtStatus* attributes(const OrtApi* ort, const OrtKernelInfo* info, Kernel* made) {
  const struct {
    const char* name;
    int64_t* into;
  } lists[] = {{"target", made->target}, {"start", made->start}, {"d_out", made->d_out}};
  TRY(ort->KernelInfoGetAttribute_int64(info, "group", &made->group));
  TRY(ort->KernelInfoGetAttribute_int64(info, "d_in", &made->d_in));
  for (int i = 0; i < 3; i++) {
    size_t count = MEMBERS;
    TRY(ort->KernelInfoGetAttributeArray_int64(info, lists[i].name, lists[i].into, &count));
    if (i && count != made->members) return ort->CreateStatus(ORT_INVALID_ARGUMENT, "kronq: uneven attributes");
    made->members = count;
  }
  int fits = made->group >= 0 && made->d_in > 0 && made->d_in < LARGEST && made->members > 0;
  for (size_t i = 0; i < made->members; i++)
    fits &= made->target[i] >= 0 && made->target[i] < (int64_t)made->outputs && made->start[i] >= 0 &&
            made->start[i] < LARGEST && made->d_out[i] > 0 && made->d_out[i] < LARGEST;
  return fits ? NULL : ort->CreateStatus(ORT_INVALID_ARGUMENT, "kronq: attributes that no graph of kronq has");
}

static OrtStatus* create(const OrtCustomOp* op, const OrtApi* ort, const OrtKernelInfo* info, void** kernel) {
  Kernel* made = calloc(1, sizeof *made);
  if (!made) return ort->CreateStatus(ORT_FAIL, "kronq: out of memory");
  made->ort = ort, made->outputs = ((const Op*)op)->outputs;
  OrtStatus* status = attributes(ort, info, made);
  if (status)
    free(made);
  else
    *kernel = made;
  return status;
}

static void destroy(void* kernel) { free(kernel); }
static const char* name_of(const OrtCustomOp* op) { return ((const Op*)op)->name; }
static const char* provider(const OrtCustomOp* op) { return (void)op, "CPUExecutionProvider"; }
static size_t outputs(const OrtCustomOp* op) { return ((const Op*)op)->outputs; }
static size_t inputs(const OrtCustomOp* op) { return ((const Op*)op)->outputs + 2; }
static int output_type(const OrtCustomOp* op, size_t i) { return (void)op, (void)i, ORT_FLOAT; }
static int input_type(const OrtCustomOp* op, size_t i) { return i == outputs(op) + 1 ? ORT_UINT8 : ORT_FLOAT; }
static int required(const OrtCustomOp* op, size_t i) { return (void)op, (void)i, ORT_REQUIRED; }
static int memory(const OrtCustomOp* op, size_t i) { return (void)op, (void)i, ORT_DEFAULT_MEMORY; }
static int one(const OrtCustomOp* op) { return (void)op, 1; }

/* Lets Z_i take the place of Y_i. ONNX Runtime does not pass the operator: one function for each number. */
static size_t inplace(size_t n, int** from, int** to) {
  *from = malloc(n * sizeof(int)), *to = malloc(n * sizeof(int));
  if (!*from || !*to) return 0;
  for (size_t i = 0; i < n; i++) (*from)[i] = (int)i + 1, (*to)[i] = (int)i;
  return n;
}
static size_t inplace_1(int** from, int** to) { return inplace(1, from, to); }
static size_t inplace_2(int** from, int** to) { return inplace(2, from, to); }
static size_t inplace_3(int** from, int** to) { return inplace(3, from, to); }
static size_t inplace_4(int** from, int** to) { return inplace(4, from, to); }
static void release(int* from, int* to) { free(from), free(to); }

EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  static Op ops[OUTPUTS];
  static size_t (*const places[OUTPUTS])(int**, int**) = {inplace_1, inplace_2, inplace_3, inplace_4};
  const OrtApi* ort = base->GetApi(ORT_VERSION);
  products = choose_products();
  OrtCustomOpDomain* domain; /* lives as long as the process: ONNX Runtime does not copy it */
  TRY(ort->CreateCustomOpDomain("kronq", &domain));
  for (size_t i = 0; i < OUTPUTS; i++) {
    Op* op = ops + i;
    op->outputs = i + 1;
    memcpy(op->name, "PackedSlots_", 12);
    op->name[12] = (char)('1' + i);
    op->op = (OrtCustomOp){
        .version = ORT_VERSION, .GetName = name_of, .GetExecutionProviderType = provider,
        .GetInputType = input_type, .GetInputTypeCount = inputs,
        .GetOutputType = output_type, .GetOutputTypeCount = outputs,
        .KernelDestroy = destroy,
        .GetInputCharacteristic = required, .GetOutputCharacteristic = required, .GetInputMemoryType = memory,
        .GetVariadicInputMinArity = one, .GetVariadicInputHomogeneity = one,
        .GetVariadicOutputMinArity = one, .GetVariadicOutputHomogeneity = one,
        .CreateKernelV2 = create, .KernelComputeV2 = compute,
        .GetStartVersion = one, .GetEndVersion = one,
        .GetMayInplace = places[i], .ReleaseMayInplace = release,
    };
    TRY(ort->CustomOpDomain_Add(domain, &op->op));
  }
  return ort->AddCustomOpDomain(options, domain);
}
