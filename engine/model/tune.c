#include "engine/model/tune.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "comm/base/clock.h"
#include "comm/base/json.h"
#include "comm/dir/dir.h"
#include "comm/group/group.h"
#include "engine/model/model.h"

enum {
    MAX_ROW = 128,
    DECODE_ROWS = 16, /* more rows are of prompts */
    N_LINEAR = 4,
    PAIRS = 3,      /* runs of each of two settings, in turn; the least time counts: others only ever add time */
    SLICE_US = 2000 /* a run repeats a matrix for about so long, over the layers: weights come from memory */
};
/* Of the time, that a better setting takes at most: less is noise. */
#define CLEARLY 0.97
#define MUCH    0.85

/* ---- the machine and its file ---- */

struct machine {
    char cpu[SK_CPU_MODEL], isa[32];
    uint32_t n_cpu;
};

static int find_machine(struct machine *ret, struct sk_err *err)
{
    struct sk_backend *be;
    int rc = sk_cpu_open(&(struct sk_backend_conf){0}, &be, err);
    if (rc)
        return rc;
    sk_cpu_model(ret->cpu);
    snprintf(ret->isa, sizeof ret->isa, "%s", be->isa);
    ret->n_cpu = be->n_thread;
    be->close(be);
    return 0;
}

static void file_name(const char *dir, const struct machine *m, uint32_t n_thread, char *ret, size_t n)
{
    char key[256];
    int len = snprintf(key, sizeof key, "%s|%s|%u|%u|%s", m->cpu, m->isa, m->n_cpu, n_thread, SK_VERSION);
    snprintf(ret, n, "%s/tuning-%016llx.json", dir, (unsigned long long)XXH3_64bits(key, (size_t)len));
}

/* What a tuning consists of, in the file and in the search. */
struct setting {
    const char *name;
    size_t at;         /* in struct sk_tuning */
    uint32_t value[6]; /* tried in turn, up to the first 0 but one at the beginning */
    uint32_t row[3];   /* heights of the GEMMs that it bears on, up to the first 0 */
};
static const struct setting settings[] = {
    {"item_bytes",
     offsetof(struct sk_tuning, tune.item_bytes),
     {32 << 10, 64 << 10, 256 << 10, 512 << 10, 1 << 20},
     {1, 16, MAX_ROW}},
    {"items_per_thread", offsetof(struct sk_tuning, tune.items_per_thread), {2, 4, 8, 16, 32}, {1, 16, MAX_ROW}},
    {"pass_bytes", offsetof(struct sk_tuning, tune.pass_bytes), {256 << 10, 512 << 10, 1 << 20, 2 << 20}, {MAX_ROW}},
    {"own_rows", offsetof(struct sk_tuning, tune.own_rows), {0, 1, 2, 8, 16}, {2, 8, 16}},
};
enum { N_SETTING = sizeof settings / sizeof *settings };

static uint32_t *field(struct sk_tuning *t, size_t at)
{
    return (uint32_t *)((char *)t + at);
}

int sk_tune_load(const char *dir, uint32_t n_thread, struct sk_tuning *ret)
{
    char path[1200];
    struct machine m;
    struct cJSON *v;
    struct sk_tuning t = {0};
    int64_t n = 0;

    if (find_machine(&m, NULL))
        return -SK_ENOENT;
    file_name(dir, &m, n_thread, path, sizeof path);
    if (sk_json_load(path, 4096, &v, NULL))
        return -SK_ENOENT;
    int rc = sk_json_get_int(v, "threads", 1, 256, &n, NULL);
    t.n_thread = (uint32_t)n;
    for (int i = 0; i < N_SETTING && !rc; i++) {
        n = -1;
        rc = sk_json_get_int(v, settings[i].name, 0, UINT32_MAX, &n, NULL);
        rc = n < 0 ? -SK_ENOENT : rc;
        *field(&t, settings[i].at) = (uint32_t)n;
    }
    sk_json_free(v);
    if (rc || t.n_thread == 0 || sk_tune_check(&t.tune, NULL) || (n_thread != 0 && n_thread != t.n_thread))
        return -SK_ENOENT;
    *ret = t;
    return 0;
}

