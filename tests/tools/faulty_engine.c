/* skein-engine with faults of its own making: linked from skein-engine's objects with --wrap=sk_rank_step and
 * --wrap=sk_wire_tokens_end, so that production code has no hook. SKEIN_FAULT is a list of faults, separated by commas:
 *
 *   crash:ID        SIGSEGV before the step of a plan that feeds token ID to the model
 *   hang:ID         that step never ends
 *   crash-drawn:ID  SIGSEGV in the step after ID was drawn
 *   slow:MS         each step takes MS longer
 *   slow-row:US     each step takes US microseconds longer for each of its rows
 *   kill-after:N    SIGKILL before step N + 1 of this process
 *   exit-after:N    exit(3) there
 *   fail-after:N    the step fails there, as that of a broken backend would
 *   stop-after:N    SIGSTOP there
 *
 * SKEIN_FAULT_ONCE names a file: the faults act only in the process that creates it.
 * SKEIN_CAPTURE names a file that gets every TOKENS frame, for mock_engine to replay. */
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "comm/base/buf.h"
#include "comm/wire/plan.h"
#include "comm/wire/wire.h"
#include "engine/model/step.h"

int __real_sk_rank_step(struct sk_rank *r, const void *plan, size_t n, struct sk_err *err);
int __wrap_sk_rank_step(struct sk_rank *r, const void *plan, size_t n, struct sk_err *err);
int __real_sk_wire_tokens_end(struct sk_buf *b, size_t at, uint32_t n_entry, uint32_t n_waiting);
int __wrap_sk_wire_tokens_end(struct sk_buf *b, size_t at, uint32_t n_entry, uint32_t n_waiting);

enum { MAX_FAULTS = 16 };
enum kind { CRASH, HANG, CRASH_DRAWN, SLOW, SLOW_ROW, KILL_AFTER, EXIT_AFTER, FAIL_AFTER, STOP_AFTER, N_KIND };

static const char *const kind_names[N_KIND] = {"crash",      "hang",       "crash-drawn", "slow",      "slow-row",
                                               "kill-after", "exit-after", "fail-after",  "stop-after"};

static struct {
    bool is_read;
    int n;
    struct fault {
        enum kind kind;
        long value;
    } fault[MAX_FAULTS];
    long n_step;
    bool was_drawn[MAX_FAULTS];
} faults;

static void add_fault(const char *word)
{
    for (int k = 0; k < N_KIND; k++) {
        size_t n = strlen(kind_names[k]);
        if (strncmp(word, kind_names[k], n) == 0 && word[n] == ':' && faults.n < MAX_FAULTS) {
            faults.fault[faults.n++] = (struct fault){(enum kind)k, strtol(word + n + 1, NULL, 10)};
            return;
        }
    }
    fprintf(stderr, "faulty_engine: what is %s?\n", word);
    exit(2);
}

static void read_faults(void)
{
    const char *list = getenv("SKEIN_FAULT"), *once = getenv("SKEIN_FAULT_ONCE");
    faults.is_read = true;
    if (!list || !*list)
        return;
    int fd = once ? open(once, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600) : -1;
    if (once && fd < 0)
        return;
    if (fd >= 0)
        close(fd);
    char *words = strdup(list), *save = NULL;
    for (char *w = strtok_r(words, ",", &save); w; w = strtok_r(NULL, ",", &save))
        add_fault(w);
    free(words);
}

static void sleep_us(long us)
{
    const struct timespec t = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
    nanosleep(&t, NULL);
}

/* The plan says which ids a slot has, and later which positions run: an id that a run feeds was written by a tok record
 * of this plan, or of one before. Prompts are written in the plan that runs them, chunk by chunk. */
static bool feeds(const void *plan, long id)
{
    for (const struct sk_plan_rec *r = sk_plan_first(plan); r; r = sk_plan_next(plan, r)) {
        if (r->kind != SK_PLAN_TOK)
            continue;
        const struct sk_plan_tok *t = (const void *)r;
        const int32_t *ids = (const int32_t *)(t + 1);
        for (uint32_t i = 0; i < t->n; i++) {
            if (ids[i] == id)
                return true;
        }
    }
    return false;
}

static void crash(void)
{
    signal(SIGSEGV, SIG_DFL); /* a sanitizer would make it an exit */
    raise(SIGSEGV);
}

/* Returns whether the step fails. */
static bool act(const struct fault *f, bool was_drawn, const void *plan)
{
    switch (f->kind) {
    case CRASH:
        if (feeds(plan, f->value))
            crash();
        return false;
    case CRASH_DRAWN:
        if (was_drawn)
            crash();
        return false;
    case HANG:
        if (feeds(plan, f->value))
            for (;;)
                pause();
        return false;
    case SLOW:
        sleep_us(f->value * 1000);
        return false;
    case SLOW_ROW:
        sleep_us(f->value * ((const struct sk_plan_head *)plan)->n_row);
        return false;
    default:
        break;
    }
    if (faults.n_step <= f->value)
        return false;
    if (f->kind == KILL_AFTER)
        raise(SIGKILL);
    if (f->kind == STOP_AFTER)
        raise(SIGSTOP);
    if (f->kind == EXIT_AFTER)
        _exit(3);
    return f->kind == FAIL_AFTER;
}

int __wrap_sk_rank_step(struct sk_rank *r, const void *plan, size_t n, struct sk_err *err)
{
    if (!faults.is_read)
        read_faults();
    if (((const struct sk_plan_head *)plan)->step > 0) { /* not the self-test's */
        faults.n_step++;
        for (int i = 0; i < faults.n; i++) {
            if (act(&faults.fault[i], faults.was_drawn[i], plan))
                return sk_err_set(err, SK_EINTERNAL, NULL, "a fault was asked for");
        }
    }
    return __real_sk_rank_step(r, plan, n, err);
}

static void look_for_drawn(const struct sk_wire_tokens *t)
{
    for (const struct sk_wire_entry *e = sk_wire_first(t); e; e = sk_wire_next(t, e)) {
        const struct sk_wire_item *it = sk_wire_item_first(e);
        for (uint32_t k = 0; k < e->n_item; k++, it = sk_wire_item_next(it)) {
            for (int i = 0; i < faults.n; i++)
                faults.was_drawn[i] |= !(it->flags & SK_ITEM_PROMPT) && it->id == faults.fault[i].value;
        }
    }
}

int __wrap_sk_wire_tokens_end(struct sk_buf *b, size_t at, uint32_t n_entry, uint32_t n_waiting)
{
    int rc = __real_sk_wire_tokens_end(b, at, n_entry, n_waiting);
    if (rc || n_entry == 0)
        return rc;
    look_for_drawn((const void *)(b->p + at));
    const char *path = getenv("SKEIN_CAPTURE");
    FILE *f = path ? fopen(path, "ae") : NULL;
    if (f) {
        fwrite(b->p + at, 1, b->n - at, f);
        fclose(f);
    }
    return rc;
}
