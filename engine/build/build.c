#define _GNU_SOURCE /* sched_getaffinity */
#include "engine/build/build.h"
#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>
#include "comm/base/log.h"
#include "comm/base/mem.h"
#include "engine/build/bake.h"
#include "engine/build/ggconf.h"
#include "engine/build/gguf.h"
#include "engine/build/hf.h"
#include "engine/build/outdir.h"
#include "engine/build/quant.h"
#include "engine/build/safetensors.h"
#include "engine/build/skw.h"
#include "engine/build/src.h"
#include "engine/build/tok.h"
#include "engine/model/tune.h"

enum { TUNE_BYTES = 32 << 20 };

/* All that a build holds, opened in this order. */
struct build {
    const struct sk_build_conf *conf;
    const char *out;
    struct sk_err *err;
    struct sk_gguf *gguf; /* one of these two has the tensors */
    struct sk_src files;
    const struct sk_src *src;
    struct sk_hparams hp;
    struct sk_recipes recipes;
    struct sk_quant_choice *choices; /* of each recipe */
    struct sk_dir_entry *entries;    /* of each recipe: all but offset and sum */
    uint64_t n_bytes;                /* of all entries, each rounded up to a page */
    struct sk_dir dir;
};

int sk_build_detect(const char *src, enum sk_build_kind *ret, struct sk_err *err)
{
    char config[1280];
    struct stat st;

    if (stat(src, &st))
        return sk_err_errno(err, SK_ENOENT, NULL, "cannot open %s", src);
    if (sk_dir_is(src)) {
        *ret = SK_BUILD_ENGINE_DIR;
        return 0;
    }
    if (S_ISDIR(st.st_mode)) {
        if (snprintf(config, sizeof config, "%s/config.json", src) >= (int)sizeof config || access(config, R_OK))
            return sk_err_set(
                err, SK_EFORMAT, NULL,
                "%.300s is a directory without config.json: neither a Hugging Face checkpoint nor an engine "
                "directory",
                src);
        *ret = SK_BUILD_HF;
        return 0;
    }
    if (!sk_gguf_is(src))
        return sk_err_set(err, SK_EFORMAT, NULL,
                          "%.300s is not a GGUF file (a GGUF file or a Hugging Face directory is needed)", src);
    *ret = SK_BUILD_GGUF;
    return 0;
}

/* People know a model by the name of its file or folder; names in metadata are often those of a training run. */
static void name_from_path(const char *src, char *ret, size_t n)
{
    char real[PATH_MAX];
    const char *path = realpath(src, real) ? real : src, *base = strrchr(path, '/');

    base = base && base[1] ? base + 1 : path;
    size_t len = strlen(base);
    if (len > 5 && !strcmp(base + len - 5, ".gguf"))
        len -= 5;
    snprintf(ret, n, "%.*s", (int)(len < n ? len : n - 1), base);
}

static int open_source(struct build *b)
{
    enum sk_build_kind kind;
    struct sk_err why;
    const char *src = b->conf->src;
    int rc = sk_build_detect(src, &kind, b->err);

    if (rc)
        return rc;
    if (kind == SK_BUILD_ENGINE_DIR)
        return sk_err_set(b->err, SK_EFORMAT, NULL, "%s is an engine directory already: nothing to build", src);
    if (kind == SK_BUILD_GGUF) {
        if ((rc = sk_gguf_open(src, &b->gguf, b->err)))
            return rc;
        b->src = sk_gguf_src(b->gguf);
        rc = sk_ggconf_read(b->gguf, &b->hp, &why);
    } else {
        if ((rc = sk_hf_read(src, &b->hp, b->err)) || (rc = sk_safetensors_open(src, &b->files, b->err)))
            return rc;
        b->src = &b->files;
    }
    if (rc || (rc = sk_arch_finish(&b->hp, b->src, &b->recipes, &why)))
        sk_err_set(b->err, -rc, why.param, "%.180s: %.260s", src, why.msg);
    return rc;
}