static int save(const char *dir, const struct machine *m, uint32_t n_thread, struct sk_tuning *t, struct sk_err *err)
{
    char path[1200], tmp[1300];

    file_name(dir, m, n_thread, path, sizeof path);
    snprintf(tmp, sizeof tmp, "%s.%ld", path, (long)getpid());
    FILE *f = fopen(tmp, "we");
    if (f == NULL)
        return sk_err_errno(err, SK_EIO, NULL, "cannot write %s", tmp);
    fprintf(f, "{\"cpu\": \"%s\", \"isa\": \"%s\", \"cpus\": %u, \"version\": \"" SK_VERSION "\", \"threads\": %u",
            m->cpu, m->isa, m->n_cpu, t->n_thread);
    for (int i = 0; i < N_SETTING; i++)
        fprintf(f, ", \"%s\": %u", settings[i].name, *field(t, settings[i].at));
    bool bad = fputs("}\n", f) < 0;
    bad |= fclose(f) != 0;
    if (bad || rename(tmp, path)) {
        unlink(tmp);
        return sk_err_errno(err, SK_EIO, NULL, "cannot write %s", path);
    }
    return 0;
}

/* ---- timing ---- */

/* The model on a backend of one setting. */
struct bench {
    struct sk_tuning tuning;
    struct sk_backend *be;
    struct sk_group *group;
    struct sk_model model;
    struct sk_dev x, out;
    uint64_t bytes; /* of each */
    uint32_t ld, turn;
};

static void close_bench(struct bench *b)
{
    sk_model_close(&b->model);
    if (b->group != NULL)
        b->group->close(b->group);
    if (b->be != NULL) {
        b->be->free(b->be, b->x, b->bytes);
        b->be->free(b->be, b->out, b->bytes);
        b->be->close(b->be);
    }
    *b = (struct bench){0};
}

static int open_bench(struct bench *b, const struct sk_dir *dir, struct sk_weights *w, const struct sk_tuning *tuning,
                      struct sk_err *err)
{
    const uint32_t fs = sk_desc_ffn_stride(&dir->desc), hs = sk_desc_head_stride(&dir->desc);
    const uint32_t widest = (dir->desc.n_head + 2 * dir->desc.n_kv_head) * hs;

    *b = (struct bench){.tuning = *tuning};
    int rc = sk_group_self(&b->group);
    if (rc)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    rc = sk_cpu_open(&(struct sk_backend_conf){.n_thread = (int)tuning->n_thread, .tune = &tuning->tune}, &b->be, err);
    if (rc) {
        close_bench(b);
        return rc;
    }
    b->ld = widest > 2 * fs ? widest : 2 * fs;
    b->ld = (uint32_t)SK_ALIGN16(b->ld > dir->desc.n_embd ? b->ld : dir->desc.n_embd);
    b->bytes = (uint64_t)MAX_ROW * b->ld * sizeof(float);
    b->x = b->be->alloc(b->be, b->bytes);
    b->out = b->be->alloc(b->be, b->bytes);
    const struct sk_model_src src = {.dir = dir, .w = w, .be = b->be, .group = b->group, .max_len = 1};
    rc = b->x.a == 0 || b->out.a == 0 ? sk_err_set(err, SK_ENOMEM, NULL, "no memory to time matrices in")
                                      : sk_model_open(&b->model, &src, err);
    if (rc)
        close_bench(b);
    return rc;
}

/* Seconds of one of a layer's matrices with n_row rows. */
static double time_linear(struct bench *b, int which, uint32_t n_row)
{
    const struct sk_linear_io io = {.out = b->out,
                                    .x = b->x,
                                    .ld_out = b->ld,
                                    .ld_x = b->ld,
                                    .n_row = n_row,
                                    .n_prompt_row = n_row > DECODE_ROWS ? n_row : 0};
    const uint64_t begin = sk_clock_ns();
    uint64_t now = begin;
    uint32_t n = 0;

    for (; now - begin < SLICE_US * 1000ull; now = sk_clock_ns(), n++) {
        const struct sk_model_layer *l = &b->model.layer[b->turn++ % b->model.desc->n_layer];
        const struct sk_linear *all[N_LINEAR] = {&l->qkv, &l->o, &l->up, &l->down};
        sk_linear_run(all[which], b->be, &io);
    }
    return (double)(now - begin) * 1e-9 / n;
}

