/* What is wrong with a .tflite file that LiteRT would crash on. */
#ifndef VERIFY_H
#define VERIFY_H

#include <stddef.h>

/* NULL, or the end of a sentence. LiteRT checks for itself, in CreateModelFromBuffer, that
 * all offsets of a file lie inside of it; it does not check what this does:
 *
 *   - the tensors and names of a signature are those of its subgraph;
 *   - operators have inputs or outputs;
 *   - no subgraph calls itself, through IF, WHILE or CALL_ONCE.
 *
 * Nothing outside of `content` is read, whatever it holds. */
const char *lrt_verify(const void *content, size_t size);

#endif