/* What each tensor becomes, and how much that takes. */
static int plan_tensors(struct build *b)
{
    uint32_t n = b->recipes.n;

    b->choices = sk_calloc(n, sizeof *b->choices);
    b->entries = sk_calloc(n, sizeof *b->entries);
    if (!b->choices || !b->entries)
        return sk_err_set(b->err, SK_ENOMEM, NULL, "out of memory");
    for (uint32_t i = 0; i < n; i++) {
        const struct sk_recipe *r = &b->recipes.list[i];
        struct sk_dir_entry *e = &b->entries[i];
        struct sk_pack p;
        sk_quant_choose(r, b->conf->dtype, &b->choices[i]);
        *e = (struct sk_dir_entry){.dtype = b->choices[i].dtype,
                                   .split = r->split,
                                   .cut_unit = r->cut_unit,
                                   .n_out = r->n_out,
                                   .n_in = r->n_in};
        memcpy(e->name, r->name, sizeof e->name);
        if (r->vector) {
            e->pack = SK_PACK_PLAIN;
            e->slab_k = 1;
            e->bytes = SK_ALIGN16((uint64_t)r->n_out) * sizeof(float);
        } else {
            e->pack = SK_PACK_X86_1;
            e->slab_k = sk_quant_slab(r, b->choices[i].dtype);
            if (r->split == SK_SPLIT_IN)
                e->cut_unit = e->slab_k; /* slabs are what a rank maps */
            if (sk_pack_layout(&p, b->choices[i].dtype, r->n_out, r->n_in, e->slab_k))
                return sk_err_set(b->err, SK_EFORMAT, r->name, "tensor %s is too large", r->name);
            e->bytes = p.bytes;
        }
        b->n_bytes += (e->bytes + 4095) & ~(uint64_t)4095;
    }
    return 0;
}

/* Lines for what did not get the type that was asked for; layers that fare alike share a line. */
static void report(const struct build *b)
{
    FILE *f = b->conf->report;
    uint64_t bytes[SK_DTYPE_COUNT] = {0};
    uint32_t count[SK_DTYPE_COUNT] = {0};

    for (uint32_t i = 0; i < b->recipes.n; i++) {
        const char *name = b->entries[i].name, *kind = strncmp(name, "layer.", 6) ? NULL : strchr(name + 6, '.');
        uint32_t n_alike = 0, first = UINT32_MAX;
        count[b->choices[i].dtype]++;
        bytes[b->choices[i].dtype] += b->entries[i].bytes;
        for (uint32_t j = 0; j < b->recipes.n && b->choices[i].note[0]; j++) {
            const char *other = b->entries[j].name, *dot = strncmp(other, "layer.", 6) ? NULL : strchr(other + 6, '.');
            if ((kind ? dot && !strcmp(kind, dot) : i == j) && !strcmp(b->choices[i].note, b->choices[j].note)) {
                first = first == UINT32_MAX ? j : first;
                n_alike++;
            }
        }
        if (first == i && n_alike > 1)
            fprintf(f, "  layer.*%s (%u layers): %s, because %s\n", kind, n_alike, sk_dtype_name(b->choices[i].dtype),
                    b->choices[i].note);
        else if (first == i)
            fprintf(f, "  %s: %s, because %s\n", name, sk_dtype_name(b->choices[i].dtype), b->choices[i].note);
    }
    for (int t = 0; t < SK_DTYPE_COUNT; t++)
        if (count[t])
            fprintf(f, "  %u tensors of type %s, %.1f MB\n", count[t], sk_dtype_name((enum sk_dtype)t),
                    (double)bytes[t] / 1e6);
}

static bool is_used(const struct build *b, const struct sk_src_tensor *t)
{
    for (uint32_t i = 0; i < b->recipes.n; i++)
        for (uint32_t k = 0; k < b->recipes.list[i].n_part; k++)
            if (b->recipes.list[i].parts[k].t == t)
                return true;
    return false;
}

/* Masks and frequencies are stored by some; anything else would mean that the model is not quite what it says. */
static void report_unused(const struct build *b)
{
    const char *first = NULL;
    uint32_t n = 0;

    for (uint32_t i = 0; i < b->src->n_tensor; i++) {
        if (is_used(b, &b->src->tensors[i]))
            continue;
        first = n++ ? first : b->src->tensors[i].name;
    }
    if (n)
        fprintf(b->conf->report, "  %u tensors of the source are not used, the first is %s\n", n, first);
}

