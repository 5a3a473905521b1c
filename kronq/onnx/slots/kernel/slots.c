/* kronq::RecordSlots_1..4 and kronq::PoolSlots_1..4: the slots of the layers that read one input, as one operator.
 *
 * Inputs are X [..., d_in] and the layers' own outputs Y_i [..., width_i]; outputs are Z_i = Y_i + what the adapter
 * adds. RecordSlots then takes the record of an adapter for all tokens, or 8 zero bytes, the base alone. PoolSlots
 * takes a pool of records, and for each row of the batch where its record begins there (-1: the base alone) and the
 * record's tag: another record in that place is an error. A batch of one, [1, tokens, d_in], may name a record for
 * each of its tokens.
 *
 * The attributes say, for each layer, its id in a record (`layer`), its output (`target`), its first column there
 * (`start`) and its columns (`d_out`). An adapter that does not have a layer adds nothing to it.
 * kronq::BlockOffsets_1..4 (offsets.h) and BlockProducts_1..4 (block_products.h) are parts of the base itself.
 * The names of operators for other types than float32 end in _float16 and _bfloat16; sums are float32 in all.
 */
#include "processors.h"

static const Products* products; /* of this processor: chosen before the first operator is made */

#include "block_products.h"
#include "offsets.h"
#include "pool.h"

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif
enum { TYPES = 3, FORMS = 2, OFFSETS = FORMS, PRODUCTS, ALL_OPS = FORMS * TYPES + 2 };
static const struct {
  int type, ort;
  const char* name;
} types[TYPES] = {
    {TYPE_FLOAT32, ORT_FLOAT, ""}, {TYPE_FLOAT16, ORT_FLOAT16, "_float16"}, {TYPE_BFLOAT16, ORT_BFLOAT16, "_bfloat16"}};
static const char* const forms[] = {"RecordSlots", "PoolSlots", "BlockOffsets", "BlockProducts"};

typedef struct {
  OrtCustomOp op;
  size_t outputs;
  int form, type;
  char name[32];
} Op;

/* Computes with one adapter for all tokens. */
static OrtStatus* run_record(Kernel* kernel, OrtKernelContext* context, Batch* batch, int64_t tokens) {
  static const char none[8];
  Tensor bytes;
  Record record;
  Layer layers[MEMBERS];
  Part part = {.layers = layers, .at = 0, .tokens = tokens};
  TRY(tensor(kernel->ort, context, kernel->outputs + 1, &bytes));
  if (bytes.rank != 1) return refuse(kernel->ort, "an adapter is a row of bytes");
  if (bytes.shape[0] == 8 && !memcmp(bytes.data, none, 8)) return NULL;
  const char* wrong = open_record(bytes.data, bytes.shape[0], 0, &record);
  if (!wrong) wrong = read_layers(kernel, &record, layers);
  if (wrong) return refuse(kernel->ort, wrong);
  batch->part = &part, batch->parts = 1;
  return run(kernel->ort, context, batch);
}

/* Makes the outputs, which begin as the layers' own: mostly they are these, in place. */
static OrtStatus* make_outputs(const Kernel* kernel, OrtKernelContext* context, int64_t tokens, Batch* batch) {
  const OrtApi* ort = kernel->ort;
  for (size_t i = 0; i < kernel->outputs; i++) {
    OrtValue* out;
    Tensor y;
    void* z;
    TRY(tensor(ort, context, 1 + i, &y));
    if (tokens_of(&y) != tokens) return refuse(ort, "X and Y have other tokens");
    batch->width[i] = y.shape[y.rank - 1];
    TRY(ort->KernelContext_GetOutput(context, i, y.shape, y.rank, &out));
    TRY(ort->GetTensorMutableData(out, &z));
    if (z != y.data) memcpy(z, y.data, (size_t)(tokens * batch->width[i]) * (kernel->type == TYPE_FLOAT32 ? 4 : 2));
    batch->z[i] = z;
  }
  for (size_t i = 0; i < kernel->members; i++)
    if (kernel->start[i] + kernel->d_out[i] > batch->width[kernel->target[i]])
      return refuse(ort, "Y has another width");
  return NULL;
}

