/* An engine without a model, to measure the daemon alone: speaks comm/wire as skein-engine does and takes its options.
 * One token for each open sequence in each step, steps at a steady pace; no prompt log-probs. Put it as `skein-engine`
 * into a folder with skeind and skein-build.
 *
 *   SKEIN_MOCK_STEP_MS    time of a step (100; 0 = as fast as the daemon reads)
 *   SKEIN_MOCK_MAX_SEQS   sequences at once (16,384), whatever --max-seqs says; the context is --max-model-len, or
 * 65,536 SKEIN_MOCK_TIMES      file to tell the steps' times in (mock_times.h) SKEIN_MOCK_STREAM     TOKENS frames as
 * an engine sent them (faulty_engine records such): the sequences that begin get the recorded ones' items in turn, from
 * the start again after the last SKEIN_MOCK_CPU        the CPU to run on */
#define _GNU_SOURCE /* ppoll, sched_setaffinity */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "comm/base/clock.h"
#include "comm/base/conf.h"
#include "comm/base/log.h"
#include "comm/base/mem.h"
#include "comm/dir/dir.h"
#include "comm/dir/vocab.h"
#include "comm/wire/chan.h"
#include "tests/tools/mock_times.h"

enum {
    MAX_WORDS = 256,
    MAX_TRACKS = 4096,
    MAX_STREAM_BYTES = 1 << 30,
    STATS_NS = 100 * 1000 * 1000,
    BLOCK_TOK = 32,
    MAX_LEN = 65536
};

struct seq {
    uint64_t job, seed;
    uint32_t choice, left, n_done, n_top, n_prompt;
    const struct track *track; /* NULL = words */
    enum sk_finish finish;     /* to be told with the next frame */
};

struct track { /* a recorded sequence */
    uint64_t job;
    uint32_t choice, n, cap;
    const struct sk_wire_item **item;
};

struct mock {
    struct sk_conf conf;
    struct sk_dir dir;
    struct sk_chan chan;
    struct mock_times *times;
    struct sk_buf stream;
    struct track *tracks;
    uint32_t n_track, next_track;
    int32_t words[MAX_WORDS];
    uint32_t n_word;
    struct seq *seqs;
    uint32_t n_seq, max_seqs;
    uint32_t n_prompt; /* of the last PROMPT */
    uint64_t step, step_ns, next_ns, stats_ns;
    struct sk_wire_stats stats;
    bool quit;
};

static uint64_t env_number(const char *name, uint64_t otherwise)
{
    const char *s = getenv(name);
    return s && *s ? strtoull(s, NULL, 10) : otherwise;
}

/* ---- what is said ---- */

/* Short words of letters, so that each token becomes text at once. */
static int find_words(struct mock *m, struct sk_err *err)
{
    char path[1100];
    struct sk_vocab *v;
    snprintf(path, sizeof path, "%s/vocab.skv", m->dir.path);
    int rc = sk_vocab_open(path, &v, err);
    if (rc)
        return rc;
    for (uint32_t id = 0; id < sk_vocab_size(v) && m->n_word < MAX_WORDS; id++) {
        size_t n;
        const char *s = sk_vocab_bytes(v, id, &n);
        bool plain = n > 0 && n < 8 && !(sk_vocab_flags(v, id) & ~(unsigned)SK_TOK_MODEL);
        for (size_t i = 0; plain && i < n; i++)
            plain = (s[i] >= 'a' && s[i] <= 'z') || (i == 0 && n > 1 && s[i] == ' ');
        if (plain)
            m->words[m->n_word++] = (int32_t)id;
    }
    sk_vocab_close(v);
    return m->n_word ? 0 : sk_err_set(err, SK_EFORMAT, NULL, "%s has no words", path);
}

static struct track *find_track(struct mock *m, const struct sk_wire_entry *e)
{
    for (uint32_t i = m->n_track; i-- > 0;) {
        if (m->tracks[i].job == e->job && m->tracks[i].choice == e->choice)
            return &m->tracks[i];
    }
    if (m->n_track == MAX_TRACKS)
        return NULL;
    m->tracks[m->n_track] = (struct track){.job = e->job, .choice = e->choice};
    return &m->tracks[m->n_track++];
}

