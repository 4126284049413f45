/* What went wrong, for the caller to say: `return fail(error, "... Received: %d", count);` */
#ifndef FAILURE_H
#define FAILURE_H

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

/* Where the sentence goes, and how much room there is. */
typedef struct {
  char *text;
  size_t size;
} Error;

static inline int fail(Error error, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(error.text, error.size, format, arguments);
  va_end(arguments);
  return -1;
}

#endif
