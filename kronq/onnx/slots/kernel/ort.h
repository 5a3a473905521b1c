/* The part of ONNX Runtime's C interface that a custom operator needs.
 *
 * Names, order and types are those of onnxruntime_c_api.h, which no Python package of ONNX Runtime
 * carries. It only grows at its end, so this part holds for 1.18 and every later version.
 */
#ifndef KRONQ_ORT_H
#define KRONQ_ORT_H

#include <stddef.h>
#include <stdint.h>

#define ORT_VERSION 18 /* the first that reads GetMayInplace; an operator of an older one gets copies */

typedef struct OrtStatus OrtStatus;
typedef struct OrtValue OrtValue;
typedef struct OrtKernelInfo OrtKernelInfo;
typedef struct OrtKernelContext OrtKernelContext;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtCustomOpDomain OrtCustomOpDomain;
typedef struct OrtTensorTypeAndShapeInfo OrtTensorTypeAndShapeInfo;
typedef struct OrtShapeInferContext OrtShapeInferContext;
typedef struct OrtCustomOp OrtCustomOp;

enum { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 };
enum { ORT_FLOAT = 1, ORT_UINT8 = 2, ORT_INT64 = 7, ORT_FLOAT16 = 10, ORT_BFLOAT16 = 16 }; /* ONNXTensorElementDataType */
enum { ORT_REQUIRED = 0 };             /* OrtCustomOpInputOutputCharacteristic */
enum { ORT_DEFAULT_MEMORY = 0 };       /* OrtMemType */

typedef void (*OrtOther)(void);

typedef struct OrtApi {
  OrtStatus* (*CreateStatus)(int code, const char* message);
  OrtOther to_26[25];
  OrtStatus* (*CreateCustomOpDomain)(const char* domain, OrtCustomOpDomain** out);
  OrtStatus* (*CustomOpDomain_Add)(OrtCustomOpDomain* domain, const OrtCustomOp* op);
  OrtStatus* (*AddCustomOpDomain)(OrtSessionOptions* options, OrtCustomOpDomain* domain);
  OrtOther to_51[22];
  OrtStatus* (*GetTensorMutableData)(OrtValue* value, void** out);
  OrtOther to_61[9];
  OrtStatus* (*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo* info, size_t* out);
  OrtStatus* (*GetDimensions)(const OrtTensorTypeAndShapeInfo* info, int64_t* out, size_t count);
  OrtOther to_65[2];
  OrtStatus* (*GetTensorTypeAndShape)(const OrtValue* value, OrtTensorTypeAndShapeInfo** out);
  OrtOther to_86[20];
  OrtStatus* (*KernelInfoGetAttribute_int64)(const OrtKernelInfo* info, const char* name, int64_t* out);
  OrtOther to_90[3];
  OrtStatus* (*KernelContext_GetInput)(const OrtKernelContext* context, size_t index, const OrtValue** out);
  OrtStatus* (*KernelContext_GetOutput)(OrtKernelContext* context, size_t index, const int64_t* shape,
                                        size_t rank, OrtValue** out);
  OrtOther to_99[7];
  void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo* info);
  OrtOther to_163[63];
  OrtStatus* (*KernelInfoGetAttributeArray_int64)(const OrtKernelInfo* info, const char* name, int64_t* out,
                                                  size_t* size);
  OrtOther to_274[110];
  OrtStatus* (*KernelContext_ParallelFor)(const OrtKernelContext* context, void (*call)(void*, size_t),
                                          size_t total, size_t batches, void* with);
} OrtApi;

#define ORT_AT(name, index) \
  _Static_assert(offsetof(OrtApi, name) == (index) * sizeof(OrtOther), #name " is not where ONNX Runtime has it")
ORT_AT(CreateCustomOpDomain, 26);
ORT_AT(GetTensorMutableData, 51);
ORT_AT(GetDimensionsCount, 61);
ORT_AT(GetTensorTypeAndShape, 65);
ORT_AT(KernelInfoGetAttribute_int64, 86);
ORT_AT(KernelContext_GetInput, 90);
ORT_AT(ReleaseTensorTypeAndShapeInfo, 99);
ORT_AT(KernelInfoGetAttributeArray_int64, 163);
ORT_AT(KernelContext_ParallelFor, 274);

typedef struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)(void);
} OrtApiBase;

struct OrtCustomOp {
  uint32_t version;
  void* (*CreateKernel)(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info);
  const char* (*GetName)(const OrtCustomOp* op);
  const char* (*GetExecutionProviderType)(const OrtCustomOp* op);
  int (*GetInputType)(const OrtCustomOp* op, size_t index);
  size_t (*GetInputTypeCount)(const OrtCustomOp* op);
  int (*GetOutputType)(const OrtCustomOp* op, size_t index);
  size_t (*GetOutputTypeCount)(const OrtCustomOp* op);
  void (*KernelCompute)(void* kernel, OrtKernelContext* context);
  void (*KernelDestroy)(void* kernel);
  int (*GetInputCharacteristic)(const OrtCustomOp* op, size_t index);
  int (*GetOutputCharacteristic)(const OrtCustomOp* op, size_t index);
  int (*GetInputMemoryType)(const OrtCustomOp* op, size_t index);
  int (*GetVariadicInputMinArity)(const OrtCustomOp* op);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp* op);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp* op);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp* op);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel);
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext* context);
  OrtStatus* (*InferOutputShapeFn)(const OrtCustomOp* op, OrtShapeInferContext* context);
  int (*GetStartVersion)(const OrtCustomOp* op);
  int (*GetEndVersion)(const OrtCustomOp* op);
  size_t (*GetMayInplace)(int** inputs, int** outputs);
  void (*ReleaseMayInplace)(int* inputs, int* outputs);
  size_t (*GetAliasMap)(int** inputs, int** outputs);
  void (*ReleaseAliasMap)(int* inputs, int* outputs);
};

#endif
