/* The engine directory: what skein-build makes and skein-engine and skeind open.
 *
 *   config.json     format version, description, name, EOS set, generation defaults, templates, self-test, digest
 *   weights.skw     header, tensor table, data; mapped
 *   vocab.skv       the compiled tokenizer (comm/dir/vocab.h); mapped
 *
 * weights.skw, little-endian: struct sk_dir_head, then n_tensor struct sk_dir_entry, then data; every tensor's offset
 * is a multiple of 4096. Matrices are packed as comm/dir/pack.h says; vectors are plain f32, padded with zeros to a
 * multiple of 16. Tensors (N is the layer; hs = head stride, fs = ffn stride, see desc.h); any matrix of a layer may
 * have a vector NAME.bias, a norm has one if it is a LAYER norm:
 *
 *   embed             [n_vocab][n_embd]
 *   pos_embed         [max_len][n_embd]   f32; learned positions only
 *   layer.N.attn_norm [n_embd]
 *   layer.N.qkv       [(n_head + 2 n_kv_head) * hs][n_embd]   all q heads, all k heads, all v heads; each padded to hs
 *   layer.N.q_norm    [head_dim]          and k_norm; qk_norm only
 *   layer.N.o         [n_embd][n_head * hs]   slab_k a multiple of hs
 *   layer.N.ffn_norm  [n_embd]
 *   layer.N.gate_up   [2 * fs][n_embd]    gate, then up; gated only
 *   layer.N.up        [fs][n_embd]        not gated only
 *   layer.N.down      [n_embd][fs]
 *   final_norm        [n_embd]
 *   head              [n_vocab][n_embd]   not tied only
 *   rope.I            [dim / 2]           inverse frequencies of rope I */
#ifndef SK_DIR_H
#define SK_DIR_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "comm/base/err.h"
#include "comm/dir/desc.h"
#include "comm/dir/pack.h"

#define SK_DIR_FORMAT   1 /* raised with any change of the bytes or their meaning */
#define SK_DIR_MAGIC    "SKEINW\n\0"
#define SK_DIR_NAME_MAX 64
enum { SK_DIR_MAX_TENSORS = 65536, SK_DIR_MAX_EOS = 16, SK_SELFTEST_TOKENS = 8 };

/* How ranks cut a tensor: whole everywhere, by output rows, or by input columns (slabs). */
enum sk_split { SK_SPLIT_NONE, SK_SPLIT_OUT, SK_SPLIT_IN };

struct sk_dir_head {
    char magic[8];
    uint32_t format, n_tensor;
    uint64_t file_bytes;
    uint64_t table_sum; /* XXH3-64 of the table */
};

struct sk_dir_entry {
    char name[SK_DIR_NAME_MAX]; /* NUL-terminated */
    uint32_t dtype, pack, split;
    uint32_t cut_unit;    /* a cut falls on a multiple of this: rows (SPLIT_OUT) or inputs (SPLIT_IN) */
    uint32_t n_out, n_in; /* vectors: n_out = length, n_in = 1, pack PLAIN, dtype f32 */
    uint32_t slab_k, zero;
    uint64_t offset, bytes;
    uint64_t sum; /* XXH3-64 of the data */
};

/* Sampling values of the model's generation_config.json; NaN / -1 = absent. */
struct sk_gen_defaults {
    float temperature, top_p, min_p, typical_p, repetition_penalty, eta_cutoff, epsilon_cutoff;
    int32_t top_k, no_repeat_ngram;
    int8_t do_sample; /* -1 absent, 0 greedy, 1 */
};

struct sk_dir {
    char path[1024];
    char name[128];  /* the source's file or folder name, without .gguf */
    char digest[33]; /* hex; changes with any weight, the description or the tokenizer */
    char dtype[32];  /* what was asked for: "keep", "q4", ... */
    int64_t created; /* unix seconds */
    struct sk_desc desc;
    uint32_t n_eos;
    int32_t eos[SK_DIR_MAX_EOS]; /* ends of sequence: generation_config, else config / tokenizer */
    int32_t bos;                 /* -1 = none */
    struct sk_gen_defaults gen;
    char *chat_template;                 /* owned; NULL = the model has none */
    char *tools_template;                /* owned; a template named tool_use, NULL = none */
    char bos_token[128], eos_token[128]; /* template variables, "" = none */
    /* Self-test: log-prob of token i + 1 given 0..i, by the f32-activation reference at build time. */
    int32_t selftest_ids[SK_SELFTEST_TOKENS];
    float selftest_logprobs[SK_SELFTEST_TOKENS - 1];
};

