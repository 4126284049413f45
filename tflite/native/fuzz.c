/* Gives the runner and lrt what they should not get, under the sanitizers.
 *
 *     fuzz libLiteRt.so FILE...
 *
 * opens damaged files, and prints how many of them ran, were refused with a sentence, or
 * ended LiteRT: by a crash inside of its library, or after 20 seconds.
 *
 *     fuzz trials.json
 *
 * reads what --trials takes: cut off at every byte, and with bytes of it changed.
 *
 *     fuzz libstub.so
 *
 * is about a stand-in for LiteRT (stub.c) of which every single call fails once, or answers
 * oddly; what is not given back is an error too. The exit status is 1 or 86 if code of our
 * own is ended. */
#define _DEFAULT_SOURCE
#include <dlfcn.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "stub.h"
#include "verify.h"

static Stub *stub;
static jmp_buf left;
static void leave(int status) { longjmp(left, status + 1); }

#undef _POSIX_C_SOURCE /* runner.c defines it, and all is included by now */
#define main runner_main
#define exit leave
#include "runner.c"
#undef main
#undef exit

enum { RAN, REFUSED, THEIRS, SLOW, OURS, OUTCOMES };
enum { REPORTED = 86, SECONDS = 20, ROOM = 1 << 16, CHANGED = 20000 };

static const char *const OUTCOME[] = {"ran", "refused", "ended LiteRT", "took too long",
                                      "ended our code"};

typedef struct {
  int next;
  int counts[OUTCOMES];
} Progress;

/* Of the sanitizers' interface, whose header not every compiler comes with. */
void __lsan_do_leak_check(void);
const char *__asan_default_options(void);
const char *__ubsan_default_options(void);

const char *__asan_default_options(void) {
  return "exitcode=86:symbolize=0:allocator_may_return_null=1:max_allocation_size_mb=1000";
}
const char *__ubsan_default_options(void) { return "exitcode=86:print_stacktrace=1"; }

#define REQUIRE(condition) require(condition, #condition)
static void require(bool condition, const char *text) {
  if (condition) return;
  fprintf(stderr, "runtime error: not so: %s\n", text);
  _exit(REPORTED);
}

static void use_tensor(LrtModel *model, int s, LrtSide side, int i) {
  const LrtTensor *tensor = lrt_tensor(model, s, side, i);
  char odd[3] = "odd", *content = calloc(tensor->bytes + 1, 1);
  for (int axis = 0; axis < tensor->rank; axis++) odd[0] ^= (char)tensor->sizes[axis];
  if (tensor->bytes != sizeof odd) {
    REQUIRE(lrt_write(model, s, i, odd, sizeof odd) < 0 && *lrt_error(model));
    REQUIRE(lrt_read(model, s, i, odd, sizeof odd) < 0 && *lrt_error(model));
  }
  if (!content) return;
  if (side == LRT_INPUT)
    lrt_write(model, s, i, content, tensor->bytes);
  else
    lrt_read(model, s, i, content, tensor->bytes);
  free(content);
}

/* What no caller should do, and what a careful one does. */
static void use(LrtModel *model) {
  const void *data;
  size_t size;
  char odd[3] = "odd";
  REQUIRE(lrt_find_signature(model, "no such signature") < 0 && *lrt_error(model));
  if (!lrt_metadata(model, "keras_dyngate", &data, &size)) {
    char *copy = malloc(size + 1);
    if (copy) memcpy(copy, data, size);
    free(copy);
  }
  for (int s = -1; s <= lrt_signature_count(model); s++) {
    REQUIRE(lrt_find_tensor(model, s, LRT_INPUT, "no such tensor") < 0);
    REQUIRE(lrt_write(model, s, -1, odd, sizeof odd) < 0);
    REQUIRE(lrt_read(model, s, INT_MAX, odd, sizeof odd) < 0);
    for (int i = 0; i < lrt_tensor_count(model, s, LRT_INPUT); i++)
      use_tensor(model, s, LRT_INPUT, i);
    if (lrt_run(model, s)) continue;
    for (int i = 0; i < lrt_tensor_count(model, s, LRT_OUTPUT); i++)
      use_tensor(model, s, LRT_OUTPUT, i);
  }
  free(lrt_profile(model));
}

/* Without room behind it, where reading would go unseen. */
static char *read_exactly(const char *path, size_t *size) {
  char *roomy = read_file(path, size), *exact = malloc(*size);
  if (!exact) fail(1, "out of memory");
  memcpy(exact, roomy, *size);
  free(roomy);
  return exact;
}

/* Files that end in the middle of something. */
static void verify_parts(const char *content, size_t size) {
  for (size_t part = 1; part <= 16; part++) {
    size_t some = size / 16 * part;
    char *exact = malloc(some);
    if (!exact) return;
    memcpy(exact, content, some);
    lrt_verify(exact, some);
    free(exact);
  }
}