static int add_items(struct mock *m, const struct sk_wire_entry *e)
{
    struct track *t = find_track(m, e);
    const struct sk_wire_item *it = sk_wire_item_first(e);
    for (uint32_t i = 0; t && i < e->n_item; i++, it = sk_wire_item_next(it)) {
        if (it->flags & SK_ITEM_PROMPT)
            continue;
        if (t->n == t->cap) {
            uint32_t cap = t->cap ? 2 * t->cap : 64;
            void *p = sk_realloc(t->item, cap * sizeof(*t->item));
            if (!p)
                return -SK_ENOMEM;
            t->item = p;
            t->cap = cap;
        }
        t->item[t->n++] = it;
    }
    return 0;
}

static int read_stream(struct mock *m, const char *path, struct sk_err *err)
{
    int rc = sk_buf_file(&m->stream, path, err);
    m->tracks = sk_calloc(MAX_TRACKS, sizeof *m->tracks);
    if (!rc && !m->tracks)
        rc = sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    for (size_t at = 0; !rc && at < m->stream.n;) {
        const struct sk_wire_tokens *t = (const void *)(m->stream.p + at);
        if (m->stream.n - at < sizeof *t || t->frame.kind != SK_FRAME_TOKENS || t->frame.bytes > m->stream.n - at ||
            sk_wire_check(&t->frame) != 0)
            return sk_err_set(err, SK_EFORMAT, NULL, "%s: no TOKENS frame at byte %zu", path, at);
        for (const struct sk_wire_entry *e = sk_wire_first(t); !rc && e; e = sk_wire_next(t, e))
            rc = add_items(m, e);
        at += t->frame.bytes;
    }
    while (m->n_track > 0 && m->tracks[m->n_track - 1].n == 0)
        m->n_track--;
    return rc;
}

/* ---- frames in ---- */

static void take_seq(struct mock *m, const struct sk_wire_seq *s)
{
    sk_assert(m->n_seq < m->max_seqs);
    struct seq *q = &m->seqs[m->n_seq++];
    *q = (struct seq){.job = s->job,
                      .choice = s->choice,
                      .seed = s->params.seed,
                      .n_prompt = m->n_prompt,
                      .n_done = s->n_done,
                      .left = s->params.max_tokens > s->n_done ? s->params.max_tokens - s->n_done : 0,
                      .n_top = s->params.n_logprobs > 0 ? (uint32_t)s->params.n_logprobs : 0};
    if (m->n_track > 0) {
        q->track = &m->tracks[m->next_track++ % m->n_track];
        if (q->track->n == 0)
            q->track = NULL;
    }
    if (m->times && q->seed < MOCK_MAX_SEEDS)
        m->times->first_step[q->seed] = m->step + 1;
    m->stats.prompt_tok += m->n_prompt;
}

static void take_cancel(struct mock *m, const struct sk_wire_cancel *c)
{
    for (uint32_t i = 0; i < m->n_seq; i++) {
        struct seq *q = &m->seqs[i];
        if (q->job == c->job && (c->choice == SK_WIRE_ALL || c->choice == q->choice))
            q->finish = SK_FINISH_CANCEL;
    }
}

static void fill_stats(const struct mock *m, struct sk_wire_stats *ret)
{
    *ret = m->stats;
    ret->steps = m->step;
    ret->running = m->n_seq;
    ret->blk_total = ret->blk_free = 1 << 20;
}

static void take_peek(struct mock *m, const struct sk_wire_peek *p)
{
    struct sk_wire_view v = {.number = p->number, .n_seq = m->n_seq};
    struct sk_wire_view_seq *seqs = sk_calloc(m->n_seq + 1, sizeof *seqs);
    sk_assert(seqs);
    for (uint32_t i = 0; i < m->n_seq; i++) {
        const struct seq *q = &m->seqs[i];
        seqs[i] = (struct sk_wire_view_seq){.job = q->job,
                                            .choice = q->choice,
                                            .state = SK_VIEW_RUNNING,
                                            .n_prompt = q->n_prompt,
                                            .n_tok = q->n_prompt + q->n_done,
                                            .n_computed = q->n_prompt + q->n_done};
    }
    fill_stats(m, &v.stats);
    sk_wire_put_view(&m->chan.out, &v, seqs);
    sk_free(seqs);
}

