/* What the filters keep, and with which probabilities, against logits processors of Hugging Face transformers on the
 * last logits of two tiny models (tests/golden/README.md, sampling.json). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cjson/cJSON.h>
#include "kernels/ref/sample.h"

enum { MAX_VOCAB = 512, MAX_CONTEXT = 64, MAX_FILE_BYTES = 1 << 20 };

struct context {
    float logits[MAX_VOCAB];
    int32_t token[MAX_CONTEXT];
    uint32_t n_vocab, n_token;
};

/* cJSON itself: golden.json has texts with NUL characters, which our own reader refuses. */
static cJSON *load(const char *name)
{
    const char *root = getenv("SK_SRCDIR");
    static char text[MAX_FILE_BYTES];
    char path[512];
    snprintf(path, sizeof path, "%s/tests/golden/%s", root != NULL ? root : ".", name);
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        fail_msg("cannot open %s", path);
    size_t n = fread(text, 1, sizeof text, f);
    fclose(f);
    cJSON *v = cJSON_ParseWithLength(text, n);
    assert_non_null(v);
    return v;
}

static const cJSON *get(const cJSON *obj, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(obj, key);
}

static double number(const cJSON *obj, const char *key, double absent)
{
    const cJSON *v = get(obj, key);
    return v != NULL ? v->valuedouble : absent;
}

static void load_context(const char *model, const char *name, struct context *ret)
{
    char path[128];
    snprintf(path, sizeof path, "tiny/%s/golden.json", model);
    cJSON *golden = load(path);
    const cJSON *c, *v;
    ret->n_vocab = ret->n_token = 0;
    cJSON_ArrayForEach(c, get(golden, "cases"))
    {
        if (strcmp(get(c, "name")->valuestring, name) != 0)
            continue;
        assert_in_range(cJSON_GetArraySize(get(c, "last_logits")), 1, MAX_VOCAB);
        assert_in_range(cJSON_GetArraySize(get(c, "input_ids")), 1, MAX_CONTEXT);
        cJSON_ArrayForEach(v, get(c, "last_logits")) ret->logits[ret->n_vocab++] = (float)v->valuedouble;
        cJSON_ArrayForEach(v, get(c, "input_ids")) ret->token[ret->n_token++] = v->valueint;
    }
    cJSON_Delete(golden);
    assert_true(ret->n_vocab > 0);
}

/* The suppressed ids go to `list`. */
static struct sk_samp settings(const cJSON *s, uint32_t n_token, int32_t *list)
{
    struct sk_samp samp = {.flags = SK_SAMP_PROCESS,
                           .pos = n_token,
                           .n_prompt = n_token,
                           .temperature = (float)number(s, "temperature", 1),
                           .top_k = (int32_t)number(s, "top_k", 0),
                           .top_p = (float)number(s, "top_p", 1),
                           .min_p = (float)number(s, "min_p", 0),
                           .typical_p = (float)number(s, "typical_p", 1),
                           .eta_cutoff = (float)number(s, "eta_cutoff", 0),
                           .epsilon_cutoff = (float)number(s, "epsilon_cutoff", 0),
                           .repetition_penalty = (float)number(s, "repetition_penalty", 1),
                           .no_repeat_ngram = (int32_t)number(s, "no_repeat_ngram_size", 0)};
    const cJSON *v;
    cJSON_ArrayForEach(v, get(s, "suppress")) list[samp.n_suppress++] = v->valueint;
    return samp;
}

static void check_case(const cJSON *c)
{
    static struct context ctx;
    static uint32_t count[MAX_VOCAB];
    struct sk_cand cand[MAX_VOCAB];
    double prob[MAX_VOCAB] = {0}, sum = 0;
    int32_t list[8];

    load_context(get(c, "model")->valuestring, get(c, "case")->valuestring, &ctx);
    struct sk_samp s = settings(get(c, "settings"), ctx.n_token, list);
    sk_logits_row(&s, list, ctx.token, &(struct sk_logits_span){ctx.logits, 0, ctx.n_vocab}, count);
    uint32_t n = sk_sample_filter(&s, ctx.logits, ctx.n_vocab, cand);

    assert_int_equal(n, get(c, "kept")->valueint);
    for (uint32_t i = 0; i < n; i++)
        sum += exp(cand[i].z);
    for (uint32_t i = 0; i < n; i++) {
        assert_true(prob[cand[i].id] == 0); /* none twice */
        prob[cand[i].id] = exp(cand[i].z) / sum;
    }
    const cJSON *p = get(c, "probs")->child, *id;
    cJSON_ArrayForEach(id, get(c, "ids"))
    {
        assert_in_range(id->valueint, 0, ctx.n_vocab - 1);
        if (fabs(prob[id->valueint] - p->valuedouble) > 1e-5)
            fail_msg("token %d: probability %.9g, not %.9g", id->valueint, prob[id->valueint], p->valuedouble);
        p = p->next;
    }
    for (uint32_t i = 0; i < ctx.n_vocab; i++)
        assert_int_equal(count[i], 0);
}

static void kept_probabilities(void **state)
{
    cJSON *golden = load("sampling.json");
    const cJSON *c;
    assert_int_equal(cJSON_GetArraySize(get(golden, "cases")), 44);
    cJSON_ArrayForEach(c, get(golden, "cases")) check_case(c);
    cJSON_Delete(golden);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(kept_probabilities)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
