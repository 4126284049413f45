/* Finds values in JSON as Python's json module writes it, without copying it.
 *
 *     Json whole, rows, row, number;
 *     if (json_open(text, size, &whole) && json_member(whole, "rows", &rows))
 *       for (Json rest = rows; json_item(&rest, &row);) ...
 *
 * `json_open` checks all of the text, so that the others only say whether there is such a
 * value. The text may hold anything, and need not end with a zero. */
#ifndef JSON_H
#define JSON_H

#include <stdbool.h>
#include <stddef.h>

/* The text of a value. */
typedef struct {
  const char *at, *end;
} Json;

/* Whether a text is one JSON value; if not, `value->at` is where it stops to be one. */
bool json_open(const char *text, size_t size, Json *value);

/* The value of a key of an object; of the last one, if there are several. */
bool json_member(Json object, const char *name, Json *value);

/* The next item of an array, which `rest` begins as. */
bool json_item(Json *rest, Json *item);

bool json_is_null(Json value);
bool json_is_text(Json value, const char *text);

/* Whether it is a number that a double can hold. */
bool json_number(Json value, double *number);

/* A copy of a text that the caller frees. NULL if it is something else, has anything but
 * printed ASCII or is written with a backslash, or there is no memory. */
char *json_text(Json value);

#endif