static OrtStatus* compute(void* self, OrtKernelContext* context) {
  Kernel* kernel = self;
  Tensor x;
  TRY(tensor(kernel->ort, context, 0, &x));
  if (kernel->form == PRODUCTS) return run_products(kernel, context, &x);
  if (kernel->form != OFFSETS && x.shape[x.rank - 1] != kernel->d_in) return refuse(kernel->ort, "X has another width");
  const int64_t tokens = tokens_of(&x);
  Batch batch = {
      .products = products, .members = kernel->members, .outputs = kernel->outputs, .target = kernel->target,
      .start = kernel->start, .d_in = kernel->d_in, .type = kernel->type, .x = x.data,
  };
  TRY(make_outputs(kernel, context, tokens, &batch));
  if (kernel->form == OFFSETS) return run_offsets(kernel, context, &batch, &x);
  return kernel->form ? run_pool(kernel, context, &batch, &x, tokens) : run_record(kernel, context, &batch, tokens);
}

static OrtStatus* attributes(const OrtApi* ort, const OrtKernelInfo* info, Kernel* made) {
  const struct {
    const char* name;
    int64_t* into;
  } lists[] = {{"layer", made->layer}, {"target", made->target}, {"start", made->start}, {"d_out", made->d_out}};
  TRY(ort->KernelInfoGetAttribute_int64(info, "d_in", &made->d_in));
  for (int i = 0; i < 4; i++) {
    size_t count = MEMBERS;
    TRY(ort->KernelInfoGetAttributeArray_int64(info, lists[i].name, lists[i].into, &count));
    if (i && count != made->members) return refuse(ort, "uneven attributes");
    made->members = count;
  }
  int fits = made->d_in > 0 && made->d_in < LARGEST && made->members > 0;
  for (size_t i = 0; i < made->members; i++)
    fits &= made->target[i] >= 0 && made->target[i] < (int64_t)made->outputs && made->start[i] >= 0 &&
            made->start[i] < LARGEST && made->d_out[i] > 0 && made->d_out[i] < LARGEST;
  return fits ? NULL : refuse(ort, "attributes that no graph of kronq has");
}

static OrtStatus* create(const OrtCustomOp* op, const OrtApi* ort, const OrtKernelInfo* info, void** kernel) {
  Kernel* made = calloc(1, sizeof *made);
  if (!made) return ort->CreateStatus(ORT_FAIL, "kronq: out of memory");
  const Op* own = (const Op*)op;
  made->ort = ort, made->outputs = own->outputs, made->form = own->form, made->type = types[own->type].type;
  OrtStatus* status = own->form >= OFFSETS ? NULL : attributes(ort, info, made);
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
static size_t inputs(const OrtCustomOp* op) {
  const int form = ((const Op*)op)->form;
  if (form >= OFFSETS) return 1 + outputs(op) * (form == OFFSETS ? 2 : 1);
  return outputs(op) + (form ? 4 : 2);
}
static int output_type(const OrtCustomOp* op, size_t i) { return (void)i, types[((const Op*)op)->type].ort; }
static int input_type(const OrtCustomOp* op, size_t i) {
  if (i && ((const Op*)op)->form == PRODUCTS) return ORT_UINT8;
  if (i <= outputs(op) || ((const Op*)op)->form == OFFSETS) return output_type(op, i);
  return i == outputs(op) + 1 ? ORT_UINT8 : ORT_INT64;
}
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

/* Fills in one operator. */
static void define(Op* op, size_t count, int form, int type) {
  static size_t (*const places[OUTPUTS])(int**, int**) = {inplace_1, inplace_2, inplace_3, inplace_4};
  op->outputs = count, op->form = form, op->type = type;
  snprintf(op->name, sizeof op->name, "%s_%d%s", forms[form], (int)count, types[type].name);
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
      .GetMayInplace = form == PRODUCTS ? NULL : places[count - 1], .ReleaseMayInplace = release,
  };
}

EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  static Op ops[OUTPUTS * ALL_OPS];
  const OrtApi* ort = base->GetApi(ORT_VERSION);
  products = choose_products(), panel_product = choose_panel_product();
  OrtCustomOpDomain* domain; /* lives as long as the process: ONNX Runtime does not copy it */
  TRY(ort->CreateCustomOpDomain("kronq", &domain));
  for (int i = 0; i < OUTPUTS * ALL_OPS; i++) {
    const int of = i / OUTPUTS; /* the forms of slots in each type, then the parts of the base in float32 */
    const int form = of < FORMS * TYPES ? of % FORMS : OFFSETS + of - FORMS * TYPES;
    define(ops + i, (size_t)(i % OUTPUTS) + 1, form, form < OFFSETS ? of / FORMS : 0);
    TRY(ort->CustomOpDomain_Add(domain, &ops[i].op));
  }
  return ort->AddCustomOpDomain(options, domain);
}
