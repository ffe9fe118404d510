#include "server/job/fair.h"

#include "comm/base/mem.h"

/* --- a line: a pairing heap (Fredman et al., "The pairing heap: a new form of self-adjusting heap", 1986), which needs
 * no memory of its own: after an engine's end everything must fit in again --- */

static bool goes_before(const struct sk_fair_seq *a, const struct sk_fair_seq *b)
{
    if (a->priority != b->priority)
        return a->priority < b->priority;
    if (a->again != b->again)
        return a->again;
    if (a->again && a->n_left != b->n_left)
        return a->n_left < b->n_left;
    return a->age < b->age;
}

static struct sk_fair_seq *merge(struct sk_fair_seq *a, struct sk_fair_seq *b)
{
    if (!a || !b)
        return a ? a : b;
    if (goes_before(b, a)) {
        struct sk_fair_seq *t = a;
        a = b;
        b = t;
    }
    b->prev = a;
    b->next = a->child;
    if (a->child)
        a->child->prev = b;
    a->child = b;
    a->next = a->prev = NULL;
    return a;
}

/* Neighbours are merged from the left, the results from the right. */
static struct sk_fair_seq *merge_all(struct sk_fair_seq *list)
{
    struct sk_fair_seq *pairs = NULL, *root = NULL;
    while (list) {
        struct sk_fair_seq *a = list, *b = a->next;
        list = b ? b->next : NULL;
        a->next = a->prev = NULL;
        if (b)
            b->next = b->prev = NULL;
        a = merge(a, b);
        a->next = pairs;
        pairs = a;
    }
    while (pairs) {
        struct sk_fair_seq *a = pairs;
        pairs = a->next;
        a->next = NULL;
        root = merge(root, a);
    }
    return root;
}

static void heap_remove(struct sk_fair_seq **root, struct sk_fair_seq *q)
{
    struct sk_fair_seq *below = merge_all(q->child);
    if (q == *root) {
        *root = below;
    } else {
        if (q->prev->child == q)
            q->prev->child = q->next;
        else
            q->prev->next = q->next;
        if (q->next)
            q->next->prev = q->prev;
        *root = merge(*root, below);
    }
    q->child = q->next = q->prev = NULL;
}

/* --- tenants --- */

static bool is_busy(const struct sk_tenant *t)
{
    return t->n_waiting + t->n_sent > 0;
}

static double load(const struct sk_tenant *t)
{
    return t->n_sent / t->limits.weight;
}

/* Of an answer, charged in advance while the sequence is on board. */
static uint32_t ahead_of(const struct sk_fair_seq *q)
{
    return SK_FAIR_ANSWER * (q->n_left < SK_FAIR_AHEAD ? q->n_left : SK_FAIR_AHEAD);
}

/* Of the sequence, in all: on board, or if it went there. */
static double advance(const struct sk_fair_seq *q)
{
    uint32_t tok = q->aboard ? q->unsettled_tok + q->ahead_tok : (q->paid ? 0 : q->n_prompt) + ahead_of(q);
    return tok / q->share->tenant->limits.weight;
}

/* What the tenant has got, with all that is charged in advance; below, with nothing of it. */
static double level(const struct sk_fair_share *s)
{
    return s->tenant->virtual_tok + (double)s->ahead_tok / s->tenant->limits.weight;
}

static double settled_tok(const struct sk_fair_share *s)
{
    return s->tenant->virtual_tok - (double)s->unsettled_tok / s->tenant->limits.weight;
}

static void charge(struct sk_fair_share *s, double tok)
{
    s->tenant->virtual_tok += tok / s->tenant->limits.weight;
}

static void lift(struct sk_fair *f, struct sk_tenant *t)
{
    const struct sk_fair_share *s, *least = NULL;
    TAILQ_FOREACH(s, &f->shares, link)
    {
        if (is_busy(s->tenant) && (!least || settled_tok(s) < settled_tok(least)))
            least = s;
    }
    double floor_tok = least ? settled_tok(least) : f->last_tok;
    if (t->virtual_tok < floor_tok)
        t->virtual_tok = floor_tok;
}

void sk_fair_init(struct sk_fair *f)
{
    *f = (struct sk_fair){0};
    TAILQ_INIT(&f->shares);
    TAILQ_INIT(&f->board);
}

static struct sk_fair_share *find(const struct sk_fair *f, const struct sk_tenant *t)
{
    struct sk_fair_share *s;
    TAILQ_FOREACH(s, &f->shares, link)
    {
        if (s->tenant == t)
            return s;
    }
    return NULL;
}

struct sk_fair_share *sk_fair_join(struct sk_fair *f, struct sk_tenant *t)
{
    struct sk_fair_share *s = find(f, t);
    if (!s) {
        s = sk_calloc(1, sizeof *s);
        if (!s)
            return NULL;
        s->tenant = t;
        TAILQ_INSERT_TAIL(&f->shares, s, link);
    }
    s->n_user++;
    return s;
}

