#include "tests/golden/golden.h"

#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/model/decoder.h"
#include "engine/model/slot.h"

extern char **environ;

static const char *env_or(const char *name, const char *otherwise)
{
    const char *s = getenv(name);
    return s && s[0] ? s : otherwise;
}

static void source_path(char *ret, size_t size, const char *rel)
{
    int n = snprintf(ret, size, "%s/tests/golden/%s", env_or("SK_SRCDIR", "."), rel);
    sk_assert(n > 0 && (size_t)n < size);
}

static void must(int rc, const struct sk_err *err)
{
    if (rc)
        fprintf(stderr, "%s: %s\n", sk_err_name(rc), err->msg);
    sk_assert(rc == 0);
}

void golden_open(struct golden_dir *g, const char *path)
{
    struct sk_err err;
    *g = (struct golden_dir){0};
    sk_assert((size_t)snprintf(g->path, sizeof g->path, "%s", path) < sizeof g->path);
    must(sk_dir_open(path, &g->dir, &err), &err);
    must(sk_weights_open(path, SK_WEIGHTS_LAZY, &g->w, &err), &err);
}

void golden_build(struct golden_dir *g, const char *src)
{
    char from[512], top[256], to[512];
    const char *program = env_or("SKEIN_BUILD", "./skein-build");
    source_path(from, sizeof from, src);
    snprintf(top, sizeof top, "%s/skein-golden-XXXXXX", env_or("TMPDIR", "/tmp"));
    sk_assert(mkdtemp(top));
    snprintf(to, sizeof to, "%s/engine", top);

    char *argv[] = {(char *)program, from, "-o", to, NULL};
    pid_t pid;
    int status;
    if (posix_spawnp(&pid, program, NULL, NULL, argv, environ))
        fprintf(stderr, "cannot start %s: set SKEIN_BUILD\n", program);
    sk_assert(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    golden_open(g, to);
    g->temporary = true;
}

void golden_close(struct golden_dir *g)
{
    static const char *const file[] = {"config.json", "weights.skw", "vocab.skv"};
    sk_weights_close(&g->w);
    sk_dir_close(&g->dir);
    if (!g->temporary)
        return;
    for (size_t i = 0; i < sizeof file / sizeof file[0]; i++) {
        char path[600];
        snprintf(path, sizeof path, "%s/%s", g->path, file[i]);
        unlink(path);
    }
    rmdir(g->path);
    *strrchr(g->path, '/') = '\0'; /* the folder that mkdtemp made around it */
    rmdir(g->path);
}

enum sk_dtype golden_dtype(const struct golden_dir *g)
{
    enum sk_dtype most = SK_F32;
    for (uint32_t i = 0; i < g->w.n_tensor; i++)
        if (g->w.tensors[i].dtype > most)
            most = g->w.tensors[i].dtype;
    return most;
}

struct sk_backend *golden_backend(const char *name, int n_thread)
{
    struct sk_backend_conf conf = {.n_thread = n_thread};
    struct sk_backend *be = NULL;
    struct sk_err err;
    int rc = strcmp(name, "ref") == 0 ? sk_ref_open(&conf, &be, &err) : sk_cpu_open(&conf, &be, &err);
    if (rc == -SK_EUNSUP)
        printf("SKIP backend %s: %s\n", name, err.msg);
    else
        must(rc, &err);
    return be;
}

/* Random models write random text: NULs in it, which our JSON refuses. No test of the engine looks at texts. */
struct cJSON *golden_json(const char *rel)
{
    char path[512];
    struct cJSON *v;
    struct sk_err err;
    struct sk_buf b;
    source_path(path, sizeof path, rel);
    sk_buf_init(&b, 64 << 20);
    must(sk_buf_file(&b, path, &err), &err);
    for (char *nul = b.p; (nul = strstr(nul, "\\u0000"));)
        memcpy(nul, "\\u0020", 6);
    must(sk_json_parse(b.p, b.n, b.max, &v, &err), &err);
    sk_buf_done(&b);
    return v;
}

uint32_t golden_ids(const struct cJSON *array, int32_t *ret, uint32_t max)
{
    uint32_t n = 0;
    for (const struct cJSON *v = sk_json_first(array); v; v = sk_json_next(v)) {
        sk_assert(n < max);
        ret[n++] = (int32_t)sk_json_num(v);
    }
    return n;
}

uint32_t golden_floats(const struct cJSON *array, float *ret, uint32_t max)
{
    uint32_t n = 0;
    for (const struct cJSON *v = sk_json_first(array); v; v = sk_json_next(v)) {
        sk_assert(n < max);
        ret[n++] = (float)sk_json_num(v);
    }
    return n;
}

/* ---- the decoder by itself ---- */

struct bench {
    struct sk_backend *be;
    struct sk_group *group;
    struct sk_model model;
    struct sk_kv kv;
    struct sk_scratch scratch;
    struct sk_dev token, index; /* int32 [n], [3][chunk] */
};

static void bench_open(struct bench *b, struct golden_dir *g, struct sk_backend *be, const struct golden_run *run)
{
    struct sk_err err;
    const struct sk_desc *d = &g->dir.desc;
    *b = (struct bench){.be = be};
    must(sk_group_self(&b->group), &err);
    struct sk_model_src src = {.dir = &g->dir, .w = &g->w, .be = be, .group = b->group, .max_len = run->n};
    must(sk_model_open(&b->model, &src, &err), &err);
    struct sk_kv_conf kc = {.dtype = run->kv_dtype,
                            .max_slot = 1,
                            .max_len = run->n,
                            .max_row = run->chunk,
                            .n_kv_head = d->n_kv_head,
                            .layer = b->model.shard.layer};
    uint64_t n_blk = run->n / SK_KV_BLOCK + 1;
    kc.bytes = d->n_group * n_blk * d->n_layer * be->kv_block_bytes(be, kc.dtype, kc.n_kv_head, sk_desc_head_stride(d));
    must(sk_kv_open(&b->kv, d, be, &kc, &err), &err);
    must(sk_scratch_open(&b->scratch, d, &b->model.shard, run->chunk, be), &err);
    b->token = be->alloc(be, run->n * sizeof(int32_t));
    b->index = be->alloc(be, 3 * run->chunk * sizeof(int32_t));
    sk_assert(b->token.a && b->index.a);
    be->upload(be, b->token, run->ids, run->n * sizeof(int32_t));
    for (uint32_t i = 0; i < b->kv.need.ld_table; i++) {
        int32_t blk = (int32_t)i;
        for (uint32_t grp = 0; grp < d->n_group; grp++)
            be->upload(be, sk_dev_at(b->kv.table[grp], i * sizeof blk), &blk, sizeof blk);
    }
}

static void bench_close(struct bench *b, const struct golden_run *run)
{
    b->be->free(b->be, b->index, 3 * run->chunk * sizeof(int32_t));
    b->be->free(b->be, b->token, run->n * sizeof(int32_t));
    sk_scratch_close(&b->scratch);
    sk_kv_close(&b->kv);
    sk_model_close(&b->model);
    b->group->close(b->group);
}

static void run_chunk(struct bench *b, const struct golden_run *run, uint32_t pos, uint32_t n, float *ret)
{
    uint32_t n_vocab = b->model.desc->n_vocab;
    uint64_t words = run->chunk * sizeof(int32_t);
    struct sk_rows rows = {.n_row = n,
                           .n_prompt_row = n,
                           .max_run_row = n,
                           .max_pos = pos + n - 1,
                           .slot = b->index, /* zeros */
                           .pos = sk_dev_at(b->index, words),
                           .token = b->token,
                           .max_len = run->n};
    for (uint32_t i = 0; i < n; i++) {
        int32_t at = (int32_t)(pos + i), row = (int32_t)i;
        b->be->upload(b->be, sk_dev_at(rows.pos, i * sizeof at), &at, sizeof at);
        b->be->upload(b->be, sk_dev_at(b->index, 2 * words + i * sizeof row), &row, sizeof row);
    }
    sk_assert(sk_decoder_run(&b->model, &b->kv, &b->scratch, &rows, &(struct sk_decoder_watch){0}) == 0);

    for (uint32_t first = 0; first < n; first += SK_HEAD_SLICE) {
        uint32_t m = n - first < SK_HEAD_SLICE ? n - first : SK_HEAD_SLICE;
        sk_decoder_head(&b->model, &b->scratch, sk_dev_at(b->index, 2 * words + first * sizeof(int32_t)), m, m);
        sk_assert(b->be->wait(b->be) == 0);
        const float *logits = (const float *)(uintptr_t)b->scratch.logits.a;
        for (uint32_t i = 0; i < m; i++)
            memcpy(ret + (size_t)(first + i) * n_vocab, logits + (size_t)i * b->scratch.ld_logits,
                   n_vocab * sizeof *ret);
    }
}

void golden_logits(struct golden_dir *g, struct sk_backend *be, const struct golden_run *run, float *ret)
{
    struct bench b;
    bench_open(&b, g, be, run);
    for (uint32_t pos = 0; pos < run->n; pos += run->chunk) {
        uint32_t n = run->n - pos < run->chunk ? run->n - pos : run->chunk;
        run_chunk(&b, run, pos, n, ret + (size_t)pos * g->dir.desc.n_vocab);
    }
    bench_close(&b, run);
}