static void take(struct mock *m, const struct sk_frame *f)
{
    switch (f->kind) {
    case SK_FRAME_PROMPT:
        m->n_prompt = ((const struct sk_wire_prompt *)f)->n_tok;
        break;
    case SK_FRAME_SEQ:
        take_seq(m, (const void *)f);
        break;
    case SK_FRAME_CANCEL:
        take_cancel(m, (const void *)f);
        break;
    case SK_FRAME_BEAT:
        sk_wire_put_beat(&m->chan.out, ((const struct sk_wire_beat *)f)->number, m->step);
        break;
    case SK_FRAME_PEEK:
        take_peek(m, (const void *)f);
        break;
    case SK_FRAME_QUIT:
        m->quit = true;
        break;
    default:
        break;
    }
}

/* ---- frames out ---- */

static void put_word(struct mock *m, const struct seq *q)
{
    struct sk_wire_top top[SK_MAX_LOGPROBS];
    uint32_t at = (uint32_t)q->seed + q->n_done;
    for (uint32_t i = 0; i < q->n_top; i++)
        top[i] = (struct sk_wire_top){m->words[(at + i) % m->n_word], -1 - (float)i};
    const struct sk_wire_item it = {
        .id = m->words[at % m->n_word], .logprob = -1, .rank = 1, .n_top = (uint16_t)q->n_top};
    sk_wire_tokens_item(&m->chan.out, &it, top);
}

static void put_entry(struct mock *m, struct seq *q)
{
    const bool has_token = q->left > 0 && q->finish == SK_FINISH_NONE;
    q->left -= has_token;
    if (q->left == 0 && q->finish == SK_FINISH_NONE)
        q->finish = SK_FINISH_LENGTH;
    const struct sk_wire_entry e = {.job = q->job, .choice = q->choice, .n_item = has_token, .finish = q->finish};
    sk_wire_tokens_entry(&m->chan.out, &e);
    if (!has_token)
        return;
    if (q->track) {
        const struct sk_wire_item *it = q->track->item[q->n_done % q->track->n];
        sk_wire_tokens_item(&m->chan.out, it, sk_wire_item_top(it));
    } else {
        put_word(m, q);
    }
    q->n_done++;
    m->stats.decode_tok++;
}

static void run_step(struct mock *m)
{
    size_t at;
    uint32_t n_left = 0;
    m->step++;
    sk_wire_tokens_begin(&m->chan.out, &at, m->step);
    for (uint32_t i = 0; i < m->n_seq; i++) {
        put_entry(m, &m->seqs[i]);
        if (m->seqs[i].finish == SK_FINISH_NONE)
            m->seqs[n_left++] = m->seqs[i];
    }
    sk_assert(sk_wire_tokens_end(&m->chan.out, at, m->n_seq, 0) == 0);
    m->n_seq = n_left;
    uint64_t now = sk_clock_ns();
    if (m->times)
        m->times->emitted_ns[m->step % MOCK_MAX_STEPS] = now;
    if (n_left == 0 || now - m->stats_ns >= STATS_NS) {
        struct sk_wire_stats s;
        fill_stats(m, &s);
        sk_wire_put_stats(&m->chan.out, &s);
        m->stats_ns = now;
    }
}

/* A daemon that does not read stops the steps; afterwards they go on at their pace, without catching up. */
static void step_if_due(struct mock *m)
{
    uint64_t now = sk_clock_ns();
    if (m->n_seq == 0 || sk_chan_pending(&m->chan) || now < m->next_ns)
        return;
    run_step(m);
    m->next_ns = now - m->next_ns < m->step_ns ? m->next_ns + m->step_ns : now + m->step_ns;
}