/* Reads config.json. -SK_ENOENT, -SK_EFORMAT (other format version: says which and how to rebuild), -SK_EIO. */
int sk_dir_open(const char *path, struct sk_dir *ret, struct sk_err *err);
void sk_dir_close(struct sk_dir *d);                                           /* frees the templates */
int sk_dir_save(const struct sk_dir *d, const char *path, struct sk_err *err); /* writes path/config.json */
bool sk_dir_is(const char *path); /* does it look like an engine directory? */

/* Where engine directories are kept: `option` if not "", else $CACHE_DIRECTORY (systemd), $XDG_CACHE_HOME/skein,
 * ~/.cache/skein. -SK_EINVAL: there is none, or its path has SK_DIR_MAX_CACHE bytes or more. */
enum { SK_DIR_MAX_CACHE = 900 }; /* so that what is under it fits into an engine directory's */
int sk_dir_cache(const char *option, char *ret, size_t n, struct sk_err *err);
/* mkdir -p, with that mode where it makes one. -SK_EIO. */
int sk_dir_make(const char *path, unsigned mode, struct sk_err *err);

/* How a span of the data is brought into memory. */
enum sk_weights_how {
    SK_WEIGHTS_LAZY,  /* mapped, read when touched */
    SK_WEIGHTS_AHEAD, /* mapped, read now; processes share the pages */
    SK_WEIGHTS_HUGE   /* a private copy in huge pages, which kernels stream through faster; AHEAD if it cannot be had */
};
/* weights.skw: its table, and what was brought of its data, read-only. */
struct sk_weights {
    const uint8_t *base; /* the file */
    size_t bytes;
    uint32_t n_tensor;
    const struct sk_dir_entry *tensors; /* sorted by name */
    bool mapped;                        /* close unmaps, and closes fd */
    int fd;
    enum sk_weights_how how;
    uint8_t *copy; /* HUGE: spans one after the other; NULL before the first */
    size_t copy_bytes, copy_used;
};
/* Maps path/weights.skw and checks sizes, table checksum and every entry's layout against the file. No data is read:
 * who computes with it brings the spans that it uses, in the way that `how` says. -SK_ENOENT, -SK_EFORMAT, -SK_EIO,
 * -SK_ENOMEM. */
int sk_weights_open(const char *path, enum sk_weights_how how, struct sk_weights *ret, struct sk_err *err);
/* n bytes of a tensor from byte `at`, a multiple of 64, are in memory: *ret, 64-byte aligned, until drop or close.
 * Asked for twice they are there twice if they are copied. -SK_EIO, -SK_ENOMEM. */
int sk_weights_bring(struct sk_weights *w, const struct sk_dir_entry *e, uint64_t at, uint64_t n, const void **ret,
                     struct sk_err *err);
/* The same of the slabs of a matrix from byte `at`, laid out as p says. In a copy the slabs of a panel are neighbours,
 * which kernels stream through faster: p is changed to say so. */
int sk_weights_bring_slabs(struct sk_weights *w, const struct sk_dir_entry *e, uint64_t at, struct sk_pack *p,
                           const void **ret, struct sk_err *err);
void sk_weights_seal(struct sk_weights *w); /* what was copied becomes read-only: nothing is brought until drop */
void sk_weights_drop(struct sk_weights *w); /* gives up all that was brought */
/* Over n bytes in memory that outlive it, 16-byte aligned (fuzzing, tests). */
int sk_weights_open_mem(const void *p, size_t n, struct sk_weights *ret, struct sk_err *err);
void sk_weights_close(struct sk_weights *w);
const struct sk_dir_entry *sk_weights_find(const struct sk_weights *w, const char *name); /* NULL = absent */
const void *sk_weights_data(const struct sk_weights *w, const struct sk_dir_entry *e);    /* in the file, as mapped */
/* Compares every tensor's checksum; the message names the first that differs. */
int sk_weights_verify(const struct sk_weights *w, struct sk_err *err);

#endif
