/* The model families that skein knows. Their names, the spellings of their tensors and what their configurations leave
 * out are in arch.c's tables and nowhere else; everything after them sees a struct sk_desc and recipes. */
#ifndef SK_BUILD_ARCH_H
#define SK_BUILD_ARCH_H
#include <stdbool.h>
#include <stdint.h>
#include "comm/base/err.h"
#include "comm/dir/dir.h"
#include "engine/build/freq.h"
#include "engine/build/recipe.h"
#include "engine/build/src.h"

enum sk_bias { SK_BIAS_NEVER, SK_BIAS_ALWAYS, SK_BIAS_CONFIG }; /* CONFIG: HF attention_bias; GGUF: where present */

/* How the tensors of a file format are called: stems, to which ".weight" or ".bias" is added; %u is the layer. NULL =
 * the format has no such tensor. `prefix` may be absent from a file's names. */
struct sk_names {
    const char *prefix;
    const char *embed, *pos_embed, *head, *final_norm; /* head never has the prefix */
    const char *attn_norm, *q, *k, *v, *qkv, *q_norm, *k_norm, *o;
    const char *ffn_norm, *gate, *up, *down;
};

struct sk_arch {
    const char *name, *title;
    const char *hf_type;   /* model_type of config.json; NULL = no such checkpoints */
    const char *gguf_arch; /* general.architecture */
    const struct sk_names *hf, *gguf;
    enum sk_norm norm;
    enum sk_act act;
    bool gated, qk_norm, pos_embed;
    enum sk_bias qkv_bias, o_bias;
    bool mlp_bias;      /* up and down have biases (only where not gated) */
    bool hf_transposed; /* HF stores matrices as [in, out] (Conv1D) */
    bool gguf_rotary;   /* GGUF stores q and k rows in the order of interleaved rotary */
    bool window_always; /* HF: sliding_window holds for all layers; else only with use_sliding_window */
    /* transformers' defaults for keys that a config.json leaves out; 0: n_kv_head = n_head, head_dim = n_embd / n_head,
     * n_ffn = 4 n_embd. */
    struct sk_arch_defaults {
        uint32_t n_vocab, n_embd, n_ffn, n_layer, n_head, n_kv_head, head_dim, max_len, window;
        float eps;
        bool tied;
    } def;
};

/* -SK_EUNSUP: names it and lists the known ones. */
int sk_arch_find_hf(const char *model_type, const struct sk_arch **ret, struct sk_err *err);
int sk_arch_find_gguf(const char *name, size_t n, const struct sk_arch **ret, struct sk_err *err);

/* What hf.c and ggconf.c read from a checkpoint's configuration. */
struct sk_hparams {
    const struct sk_arch *arch;
    bool gguf;
    struct sk_desc desc; /* all but n_rope and ropes, which sk_arch_finish derives */
    struct sk_freq_conf rope;
    bool qkv_bias, o_bias;
    uint32_t n_eos;
    int32_t eos[SK_DIR_MAX_EOS];
    struct sk_gen_defaults gen;
};

/* Completes and checks the description, and lists the tensors of the engine directory in the order in which they will
 * be written; `src` outlives the list. -SK_EFORMAT: a tensor is missing or has another shape (named, with both shapes).
 */
int sk_arch_finish(struct sk_hparams *hp, const struct sk_src *src, struct sk_recipes *ret, struct sk_err *err);

#endif
