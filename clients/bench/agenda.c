#include "clients/bench/agenda.h"

#include <stdbool.h>

#include "comm/base/err.h"
#include "comm/base/mem.h"

static bool before(const struct sk_agenda_item *a, const struct sk_agenda_item *b)
{
    return a->due_ns < b->due_ns || (a->due_ns == b->due_ns && a->number < b->number);
}

int sk_agenda_push(struct sk_agenda *a, uint64_t due_ns, void *what)
{
    if (a->n == a->cap) {
        size_t cap = a->cap ? a->cap * 2 : 64;
        struct sk_agenda_item *v = sk_realloc(a->v, cap * sizeof *v);
        if (!v)
            return -SK_ENOMEM;
        a->v = v;
        a->cap = cap;
    }
    struct sk_agenda_item item = {.due_ns = due_ns, .number = a->n_pushed++, .what = what};
    size_t i = a->n++;
    for (; i && before(&item, &a->v[(i - 1) / 2]); i = (i - 1) / 2)
        a->v[i] = a->v[(i - 1) / 2];
    a->v[i] = item;
    return 0;
}

const struct sk_agenda_item *sk_agenda_first(const struct sk_agenda *a)
{
    return a->n ? a->v : NULL;
}

void sk_agenda_pop(struct sk_agenda *a)
{
    sk_assert(a->n);
    struct sk_agenda_item last = a->v[--a->n];
    size_t i = 0;
    for (size_t child = 1; child < a->n; child = 2 * i + 1) {
        if (child + 1 < a->n && before(&a->v[child + 1], &a->v[child]))
            child++;
        if (!before(&a->v[child], &last))
            break;
        a->v[i] = a->v[child];
        i = child;
    }
    if (a->n)
        a->v[i] = last;
}

void sk_agenda_done(struct sk_agenda *a)
{
    sk_free(a->v);
    *a = (struct sk_agenda){0};
}
