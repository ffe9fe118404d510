#include "engine/bench.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/base/clock.h"
#include "comm/base/mem.h"
#include "comm/base/rng.h"
#include "comm/group/world.h"

enum { MAX_REP = 101, MAX_TOK = 1 << 20, MAX_SEQ = 4096 };

void sk_bench_default(struct sk_bench_conf *c)
{
    *c = (struct sk_bench_conf){.prefill = {1, {512}},
                                .depth = {1, {0}},
                                .prompt = {1, {128}},
                                .seqs = {3, {1, 8, 32}},
                                .decode_tok = 128,
                                .n_rep = 3};
}

static int number(const char *s, uint32_t min, uint32_t max, uint32_t *ret, const char **ret_end)
{
    char *end;
    unsigned long v = strtoul(s, &end, 10);
    if (end == s || s[0] < '0' || s[0] > '9' || v < min || v > max)
        return -SK_EINVAL;
    *ret = (uint32_t)v;
    *ret_end = end;
    return 0;
}

static int list(const char *s, uint32_t min, uint32_t max, struct sk_bench_list *ret)
{
    struct sk_bench_list l = {0};
    do {
        if (l.n == SK_BENCH_MAX_LIST || number(s, min, max, &l.v[l.n++], &s))
            return -SK_EINVAL;
    } while (*s++ == ',');
    if (s[-1] != '\0')
        return -SK_EINVAL;
    *ret = l;
    return 0;
}

int sk_bench_set(struct sk_bench_conf *c, const char *name, const char *value, struct sk_err *err)
{
    const struct {
        const char *name;
        struct sk_bench_list *list;
        uint32_t min, max;
    } lists[] = {{"prefill", &c->prefill, 1, MAX_TOK},
                 {"depth", &c->depth, 0, MAX_TOK},
                 {"prompt", &c->prompt, 1, MAX_TOK},
                 {"seqs", &c->seqs, 1, MAX_SEQ}};
    const struct {
        const char *name;
        uint32_t *field, min, max;
    } numbers[] = {{"decode", &c->decode_tok, 2, MAX_TOK}, {"reps", &c->n_rep, 1, MAX_REP}};
    const char *end = value;
    int rc = -SK_ENOENT;

    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++)
        if (strcmp(name, lists[i].name) == 0)
            rc = list(value, lists[i].min, lists[i].max, lists[i].list);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (strcmp(name, numbers[i].name) == 0)
            rc = number(value, numbers[i].min, numbers[i].max, numbers[i].field, &end) || *end ? -SK_EINVAL : 0;
    if (rc)
        sk_err_set(err, -rc, name, "--bench-%s: \"%s\" is not what it takes", name, value);
    return rc;
}

/* A daemon in miniature. */
struct driver {
    struct sk_loop *loop;
    struct sk_buf in, out;
    uint32_t n_vocab;
    uint64_t job;
    uint32_t n_tok, n_left; /* tokens that came; sequences unfinished */
};

static int feed(struct driver *d, struct sk_err *err)
{
    int rc = 0;
    for (size_t at = 0; at < d->in.n && !rc; at += ((const struct sk_frame *)(d->in.p + at))->bytes)
        rc = sk_loop_frame(d->loop, (const struct sk_frame *)(d->in.p + at), &d->out, err);
    sk_buf_clear(&d->in);
    return rc;
}

static int add_seq(struct driver *d, uint32_t n_prompt, uint32_t n_gen, struct sk_err *err)
{
    int32_t *tok = sk_malloc(n_prompt * sizeof *tok);
    if (!tok)
        return sk_err_set(err, SK_ENOMEM, NULL, "no memory for a prompt");
    uint64_t job = ++d->job;
    for (uint32_t i = 0; i < n_prompt; i++) {
        uint32_t out[4];
        sk_philox((const uint32_t[2]){1, 0}, (const uint32_t[4]){i, (uint32_t)job, 0, 0}, out);
        tok[i] = (int32_t)(out[0] % d->n_vocab);
    }
    struct sk_wire_seq s = {.job = job};
    sk_params_default(&s.params);
    s.params.temperature = 0;
    s.params.max_tokens = n_gen;
    s.params.flags = SK_PARAMS_IGNORE_EOS;
    int rc = sk_wire_put_prompt(&d->in, job, 1, tok, n_prompt);
    if (!rc)
        rc = sk_wire_put_seq(&d->in, &s, NULL, NULL);
    sk_free(tok);
    d->n_left++;
    return rc ? sk_err_set(err, -rc, NULL, "no memory for a request") : feed(d, err);
}

