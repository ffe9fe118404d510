/* A tenant: whose a request is, for limits, fair share, the prefix cache and the figures. One for each API key's name
 * (several keys may have one name), one for each trusted user of a Unix socket, and one without a name for requests
 * that need no key. Tenants live as long as their table, also over a reload of the keys: their counters go on.
 * Owner: loop thread. */
#ifndef SK_TENANT_H
#define SK_TENANT_H
#include <stdint.h>
#include "comm/base/err.h"

enum { SK_TENANT_NAME_MAX = 64, SK_TENANT_MAX = 20000 };

struct sk_tenant_limits {
    double weight;      /* share of the engine's tokens, relative to the others'; > 0 */
    int64_t rpm, tpm;   /* requests and tokens (prompt and answer) a minute; 0 = no limit */
    int64_t concurrent; /* unfinished requests; 0 = no limit */
};

struct sk_tenant {
    char name[SK_TENANT_NAME_MAX]; /* "" = nobody in particular */
    uint64_t salt;                 /* root of its prefix tree; shared within a cache group */
    struct sk_tenant_limits limits;

    /* Fair share (virtual token counter; Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024). */
    double virtual_tok;        /* tokens served / weight; lifted to the least of the busy ones when it becomes busy */
    uint32_t n_waiting, n_sent; /* its sequences */

    /* Limits: buckets that fill up at the rate and hold a minute's worth; tokens may go below zero. */
    double request_credit, token_credit;
    uint64_t credit_us; /* when they were filled last */
    uint32_t n_open;    /* unfinished requests */

    /* For the figures. */
    uint64_t n_prompt_tok, n_answer_tok;
};

struct sk_tenants;
int sk_tenants_new(struct sk_tenants **ret); /* -SK_ENOMEM */
void sk_tenants_free(struct sk_tenants *t);
/* Finds or makes the tenant of that name, and gives it these limits and this salt from now on. -SK_ENOMEM, -SK_ERANGE
 * (SK_TENANT_MAX). */
int sk_tenants_get(struct sk_tenants *t, const char *name, const struct sk_tenant_limits *limits, uint64_t salt,
                   struct sk_tenant **ret);
uint32_t sk_tenants_n(const struct sk_tenants *t);
struct sk_tenant *sk_tenants_at(const struct sk_tenants *t, uint32_t i);

/* May one more request begin now? Counts it: sk_tenant_leave must follow when it is over. -SK_ERATE: beyond rpm, tpm or
 * concurrent; the message says which and what it is, err->retry_ms when it will be less. */
int sk_tenant_enter(struct sk_tenant *t, struct sk_err *err);
void sk_tenant_leave(struct sk_tenant *t);
/* Tokens that were prefilled or made for it: limits and figures. Fair share is the queue's (fair.h). */
void sk_tenant_spend(struct sk_tenant *t, uint64_t n_prompt, uint64_t n_answer);

#endif
