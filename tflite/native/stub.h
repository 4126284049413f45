/* A library that stands in for LiteRT, and fails or answers oddly when told to. */
#ifndef STUB_H
#define STUB_H

typedef enum {
  STUB_PLAIN,
  STUB_MANY,       /* as many signatures and tensors as a size_t holds */
  STUB_WRAPPED,    /* as many as an int takes for -1 */
  STUB_NONE,       /* no signatures, or no tensors */
  STUB_NAMELESS,   /* names that are NULL */
  STUB_NO_KEY,     /* those of signatures only */
  STUB_LONG_NAME,  /* names of 2,000 letters */
  STUB_MANY_AXES,  /* tensors of 127 dimensions */
  STUB_NO_HANDLE,  /* success, and NULL */
  STUB_NO_MEMORY,  /* success, and no memory behind a tensor or text */
  STUB_UNDER,      /* inputs as a file has them whose decisions the caller makes */
  STUB_KINDS
} StubKind;

typedef struct {
  StubKind kind;
  int fail_at; /* the call that fails, counted from 1; 0: none */
  int calls;
  int live; /* what was made and not destroyed */
} Stub;

/* The library exports `Stub stub`. */

#endif
