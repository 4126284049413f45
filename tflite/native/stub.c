#include "stub.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* As lrt.c has it. */
typedef struct {
  int element_type;
  unsigned int rank : 7;
  unsigned int has_strides : 1;
  int32_t sizes[8];
  uint32_t strides[8];
} TensorType;

typedef struct {
  void *payload;
  void (*release)(void *);
  char memory[16]; /* as long as the file of fuzz.c, which is also fed */
} Object;

Stub stub;
static Object borrowed;

static bool fails(void) { return ++stub.calls == stub.fail_at; }

static int make(void **handle) {
  if (fails()) return 1;
  *handle = stub.kind == STUB_NO_HANDLE ? NULL : calloc(1, sizeof(Object));
  if (*handle) stub.live++;
  return 0;
}

static void destroy(void *handle) {
  stub.live--;
  free(handle);
}

static int lend(const void *of, size_t i, void **handle) {
  if (fails() || !of || i > 1) return 2;
  *handle = stub.kind == STUB_NO_HANDLE ? NULL : &borrowed;
  return 0;
}

static int count(const void *of, size_t *number) {
  if (fails() || !of) return 3;
  *number = stub.kind == STUB_MANY      ? SIZE_MAX
            : stub.kind == STUB_WRAPPED ? UINT32_MAX
            : stub.kind == STUB_NONE    ? 0
                                        : 2;
  return 0;
}

static int name(const void *of, size_t i, const char **text) {
  static const char *const names[] = {"a", "b"};
  static char long_name[2001];
  if (fails() || !of || i > 1) return 4;
  memset(long_name, 'x', sizeof long_name - 1);
  *text = stub.kind == STUB_NAMELESS ? NULL : stub.kind == STUB_LONG_NAME ? long_name : names[i];
  return 0;
}

static int plain(const void *of) { return fails() || !of ? 5 : 0; }

int LiteRtCreateEnvironment(int n, const void *options, void **handle) {
  return n && !options ? 6 : make(handle);
}
int LiteRtCreateModelFromBuffer(void *in, const void *content, size_t size, void **handle) {
  return in && content && size ? make(handle) : 6;
}
int LiteRtCreateOptions(void **handle) { return make(handle); }
int LiteRtCreateOpaqueOptions(const char *part, void *payload, void (*release)(void *),
                                  void **handle) {
  int status = part ? make(handle) : 6;
  if (!status && *handle) {
    ((Object *)*handle)->payload = payload;
    ((Object *)*handle)->release = release;
  }
  return status;
}
int LiteRtCreateCompiledModel(void *in, void *model, void *options, void **handle) {
  return in && model && options ? make(handle) : 6;
}
int LiteRtCreateManagedTensorBufferFromRequirements(void *in, const TensorType *type,
                                                        void *requirements, void **handle) {
  return in && type && requirements ? make(handle) : 6;
}

void LiteRtDestroyEnvironment(void *handle) { destroy(handle); }
void LiteRtDestroyModel(void *handle) { destroy(handle); }
void LiteRtDestroyOptions(void *handle) { destroy(handle); }
void LiteRtDestroyCompiledModel(void *handle) { destroy(handle); }
void LiteRtDestroyTensorBuffer(void *handle) { destroy(handle); }
void LiteRtDestroyOpaqueOptions(void *handle) {
  Object *object = handle;
  object->release(object->payload);
  destroy(handle);
}

int LiteRtSetOptionsHardwareAccelerators(void *options, int which) {
  (void)which;
  return plain(options);
}
int LiteRtAddOpaqueOptions(void *options, void *opaque) { /* takes it over */
  if (plain(options) || !opaque) return 6;
  LiteRtDestroyOpaqueOptions(opaque);
  return 0;
}
int LiteRtGetNumModelSignatures(void *model, size_t *n) { return count(model, n); }
int LiteRtGetNumSignatureInputs(void *signature, size_t *n) { return count(signature, n); }
int LiteRtGetNumSignatureOutputs(void *signature, size_t *n) { return count(signature, n); }
int LiteRtGetSignatureKey(void *signature, const char **text) {
  int status = name(signature, 0, text);
  if (stub.kind == STUB_NO_KEY) *text = NULL;
  return status;
}
int LiteRtGetSignatureInputName(void *signature, size_t i, const char **text) {
  static const char *const under[] = {"image", "decisions"};
  int status = name(signature, i, text);
  if (!status && stub.kind == STUB_UNDER) *text = under[i];
  return status;
}
int LiteRtGetSignatureOutputName(void *signature, size_t i, const char **text) {
  return name(signature, i, text);
}
int LiteRtGetModelSignature(void *model, size_t i, void **signature) {
  return lend(model, i, signature);
}
int LiteRtGetSignatureInputTensorByIndex(void *signature, size_t i, void **tensor) {
  return lend(signature, i, tensor);
}
int LiteRtGetSignatureOutputTensorByIndex(void *signature, size_t i, void **tensor) {
  return lend(signature, i, tensor);
}
int LiteRtGetCompiledModelInputBufferRequirements(void *compiled, size_t s, size_t i,
                                                      void **requirements) {
  return lend(compiled, s | i, requirements);
}
int LiteRtGetCompiledModelOutputBufferRequirements(void *compiled, size_t s, size_t i,
                                                       void **requirements) {
  return lend(compiled, s | i, requirements);
}
int LiteRtGetRankedTensorType(void *tensor, TensorType *type) {
  if (plain(tensor)) return 6;
  memset(type, 0x7f, sizeof *type);
  type->rank = stub.kind == STUB_MANY_AXES ? 127 : 1;
  return 0;
}
int LiteRtGetTensorBufferPackedSize(void *buffer, size_t *bytes) {
  *bytes = sizeof borrowed.memory;
  return plain(buffer);
}
int LiteRtLockTensorBuffer(void *buffer, void **memory, int mode) {
  (void)mode;
  if (plain(buffer)) return 6;
  *memory = stub.kind == STUB_NO_MEMORY ? NULL : ((Object *)buffer)->memory;
  return 0;
}
int LiteRtUnlockTensorBuffer(void *buffer) { return plain(buffer); }
int LiteRtRunCompiledModel(void *compiled, size_t s, size_t inputs, void **in, size_t outputs,
                               void **out) {
  for (size_t i = 0; i < inputs; i++)
    if (!in[i]) return 6;
  for (size_t i = 0; i < outputs; i++)
    if (!out[i]) return 6;
  return s < 2 ? plain(compiled) : 6;
}
int LiteRtGetModelMetadata(void *model, const char *key, const void **data, size_t *bytes) {
  if (plain(model)) return 6;
  *data = stub.kind == STUB_NO_MEMORY ? NULL : key;
  *bytes = strlen(key);
  return 0;
}
int LiteRtCompiledModelGetProfiler(void *compiled, void **profiler) {
  return lend(compiled, 0, profiler);
}
int LiteRtStartProfiler(void *profiler) { return plain(profiler); }
int LiteRtGetProfileSummary(void *profiler, void *compiled, const char **text) {
  if (!compiled || plain(profiler)) return 6;
  *text = stub.kind == STUB_NO_MEMORY ? NULL : strcpy(malloc(5), "text");
  return 0;
}
