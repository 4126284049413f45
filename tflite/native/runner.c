/* Runs signatures of a .tflite file on raw little-endian files.
 *
 *     runner --library libLiteRt.so net.tflite --list
 *     runner --library libLiteRt.so net.tflite --run classify image=in.raw "label=>out.raw"
 *
 * Several --run follow each other in one process, so that a step can read what an earlier
 * one wrote. It prints one line per run, its median time; errors go to stderr, and the exit
 * status is 1 (2 for a wrong command line). */
#define _POSIX_C_SOURCE 200112L

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lrt.h"

static const char USAGE[] =
    "usage: runner [--library FILE] MODEL [--threads N] [--kernels xnnpack|builtin|reference]\n"
    "              [--repeat N] [--profile] [--list] [--verbose]\n"
    "              [--run SIGNATURE INPUT=FILE... [\"OUTPUT=>FILE\"...]]...\n";

static void fail(int status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("runner: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  exit(status);
}

static int positive(const char *option, const char *text) {
  char *end = NULL;
  errno = 0;
  long value = text ? strtol(text, &end, 10) : 0;
  if (!text || errno || *end || end == text || value < 1 || value > INT_MAX)
    fail(2, "%s must be a whole number above 0. Received: %s", option, text ? text : "nothing");
  return (int)value;
}

static char *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (!file) fail(1, "cannot read %s: %s", path, strerror(errno));
  size_t room = 1 << 16;
  char *content = NULL;
  *size = 0;
  do {
    room *= 2;
    char *larger = realloc(content, room);
    if (!larger) fail(1, "%s: out of memory", path);
    content = larger;
    *size += fread(content + *size, 1, room - *size, file);
  } while (*size == room);
  if (ferror(file)) fail(1, "cannot read %s", path);
  fclose(file);
  return content;
}

static void write_file(const char *path, const void *content, size_t size) {
  FILE *file = fopen(path, "wb");
  if (!file) fail(1, "cannot write %s: %s", path, strerror(errno));
  size_t written = fwrite(content, 1, size, file);
  if (fclose(file) || written != size) fail(1, "cannot write all of %s", path);
}

