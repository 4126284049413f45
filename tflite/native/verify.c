#include "verify.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

/* Positions of things are counted from the start of the file; 0 stands for none. */
typedef struct {
  const unsigned char *content;
  size_t size;
  const char *wrong; /* what was found first */
} File;

/* Numbers of fields, in the schema's order. */
enum { MODEL_SUBGRAPHS = 2, MODEL_SIGNATURES = 7 };
enum { GRAPH_TENSORS = 0, GRAPH_SIDES = 1, GRAPH_OPERATORS = 3 };
enum { OPERATOR_INPUTS = 1, OPERATOR_OUTPUTS = 2, OPERATOR_TYPE = 3, OPERATOR_OPTIONS = 4 };
enum { SIGNATURE_SIDES = 0, SIGNATURE_KEY = 2, SIGNATURE_GRAPH = 4 };
enum { ENTRY_NAME = 0, ENTRY_TENSOR = 1 };
enum { IF_OPTIONS = 92, WHILE_OPTIONS = 93, CALL_ONCE_OPTIONS = 103 };
enum { MAX_DEPTH = 64, MAX_ENTRIES = 4096 };

static void wrong(File *f, const char *what) {
  if (!f->wrong) f->wrong = what;
}

static void outside(File *f) { wrong(f, "an offset points out of the file"); }

/* A little-endian number of 1, 2 or 4 bytes. */
static uint32_t number(File *f, size_t at, size_t bytes) {
  uint32_t value = 0;
  if (at > f->size || f->size - at < bytes) {
    outside(f);
    return 0;
  }
  while (bytes--) value = value << 8 | f->content[at + bytes];
  return value;
}

static size_t field(File *f, size_t table, size_t index) {
  if (!table) return 0;
  size_t vtable = table - (size_t)(int32_t)number(f, table, 4), entry = 4 + 2 * index;
  if (number(f, vtable, 2) < entry + 2) return 0;
  size_t offset = number(f, vtable + entry, 2);
  return offset ? table + offset : 0;
}

static uint32_t value(File *f, size_t table, size_t index, size_t bytes) {
  size_t at = field(f, table, index);
  return at ? number(f, at, bytes) : 0;
}

/* The vector, text or table that a field refers to. */
static size_t target(File *f, size_t table, size_t index) {
  size_t at = field(f, table, index);
  return at ? at + number(f, at, 4) : 0;
}

/* Items of a vector, of 4 bytes each. */
static uint32_t count(File *f, size_t vector) {
  uint32_t items = vector ? number(f, vector, 4) : 0;
  if (items && (f->size - vector) / 4 <= items) {
    outside(f);
    return 0;
  }
  return items;
}

static uint32_t item(File *f, size_t vector, uint32_t index) {
  return number(f, vector + 4 + 4 * (size_t)index, 4);
}

static size_t table_at(File *f, size_t vector, uint32_t index) {
  return vector + 4 + 4 * (size_t)index + item(f, vector, index);
}

/* One side of a signature against the same side of its subgraph. */
static void check_side(File *f, size_t graph, size_t signature, size_t side) {
  size_t entries = target(f, signature, SIGNATURE_SIDES + side);
  size_t tensors = target(f, graph, GRAPH_SIDES + side);
  uint32_t wanted = count(f, tensors);
  if (count(f, entries) != wanted || wanted > MAX_ENTRIES) {
    wrong(f, "a signature has not the inputs and outputs of its subgraph");
    return;
  }
  for (uint32_t i = 0; i < wanted; i++) {
    if (!target(f, table_at(f, entries, i), ENTRY_NAME))
      wrong(f, "an input or output of a signature has no name");
    uint32_t k = 0;
    while (k < wanted &&
           value(f, table_at(f, entries, k), ENTRY_TENSOR, 4) != item(f, tensors, i))
      k++;
    if (k == wanted) wrong(f, "an input or output of a subgraph is not one of its signature");
    if (item(f, tensors, i) >= count(f, target(f, graph, GRAPH_TENSORS)))
      wrong(f, "an input or output of a subgraph is not one of its tensors");
  }
}

static void check_signatures(File *f, size_t graphs, size_t signatures) {
  for (uint32_t s = 0; s < count(f, signatures) && !f->wrong; s++) {
    size_t signature = table_at(f, signatures, s);
    uint32_t graph = value(f, signature, SIGNATURE_GRAPH, 4);
    if (graph >= count(f, graphs)) {
      wrong(f, "a signature has no subgraph");
      return;
    }
    if (!target(f, signature, SIGNATURE_KEY)) wrong(f, "a signature has no name");
    for (size_t side = 0; side < 2; side++)
      check_side(f, table_at(f, graphs, graph), signature, side);
  }
}

/* How deep in calls the subgraphs of an operator are. Whether that was news. */
static bool descend(File *f, size_t operator, uint32_t *depth, uint32_t graphs, uint32_t own) {
  bool news = false;
  size_t options = target(f, operator, OPERATOR_OPTIONS);
  uint32_t type = value(f, operator, OPERATOR_TYPE, 1);
  size_t calls = type == IF_OPTIONS || type == WHILE_OPTIONS ? 2 : type == CALL_ONCE_OPTIONS;
  for (size_t i = 0; i < calls; i++) {
    uint32_t called = value(f, options, i, 4);
    if (called >= graphs) {
      wrong(f, "an operator calls a subgraph that is none");
    } else if (depth[called] <= depth[own]) {
      depth[called] = depth[own] + 1;
      news = true;
    }
  }
  return news;
}

static void check_operators(File *f, size_t graphs) {
  uint32_t total = count(f, graphs), *depth = calloc((size_t)total + 1, sizeof *depth);
  bool news = depth != NULL;
  if (!depth) wrong(f, "there is no memory to check it");
  for (int round = 0; news && !f->wrong; round++) {
    news = false;
    for (uint32_t g = 0; g < total && !f->wrong; g++) {
      size_t operators = target(f, table_at(f, graphs, g), GRAPH_OPERATORS);
      for (uint32_t i = 0; i < count(f, operators) && !f->wrong; i++) {
        size_t operator = table_at(f, operators, i);
        news |= descend(f, operator, depth, total, g);
        if (!count(f, target(f, operator, OPERATOR_INPUTS)) &&
            !count(f, target(f, operator, OPERATOR_OUTPUTS)) &&
            value(f, operator, OPERATOR_TYPE, 1) != CALL_ONCE_OPTIONS)
          wrong(f, "an operator has neither inputs nor outputs");
      }
    }
    if (round == MAX_DEPTH) wrong(f, "a subgraph calls itself");
  }
  free(depth);
}

const char *lrt_verify(const void *content, size_t size) {
  File f = {content, size, NULL};
  size_t model = number(&f, 0, 4), graphs = target(&f, model, MODEL_SUBGRAPHS);
  check_signatures(&f, graphs, target(&f, model, MODEL_SIGNATURES));
  check_operators(&f, graphs);
  return f.wrong;
}
