#define _POSIX_C_SOURCE 200112L

#include "costs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "failure.h"
#include "json.h"

enum { FLUSHED = 64 << 20, PLAIN_PER_ROUND = 8 };

/* A signature that takes an image, and what else it takes; -1 for what it does not. */
typedef struct {
  LrtModel *model;
  int signature, image, decisions, thresholds;
} Call;

static uint32_t next_random(uint32_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 17;
  *state ^= *state << 5;
  return *state;
}

/* Whole numbers from 0 to 255, the same ones every time. */
static void *noise(const LrtTensor *tensor) {
  uint32_t state = 2463534242u;
  char *pixels = malloc(tensor->bytes + 1);
  if (!pixels) return NULL;
  size_t step = tensor->type == LRT_FLOAT32 ? sizeof(float) : 1;
  for (size_t i = 0; i + step <= tensor->bytes; i += step) {
    unsigned char byte = (unsigned char)(next_random(&state) >> 24);
    float pixel = byte;
    memcpy(pixels + i, step == 1 ? (const void *)&byte : &pixel, step);
  }
  return pixels;
}

/* Finds the inputs, and writes the image, which stays. */
static int open_call(Call *call, const CostOptions *options, Error error) {
  LrtModel *m = call->model;
  int s = call->signature;
  call->decisions = lrt_find_tensor(m, s, LRT_INPUT, "decisions");
  call->thresholds = lrt_find_tensor(m, s, LRT_INPUT, "thresholds");
  call->image = lrt_find_tensor(m, s, LRT_INPUT, "image");
  if (call->image < 0) return fail(error, "%s", lrt_error(m));
  int known = 1 + (call->decisions >= 0) + (call->thresholds >= 0);
  if (lrt_tensor_count(m, s, LRT_INPUT) != known)
    return fail(error, "%.60s must take image, decisions and thresholds. Received: %d inputs",
                lrt_signature_name(m, s), lrt_tensor_count(m, s, LRT_INPUT));
  const LrtTensor *tensor = lrt_tensor(m, s, LRT_INPUT, call->image);
  void *made = options->image ? NULL : noise(tensor);
  if (!options->image && !made) return fail(error, "out of memory");
  int failed = lrt_write(m, s, call->image, options->image ? options->image : made,
                         options->image ? options->image_bytes : tensor->bytes);
  free(made);
  return failed ? fail(error, "%s", lrt_error(m)) : 0;
}

static int check_count(const Call *call, const char *name, int index, int count, Error error) {
  const LrtTensor *tensor = lrt_tensor(call->model, call->signature, LRT_INPUT, index);
  size_t bytes = tensor ? tensor->bytes : 0;
  if (bytes == 4 * (size_t)count) return 0;
  return fail(error, "trials must have %zu %s each, as the file takes. Received: %d", bytes / 4,
              name, count);
}

/* The first signature that answers, as the file notes it; if it notes none, the first. */
static int answer_of(LrtModel *model) {
  const void *data;
  size_t size;
  Json noted, table, role, kind;
  if (lrt_metadata(model, "keras_dyngate", &data, &size) || !json_open(data, size, &noted) ||
      !json_member(noted, "signatures", &table))
    return 0;
  for (int s = 0; s < lrt_signature_count(model); s++)
    if (json_member(table, lrt_signature_name(model, s), &role) &&
        json_member(role, "kind", &kind) && json_is_text(kind, "answer"))
      return s;
  return 0;
}

static int feed(const Call *call, const Trials *t, int trial, Error error) {
  LrtModel *m = call->model;
  size_t row = (size_t)trial, units = (size_t)t->units, gates = (size_t)t->gates;
  if (units && lrt_write(m, call->signature, call->decisions, t->held + row * units, 4 * units))
    return fail(error, "%s", lrt_error(m));
  if (gates &&
      lrt_write(m, call->signature, call->thresholds, t->thresholds + row * gates, 4 * gates))
    return fail(error, "%s", lrt_error(m));
  return 0;
}

/* Lowers `best` to what a call takes, in ms. `heap` is there for cold caches. */
static int time_call(const Call *call, volatile char *heap, double *best, Error error) {
  struct timespec start, end;
  for (size_t i = 0; heap && i < FLUSHED; i += 16) heap[i]++;
  if (!heap && lrt_run(call->model, call->signature))
    return fail(error, "%s", lrt_error(call->model));
  clock_gettime(CLOCK_MONOTONIC, &start);
  if (lrt_run(call->model, call->signature)) return fail(error, "%s", lrt_error(call->model));
  clock_gettime(CLOCK_MONOTONIC, &end);
  double ms = 1e3 * (double)(end.tv_sec - start.tv_sec) +
              1e-6 * (double)(end.tv_nsec - start.tv_nsec);
  if (ms < 1e-6) ms = 1e-6; /* no time at all would not be a cost */
  if (*best < 0 || ms < *best) *best = ms;
  return 0;
}