static void list(const LrtModel *model) {
  for (int s = 0; s < lrt_signature_count(model); s++) {
    printf("%s\n", lrt_signature_name(model, s));
    for (int side = LRT_INPUT; side <= LRT_OUTPUT; side++) {
      const LrtTensor *tensor;
      for (int i = 0; (tensor = lrt_tensor(model, s, (LrtSide)side, i)); i++) {
        printf("  %s %s type %d [", side ? "out" : "in ", tensor->name, (int)tensor->type);
        for (int axis = 0; axis < tensor->rank; axis++)
          printf(axis ? ", %d" : "%d", (int)tensor->sizes[axis]);
        printf("] %zu bytes\n", tensor->bytes);
      }
    }
  }
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median_us(LrtModel *model, int signature, int repeat) {
  double *times = malloc((size_t)repeat * sizeof *times);
  if (!times) fail(1, "out of memory");
  for (int i = 0; i < repeat; i++) {
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    if (lrt_run(model, signature)) fail(1, "%s", lrt_error(model));
    clock_gettime(CLOCK_MONOTONIC, &end);
    times[i] = 1e6 * (double)(end.tv_sec - start.tv_sec) +
               1e-3 * (double)(end.tv_nsec - start.tv_nsec);
  }
  qsort(times, (size_t)repeat, sizeof *times, ascending);
  double median = (times[(repeat - 1) / 2] + times[repeat / 2]) / 2;
  free(times);
  return median;
}

/* Runs one signature; `arguments` are "input=file" and "output=>file". */
static void run(LrtModel *model, const char *name, char **arguments, int count, int repeat) {
  int signature = lrt_find_signature(model, name), written = 0;
  if (signature < 0) fail(1, "%s", lrt_error(model));
  for (int pass = 0; pass < 2; pass++) { /* inputs, then outputs */
    for (int i = 0; i < count; i++) {
      char *equals = strchr(arguments[i], '=');
      if (!equals) fail(2, "%s must be INPUT=FILE or OUTPUT=>FILE", arguments[i]);
      int side = equals[1] == '>' ? LRT_OUTPUT : LRT_INPUT;
      if (side != pass) continue;
      char *path = equals + 1 + side;
      *equals = '\0';
      int tensor = lrt_find_tensor(model, signature, (LrtSide)side, arguments[i]);
      if (tensor < 0) fail(1, "%s: %s", name, lrt_error(model));
      size_t size = lrt_tensor(model, signature, (LrtSide)side, tensor)->bytes;
      char *content;
      if (side == LRT_INPUT) {
        content = read_file(path, &size);
        if (lrt_write(model, signature, tensor, content, size))
          fail(1, "%s: %s", path, lrt_error(model));
        written++;
      } else {
        content = malloc(size ? size : 1);
        if (!content) fail(1, "out of memory");
        if (lrt_read(model, signature, tensor, content, size)) fail(1, "%s", lrt_error(model));
        write_file(path, content, size);
      }
      free(content);
      *equals = '=';
    }
    if (pass == LRT_INPUT) {
      int wanted = lrt_tensor_count(model, signature, LRT_INPUT);
      if (written != wanted) fail(1, "%s takes %d inputs, not %d", name, wanted, written);
      printf("%s %.1f us\n", name, median_us(model, signature, repeat));
    }
  }
}

/* What goes to stderr vanishes until `restore_stderr` is called with the result. */
static int discard_stderr(void) {
  int kept = dup(STDERR_FILENO), nowhere = open("/dev/null", O_WRONLY);
  if (nowhere >= 0) {
    dup2(nowhere, STDERR_FILENO);
    close(nowhere);
  }
  return kept;
}

static void restore_stderr(int kept) {
  if (kept < 0) return;
  dup2(kept, STDERR_FILENO);
  close(kept);
}

int main(int argc, char **argv) {
  const char *library = "libLiteRt.so", *path = NULL;
  int threads = 1, repeat = 1, listed = 0, profiled = 0, verbose = 0, at = 1;
  LrtKernels kernels = LRT_XNNPACK;
  for (; at < argc && strcmp(argv[at], "--run"); at++) {
    const char *option = argv[at];
    const char *value = at + 1 < argc ? argv[at + 1] : NULL;
    if (!strcmp(option, "--profile")) {
      profiled = 1;
    } else if (!strcmp(option, "--verbose")) {
      verbose = 1;
    } else if (!strcmp(option, "--list")) {
      listed = 1;
    } else if (!strcmp(option, "--threads")) {
      threads = positive(option, value), at++;
    } else if (!strcmp(option, "--repeat")) {
      repeat = positive(option, value), at++;
    } else if (!strcmp(option, "--library") && value) {
      library = value, at++;
    } else if (!strcmp(option, "--kernels") && value) {
      static const char *const names[] = {"xnnpack", "builtin", "reference"};
      int kind = 0;
      while (kind < 3 && strcmp(value, names[kind])) kind++;
      if (kind == 3) fail(2, "--kernels must be xnnpack, builtin or reference. Received: %s", value);
      kernels = (LrtKernels)kind, at++;
    } else if (option[0] == '-' || path) {
      fail(2, "unknown or incomplete option: %s\n%s", option, USAGE);
    } else {
      path = option;
    }
  }
  if (!path) fail(2, "no model\n%s", USAGE);

  char error[256];
  size_t size;
  char *content = read_file(path, &size);
  int kept = verbose ? -1 : discard_stderr();
  LrtModel *model =
      lrt_open(library, content, size, threads, kernels, profiled, error, sizeof error);
  restore_stderr(kept);
  free(content);
  if (!model) fail(1, "%s: %s", path, error);
  if (listed) list(model);
  while (at < argc) {
    int first = at + 2;
    if (first > argc) fail(2, "--run needs a signature\n%s", USAGE);
    for (at = first; at < argc && strcmp(argv[at], "--run");) at++;
    run(model, argv[first - 1], argv + first, at - first, repeat);
  }
  if (profiled) {
    char *text = lrt_profile(model);
    if (text) puts(text);
    free(text);
  }
  lrt_close(model);
  return fflush(stdout) || ferror(stdout) ? 1 : 0;
}