void sk_fair_part(struct sk_fair *f, struct sk_fair_share *s)
{
    if (--s->n_user > 0)
        return;
    TAILQ_REMOVE(&f->shares, s, link);
    sk_free(s);
}

/* --- sequences --- */

static struct sk_fair_seq **line_of(struct sk_fair *f, struct sk_fair_seq *q)
{
    return q->suspect ? &f->suspects : &q->share->first;
}

static void enter_line(struct sk_fair *f, struct sk_fair_seq *q)
{
    struct sk_fair_seq **line = line_of(f, q);
    q->child = q->next = q->prev = NULL;
    *line = merge(*line, q);
    f->n_waiting++;
    f->n_lost += q->lost && !q->suspect;
    f->waiting_tok += q->n_prompt;
    q->share->tenant->n_waiting++;
}

static void leave_line(struct sk_fair *f, struct sk_fair_seq *q)
{
    heap_remove(line_of(f, q), q);
    f->n_waiting--;
    f->n_lost -= q->lost && !q->suspect;
    f->waiting_tok -= q->n_prompt;
    q->share->tenant->n_waiting--;
}

static void settle(struct sk_fair_seq *q)
{
    q->share->unsettled_tok -= q->unsettled_tok;
    q->unsettled_tok = 0;
}

static void leave_board(struct sk_fair *f, struct sk_fair_seq *q)
{
    TAILQ_REMOVE(&f->board, q, board);
    q->aboard = false;
    f->n_board--;
    f->n_probation -= q->suspect;
    q->share->ahead_tok -= q->ahead_tok;
    q->share->tenant->n_sent--;
    if (q->n_here == 0) {
        q->share->n_fresh--;
        f->fresh_tok -= q->n_prompt;
    }
}

void sk_fair_wait(struct sk_fair *f, struct sk_fair_seq *q)
{
    if (!is_busy(q->share->tenant))
        lift(f, q->share->tenant);
    q->aboard = false;
    enter_line(f, q);
}

void sk_fair_board(struct sk_fair *f, struct sk_fair_seq *q)
{
    leave_line(f, q);
    q->share->tenant->n_sent++;
    TAILQ_INSERT_TAIL(&f->board, q, board);
    q->aboard = true;
    q->n_here = 0;
    q->share->n_fresh++;
    f->n_board++;
    f->n_probation += q->suspect;
    f->fresh_tok += q->n_prompt;
    q->ahead_tok = ahead_of(q);
    q->share->ahead_tok += q->ahead_tok;
    if (!q->paid) {
        q->paid = true;
        q->unsettled_tok = q->n_prompt;
        q->share->unsettled_tok += q->n_prompt;
        charge(q->share, q->n_prompt);
    }
}

void sk_fair_return(struct sk_fair *f, struct sk_fair_seq *q)
{
    if (q->unsettled_tok) {
        charge(q->share, -(double)q->unsettled_tok);
        settle(q);
        q->paid = false;
    }
    q->n_idle = q->n_here ? 0 : q->n_idle + 1;
    leave_board(f, q);
    enter_line(f, q);
}

void sk_fair_suspect(struct sk_fair *f, struct sk_fair_seq *q)
{
    leave_line(f, q);
    q->suspect = true;
    enter_line(f, q);
}

void sk_fair_leave(struct sk_fair *f, struct sk_fair_seq *q)
{
    struct sk_tenant *t = q->share->tenant;
    if (q->aboard) {
        settle(q);
        leave_board(f, q);
    } else {
        leave_line(f, q);
    }
    if (!is_busy(t) && t->virtual_tok > f->last_tok)
        f->last_tok = t->virtual_tok;
}

void sk_fair_spend(struct sk_fair *f, struct sk_fair_seq *q, uint32_t n_answer, uint32_t n_cached)
{
    if (n_answer == 0)
        return;
    if (q->n_here == 0) {
        q->share->n_fresh--;
        f->fresh_tok -= q->n_prompt;
        charge(q->share, -(double)(n_cached < q->unsettled_tok ? n_cached : q->unsettled_tok));
        settle(q);
    }
    q->n_here += n_answer;
    charge(q->share, (double)n_answer * SK_FAIR_ANSWER);
}

void sk_fair_clear(struct sk_fair *f, struct sk_fair_seq *q)
{
    f->n_probation -= q->suspect;
    q->suspect = false;
}

/* --- decisions --- */

static double sum_weight(const struct sk_fair *f, const struct sk_tenant *t)
{
    const struct sk_fair_share *s;
    double sum = t && !is_busy(t) ? t->limits.weight : 0;
    TAILQ_FOREACH(s, &f->shares, link) sum += is_busy(s->tenant) ? s->tenant->limits.weight : 0;
    return sum;
}

static double part_of(const struct sk_tenant *t, uint32_t places, double sum)
{
    return places * t->limits.weight / sum;
}