static unsigned default_threads(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof set, &set) ? 1 : (unsigned)CPU_COUNT(&set);
}

static int write_tensor(struct build *b, struct sk_skw *w, uint32_t i, unsigned n_thread)
{
    const struct sk_recipe *r = &b->recipes.list[i];
    const struct sk_dir_entry *e = &b->entries[i];
    void *data = sk_calloc(1, e->bytes);
    struct sk_pack p;
    int rc;

    if (!data)
        return sk_err_set(b->err, SK_ENOMEM, NULL, "out of memory for tensor %s of %.1f MB", r->name,
                          (double)e->bytes / 1e6);
    if (r->vector) {
        rc = sk_bake_vector(r, data, b->err);
    } else {
        sk_assert(sk_pack_layout(&p, b->choices[i].dtype, e->n_out, e->n_in, e->slab_k) == 0);
        rc = sk_bake_matrix(r, &b->choices[i], &p, data, n_thread, b->err);
    }
    if (!rc)
        rc = sk_skw_add(w, e, data, b->err);
    sk_free(data);
    return rc;
}

/* Says how far it is, and asks whether to go on. */
static int go_on(const struct build *b, int percent)
{
    if (b->conf->progress && b->conf->progress(b->conf->arg, percent))
        return sk_err_set(b->err, SK_ECANCEL, NULL, "the build was interrupted");
    return 0;
}

static int write_weights(struct build *b)
{
    unsigned n_thread = b->conf->n_thread ? b->conf->n_thread : default_threads();
    struct sk_skw w;
    uint64_t done = 0;
    int rc = sk_skw_open(&w, b->out, b->recipes.n, sk_skw_size(b->recipes.n, b->n_bytes), b->err);

    for (uint32_t i = 0; i < b->recipes.n && !rc; i++) {
        if (!(rc = go_on(b, (int)(done * 99 / b->n_bytes))))
            rc = write_tensor(b, &w, i, n_thread);
        done += b->entries[i].bytes;
    }
    if (!rc)
        rc = sk_skw_finish(&w, b->err);
    sk_skw_close(&w);
    return rc;
}

static int compile_tokenizer(struct build *b)
{
    struct sk_tok_info info = {.bos = -1, .eos = -1};
    struct sk_dir *d = &b->dir;
    char path[1280];
    int rc;

    snprintf(path, sizeof path, "%.1200s/vocab.skv", b->out);
    rc = b->gguf ? sk_tok_from_gguf(b->gguf, d->desc.n_vocab, path, &info, b->err)
                 : sk_tok_from_hf(b->conf->src, d->desc.n_vocab, path, &info, b->err);
    if (rc)
        return rc;
    d->bos = info.bos;
    memcpy(d->bos_token, info.bos_token, sizeof d->bos_token);
    memcpy(d->eos_token, info.eos_token, sizeof d->eos_token);
    d->chat_template = info.chat_template;
    d->tools_template = info.tools_template;
    if (!d->n_eos && info.eos >= 0)
        d->eos[d->n_eos++] = info.eos;
    return 0;
}

