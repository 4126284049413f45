#include "trials.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "failure.h"
#include "json.h"

static const char FORMAT[] = "keras_dyngate trials 1";

enum { MAX_NUMBERS = 1 << 26 }; /* and rows */

/* How many rows an array has, and how many items each of them; -1 if they differ. */
static int measure(Json rows, int *count, int *columns) {
  Json row, item;
  int total = 0;
  *count = *columns = 0;
  if (*rows.at != '[') return -1;
  for (Json rest = rows; json_item(&rest, &row); ++*count) {
    int own = 0;
    if (*row.at != '[' || ++total > MAX_NUMBERS) return -1;
    for (Json inside = row; json_item(&inside, &item); own++)
      if (++total > MAX_NUMBERS) return -1;
    if (*count && own != *columns) return -1;
    *columns = own;
  }
  return 0;
}

static int read_held(Json rows, Trials *t, Error error) {
  Json row, item;
  int place = 0;
  if (measure(rows, &t->count, &t->units) || !t->count)
    return fail(error, "held must be one row or more, all as long. Received: others");
  t->held = calloc((size_t)t->count * (size_t)t->units + 1, sizeof *t->held);
  if (!t->held) return fail(error, "out of memory");
  for (Json rest = rows; json_item(&rest, &row);)
    for (Json inside = row; json_item(&inside, &item); place++) {
      double number;
      if (!json_number(item, &number) || (number != -1 && number != 0 && number != 1))
        return fail(error, "held must hold -1, 0 and 1. Received: another in row %d",
                    place / t->units);
      t->held[place] = (int32_t)number;
    }
  return 0;
}

static int read_thresholds(Json rows, Trials *t, Error error) {
  Json row, item;
  int place = 0, count;
  if (json_is_null(rows)) return 0;
  if (measure(rows, &count, &t->gates) || count != t->count)
    return fail(error, "thresholds must be null or %d rows, all as long. Received: others",
                t->count);
  t->thresholds = calloc((size_t)t->count * (size_t)t->gates + 1, sizeof *t->thresholds);
  if (!t->thresholds) return fail(error, "out of memory");
  for (Json rest = rows; json_item(&rest, &row);)
    for (Json inside = row; json_item(&inside, &item); place++) {
      double number;
      if (!json_number(item, &number) || fabs(number) > (double)FLT_MAX)
        return fail(error, "thresholds must hold numbers. Received: another in row %d",
                    place / t->gates);
      t->thresholds[place] = (float)number;
    }
  return 0;
}

int trials_read(const char *text, size_t size, Trials *t, char *text_of_error, size_t room) {
  Error error = {text_of_error, room};
  Json whole, found;
  memset(t, 0, sizeof *t);
  if (!json_open(text, size, &whole))
    return fail(error, "trials must be JSON. Received: something else at byte %zu",
                (size_t)(whole.at - text));
  if (!json_member(whole, "format", &found) || !json_is_text(found, FORMAT))
    return fail(error, "trials must have the format \"%s\". Received: another", FORMAT);
  if (json_member(whole, "signature", &found)) t->signature = json_text(found);
  if (!t->signature) return fail(error, "signature must be a name. Received: none");
  if (json_member(whole, "file_sha256", &found)) t->file_sha256 = json_text(found);
  if (!t->file_sha256) return fail(error, "file_sha256 must be a text. Received: none");
  if (!json_member(whole, "held", &found)) return fail(error, "held must be rows. Received: none");
  if (read_held(found, t, error)) return -1;
  if (!json_member(whole, "thresholds", &found))
    return fail(error, "thresholds must be null or rows. Received: none");
  return read_thresholds(found, t, error);
}

void trials_free(Trials *t) {
  free(t->signature);
  free(t->file_sha256);
  free(t->held);
  free(t->thresholds);
  memset(t, 0, sizeof *t);
}
