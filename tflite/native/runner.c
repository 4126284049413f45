/* Runs signatures of a .tflite file on raw little-endian files.
 *
 *     runner --library libLiteRt.so net.tflite --list
 *     runner --library libLiteRt.so net.tflite --run classify image=in.raw "label=>out.raw"
 *
 *     runner --library libLiteRt.so net.tflite --trials trials.json --json times.json
 *
 * Several --run follow each other in one process, so that a step can read what an earlier
 * one wrote. It prints one line per run, its median time; errors go to stderr, and the exit
 * status is 1 (2 for a wrong command line). --trials times the file under each set of
 * decisions in trials.json, and beside it the plain file, for a table of costs. */
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

#include "costs.h"
#include "lrt.h"
#include "trials.h"

static const char USAGE[] =
    "usage: runner [--library FILE] MODEL [--threads N] [--kernels xnnpack|builtin|reference]\n"
    "              [--repeat N] [--profile] [--list] [--verbose]\n"
    "              [--run SIGNATURE INPUT=FILE... [\"OUTPUT=>FILE\"...]]...\n"
    "              [--trials FILE --json FILE [--rounds N] [--cold] [--plain MODEL]\n"
    "               [--device NAME] [image=FILE]]\n";

typedef struct {
  const char *library, *path;
  int threads, repeat, listed, profiled, verbose;
  LrtKernels kernels;
} Options;

/* What --trials goes with. */
typedef struct {
  const char *trials, *json, *plain, *device, *image;
  int rounds, cold;
} Measurement;

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

static LrtModel *open_model(const Options *options, const char *path) {
  char error[256];
  size_t size;
  char *content = read_file(path, &size);
  int kept = options->verbose ? -1 : discard_stderr();
  LrtModel *model = lrt_open(options->library, content, size, options->threads, options->kernels,
                             options->profiled, error, sizeof error);
  restore_stderr(kept);
  free(content);
  if (!model) fail(1, "%s: %s", path, error);
  return model;
}

static void measure(LrtModel *model, const Options *options, const Measurement *wanted) {
  Trials trials;
  char error[256], device[256];
  size_t size;
  char *text = read_file(wanted->trials, &size);
  if (trials_read(text, size, &trials, error, sizeof error))
    fail(1, "%s: %s", wanted->trials, error);
  free(text);
  costs_device(device, sizeof device);
  const char *named = wanted->device ? wanted->device : device;
  if (costs_write(wanted->json, &trials, NULL, -1, named, 1, false, error, sizeof error))
    fail(1, "%s", error);
  LrtModel *plain = wanted->plain ? open_model(options, wanted->plain) : NULL;
  CostOptions how = {wanted->rounds, wanted->cold, NULL, 0};
  char *image = wanted->image ? read_file(wanted->image, &how.image_bytes) : NULL;
  how.image = image;
  double *ms = malloc((size_t)trials.count * sizeof *ms), plain_ms, least, most;
  if (!ms) fail(1, "out of memory");
  if (costs_measure(model, &trials, plain, &how, ms, &plain_ms, error, sizeof error))
    fail(1, "%s: %s", options->path, error);
  if (costs_write(wanted->json, &trials, ms, plain_ms, named, options->threads, how.cold, error,
                  sizeof error))
    fail(1, "%s", error);
  least = most = ms[0];
  for (int i = 1; i < trials.count; i++) {
    if (ms[i] < least) least = ms[i];
    if (ms[i] > most) most = ms[i];
  }
  printf("%d trials, %.4g to %.4g ms", trials.count, least, most);
  if (plain) printf("; plain %.4g ms", plain_ms);
  puts("");
  free(ms);
  free(image);
  lrt_close(plain);
  trials_free(&trials);
}

/* One option and its value, `argv[at]` and the next. Returns how many words it took. */
static int read_option(char **argv, int at, int argc, Options *options, Measurement *wanted) {
  const char *option = argv[at];
  const char *value = at + 1 < argc ? argv[at + 1] : NULL;
  const struct {
    const char *name;
    const char **text;
    int *number, *flag;
  } known[] = {
      {"--library", &options->library, NULL, NULL},
      {"--threads", NULL, &options->threads, NULL},
      {"--repeat", NULL, &options->repeat, NULL},
      {"--profile", NULL, NULL, &options->profiled},
      {"--verbose", NULL, NULL, &options->verbose},
      {"--list", NULL, NULL, &options->listed},
      {"--trials", &wanted->trials, NULL, NULL},
      {"--json", &wanted->json, NULL, NULL},
      {"--plain", &wanted->plain, NULL, NULL},
      {"--device", &wanted->device, NULL, NULL},
      {"--rounds", NULL, &wanted->rounds, NULL},
      {"--cold", NULL, NULL, &wanted->cold},
  };
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    if (strcmp(option, known[i].name)) continue;
    if (known[i].flag) {
      *known[i].flag = 1;
      return 1;
    }
    if (known[i].number) {
      *known[i].number = positive(option, value);
      return 2;
    }
    if (!value) break;
    *known[i].text = value;
    return 2;
  }
  if (!strcmp(option, "--kernels") && value) {
    static const char *const names[] = {"xnnpack", "builtin", "reference"};
    int kind = 0;
    while (kind < 3 && strcmp(value, names[kind])) kind++;
    if (kind == 3) fail(2, "--kernels must be xnnpack, builtin or reference. Received: %s", value);
    options->kernels = (LrtKernels)kind;
    return 2;
  }
  if (options->path && !strncmp(option, "image=", 6)) {
    wanted->image = option + 6;
  } else if (option[0] == '-' || options->path) {
    fail(2, "unknown or incomplete option: %s\n%s", option, USAGE);
  } else {
    options->path = option;
  }
  return 1;
}

int main(int argc, char **argv) {
  Options options = {"libLiteRt.so", NULL, 1, 1, 0, 0, 0, LRT_XNNPACK};
  Measurement wanted = {NULL, NULL, NULL, NULL, NULL, 0, 0};
  int at = 1;
  while (at < argc && strcmp(argv[at], "--run"))
    at += read_option(argv, at, argc, &options, &wanted);
  if (!options.path) fail(2, "no model\n%s", USAGE);
  bool more = wanted.json || wanted.plain || wanted.device || wanted.image || wanted.rounds ||
              wanted.cold;
  if (wanted.trials ? !wanted.json : more)
    fail(2, "--trials needs --json, and what goes with it needs --trials\n%s", USAGE);
  if (!wanted.rounds) wanted.rounds = 5;

  LrtModel *model = open_model(&options, options.path);
  if (options.listed) list(model);
  if (wanted.trials) measure(model, &options, &wanted);
  while (at < argc) {
    int first = at + 2;
    if (first > argc) fail(2, "--run needs a signature\n%s", USAGE);
    for (at = first; at < argc && strcmp(argv[at], "--run");) at++;
    run(model, argv[first - 1], argv + first, at - first, options.repeat);
  }
  if (options.profiled) {
    char *text = lrt_profile(model);
    if (text) puts(text);
    free(text);
  }
  lrt_close(model);
  return fflush(stdout) || ferror(stdout) ? 1 : 0;
}