/* Time of `b` as a part of that of `a`, over the matrices of a layer. */
static double compare(struct bench *a, struct bench *b, const uint32_t row[3])
{
    double sum = 0;
    int n = 0;

    for (; n < 3 && row[n] > 0; n++) {
        double ta = 0, tb = 0;
        for (int i = 0; i < N_LINEAR; i++) {
            double least_a = 1e9, least_b = 1e9;
            for (int p = 0; p < PAIRS; p++) {
                const double sa = time_linear(a, i, row[n]), sb = time_linear(b, i, row[n]);
                least_a = sa < least_a ? sa : least_a;
                least_b = sb < least_b ? sb : least_b;
            }
            ta += least_a;
            tb += least_b;
        }
        sum += tb / ta;
    }
    return sum / n;
}

/* ---- the search: one setting after the other, each from the best of those before ---- */

struct search {
    const struct sk_dir *dir;
    struct sk_weights *w;
    struct bench best;
    double part; /* of the time that the setting at hand has brought the best to */
    struct sk_buf *report;
};

/* Puts `t` in the place of the best if it takes less than `limit` of its time, each of n_round times. */
static int try(struct search *s, const struct sk_tuning *t, const uint32_t row[3], double limit, int n_round,
               struct sk_err *err)
{
    struct bench b;
    double ratio = 0;
    int rc = open_bench(&b, s->dir, s->w, t, err);
    if (rc)
        return rc;
    for (int i = 0; i < n_round && ratio < limit; i++)
        ratio = compare(&s->best, &b, row);
    if (ratio >= limit) {
        close_bench(&b);
        return 0;
    }
    close_bench(&s->best);
    s->best = b;
    s->part *= ratio;
    return 0;
}

static int search(struct search *s, bool threads, struct sk_err *err)
{
    int rc = 0;

    for (int i = 0; i < N_SETTING && !rc; i++) {
        s->part = 1;
        for (int j = 0; j < 6 && (j == 0 || settings[i].value[j] > 0) && !rc; j++) {
            struct sk_tuning t = s->best.tuning;
            *field(&t, settings[i].at) = settings[i].value[j];
            if (memcmp(&t, &s->best.tuning, sizeof t) != 0)
                rc = try(s, &t, settings[i].row, CLEARLY, 1, err);
        }
        if (!rc && s->part < 1 &&
            sk_buf_fmt(s->report, "%s %u: %.0f %% of the time\n", settings[i].name,
                       *field(&s->best.tuning, settings[i].at), 100 * s->part))
            rc = sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    }
    /* Two threads of one core can be slower than one. So can a thread whose CPU another program has just now. */
    struct sk_tuning half = s->best.tuning;
    half.n_thread /= 2;
    s->part = 1;
    if (!rc && threads && half.n_thread > 0)
        rc = try(s, &half, (const uint32_t[]){1, 16, MAX_ROW}, MUCH, 5, err);
    if (!rc && s->part < 1 &&
        sk_buf_fmt(s->report, "threads %u: less than %.0f %% of the time\n", half.n_thread, 100 * MUCH))
        rc = sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    return rc;
}

int sk_tune_measure(const char *dir, uint32_t n_thread, struct sk_buf *report, struct sk_err *err)
{
    struct machine m;
    struct sk_dir d = {0};
    struct sk_weights w = {0};
    struct search s = {.dir = &d, .w = &w, .report = report};
    int rc = find_machine(&m, err);

    if (!rc)
        rc = sk_dir_open(dir, &d, err);
    if (rc)
        return rc;
    const struct sk_tuning start = {n_thread != 0 ? n_thread : m.n_cpu, sk_tune_default};
    rc = sk_weights_open(dir, SK_WEIGHTS_AHEAD, &w, err);
    if (!rc)
        rc = open_bench(&s.best, &d, &w, &start, err);
    if (!rc) {
        rc = search(&s, n_thread == 0, err);
        if (!rc)
            rc = save(dir, &m, n_thread, &s.best.tuning, err);
        close_bench(&s.best);
    }
    if (w.base != NULL)
        sk_weights_close(&w);
    sk_dir_close(&d);
    return rc;
}
