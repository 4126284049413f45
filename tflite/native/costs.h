/* Times a file under trials, and writes what keras_dyngate fits a table of costs to. */
#ifndef COSTS_H
#define COSTS_H

#include "lrt.h"
#include "trials.h"

typedef struct {
  int rounds;        /* how often each trial is timed */
  bool cold;         /* behind writes to 64 MB; otherwise behind a call like itself */
  const void *image; /* as the file takes it; NULL: noise */
  size_t image_bytes;
} CostOptions;

/* The fastest time of each trial in ms, in another order in every round. The first answer of
 * `plain`, if there is one, is timed in between. 0, or -1 after writing a sentence into
 * `error`. */
int costs_measure(LrtModel *model, const Trials *trials, LrtModel *plain,
                  const CostOptions *options, double *ms, double *plain_ms, char *error,
                  size_t error_size);

/* The processor's name, or "unknown". */
void costs_device(char *name, size_t size);

/* Writes a file whole or not at all. `plain_ms` below 0 is unknown. Without `ms` it only
 * tries whether it could. 0, or -1 after writing a sentence into `error`. */
int costs_write(const char *path, const Trials *trials, const double *ms, double plain_ms,
                const char *device, int threads, bool cold, char *error, size_t error_size);

#endif
