#include "engine/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/base/clock.h"
#include "comm/base/mem.h"
#include "comm/base/rng.h"

enum { MAX_REP = 101 };

void sk_bench_default(struct sk_bench_conf *c)
{
    *c = (struct sk_bench_conf){
        .prefill_tok = 512, .prompt_tok = 128, .decode_tok = 128, .seqs = {1, 8, 32}, .n_seqs = 3, .n_rep = 3};
}

static int number(const char *s, uint32_t max, uint32_t *ret, const char **ret_end)
{
    char *end;
    unsigned long v = strtoul(s, &end, 10);
    if (end == s || s[0] < '0' || s[0] > '9' || v < 1 || v > max)
        return -SK_EINVAL;
    *ret = (uint32_t)v;
    *ret_end = end;
    return 0;
}

static int set_seqs(struct sk_bench_conf *c, const char *s)
{
    uint32_t n = 0;
    do {
        if (n == SK_BENCH_MAX_SEQS || number(s, 4096, &c->seqs[n++], &s))
            return -SK_EINVAL;
    } while (*s++ == ',');
    c->n_seqs = n;
    return s[-1] ? -SK_EINVAL : 0;
}

int sk_bench_set(struct sk_bench_conf *c, const char *name, const char *value, struct sk_err *err)
{
    const struct {
        const char *name;
        uint32_t *field, max;
    } fields[] = {{"prefill", &c->prefill_tok, 1 << 20},
                  {"prompt", &c->prompt_tok, 1 << 20},
                  {"decode", &c->decode_tok, 1 << 20},
                  {"reps", &c->n_rep, MAX_REP}};
    const char *end = value;
    int rc = -SK_ENOENT;
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        if (strcmp(name, fields[i].name) == 0)
            rc = number(value, fields[i].max, fields[i].field, &end) || *end ? -SK_EINVAL : 0;
    if (strcmp(name, "seqs") == 0)
        rc = set_seqs(c, value);
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

struct timing {
    double prefill_s, decode_s;
    uint32_t decode_tok; /* made after every sequence had its first */
};

static int measure(struct driver *d, uint32_t n_seq, uint32_t n_prompt, uint32_t n_gen, struct timing *ret,
                   struct sk_err *err)
{
    int rc = 0;
    d->n_tok = d->n_left = 0;
    for (uint32_t i = 0; i < n_seq && !rc; i++)
        rc = add_seq(d, n_prompt, n_gen, err);
    uint64_t t0 = sk_clock_ns(), t1 = 0;
    uint64_t all_prompts = d->loop->stats.prompt_tok + (uint64_t)n_seq * n_prompt;
    uint32_t before = 0;
    while (!rc && d->n_left > 0) {
        rc = sk_loop_step(d->loop, &d->out, err);
        if (!rc)
            rc = drain(d, err);
        if (t1 == 0 && d->loop->stats.prompt_tok == all_prompts) {
            t1 = sk_clock_ns();
            before = d->n_tok;
        }
    }
    if (rc)
        return rc;
    uint64_t t2 = sk_clock_ns();
    *ret = (struct timing){(double)(t1 - t0) / 1e9, (double)(t2 - t1) / 1e9, d->n_tok - before};
    return 0;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median rate of n_rep runs: of prefill where n_gen is 1, else of decode. */
static int rate(struct driver *d, const struct sk_bench_conf *c, uint32_t n_seq, uint32_t n_prompt, uint32_t n_gen,
                double *ret, struct sk_err *err)
{
    double v[MAX_REP];
    for (uint32_t i = 0; i < c->n_rep; i++) {
        struct timing t;
        int rc = measure(d, n_seq, n_prompt, n_gen, &t, err);
        if (rc)
            return rc;
        v[i] = n_gen == 1 ? n_prompt * n_seq / t.prefill_s : t.decode_tok / t.decode_s;
    }
    qsort(v, c->n_rep, sizeof v[0], by_size);
    *ret = v[c->n_rep / 2];
    return 0;
}

int sk_bench_run(const struct sk_bench_conf *c, const struct sk_load *load, struct sk_loop *loop, struct sk_err *err)
{
    struct driver d = {.loop = loop, .n_vocab = load->dir.desc.n_vocab};
    sk_buf_init(&d.in, SK_FRAME_MAX);
    sk_buf_init(&d.out, 2 * sk_loop_max_out(loop));
    struct sk_wire_hello hello = {.magic = SK_WIRE_MAGIC, .version = SK_WIRE_VERSION};
    double v;
    int rc = sk_wire_put_hello(&d.in, &hello);
    if (!rc)
        rc = feed(&d, err);
    printf("%s, %s, KV %s, steps of %u rows, median of %u\n", load->dir.name, load->isa,
           sk_dtype_name(load->rank_conf.kv_dtype), load->rank_conf.max_row, c->n_rep);
    if (!rc)
        rc = rate(&d, c, 1, c->prefill_tok, 1, &v, err);
    if (!rc)
        printf("prefill   %5u tokens                      %10.1f tokens/s\n", c->prefill_tok, v);
    for (uint32_t i = 0; i < c->n_seqs && !rc; i++) {
        if (c->seqs[i] > load->rank_conf.max_slot) {
            rc = sk_err_set(err, SK_ERANGE, "max-seqs", "%u sequences at once: --max-seqs is %u", c->seqs[i],
                            load->rank_conf.max_slot);
            break;
        }
        rc = rate(&d, c, c->seqs[i], c->prompt_tok, c->decode_tok, &v, err);
        if (!rc)
            printf("decode    %5u tokens after %u, %3u at once   %10.1f tokens/s\n", c->decode_tok, c->prompt_tok,
                   c->seqs[i], v);
        fflush(stdout);
    }
    sk_buf_done(&d.in);
    sk_buf_done(&d.out);
    return rc;
}
