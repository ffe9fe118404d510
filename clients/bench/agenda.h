/* What is to be done when: a binary heap by time, ties in the order of insertion. */
#ifndef SK_AGENDA_H
#define SK_AGENDA_H
#include <stddef.h>
#include <stdint.h>

struct sk_agenda_item {
    uint64_t due_ns, number; /* number: set by push */
    void *what;
};

struct sk_agenda {
    struct sk_agenda_item *v; /* owned */
    size_t n, cap;
    uint64_t n_pushed;
};

int sk_agenda_push(struct sk_agenda *a, uint64_t due_ns, void *what); /* -SK_ENOMEM */
/* The earliest, valid until the next call; NULL: none. */
const struct sk_agenda_item *sk_agenda_first(const struct sk_agenda *a);
void sk_agenda_pop(struct sk_agenda *a); /* removes the first, which exists */
void sk_agenda_done(struct sk_agenda *a);

#endif