int sk_build_digest(const char *dir, const struct sk_dir *d, char ret[SK_BUILD_DIGEST], struct sk_err *err)
{
    struct sk_weights w = {0};
    struct sk_src_map vocab = {0};
    struct sk_buf desc;
    XXH3_state_t *state = NULL;
    char path[1280];
    int rc;

    sk_buf_init(&desc, 1 << 20);
    snprintf(path, sizeof path, "%.1200s/vocab.skv", dir);
    if ((rc = sk_weights_open(dir, SK_WEIGHTS_LAZY, &w, err)) || (rc = sk_src_map(path, &vocab, err)))
        goto out;
    state = XXH3_createState();
    if (!state || sk_desc_print(&d->desc, &desc)) {
        rc = sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
        goto out;
    }
    XXH3_128bits_reset(state);
    XXH3_128bits_update(state, w.tensors, w.n_tensor * sizeof *w.tensors);
    XXH3_128bits_update(state, desc.p, desc.n);
    XXH3_128bits_update(state, vocab.p, vocab.n);
    XXH128_hash_t h = XXH3_128bits_digest(state);
    snprintf(ret, SK_BUILD_DIGEST, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
out:
    XXH3_freeState(state);
    sk_buf_done(&desc);
    sk_src_unmap(&vocab);
    sk_weights_close(&w);
    return rc;
}

int sk_build_verify(const char *dir, uint32_t *ret_n_tensor, struct sk_err *err)
{
    struct sk_dir d;
    struct sk_weights w = {0};
    char digest[SK_BUILD_DIGEST];
    int rc = sk_dir_open(dir, &d, err);

    if (rc)
        return rc;
    if (!(rc = sk_weights_open(dir, SK_WEIGHTS_LAZY, &w, err)) && !(rc = sk_weights_verify(&w, err)) &&
        !(rc = sk_build_digest(dir, &d, digest, err)) && strcmp(digest, d.digest))
        rc = sk_err_set(err, SK_EFORMAT, "digest",
                        "%.300s: the digest differs: vocab.skv or the description in config.json has changed", dir);
    if (!rc)
        *ret_n_tensor = w.n_tensor;
    sk_weights_close(&w);
    sk_dir_close(&d);
    return rc;
}

static void describe(struct build *b)
{
    struct sk_dir *d = &b->dir;
    uint32_t range = b->hp.desc.n_vocab < 1000 ? b->hp.desc.n_vocab : 1000;

    d->desc = b->hp.desc;
    d->gen = b->hp.gen;
    d->n_eos = b->hp.n_eos;
    memcpy(d->eos, b->hp.eos, sizeof d->eos);
    d->bos = -1;
    d->created = time(NULL);
    snprintf(d->dtype, sizeof d->dtype, "%s", b->conf->dtype);
    name_from_path(b->conf->src, d->name, sizeof d->name);
    for (uint32_t i = 0; i < SK_SELFTEST_TOKENS; i++)
        d->selftest_ids[i] = (int32_t)((i * 7919 + 1) % range);
}

static void build_done(struct build *b)
{
    sk_dir_close(&b->dir);
    sk_free(b->entries);
    sk_free(b->choices);
    sk_recipes_done(&b->recipes);
    sk_gguf_close(b->gguf);
    sk_src_done(&b->files);
}

/* What is small is fast enough as it is; and where the CPU backend does not run there is nothing to tune. The directory
 * is complete without. */
static void tune(const struct build *b)
{
    struct sk_err err = {0};
    struct sk_buf report;

    if (b->n_bytes < TUNE_BYTES)
        return;
    sk_buf_init(&report, 1 << 16);
    int rc = sk_tune_measure(b->out, b->conf->n_thread, &report, &err);
    sk_buf_done(&report);
    if (rc && rc != -SK_EUNSUP)
        sk_log(SK_LOG_WARN, "not tuned: %s", err.msg);
}

int sk_build_fill(const struct sk_build_conf *c, const char *out, struct sk_err *err)
{
    struct build b = {.conf = c, .out = out, .err = err};
    int rc;

    if ((rc = open_source(&b)) || (rc = plan_tensors(&b)))
        goto out;
    describe(&b);
    /* The tokenizer first: it is what fails soonest. */
    if ((rc = compile_tokenizer(&b)) || (rc = write_weights(&b)) || (rc = go_on(&b, 99)) ||
        (rc = sk_build_digest(out, &b.dir, b.dir.digest, err)) || (rc = sk_build_selftest(out, &b.dir, err)) ||
        (rc = sk_dir_save(&b.dir, out, err)))
        goto out;
    tune(&b);
    if ((rc = go_on(&b, 100)))
        goto out;
    if (c->report) {
        report(&b);
        report_unused(&b);
    }
out:
    build_done(&b);
    return rc;
}

int sk_build(const struct sk_build_conf *c, const char *out, struct sk_err *err)
{
    struct sk_outdir o;
    int rc = sk_outdir_lock(&o, out, err);

    if (rc)
        return rc;
    if (!access(o.path, F_OK))
        rc = sk_err_set(err, SK_EINVAL, "output", "%s exists already: remove it or choose another name", o.path);
    if (!rc && !(rc = sk_outdir_make(&o, err)) && !(rc = sk_build_fill(c, o.tmp, err)))
        rc = sk_outdir_commit(&o, err);
    sk_outdir_done(&o);
    return rc;
}
