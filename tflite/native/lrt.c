#include "lrt.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify.h"

/* What is needed of the LiteRT C API. Every handle is an opaque pointer there, every
 * status an int, 0 for success. */
typedef void *Handle;
typedef int Status;

typedef struct {
  unsigned int rank : 7;
  unsigned int has_strides : 1;
  int32_t sizes[LRT_MAX_RANK];
  uint32_t strides[LRT_MAX_RANK];
} Layout;

typedef struct {
  int element_type;
  Layout layout;
} TensorType;

typedef struct {
  int tag;
  struct {
    int type;
    union {
      bool flag;
      int64_t number;
      const char *text;
    } value;
  } any;
} EnvironmentOption;

_Static_assert(sizeof(Layout) == 68, "layout of a tensor in LiteRT's ABI");
_Static_assert(sizeof(TensorType) == 72, "type of a tensor in LiteRT's ABI");
_Static_assert(sizeof(EnvironmentOption) == 24, "environment option in LiteRT's ABI");

enum { MIN_LOG_SEVERITY = 25, OPTION_IS_INT = 2, LOG_ERRORS = 3 };
enum { ON_CPU = 1, LOCK_TO_READ = 0, LOCK_TO_WRITE = 1 };
enum { MAX_COUNT = 1 << 16 }; /* of signatures, and of tensors at one side of one */

/* F(name, result, arguments) */
#define API(F)                                                                            \
  F(CreateEnvironment, Status, (int, const EnvironmentOption *, Handle *))                \
  F(DestroyEnvironment, void, (Handle))                                                   \
  F(CreateModelFromBuffer, Status, (Handle, const void *, size_t, Handle *))              \
  F(DestroyModel, void, (Handle))                                                         \
  F(GetModelMetadata, Status, (Handle, const char *, const void **, size_t *))            \
  F(CreateOptions, Status, (Handle *))                                                    \
  F(DestroyOptions, void, (Handle))                                                       \
  F(SetOptionsHardwareAccelerators, Status, (Handle, int))                                \
  F(CreateOpaqueOptions, Status, (const char *, void *, void (*)(void *), Handle *))      \
  F(DestroyOpaqueOptions, void, (Handle))                                                 \
  F(AddOpaqueOptions, Status, (Handle, Handle))                                           \
  F(CreateCompiledModel, Status, (Handle, Handle, Handle, Handle *))                      \
  F(DestroyCompiledModel, void, (Handle))                                                 \
  F(GetNumModelSignatures, Status, (Handle, size_t *))                                    \
  F(GetModelSignature, Status, (Handle, size_t, Handle *))                                \
  F(GetSignatureKey, Status, (Handle, const char **))                                     \
  F(GetNumSignatureInputs, Status, (Handle, size_t *))                                    \
  F(GetNumSignatureOutputs, Status, (Handle, size_t *))                                   \
  F(GetSignatureInputName, Status, (Handle, size_t, const char **))                       \
  F(GetSignatureOutputName, Status, (Handle, size_t, const char **))                      \
  F(GetSignatureInputTensorByIndex, Status, (Handle, size_t, Handle *))                   \
  F(GetSignatureOutputTensorByIndex, Status, (Handle, size_t, Handle *))                  \
  F(GetRankedTensorType, Status, (Handle, TensorType *))                                  \
  F(GetCompiledModelInputBufferRequirements, Status, (Handle, size_t, size_t, Handle *))  \
  F(GetCompiledModelOutputBufferRequirements, Status, (Handle, size_t, size_t, Handle *)) \
  F(CreateManagedTensorBufferFromRequirements, Status,                                    \
    (Handle, const TensorType *, Handle, Handle *))                                       \
  F(DestroyTensorBuffer, void, (Handle))                                                  \
  F(GetTensorBufferPackedSize, Status, (Handle, size_t *))                                \
  F(LockTensorBuffer, Status, (Handle, void **, int))                                     \
  F(UnlockTensorBuffer, Status, (Handle))                                                 \
  F(RunCompiledModel, Status, (Handle, size_t, size_t, Handle *, size_t, Handle *))       \
  F(CompiledModelGetProfiler, Status, (Handle, Handle *))                                 \
  F(StartProfiler, Status, (Handle))                                                      \
  F(GetProfileSummary, Status, (Handle, Handle, const char **))

