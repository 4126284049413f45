/* What the Java class org.kerasdyngate.SignatureModel calls.
 *
 * Texts cross as UTF-8 bytes, tensors as direct buffers. Whatever is passed in, the worst
 * that comes back is a Java exception; only a handle must be one that `open` gave and
 * `close` has not seen, or 0. */
#include <jni.h>
#include <stdlib.h>
#include <string.h>

#include "lrt.h"

#define JAVA(result, name) \
  JNIEXPORT result JNICALL Java_org_kerasdyngate_SignatureModel_##name

static const char ARGUMENT[] = "java/lang/IllegalArgumentException";
static const char STATE[] = "java/lang/IllegalStateException";

/* What is not ASCII becomes '?': the JVM takes no other UTF-8 than its own here. */
static void raise(JNIEnv *env, const char *type, const char *text) {
  char ascii[256];
  size_t i = 0;
  for (; text[i] && i < sizeof ascii - 1; i++)
    ascii[i] = (text[i] & 0x80) != 0 ? '?' : text[i];
  ascii[i] = '\0';
  jclass class = (*env)->FindClass(env, type);
  if (class) (*env)->ThrowNew(env, class, ascii);
}

static LrtModel *opened(JNIEnv *env, jlong handle) {
  if (!handle) raise(env, STATE, "The model must be open. Received: a closed one");
  return (LrtModel *)(intptr_t)handle;
}

/* A copy that the caller frees; NULL after an exception. */
static char *text_of(JNIEnv *env, jbyteArray bytes, const char *what) {
  if (!bytes) {
    raise(env, ARGUMENT, what);
    return NULL;
  }
  jsize size = (*env)->GetArrayLength(env, bytes);
  char *text = malloc((size_t)size + 1);
  if (!text) {
    raise(env, STATE, "out of memory");
    return NULL;
  }
  (*env)->GetByteArrayRegion(env, bytes, 0, size, (jbyte *)text);
  text[size] = '\0';
  return text;
}

static jbyteArray bytes_of(JNIEnv *env, const void *data, size_t size) {
  if (size > INT32_MAX) {
    raise(env, STATE, "a text in the file is too long for Java");
    return NULL;
  }
  jbyteArray bytes = (*env)->NewByteArray(env, (jsize)size);
  if (bytes) (*env)->SetByteArrayRegion(env, bytes, 0, (jsize)size, data);
  return bytes;
}

/* Memory of a direct buffer that holds `size` bytes from `offset` on; NULL after an
 * exception. */
static char *memory_of(JNIEnv *env, jobject buffer, jint offset, jint size) {
  char *memory = buffer ? (*env)->GetDirectBufferAddress(env, buffer) : NULL;
  if (!memory) {
    raise(env, ARGUMENT, "The buffer must be a direct one. Received: null or one on the heap");
  } else if (offset < 0 || size < 0 ||
             (jlong)offset + size > (*env)->GetDirectBufferCapacity(env, buffer)) {
    raise(env, ARGUMENT, "The range must lie in the buffer. Received: one outside of it");
  } else {
    return memory + offset;
  }
  return NULL;
}

static const LrtTensor *tensor_at(JNIEnv *env, LrtModel *model, jint signature, jboolean output,
                                  jint index) {
  const LrtTensor *tensor =
      lrt_tensor(model, signature, output ? LRT_OUTPUT : LRT_INPUT, index);
  if (!tensor) raise(env, ARGUMENT, "There must be such a tensor. Received: an unknown index");
  return tensor;
}

JAVA(jlong, open)
(JNIEnv *env, jclass class, jbyteArray library, jobject model, jint offset, jint size,
 jint threads) {
  (void)class;
  char error[256];
  char *memory = memory_of(env, model, offset, size);
  if (!memory) return 0;
  if (threads < 1) {
    raise(env, ARGUMENT, "`threads` must be 1 or more. Received: less");
    return 0;
  }
  char *path = text_of(env, library, "`library` must name a file. Received: null");
  if (!path) return 0;
  LrtModel *result = lrt_open(path, memory, (size_t)size, threads, LRT_XNNPACK, false, error,
                              sizeof error);
  free(path);
  if (!result) raise(env, ARGUMENT, error);
  return (jlong)(intptr_t)result;
}

