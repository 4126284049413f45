/* Runs .tflite files by signature, over the LiteRT C API.
 *
 *     LrtModel *model = lrt_open("libLiteRt.so", bytes, size, 1, LRT_XNNPACK, false,
 *                                error, sizeof error);
 *     int classify = lrt_find_signature(model, "classify");
 *     lrt_write(model, classify, lrt_find_tensor(model, classify, LRT_INPUT, "image"),
 *               pixels, sizeof pixels);
 *     lrt_run(model, classify);
 *     lrt_read(model, classify, lrt_find_tensor(model, classify, LRT_OUTPUT, "label"),
 *              &label, sizeof label);
 *     lrt_close(model);
 *
 * The library is opened at run time: the one in the Python package ai-edge-litert, the one
 * in Android's LiteRT, or any other that exports the same functions. One model serves one
 * thread at a time: open one per thread, or lock write, run and read together. The output
 * `executed_macs` of a file counts thousands of MACs. Functions that return int give 0 or an
 * index, and -1 on failure; then lrt_error says what went wrong. */
#ifndef LRT_H
#define LRT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LRT_MAX_RANK 8

typedef struct LrtModel LrtModel;
typedef enum { LRT_XNNPACK, LRT_BUILTIN, LRT_REFERENCE } LrtKernels;
typedef enum { LRT_INPUT, LRT_OUTPUT } LrtSide;

/* Types at the borders of a signature; the numbers are those of the API. */
typedef enum { LRT_FLOAT32 = 1, LRT_INT32 = 2, LRT_UINT8 = 3 } LrtType;

typedef struct {
  const char *name;
  LrtType type;
  int rank;
  int32_t sizes[LRT_MAX_RANK];
  size_t bytes;
} LrtTensor;

/* Copies the model. NULL on failure; `error` is then a sentence. */
LrtModel *lrt_open(const char *library, const void *model, size_t size, int threads,
                   LrtKernels kernels, bool profile, char *error, size_t error_size);
void lrt_close(LrtModel *model);

int lrt_signature_count(const LrtModel *model);
const char *lrt_signature_name(const LrtModel *model, int signature);
int lrt_find_signature(LrtModel *model, const char *name);

int lrt_tensor_count(const LrtModel *model, int signature, LrtSide side);
/* NULL if there is none; it lives as long as the model. */
const LrtTensor *lrt_tensor(const LrtModel *model, int signature, LrtSide side, int index);
int lrt_find_tensor(LrtModel *model, int signature, LrtSide side, const char *name);

/* `bytes` must be those of the tensor. */
int lrt_write(LrtModel *model, int signature, int input, const void *data, size_t bytes);
int lrt_run(LrtModel *model, int signature);
int lrt_read(LrtModel *model, int signature, int output, void *data, size_t bytes);

/* A metadata entry of the file; it lives as long as the model. */
int lrt_metadata(LrtModel *model, const char *name, const void **data, size_t *bytes);

/* Times of operators since the model was opened, as text that the caller frees; NULL
 * without `profile`. The time of an IF holds those of its branches. */
char *lrt_profile(LrtModel *model);
const char *lrt_error(const LrtModel *model);

#ifdef __cplusplus
}
#endif
#endif