/* It waits for its first token on places that are its own. */
static bool is_served(const struct sk_fair_share *s, uint32_t places, double sum)
{
    return s->n_fresh > 0 && (s->tenant->n_sent == 1 || s->tenant->n_sent <= part_of(s->tenant, places, sum));
}

struct sk_fair_seq *sk_fair_next(const struct sk_fair *f, uint32_t places)
{
    const struct sk_fair_share *s, *best = NULL;
    struct sk_fair_seq *suspect = f->n_probation == 0 ? f->suspects : NULL;
    double sum = sum_weight(f, NULL);
    uint32_t n_served = 0;
    if (suspect && f->n_lost == 0)
        return suspect;
    TAILQ_FOREACH(s, &f->shares, link) n_served += is_served(s, places, sum);
    TAILQ_FOREACH(s, &f->shares, link)
    {
        uint32_t n = s->tenant->n_sent;
        bool holds = n > 0 && n + 1 > part_of(s->tenant, places, sum) && n_served > is_served(s, places, sum);
        if (s->first && !holds && (!best || level(s) < level(best)))
            best = s;
    }
    return best ? best->first : suspect;
}

double sk_fair_part_of(const struct sk_fair *f, const struct sk_tenant *t, uint32_t places)
{
    return part_of(t, places, sum_weight(f, t));
}

bool sk_fair_is_hungry(const struct sk_fair *f, const struct sk_fair_share *s, uint32_t places)
{
    uint32_t n = s->tenant->n_sent;
    return s->n_fresh == 0 && (n == 0 || n + 1 <= sk_fair_part_of(f, s->tenant, places));
}

/* One place is nobody's too much. */
static bool asks_too_much(const struct sk_tenant *t, uint32_t places, double sum)
{
    uint32_t n = t->n_sent + t->n_waiting;
    return n > 1 && n > part_of(t, places, sum);
}

bool sk_fair_is_urgent(const struct sk_fair *f, const struct sk_fair_share *s, uint32_t places)
{
    const struct sk_fair_share *k;
    double sum = sum_weight(f, NULL);
    if (!sk_fair_is_hungry(f, s, places) || asks_too_much(s->tenant, places, sum))
        return false;
    TAILQ_FOREACH(k, &f->shares, link)
    {
        if (asks_too_much(k->tenant, places, sum))
            return true;
    }
    return false;
}

/* It has had something of its place, or did not give way too often in vain; and it is no suspect, which must be left
 * alone until it is cleared. */
static bool may_return(const struct sk_fair_seq *q)
{
    return !q->suspect && (q->n_here > 0 || q->n_idle < SK_FAIR_MAX_IDLE);
}

/* Had q's tenant still got as much as that of `next` if they changed places? So that they never change back. */
static bool may_swap(const struct sk_fair_seq *q, const struct sk_fair_seq *next)
{
    return level(q->share) - advance(q) >= level(next->share) + advance(next);
}

struct sk_fair_seq *sk_fair_victim(const struct sk_fair *f, const struct sk_fair_seq *next, uint32_t places)
{
    const struct sk_fair_share *k, *most = NULL;
    struct sk_fair_seq *q, *best = NULL;
    double sum = sum_weight(f, NULL);
    TAILQ_FOREACH(k, &f->shares, link)
    {
        const struct sk_tenant *t = k->tenant;
        if (k != next->share && t->n_sent >= 2 && t->n_sent - 1 >= part_of(t, places, sum) &&
            (!most || load(t) > load(most->tenant)))
            most = k;
    }
    TAILQ_FOREACH_REVERSE(q, &f->board, sk_fair_board, board)
    {
        if (q->share == most && may_return(q) && may_swap(q, next) && (!best || q->priority > best->priority))
            best = q;
    }
    return best;
}

struct sk_fair_seq *sk_fair_early(const struct sk_fair *f, const struct sk_fair_seq *next, uint64_t keep_tok,
                                  uint32_t n_held)
{
    uint64_t upto_tok = f->fresh_tok; /* to compute until the sequence has its token */
    struct sk_fair_seq *q;
    TAILQ_FOREACH_REVERSE(q, &f->board, sk_fair_board, board)
    {
        if (q->n_here > 0)
            continue;
        if (upto_tok <= keep_tok && n_held == 0)
            break;
        upto_tok -= q->n_prompt;
        if (q->share != next->share && may_return(q) && may_swap(q, next))
            return q;
    }
    return NULL;
}

double sk_fair_ahead(const struct sk_fair *f, const struct sk_tenant *t, uint32_t places)
{
    double part = sk_fair_part_of(f, t, places);
    if (f->n_board + f->n_waiting < places || (t->n_waiting == 0 && (t->n_sent == 0 || t->n_sent + 1 <= part)))
        return 0;
    double own = (t->n_waiting + 1) * places / part, all = (double)f->n_waiting + 1;
    return own < all ? own : all;
}
