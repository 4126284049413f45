#include "json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DEEPEST = 64, LONGEST_NUMBER = 64 };

static void skip_space(Json *rest) {
  while (rest->at < rest->end && *rest->at && strchr(" \t\r\n", *rest->at)) rest->at++;
}

static bool take(Json *rest, const char *word) {
  size_t size = strlen(word);
  if ((size_t)(rest->end - rest->at) < size || memcmp(rest->at, word, size)) return false;
  rest->at += size;
  return true;
}

static bool take_digits(Json *rest) {
  const char *start = rest->at;
  while (rest->at < rest->end && *rest->at >= '0' && *rest->at <= '9') rest->at++;
  return rest->at > start;
}

static bool take_number(Json *rest) {
  take(rest, "-");
  if (!take(rest, "0") && !take_digits(rest)) return false;
  if (take(rest, ".") && !take_digits(rest)) return false;
  if (!take(rest, "e") && !take(rest, "E")) return true;
  if (!take(rest, "+")) take(rest, "-");
  return take_digits(rest);
}

static bool take_escape(Json *rest) {
  if (!take(rest, "u")) {
    if (rest->at == rest->end || !*rest->at || !strchr("\"\\/bfnrt", *rest->at)) return false;
    rest->at++;
    return true;
  }
  for (int i = 0; i < 4; i++, rest->at++)
    if (rest->at == rest->end || !*rest->at || !strchr("0123456789abcdefABCDEF", *rest->at))
      return false;
  return true;
}

static bool take_text(Json *rest) {
  if (!take(rest, "\"")) return false;
  while (rest->at < rest->end && (unsigned char)*rest->at >= ' ') {
    if (take(rest, "\"")) return true;
    if (!take(rest, "\\"))
      rest->at++;
    else if (!take_escape(rest))
      return false;
  }
  return false;
}

static bool take_value(Json *rest, int depth);

/* The inside of an array or object, and the bracket that closes it. */
static bool take_items(Json *rest, const char *closing, bool keyed, int depth) {
  skip_space(rest);
  if (take(rest, closing)) return true;
  do {
    if (keyed) {
      skip_space(rest);
      if (!take_text(rest)) return false;
      skip_space(rest);
      if (!take(rest, ":")) return false;
    }
    if (!take_value(rest, depth)) return false;
  } while (take(rest, ","));
  return take(rest, closing);
}

/* A value and the space around it. */
static bool take_value(Json *rest, int depth) {
  bool well;
  skip_space(rest);
  if (depth == DEEPEST || rest->at == rest->end) return false;
  if (*rest->at == '"')
    well = take_text(rest);
  else if (take(rest, "["))
    well = take_items(rest, "]", false, depth + 1);
  else if (take(rest, "{"))
    well = take_items(rest, "}", true, depth + 1);
  else
    well = take(rest, "true") || take(rest, "false") || take(rest, "null") ||
           take(rest, "NaN") || take(rest, "Infinity") || take(rest, "-Infinity") ||
           take_number(rest);
  if (well) skip_space(rest);
  return well;
}

/* Where a value is that follows, without the space around it. */
static bool read_value(Json *rest, Json *value) {
  skip_space(rest);
  value->at = rest->at;
  if (!take_value(rest, 0)) return false;
  value->end = rest->at;
  while (value->end > value->at && strchr(" \t\r\n", value->end[-1])) value->end--;
  return true;
}

bool json_open(const char *text, size_t size, Json *value) {
  Json rest = {text, text + size};
  bool well = read_value(&rest, value) && rest.at == rest.end;
  if (!well) *value = rest;
  return well;
}

bool json_member(Json object, const char *name, Json *value) {
  bool found = false;
  if (!take(&object, "{")) return false;
  do {
    Json key, next;
    if (!read_value(&object, &key) || !take(&object, ":") || !read_value(&object, &next)) break;
    if (!json_is_text(key, name)) continue;
    *value = next;
    found = true;
  } while (take(&object, ","));
  return found;
}

bool json_item(Json *rest, Json *item) {
  return (take(rest, "[") || take(rest, ",")) && read_value(rest, item);
}

bool json_is_null(Json value) { return take(&value, "null"); }

bool json_is_text(Json value, const char *text) {
  return take(&value, "\"") && take(&value, text) && value.end - value.at == 1;
}

bool json_number(Json value, double *number) {
  char text[LONGEST_NUMBER];
  Json rest = value;
  size_t size = (size_t)(value.end - value.at);
  if (size >= sizeof text || !take_number(&rest) || rest.at != rest.end) return false;
  memcpy(text, value.at, size);
  text[size] = '\0';
  *number = strtod(text, NULL);
  return isfinite(*number);
}

char *json_text(Json value) {
  if (value.at == value.end || *value.at != '"') return NULL;
  size_t size = (size_t)(value.end - value.at) - 2;
  for (size_t i = 1; i <= size; i++)
    if (value.at[i] < ' ' || value.at[i] > '~' || value.at[i] == '\\') return NULL;
  char *text = malloc(size + 1);
  if (!text) return NULL;
  memcpy(text, value.at + 1, size);
  text[size] = '\0';
  return text;
}