typedef struct {
  const char *name;
  int count[2];
  LrtTensor *tensors[2];
  Handle *buffers[2];
} Signature;

struct LrtModel {
  void *library, *content;
  Handle environment, model, options, compiled, profiler;
  int count;
  Signature *signatures;
  char error[256];
#define F(name, result, arguments) result(*name) arguments;
  API(F)
#undef F
};

static int fail(LrtModel *m, const char *what, const char *about) {
  snprintf(m->error, sizeof m->error, "%s%s", what, about);
  return -1;
}

static int check(LrtModel *m, const char *call, Status status) {
  if (!status) return 0;
  snprintf(m->error, sizeof m->error, "LiteRT refuses: %.200s gave status %d", call, status);
  return -1;
}

#define TRY(m, call) \
  do { \
    if (check(m, #call, (m)->call)) return -1; \
  } while (0)

/* LiteRT takes options of its parts as TOML, and owns the text, then the options. */
static int add_options(LrtModel *m, const char *part, const char *toml) {
  Handle options = NULL;
  size_t size = strlen(toml) + 1;
  char *text = malloc(size);
  if (!text) return fail(m, "out of memory", "");
  memcpy(text, toml, size);
  if (check(m, "CreateOpaqueOptions", m->CreateOpaqueOptions(part, text, free, &options))) {
    free(text);
    return -1;
  }
  if (check(m, "AddOpaqueOptions", m->AddOpaqueOptions(m->options, options))) {
    m->DestroyOpaqueOptions(options);
    return -1;
  }
  return 0;
}

static int too_many(LrtModel *m) { return fail(m, "too many signatures, inputs or outputs", ""); }

static int open_tensor(LrtModel *m, Handle signature, int s, LrtSide side, int index) {
  LrtTensor *tensor = &m->signatures[s].tensors[side][index];
  Handle *buffer = &m->signatures[s].buffers[side][index];
  Handle found, requirements;
  TensorType type;
  size_t i = (size_t)index;
  if (side == LRT_OUTPUT) {
    TRY(m, GetSignatureOutputName(signature, i, &tensor->name));
    TRY(m, GetSignatureOutputTensorByIndex(signature, i, &found));
    TRY(m, GetCompiledModelOutputBufferRequirements(m->compiled, (size_t)s, i, &requirements));
  } else {
    TRY(m, GetSignatureInputName(signature, i, &tensor->name));
    TRY(m, GetSignatureInputTensorByIndex(signature, i, &found));
    TRY(m, GetCompiledModelInputBufferRequirements(m->compiled, (size_t)s, i, &requirements));
  }
  if (!tensor->name) return fail(m, "an input or output has no name", "");
  TRY(m, GetRankedTensorType(found, &type));
  if (type.layout.rank > LRT_MAX_RANK) return fail(m, "too many dimensions in ", tensor->name);
  tensor->type = (LrtType)type.element_type;
  tensor->rank = (int)type.layout.rank;
  memcpy(tensor->sizes, type.layout.sizes, sizeof tensor->sizes);
  TRY(m, CreateManagedTensorBufferFromRequirements(m->environment, &type, requirements, buffer));
  TRY(m, GetTensorBufferPackedSize(*buffer, &tensor->bytes));
  return 0;
}

static int open_signature(LrtModel *m, int s) {
  Signature *own = &m->signatures[s];
  Handle signature;
  TRY(m, GetModelSignature(m->model, (size_t)s, &signature));
  TRY(m, GetSignatureKey(signature, &own->name));
  if (!own->name) return fail(m, "a signature has no name", "");
  for (int side = LRT_INPUT; side <= LRT_OUTPUT; side++) {
    size_t count;
    if (side == LRT_OUTPUT)
      TRY(m, GetNumSignatureOutputs(signature, &count));
    else
      TRY(m, GetNumSignatureInputs(signature, &count));
    if (count > MAX_COUNT) return too_many(m);
    own->tensors[side] = calloc(count + 1, sizeof(LrtTensor));
    own->buffers[side] = calloc(count + 1, sizeof(Handle));
    if (!own->tensors[side] || !own->buffers[side]) return fail(m, "out of memory", "");
    own->count[side] = (int)count;
    for (int i = 0; i < own->count[side]; i++)
      if (open_tensor(m, signature, s, (LrtSide)side, i)) return -1;
  }
  return 0;
}

static int open_all(LrtModel *m, size_t size, int threads, LrtKernels kernels, bool profile) {
  static const char *const names[] = {"delegate", "builtin", "reference"};
  const EnvironmentOption quiet = {
      MIN_LOG_SEVERITY, {OPTION_IS_INT, {.number = LOG_ERRORS}}};
  char toml[96];
  size_t count;
  TRY(m, CreateEnvironment(1, &quiet, &m->environment));
  TRY(m, CreateModelFromBuffer(m->environment, m->content, size, &m->model));
  TRY(m, CreateOptions(&m->options));
  TRY(m, SetOptionsHardwareAccelerators(m->options, ON_CPU));
  snprintf(toml, sizeof toml, "kernel_mode = \"%s\"\nnum_threads = %d\n", names[kernels], threads);
  if (add_options(m, "xnnpack", toml)) return -1;
  if (profile && add_options(m, "runtime_options_string", "enable_profiling = true\n")) return -1;
  TRY(m, CreateCompiledModel(m->environment, m->model, m->options, &m->compiled));
  TRY(m, GetNumModelSignatures(m->model, &count));
  if (count > MAX_COUNT) return too_many(m);
  m->signatures = calloc(count + 1, sizeof(Signature));
  if (!m->signatures) return fail(m, "out of memory", "");
  for (m->count = 0; m->count < (int)count;)
    if (open_signature(m, m->count++)) return -1;
  if (profile) {
    TRY(m, CompiledModelGetProfiler(m->compiled, &m->profiler));
    TRY(m, StartProfiler(m->profiler));
  }
  return 0;
}

static int load(LrtModel *m, const char *library) {
  m->library = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (!m->library) return fail(m, "no LiteRT: ", dlerror());
#define F(name, result, arguments)                          \
  *(void **)&m->name = dlsym(m->library, "LiteRt" #name);   \
  if (!m->name) return fail(m, library, " lacks LiteRt" #name);
  API(F)
#undef F
  return 0;
}

LrtModel *lrt_open(const char *library, const void *model, size_t size, int threads,
                   LrtKernels kernels, bool profile, char *error, size_t error_size) {
  LrtModel *m = calloc(1, sizeof *m);
  if (!m) {
    snprintf(error, error_size, "out of memory");
    return NULL;
  }
  int failed = -1;
  const char *wrong;
  m->content = malloc(size ? size : 1);
  if (!m->content) {
    fail(m, "out of memory", "");
  } else if (size < 8 || memcmp((const char *)model + 4, "TFL3", 4)) {
    fail(m, "this is no .tflite file", "");
  } else if ((wrong = lrt_verify(model, size))) {
    fail(m, "this .tflite file is damaged: ", wrong);
  } else {
    memcpy(m->content, model, size);
    failed = load(m, library) || open_all(m, size, threads, kernels, profile);
  }
  if (!failed) return m;
  snprintf(error, error_size, "%s", m->error);
  lrt_close(m);
  return NULL;
}

void lrt_close(LrtModel *m) {
  if (!m) return;
  for (int s = 0; s < m->count; s++)
    for (int side = LRT_INPUT; side <= LRT_OUTPUT; side++) {
      Signature *own = &m->signatures[s];
      for (int i = 0; i < own->count[side]; i++)
        if (own->buffers[side][i]) m->DestroyTensorBuffer(own->buffers[side][i]);
      free(own->tensors[side]);
      free(own->buffers[side]);
    }
  free(m->signatures);
  if (m->compiled) m->DestroyCompiledModel(m->compiled);
  if (m->options) m->DestroyOptions(m->options);
  if (m->model) m->DestroyModel(m->model);
  if (m->environment) m->DestroyEnvironment(m->environment);
  free(m->content);
  free(m); /* the library stays open: LiteRT keeps state of the process in it */
}

static const Signature *at(const LrtModel *m, int s) {
  return s >= 0 && s < m->count ? &m->signatures[s] : NULL;
}

int lrt_signature_count(const LrtModel *m) { return m->count; }

const char *lrt_signature_name(const LrtModel *m, int s) {
  const Signature *own = at(m, s);
  return own ? own->name : NULL;
}

int lrt_find_signature(LrtModel *m, const char *name) {
  for (int s = 0; s < m->count; s++)
    if (!strcmp(m->signatures[s].name, name)) return s;
  return fail(m, "the file has no signature ", name);
}

int lrt_tensor_count(const LrtModel *m, int s, LrtSide side) {
  const Signature *own = at(m, s);
  return own ? own->count[side] : -1;
}

const LrtTensor *lrt_tensor(const LrtModel *m, int s, LrtSide side, int index) {
  const Signature *own = at(m, s);
  return own && index >= 0 && index < own->count[side] ? &own->tensors[side][index] : NULL;
}

int lrt_find_tensor(LrtModel *m, int s, LrtSide side, const char *name) {
  const LrtTensor *tensor;
  for (int i = 0; (tensor = lrt_tensor(m, s, side, i)); i++)
    if (!strcmp(tensor->name, name)) return i;
  return fail(m, side == LRT_INPUT ? "there is no input " : "there is no output ", name);
}

/* The memory of a tensor of `bytes` bytes, locked; NULL on failure. */
static void *lock(LrtModel *m, int s, LrtSide side, int index, size_t bytes) {
  const LrtTensor *tensor = lrt_tensor(m, s, side, index);
  void *memory = NULL;
  if (!tensor) {
    fail(m, "there is no such tensor", "");
  } else if (tensor->bytes != bytes) {
    snprintf(m->error, sizeof m->error, "%.100s has %zu bytes, not %zu", tensor->name,
             tensor->bytes, bytes);
  } else if (check(m, "LockTensorBuffer",
                   m->LockTensorBuffer(m->signatures[s].buffers[side][index], &memory,
                                       side == LRT_INPUT ? LOCK_TO_WRITE : LOCK_TO_READ))) {
    memory = NULL;
  } else if (!memory) {
    fail(m, "LiteRT has no memory for ", tensor->name);
  }
  return memory;
}

int lrt_write(LrtModel *m, int s, int input, const void *data, size_t bytes) {
  void *memory = lock(m, s, LRT_INPUT, input, bytes);
  if (!memory) return -1;
  memcpy(memory, data, bytes);
  TRY(m, UnlockTensorBuffer(m->signatures[s].buffers[LRT_INPUT][input]));
  return 0;
}

int lrt_read(LrtModel *m, int s, int output, void *data, size_t bytes) {
  const void *memory = lock(m, s, LRT_OUTPUT, output, bytes);
  if (!memory) return -1;
  memcpy(data, memory, bytes);
  TRY(m, UnlockTensorBuffer(m->signatures[s].buffers[LRT_OUTPUT][output]));
  return 0;
}

int lrt_run(LrtModel *m, int s) {
  const Signature *own = at(m, s);
  if (!own) return fail(m, "there is no such signature", "");
  TRY(m, RunCompiledModel(m->compiled, (size_t)s, (size_t)own->count[LRT_INPUT],
                          own->buffers[LRT_INPUT], (size_t)own->count[LRT_OUTPUT],
                          own->buffers[LRT_OUTPUT]));
  return 0;
}

int lrt_metadata(LrtModel *m, const char *name, const void **data, size_t *bytes) {
  *data = NULL;
  *bytes = 0;
  if (m->GetModelMetadata(m->model, name, data, bytes) || !*data)
    return fail(m, "the file has no metadata ", name);
  return 0;
}

char *lrt_profile(LrtModel *m) {
  const char *text = NULL;
  if (!m->profiler || m->GetProfileSummary(m->profiler, m->compiled, &text)) return NULL;
  return (char *)text;
}

const char *lrt_error(const LrtModel *m) { return m->error; }