static void wait_for_work(struct mock *m)
{
    struct pollfd p = {.fd = m->chan.fd, .events = POLLIN};
    struct timespec t = {0};
    bool pending = sk_chan_pending(&m->chan);
    if (pending)
        p.events |= POLLOUT;
    uint64_t now = sk_clock_ns();
    if (m->next_ns > now) {
        t.tv_sec = (time_t)((m->next_ns - now) / 1000000000);
        t.tv_nsec = (long)((m->next_ns - now) % 1000000000);
    }
    ppoll(&p, 1, m->n_seq == 0 || pending ? NULL : &t, NULL);
}

static int serve(struct mock *m)
{
    const struct sk_frame *f;
    int rc = 0;
    while (sk_chan_fill(&m->chan) == 0) {
        while ((rc = sk_chan_next(&m->chan, &f)) == 1)
            take(m, f);
        if (rc < 0)
            return rc;
        step_if_due(m);
        if (sk_chan_flush(&m->chan) < 0 || m->quit)
            return 0;
        wait_for_work(m);
    }
    return 0;
}

/* ---- starting ---- */

static void put_hello(struct mock *m)
{
    struct sk_wire_hello h = {.magic = SK_WIRE_MAGIC,
                              .version = SK_WIRE_VERSION,
                              .build = SK_VERSION,
                              .isa = "mock",
                              .max_len = m->conf.max_model_len ? (uint32_t)m->conf.max_model_len : MAX_LEN,
                              .max_seqs = m->max_seqs,
                              .block_tok = BLOCK_TOK,
                              .n_group = 1,
                              .n_blk = {1 << 20},
                              .credit = m->max_seqs,
                              .pid = (uint32_t)getpid(),
                              .n_tp = 1,
                              .n_pp = 1};
    snprintf(h.digest, sizeof h.digest, "%s", m->dir.digest);
    sk_wire_put_hello(&m->chan.out, &h);
}

static int open_times(struct mock *m, const char *path, struct sk_err *err)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, sizeof *m->times) != 0)
        return sk_err_errno(err, SK_EIO, NULL, "%s", path);
    m->times = mmap(NULL, sizeof *m->times, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return m->times == MAP_FAILED ? sk_err_errno(err, SK_EIO, NULL, "%s", path) : 0;
}

static void choose_cpu(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((int)env_number("SKEIN_MOCK_CPU", 0), &set);
    if (getenv("SKEIN_MOCK_CPU"))
        sched_setaffinity(0, sizeof set, &set);
}

static int open_mock(struct mock *m, struct sk_err *err)
{
    const char *times = getenv("SKEIN_MOCK_TIMES"), *stream = getenv("SKEIN_MOCK_STREAM");
    m->step_ns = env_number("SKEIN_MOCK_STEP_MS", 100) * 1000000;
    m->max_seqs = (uint32_t)env_number("SKEIN_MOCK_MAX_SEQS", 1 << 14);
    m->seqs = sk_calloc(m->max_seqs, sizeof *m->seqs);
    if (!m->seqs)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    sk_buf_init(&m->stream, MAX_STREAM_BYTES);
    int rc = sk_dir_open(m->conf.dir, &m->dir, err);
    if (!rc)
        rc = find_words(m, err);
    if (!rc && times)
        rc = open_times(m, times, err);
    if (!rc && stream)
        rc = read_stream(m, stream, err);
    return rc;
}

int main(int argc, char **argv)
{
    static struct mock m;
    struct sk_err err = {0};
    sk_log_init("mock_engine", SK_LOG_INFO);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    choose_cpu();
    sk_conf_defaults(&m.conf);
    int rc = sk_conf_args(&m.conf, SK_PROG_ENGINE, argc, argv, NULL, 0, NULL, &err);
    if (!rc && m.conf.fd < 0)
        rc = sk_err_set(&err, SK_EMISSING, "fd", "--fd is missing");
    if (rc) {
        sk_log(SK_LOG_ERROR, "%s", err.msg);
        return 2;
    }
    sk_chan_init(&m.chan, (int)m.conf.fd, SK_FRAME_MAX);
    rc = open_mock(&m, &err);
    if (rc) {
        sk_wire_put_state(&m.chan.out, 0, 1, err.msg);
        sk_chan_flush(&m.chan);
        return 1;
    }
    put_hello(&m);
    sk_chan_flush(&m.chan);
    return serve(&m) ? 1 : 0;
}