static int time_all(const Call *call, const Trials *t, const Call *plain, int rounds,
                    volatile char *heap, int *order, double *ms, double *plain_ms, Error error) {
  uint32_t state = 88172645u;
  int apart = t->count < PLAIN_PER_ROUND ? 1 : t->count / PLAIN_PER_ROUND;
  *plain_ms = -1;
  if (feed(call, t, 0, error)) return -1;
  if (lrt_run(call->model, call->signature)) /* the first call of all is like no other */
    return fail(error, "%s", lrt_error(call->model));
  for (int i = 0; i < t->count; i++) {
    order[i] = i;
    ms[i] = -1;
  }
  for (int round = 0; round < rounds; round++) {
    for (int i = t->count - 1; i > 0; i--) {
      int other = (int)(next_random(&state) % (uint32_t)(i + 1)), kept = order[i];
      order[i] = order[other];
      order[other] = kept;
    }
    for (int i = 0; i < t->count; i++) {
      if (feed(call, t, order[i], error) || time_call(call, heap, &ms[order[i]], error))
        return -1;
      if (plain && i % apart == 0 && time_call(plain, heap, plain_ms, error)) return -1;
    }
  }
  return 0;
}

int costs_measure(LrtModel *model, const Trials *trials, LrtModel *plain,
                  const CostOptions *options, double *ms, double *plain_ms, char *text_of_error,
                  size_t error_size) {
  Error error = {text_of_error, error_size};
  Call call = {model, lrt_find_signature(model, trials->signature), -1, -1, -1};
  Call other = {plain, 0, -1, -1, -1};
  if (call.signature < 0) return fail(error, "%s", lrt_error(model));
  if (open_call(&call, options, error) ||
      check_count(&call, "decisions", call.decisions, trials->units, error) ||
      check_count(&call, "thresholds", call.thresholds, trials->gates, error))
    return -1;
  if (plain) {
    other.signature = answer_of(plain);
    if (open_call(&other, options, error)) return -1;
    if (lrt_tensor_count(plain, other.signature, LRT_INPUT) != 1)
      return fail(error, "the plain file must take an image alone. Received: more");
  }
  char *heap = options->cold ? calloc(FLUSHED, 1) : NULL;
  int *order = malloc((size_t)trials->count * sizeof *order);
  int failed = -1;
  if (!order || (options->cold && !heap))
    fail(error, "out of memory");
  else
    failed = time_all(&call, trials, plain ? &other : NULL, options->rounds, heap, order, ms,
                      plain_ms, error);
  free(order);
  free(heap);
  return failed;
}

void costs_device(char *name, size_t size) {
  static const char *const keys[] = {"model name", "Hardware"};
  char line[512];
  FILE *file = fopen("/proc/cpuinfo", "r");
  snprintf(name, size, "unknown");
  while (file && fgets(line, sizeof line, file)) {
    char *value = strchr(line, ':');
    for (size_t i = 0; value && i < sizeof keys / sizeof *keys; i++) {
      if (strncmp(line, keys[i], strlen(keys[i]))) continue;
      value += 1 + strspn(value + 1, " \t");
      value[strcspn(value, "\r\n")] = '\0';
      if (*value) snprintf(name, size, "%s", value);
      fclose(file);
      return;
    }
  }
  if (file) fclose(file);
}

/* What is not printed ASCII becomes '?'. */
static void write_text(FILE *file, const char *text) {
  fputc('"', file);
  for (; *text; text++) {
    if (*text == '"' || *text == '\\') fputc('\\', file);
    fputc(*text < ' ' || *text > '~' ? '?' : *text, file);
  }
  fputc('"', file);
}

int costs_write(const char *path, const Trials *trials, const double *ms, double plain_ms,
                const char *device, int threads, bool cold, char *error, size_t error_size) {
  Error own = {error, error_size};
  char beside[4096];
  errno = ENAMETOOLONG;
  int size = snprintf(beside, sizeof beside, "%s.%ld.part", path, (long)getpid());
  FILE *file = size < (int)sizeof beside ? fopen(beside, "wb") : NULL;
  if (!file) return fail(own, "cannot write %.150s: %s", path, strerror(errno));
  fputs("{\"format\": \"keras_dyngate costs 1\", \"unit\": \"ms\", \"device\": ", file);
  write_text(file, device);
  fprintf(file, ", \"threads\": %d, \"cache\": \"%s\", \"file_sha256\": ", threads,
          cold ? "cold" : "warm");
  write_text(file, trials->file_sha256);
  fputs(", \"costs\": [", file);
  for (int i = 0; ms && i < trials->count; i++) fprintf(file, i ? ", %.9g" : "%.9g", ms[i]);
  if (plain_ms < 0)
    fputs("], \"plain\": null}\n", file);
  else
    fprintf(file, "], \"plain\": %.9g}\n", plain_ms);
  int failed = ferror(file) || fflush(file) || fsync(fileno(file));
  if (fclose(file)) failed = 1;
  if (!failed && ms && rename(beside, path)) failed = 1;
  int why = errno;
  if (failed || !ms) remove(beside);
  return failed ? fail(own, "cannot write %.150s: %s", path, strerror(why)) : 0;
}
