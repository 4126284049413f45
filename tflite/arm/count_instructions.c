/* A plugin for QEMU's user mode that counts the instructions of a program.
 *
 *     cc -shared -fPIC count_instructions.c -o libcount.so
 *     qemu-aarch64 -plugin ./libcount.so -d plugin program
 *
 * writes "instructions: N" to stderr at the end. Debian's qemu comes without its header,
 * so what is used of the plugin interface, version 1, is declared here. */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t PluginId;
struct qemu_plugin_tb; /* a block of translated instructions */
typedef void (*OnTranslate)(PluginId, struct qemu_plugin_tb *);
typedef void (*OnExit)(PluginId, void *);

void qemu_plugin_register_vcpu_tb_trans_cb(PluginId, OnTranslate);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
void qemu_plugin_register_atexit_cb(PluginId, OnExit, void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);

enum { ADD_TO_64_BITS = 0 };

EXPORT int qemu_plugin_version = 1;
EXPORT int qemu_plugin_install(PluginId, const void *, int, char **);

static uint64_t count;

static void translated(PluginId id, struct qemu_plugin_tb *block) {
  (void)id;
  qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_TO_64_BITS, &count,
                                           qemu_plugin_tb_n_insns(block));
}

static void ended(PluginId id, void *data) {
  (void)id;
  (void)data;
  fprintf(stderr, "instructions: %" PRIu64 "\n", count);
}

int qemu_plugin_install(PluginId id, const void *info, int argc, char **argv) {
  (void)info;
  (void)argc;
  (void)argv;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, ended, NULL);
  return 0;
}