/* By the interface or, every fourth time, by the program. */
static int open_and_use(char *library, char *path, int number) {
  char error[256] = "";
  size_t size;
  int status = setjmp(left);
  bool profile = number % 32 < 2; /* it takes LiteRT 70 MB */
  if (status) return status == 1 ? RAN : REFUSED;
  if (number % 4 == 0) {
    char *arguments[] = {"runner",    "--library", library, path, "--list",
                         "--verbose", "--profile", NULL};
    return runner_main(profile ? 7 : 6, arguments) ? REFUSED : RAN;
  }
  char *content = read_exactly(path, &size);
  verify_parts(content, size);
  LrtModel *model = lrt_open(library, content, size, 1, (LrtKernels)(number % 3), profile, error,
                             sizeof error);
  free(content);
  REQUIRE(model || *error);
  if (model) use(model);
  lrt_close(model);
  return model ? RAN : REFUSED;
}

/* Never returns. Its output begins anew with every file. */
static void child(char *library, char **paths, int count, Progress *progress, int output) {
  dup2(output, STDERR_FILENO);
  if (!freopen("/dev/null", "w", stdout)) _exit(2);
  for (; progress->next < count; progress->next++) {
    if (ftruncate(output, 0) || lseek(output, 0, SEEK_SET)) _exit(2);
    alarm(SECONDS);
    int outcome = open_and_use(library, paths[progress->next], progress->next);
    progress->counts[outcome]++;
  }
  _exit(0);
}

/* Whether a report's innermost frame outside of the C library and the sanitizers is not
 * LiteRT's. Only our own code is built with the sanitizer that speaks of runtime errors. */
static bool is_ours(const char *report) {
  const char *line = strstr(report, "\n    #0 ");
  if (strstr(report, "runtime error: ")) return true;
  for (; line && !strncmp(line, "\n    #", 6); line = strchr(line + 1, '\n')) {
    size_t length = strcspn(line + 1, "\n");
    char frame[512];
    snprintf(frame, sizeof frame, "%.*s", (int)length, line + 1);
    if (strstr(frame, "libLiteRt")) return false;
    if (!strstr(frame, "libasan") && !strstr(frame, "/libc.so") && !strstr(frame, "libstdc++"))
      return true;
  }
  return true;
}

/* Of a child that did not come to its end. We never call abort. */
static int outcome_of(int status, FILE *output, const char *path) {
  static char report[ROOM];
  rewind(output);
  report[fread(report, 1, ROOM - 1, output)] = '\0';
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) return SLOW;
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT) return THEIRS;
  if (WIFEXITED(status) && WEXITSTATUS(status) == REPORTED && !is_ours(report)) return THEIRS;
  fprintf(stderr, "fuzz: %s, status %d\n%s", path, status, report);
  return OURS;
}

