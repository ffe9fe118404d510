#include "server/job/tenant.h"

#include <stdio.h>
#include <string.h>
#include "comm/base/clock.h"
#include "comm/base/mem.h"

enum { MINUTE_US = 60000000, ENTER_RETRY_MS = 1000 /* when another request ends is not known */ };

struct sk_tenants {
    struct sk_tenant **list;
    uint32_t n, cap;
};

int sk_tenants_new(struct sk_tenants **ret)
{
    struct sk_tenants *t = sk_calloc(1, sizeof *t);
    if (!t)
        return -SK_ENOMEM;
    *ret = t;
    return 0;
}

void sk_tenants_free(struct sk_tenants *t)
{
    if (!t)
        return;
    for (uint32_t i = 0; i < t->n; i++)
        sk_free(t->list[i]);
    sk_free(t->list);
    sk_free(t);
}

static int add(struct sk_tenants *t, struct sk_tenant **ret)
{
    if (t->n == SK_TENANT_MAX)
        return -SK_ERANGE;
    if (t->n == t->cap) {
        uint32_t cap = t->cap ? 2 * t->cap : 8;
        struct sk_tenant **list = sk_realloc(t->list, cap * sizeof *list);
        if (!list)
            return -SK_ENOMEM;
        t->list = list;
        t->cap = cap;
    }
    *ret = sk_calloc(1, sizeof **ret);
    if (!*ret)
        return -SK_ENOMEM;
    t->list[t->n++] = *ret;
    return 0;
}

/* A limit that was not there begins with a full bucket; one that has shrunk does not keep more than it may hold. */
static void set_limits(struct sk_tenant *t, const struct sk_tenant_limits *limits)
{
    if (t->limits.rpm == 0 || t->request_credit > (double)limits->rpm)
        t->request_credit = (double)limits->rpm;
    if (t->limits.tpm == 0 || t->token_credit > (double)limits->tpm)
        t->token_credit = (double)limits->tpm;
    t->limits = *limits;
}

int sk_tenants_get(struct sk_tenants *t, const char *name, const struct sk_tenant_limits *limits, uint64_t salt,
                   struct sk_tenant **ret)
{
    struct sk_tenant *found = NULL;
    for (uint32_t i = 0; i < t->n && !found; i++)
        found = strcmp(t->list[i]->name, name) == 0 ? t->list[i] : NULL;
    if (!found) {
        int rc = add(t, &found);
        if (rc != 0)
            return rc;
        snprintf(found->name, sizeof found->name, "%s", name);
    }
    set_limits(found, limits);
    found->salt = salt;
    *ret = found;
    return 0;
}

uint32_t sk_tenants_n(const struct sk_tenants *t)
{
    return t->n;
}

struct sk_tenant *sk_tenants_at(const struct sk_tenants *t, uint32_t i)
{
    return t->list[i];
}

static double filled(double credit, int64_t per_minute, uint64_t us)
{
    double full = (double)per_minute, now = credit + full * (double)us / MINUTE_US;
    return now < full ? now : full;
}

static void fill(struct sk_tenant *t)
{
    uint64_t now = sk_clock_us();
    uint64_t us = now - t->credit_us;
    t->request_credit = filled(t->request_credit, t->limits.rpm, us);
    t->token_credit = filled(t->token_credit, t->limits.tpm, us);
    t->credit_us = now;
}

/* Until there is `want` more in a bucket that fills at this rate. */
static uint32_t wait_ms(double want, int64_t per_minute)
{
    double ms = want * 60000 / (double)per_minute + 1;
    return ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX;
}

int sk_tenant_enter(struct sk_tenant *t, struct sk_err *err)
{
    const struct sk_tenant_limits *l = &t->limits;
    uint32_t retry_ms = 0;
    fill(t);
    if (l->concurrent > 0 && t->n_open >= l->concurrent) {
        retry_ms = ENTER_RETRY_MS;
        sk_err_set(err, SK_ERATE, NULL, "This key may have %lld unfinished requests at once (concurrent).",
                   (long long)l->concurrent);
    } else if (l->rpm > 0 && t->request_credit < 1) {
        retry_ms = wait_ms(1 - t->request_credit, l->rpm);
        sk_err_set(err, SK_ERATE, NULL, "This key may make %lld requests a minute (rpm).", (long long)l->rpm);
    } else if (l->tpm > 0 && t->token_credit <= 0) {
        retry_ms = wait_ms(1 - t->token_credit, l->tpm);
        sk_err_set(err, SK_ERATE, NULL, "This key may use %lld tokens a minute, prompt and answer (tpm).",
                   (long long)l->tpm);
    }
    if (retry_ms) {
        if (err)
            err->retry_ms = retry_ms;
        return -SK_ERATE;
    }
    if (l->rpm > 0)
        t->request_credit--;
    t->n_open++;
    return 0;
}

void sk_tenant_leave(struct sk_tenant *t)
{
    sk_assert(t->n_open > 0);
    t->n_open--;
}

void sk_tenant_spend(struct sk_tenant *t, uint64_t n_prompt, uint64_t n_answer)
{
    t->n_prompt_tok += n_prompt;
    t->n_answer_tok += n_answer;
    if (t->limits.tpm > 0) {
        fill(t);
        t->token_credit -= (double)(n_prompt + n_answer);
    }
}
