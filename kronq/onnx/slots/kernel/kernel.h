/* One node of a graph: its attributes, its tensors, and its parts of a batch run. */
#ifndef KRONQ_KERNEL_H
#define KRONQ_KERNEL_H

#include <stdio.h>

#include "batch.h"
#include "ort.h"

#define RANKS 16 /* dimensions of activations */
#define TRY(call)                      \
  do {                                 \
    OrtStatus* status_ = (call);       \
    if (status_) return status_;       \
  } while (0)

typedef struct {
  const OrtApi* ort;
  size_t outputs, members;
  int form, type;
  int64_t d_in, layer[MEMBERS], target[MEMBERS], start[MEMBERS], d_out[MEMBERS];
  Place places[MEMBERS];
} Kernel;

typedef struct {
  void* data;
  int64_t shape[RANKS];
  size_t rank;
} Tensor;

static OrtStatus* refuse(const OrtApi* ort, const char* message) {
  char line[200];
  snprintf(line, sizeof line, "kronq: %s", message);
  return ort->CreateStatus(ORT_INVALID_ARGUMENT, line);
}

static OrtStatus* tensor(const OrtApi* ort, const OrtKernelContext* context, size_t index, Tensor* found) {
  const OrtValue* value;
  OrtTensorTypeAndShapeInfo* info;
  TRY(ort->KernelContext_GetInput(context, index, &value));
  TRY(ort->GetTensorMutableData((OrtValue*)value, &found->data));
  TRY(ort->GetTensorTypeAndShape(value, &info));
  OrtStatus* status = ort->GetDimensionsCount(info, &found->rank);
  if (!status && (found->rank < 1 || found->rank > RANKS)) status = refuse(ort, "no such rank");
  if (!status) status = ort->GetDimensions(info, found->shape, found->rank);
  ort->ReleaseTensorTypeAndShapeInfo(info);
  return status;
}

static int64_t tokens_of(const Tensor* x) {
  int64_t tokens = 1;
  for (size_t i = 0; i + 1 < x->rank; i++) tokens *= x->shape[i];
  return tokens;
}

/* Reads what an adapter has for the kernel's layers. Returns NULL, or an error. */
static const char* read_layers(Kernel* kernel, const Record* record, Layer* layers) {
  const char* wrong = NULL;
  for (size_t i = 0; i < kernel->members && !wrong; i++)
    wrong = read_layer(record, (uint64_t)kernel->layer[i], kernel->d_out[i], kernel->d_in, kernel->places + i,
                       layers + i);
  return wrong;
}

/* Runs all steps of all parts. */
static OrtStatus* run(const OrtApi* ort, OrtKernelContext* context, Batch* batch) {
  int64_t units = 0;
  for (size_t p = 0; p < batch->parts; p++) plan_part(batch, batch->part + p), units += batch->part[p].units;
  if (!units) return NULL;
  for (size_t p = 1; p < batch->parts; p++) look_ahead(batch, batch->part + p - 1, batch->part + p);
  fetch_part(batch, batch->part, NULL);
  if (units == 1)
    work(batch, 0);
  else
    TRY(ort->KernelContext_ParallelFor(context, work, (size_t)units, 0, batch));
  return batch->failed ? ort->CreateStatus(ORT_FAIL, "kronq: out of memory") : NULL;
}

#endif