static int with_files(char *library, char **paths, int count) {
  FILE *output = tmpfile();
  Progress *progress = mmap(NULL, sizeof *progress, PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (!output || progress == MAP_FAILED) fail(2, "no memory: %s", strerror(errno));
  while (progress->next < count) {
    int status;
    fflush(stdout);
    pid_t pid = fork();
    if (pid < 0) fail(2, "no process: %s", strerror(errno));
    if (!pid) child(library, paths, count, progress, fileno(output));
    waitpid(pid, &status, 0);
    if (progress->next == count) break;
    char *path = paths[progress->next++];
    int outcome = outcome_of(status, output, path);
    progress->counts[outcome]++;
    if (outcome != OURS) printf("%s %s\n", OUTCOME[outcome], path);
  }
  for (int i = 0; i < OUTCOMES; i++) printf("%s: %d\n", OUTCOME[i], progress->counts[i]);
  return progress->counts[OURS] ? 1 : 0;
}

static int read_trials(const char *text, size_t size) {
  char error[40] = "", *exact = malloc(size ? size : 1);
  Trials trials;
  if (!exact) fail(2, "out of memory");
  memcpy(exact, text, size);
  int failed = trials_read(exact, size, &trials, error, sizeof error);
  free(exact);
  REQUIRE(failed ? *error && memchr(error, '\0', sizeof error) : trials.count > 0);
  for (int i = 0; !failed && i < trials.count * trials.units; i++)
    REQUIRE(trials.held[i] >= -1 && trials.held[i] <= 1);
  for (int i = 0; !failed && i < trials.count * trials.gates; i++)
    REQUIRE(trials.thresholds[i] == trials.thresholds[i]);
  trials_free(&trials);
  return failed ? REFUSED : RAN;
}

static int with_trials(const char *path) {
  static const char pieces[] = "[]{},:\"\\ -+.0123456789eE\0\377tfnNIu";
  int counts[OUTCOMES] = {0};
  size_t size;
  char *text = read_file(path, &size);
  REQUIRE(read_trials(text, size) == RAN);
  for (size_t part = 0; part < size; part++) {
    int outcome = read_trials(text, part);
    REQUIRE(outcome == REFUSED || strspn(text + part, " \r\n") == size - part);
    counts[outcome]++;
  }
  srand(1);
  for (int turn = 0; turn < CHANGED; turn++) {
    size_t place = (size_t)rand() % size;
    char kept = text[place];
    text[place] = pieces[(size_t)rand() % (sizeof pieces - 1)];
    counts[read_trials(text, size)]++;
    if (turn % 4) text[place] = kept; /* other changes stay, for a while */
    if (turn % 64 == 0) {
      free(text);
      text = read_file(path, &size);
    }
  }
  free(text);
  for (int i = RAN; i <= REFUSED; i++) printf("%s: %d\n", OUTCOME[i], counts[i]);
  __lsan_do_leak_check();
  return 0;
}

/* A file that `verify` has nothing against: a model without signatures and graphs. */
static const unsigned char EMPTY[] = {12, 0, 0, 0, 'T', 'F', 'L', '3', 4, 0, 4, 0, 4, 0, 0, 0};

/* As many decisions as the stub has memory for. */
static const char TRIALS[] =
    "{\"format\": \"keras_dyngate trials 1\", \"signature\": \"a\", \"file_sha256\": \"\","
    " \"held\": [[1, 0, -1, 1], [0, 0, 0, 0]], \"thresholds\": null}";

static bool by_interface(const char *library) {
  char error[64] = "";
  LrtModel *model = lrt_open(library, EMPTY, sizeof EMPTY, 1, LRT_XNNPACK, true, error, sizeof error);
  REQUIRE(model || (*error && memchr(error, '\0', sizeof error)));
  if (model) use(model);
  lrt_close(model);
  REQUIRE(stub->live == 0);
  return model;
}

static bool by_program(char *library, char *path) {
  char first[64], second[64], output[] = "b=>/dev/null";
  char *arguments[] = {"runner",    path,    "--library", library, "--list", "--verbose",
                       "--profile", "--run", "a",         first,   second,   output,
                       NULL};
  snprintf(first, sizeof first, "a=%s", path);
  snprintf(second, sizeof second, "b=%s", path);
  int status = setjmp(left);
  return status ? status == 1 : !runner_main(12, arguments);
}

/* The other way of calling it: times a file under trials that `path` + ".json" has. */
static bool by_trials(char *library, char *path) {
  char trials[64], times[64];
  snprintf(trials, sizeof trials, "%s.json", path);
  snprintf(times, sizeof times, "%s.out", path);
  char *arguments[] = {"runner",   path,   "--library", library,    "--verbose", "--trials",
                       trials,     "--json", times,     "--rounds", "2",         NULL};
  int status = setjmp(left);
  return status ? status == 1 : !runner_main(11, arguments);
}

/* Every call of every kind of stub fails once. */
static void rounds(char *library, char *path, bool timed) {
  int opened = 0, tried = 0;
  for (int kind = 0; kind < STUB_KINDS; kind++) {
    *stub = (Stub){.kind = (StubKind)kind};
    do {
      stub->calls = stub->live = 0;
      opened += timed  ? by_trials(library, path)
                : path ? by_program(library, path)
                       : by_interface(library);
      tried++;
    } while (stub->calls >= stub->fail_at++);
  }
  fprintf(stderr, "%s: %d of %d rounds without an error\n",
          timed ? "trials" : path ? "runner" : "lrt", opened, tried);
}

static int with_stub(char *library) {
  char path[] = "/tmp/fuzz-XXXXXX";
  if (!freopen("/dev/null", "w", stdout)) fail(2, "no /dev/null");
  int file = mkstemp(path);
  if (file < 0 || write(file, EMPTY, sizeof EMPTY) < 0) fail(2, "no temporary file");
  close(file);
  char other[64];
  snprintf(other, sizeof other, "%s.json", path);
  write_file(other, TRIALS, sizeof TRIALS - 1);
  rounds(library, NULL, false);
  __lsan_do_leak_check();       /* ends the program if there is one */
  rounds(library, path, false); /* which leaves by `exit` where there is an error */
  rounds(library, path, true);
  unlink(path);
  unlink(other);
  snprintf(other, sizeof other, "%s.out", path);
  unlink(other);
  return 0;
}

int main(int argc, char **argv) {
  int status = setjmp(left);
  if (status) _exit(status - 1);
  if (argc < 2) fail(2, "usage: fuzz libLiteRt.so FILE... | fuzz trials.json | fuzz libstub.so");
  const char *ending = strrchr(argv[1], '.');
  if (ending && !strcmp(ending, ".json")) {
    status = with_trials(argv[1]);
    fflush(stdout);
    _exit(status);
  }
  void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) fail(2, "no library: %s", dlerror());
  stub = dlsym(library, "stub");
  if (!stub && argc < 3) fail(2, "no files");
  status = stub ? with_stub(argv[1]) : with_files(argv[1], argv + 2, argc - 2);
  fflush(stdout);
  _exit(status);
}