/* Counts what came; an error entry ends the bench with its reason. */
static int drain(struct driver *d, struct sk_err *err)
{
    for (size_t at = 0; at < d->out.n; at += ((const struct sk_frame *)(d->out.p + at))->bytes) {
        const struct sk_wire_tokens *t = (const void *)(d->out.p + at);
        if (t->frame.kind != SK_FRAME_TOKENS)
            continue;
        for (const struct sk_wire_entry *e = sk_wire_first(t); e; e = sk_wire_next(t, e)) {
            if (e->finish == SK_FINISH_ERROR)
                return sk_err_set(err, e->reason, NULL, "a sequence was refused: %s", sk_err_text(e->reason));
            d->n_tok += e->n_item;
            d->n_left -= e->finish != SK_FINISH_NONE;
        }
    }
    sk_buf_clear(&d->out);
    return 0;
}

/* What is measured: n_tok tokens of a prompt after `depth` others, or of n_seq answers after prompts of `depth`. */
struct test {
    bool prefill;
    uint32_t n_tok, depth, n_seq;
};

/* Tokens a second of one run. Decoding counts from when every sequence has its first token. */
static int run(struct driver *d, const struct test *t, double *ret, struct sk_err *err)
{
    const struct sk_wire_stats *stats = &d->loop->stats;
    const uint64_t begin = stats->prompt_tok + (t->prefill ? t->depth : (uint64_t)t->n_seq * t->depth);
    uint64_t from = 0;
    uint32_t before = 0;
    int rc = 0;

    d->n_tok = d->n_left = 0;
    for (uint32_t i = 0; i < t->n_seq && !rc; i++)
        rc = add_seq(d, t->prefill ? t->depth + t->n_tok : t->depth, t->prefill ? 1 : t->n_tok, err);
    while (!rc && d->n_left > 0) {
        if (from == 0 && stats->prompt_tok >= begin) {
            from = sk_clock_ns();
            before = d->n_tok;
        }
        rc = sk_loop_step(d->loop, &d->out, err);
        if (!rc)
            rc = drain(d, err);
    }
    const double s = (double)(sk_clock_ns() - from) / 1e9;
    if (!rc)
        *ret = t->prefill ? t->n_tok / s : (d->n_tok - before) / s;
    return rc;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Bytes of weights and KV cache that a second's decode steps read; 0 for prefill, with windows, which read less, and
 * for several ranks. */
static double read_rate(const struct sk_load *load, const struct test *t, double tok_per_s)
{
    const struct sk_desc *d = &load->dir.desc;
    if (t->prefill || d->n_group != 1 || d->group_window[0] != 0 || load->world)
        return 0;
    const double kv = (double)load->need.kv_block / SK_KV_BLOCK * (t->depth + t->n_tok / 2.0);
    return ((double)sk_load_step_bytes(load) + kv * t->n_seq) * tok_per_s / t->n_seq;
}

static void print_text(const struct sk_load *load, const struct test *t, const double *v, uint32_t n)
{
    if (t->prefill)
        printf("prefill  %6u tokens after %6u             ", t->n_tok, t->depth);
    else
        printf("decode   %6u tokens after %6u, %3u at once", t->n_tok, t->depth, t->n_seq);
    printf("  %9.1f tokens/s  (%.1f .. %.1f)", v[n / 2], v[0], v[n - 1]);
    const double bytes = read_rate(load, t, v[n / 2]);
    if (bytes > 0)
        printf("  %.1f GB/s", bytes * 1e-9);
    putchar('\n');
}

static void print_json(const struct sk_load *load, const struct test *t, const double *v, uint32_t n)
{
    printf("{\"test\": \"%s\", \"tokens\": %u, \"depth\": %u, \"sequences\": %u, ", t->prefill ? "prefill" : "decode",
           t->n_tok, t->depth, t->n_seq);
    printf("\"isa\": \"%s\", \"tp\": %d, \"pp\": %d, \"threads\": %u, \"kv_dtype\": \"%s\", ", load->isa,
           load->world ? load->world->n_tp : 1, load->world ? load->world->n_pp : 1, load->be->n_thread,
           sk_dtype_name(load->rank_conf.kv_dtype));
    printf("\"weights_bytes\": %llu, \"read_bytes_per_s\": %.0f, ", (unsigned long long)load->need.weights,
           read_rate(load, t, v[n / 2]));
    printf("\"runs\": %u, \"tokens_per_s\": %.2f, \"min\": %.2f, \"max\": %.2f}\n", n, v[n / 2], v[0], v[n - 1]);
}

static int measure(struct driver *d, const struct sk_bench_conf *c, const struct sk_load *load, const struct test *t,
                   struct sk_err *err)
{
    double v[MAX_REP];

    if (t->n_seq > load->rank_conf.max_slot)
        return sk_err_set(err, SK_ERANGE, "max-seqs", "%u sequences at once: --max-seqs is %u", t->n_seq,
                          load->rank_conf.max_slot);
    if (t->prefill && t->depth % load->rank_conf.max_row != 0)
        return sk_err_set(err, SK_ERANGE, "depth",
                          "--bench-depth %u: a step must end there, and takes --max-step-tokens %u tokens", t->depth,
                          load->rank_conf.max_row);
    if (t->depth + t->n_tok + t->prefill > load->rank_conf.max_len)
        return sk_err_set(err, SK_ERANGE, "max-model-len", "%u tokens after %u: a sequence has at most %u", t->n_tok,
                          t->depth, load->rank_conf.max_len);
    for (uint32_t i = 0; i < c->n_rep; i++) {
        int rc = run(d, t, &v[i], err);
        if (rc)
            return rc;
    }
    qsort(v, c->n_rep, sizeof v[0], by_size);
    (c->json ? print_json : print_text)(load, t, v, c->n_rep);
    fflush(stdout);
    return 0;
}

int sk_bench_run(const struct sk_bench_conf *c, const struct sk_load *load, struct sk_loop *loop, struct sk_err *err)
{
    struct driver d = {.loop = loop, .n_vocab = load->dir.desc.n_vocab};
    sk_buf_init(&d.in, SK_FRAME_MAX);
    sk_buf_init(&d.out, 2 * sk_loop_max_out(loop));
    struct sk_wire_hello hello = {.magic = SK_WIRE_MAGIC, .version = SK_WIRE_VERSION};
    int rc = sk_wire_put_hello(&d.in, &hello);
    if (!rc)
        rc = feed(&d, err);
    if (!c->json && load->world)
        printf("%d ranks (tp %d, pp %d), each: ", load->world->size, load->world->n_tp, load->world->n_pp);
    if (!c->json)
        printf("%s, %s, %u threads, KV %s, steps of %u rows, median of %u (least .. most)\n", load->dir.name, load->isa,
               load->be->n_thread, sk_dtype_name(load->rank_conf.kv_dtype), load->rank_conf.max_row, c->n_rep);
    for (uint32_t i = 0; i < c->prefill.n * c->depth.n && !rc; i++) {
        const struct test t = {true, c->prefill.v[i / c->depth.n], c->depth.v[i % c->depth.n], 1};
        rc = measure(&d, c, load, &t, err);
    }
    for (uint32_t i = 0; i < c->prompt.n * c->seqs.n && !rc; i++) {
        const struct test t = {false, c->decode_tok, c->prompt.v[i / c->seqs.n], c->seqs.v[i % c->seqs.n]};
        rc = measure(&d, c, load, &t, err);
    }
    sk_buf_done(&d.in);
    sk_buf_done(&d.out);
    return rc;
}