JAVA(void, close)(JNIEnv *env, jclass class, jlong handle) {
  (void)env, (void)class;
  lrt_close((LrtModel *)(intptr_t)handle);
}

JAVA(jint, signatureCount)(JNIEnv *env, jclass class, jlong handle) {
  (void)class;
  LrtModel *model = opened(env, handle);
  return model ? lrt_signature_count(model) : 0;
}

JAVA(jbyteArray, signatureName)(JNIEnv *env, jclass class, jlong handle, jint signature) {
  (void)class;
  LrtModel *model = opened(env, handle);
  if (!model) return NULL;
  const char *name = lrt_signature_name(model, signature);
  if (!name) {
    raise(env, ARGUMENT, "There must be such a signature. Received: an unknown index");
    return NULL;
  }
  return bytes_of(env, name, strlen(name));
}

JAVA(jint, tensorCount)
(JNIEnv *env, jclass class, jlong handle, jint signature, jboolean output) {
  (void)class;
  LrtModel *model = opened(env, handle);
  if (!model) return 0;
  int count = lrt_tensor_count(model, signature, output ? LRT_OUTPUT : LRT_INPUT);
  if (count < 0)
    raise(env, ARGUMENT, "There must be such a signature. Received: an unknown index");
  return count;
}

JAVA(jbyteArray, tensorName)
(JNIEnv *env, jclass class, jlong handle, jint signature, jboolean output, jint index) {
  (void)class;
  LrtModel *model = opened(env, handle);
  const LrtTensor *tensor = model ? tensor_at(env, model, signature, output, index) : NULL;
  return tensor ? bytes_of(env, tensor->name, strlen(tensor->name)) : NULL;
}

/* Type, bytes, then the sizes of its axes. */
JAVA(jintArray, tensorLayout)
(JNIEnv *env, jclass class, jlong handle, jint signature, jboolean output, jint index) {
  (void)class;
  LrtModel *model = opened(env, handle);
  const LrtTensor *tensor = model ? tensor_at(env, model, signature, output, index) : NULL;
  if (!tensor) return NULL;
  if (tensor->bytes > INT32_MAX) {
    raise(env, STATE, "a tensor of the file is too large for a Java buffer");
    return NULL;
  }
  const jint head[] = {(jint)tensor->type, (jint)tensor->bytes};
  jintArray layout = (*env)->NewIntArray(env, 2 + tensor->rank);
  if (!layout) return NULL;
  (*env)->SetIntArrayRegion(env, layout, 0, 2, head);
  (*env)->SetIntArrayRegion(env, layout, 2, tensor->rank, (const jint *)tensor->sizes);
  return layout;
}

/* null if the file has no such entry. */
JAVA(jbyteArray, metadata)(JNIEnv *env, jclass class, jlong handle, jbyteArray name) {
  (void)class;
  const void *data;
  size_t size;
  LrtModel *model = opened(env, handle);
  char *text = model ? text_of(env, name, "`name` must be a text. Received: null") : NULL;
  if (!text) return NULL;
  int missing = lrt_metadata(model, text, &data, &size);
  free(text);
  return missing ? NULL : bytes_of(env, data, size);
}

JAVA(void, write)
(JNIEnv *env, jclass class, jlong handle, jint signature, jint input, jobject buffer,
 jint offset, jint size) {
  (void)class;
  LrtModel *model = opened(env, handle);
  char *memory = model ? memory_of(env, buffer, offset, size) : NULL;
  if (memory && lrt_write(model, signature, input, memory, (size_t)size))
    raise(env, ARGUMENT, lrt_error(model));
}

JAVA(void, invoke)(JNIEnv *env, jclass class, jlong handle, jint signature) {
  (void)class;
  LrtModel *model = opened(env, handle);
  if (model && lrt_run(model, signature)) raise(env, STATE, lrt_error(model));
}

/* The buffer must not be a read-only one: its memory is written to. */
JAVA(void, read)
(JNIEnv *env, jclass class, jlong handle, jint signature, jint output, jobject buffer,
 jint offset, jint size) {
  (void)class;
  LrtModel *model = opened(env, handle);
  char *memory = model ? memory_of(env, buffer, offset, size) : NULL;
  if (memory && lrt_read(model, signature, output, memory, (size_t)size))
    raise(env, ARGUMENT, lrt_error(model));
}
