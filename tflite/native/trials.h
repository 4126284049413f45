/* Sets of decisions to run a file under, as keras_dyngate's `Trials.save` writes them. */
#ifndef TRIALS_H
#define TRIALS_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
  char *signature, *file_sha256;
  int count, units, gates;
  int32_t *held;     /* [count, units]: 1 open, 0 shut, -1 as the net decides */
  float *thresholds; /* [count, gates] */
} Trials;

/* 0, or -1 after writing a sentence into `error`. Either way `trials_free` frees it. */
int trials_read(const char *text, size_t size, Trials *trials, char *error, size_t error_size);
void trials_free(Trials *trials);

#endif
