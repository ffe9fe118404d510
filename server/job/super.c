#include "server/job/super.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>
#include "comm/base/conf.h"
#include "comm/base/log.h"
#include "comm/base/mem.h"
#include "comm/dir/dir.h"
#include "server/job/build.h"
#include "server/job/dump.h"
#include "server/job/end.h"
#include "server/job/probe.h"
#include "server/job/ranks.h"
#include "server/job/start.h"
#include "server/metrics/metrics.h"

enum {
    FIRST_BACKOFF_MS = 100,
    MAX_BACKOFF_MS = 10000,
    STEADY_MS = 10000,     /* READY for so long, and the back-off begins anew */
    MAX_FAILED_STARTS = 5, /* in a row, without READY between */
    MAX_BEAT_MS = 5000,
    QUIT_GRACE_MS = 5000,
    SEGMENT_BYTES = 8 << 20 /* of the flight recorder, two of them: most that it takes, pages come as it writes */
};

struct sk_super {
    struct sk_super_conf conf;
    uv_loop_t *loop;
    uv_timer_t timer; /* start, back-off, grace */
    uv_timer_t beat;
    enum sk_engine_state state;
    uint32_t permille, restarts, n_failed_starts, backoff_ms;
    char text[512];
    char dir[1024], digest[40];
    struct sk_shape shape;
    uint32_t number; /* of this supervisor, in this process */
    struct sk_build *build;
    struct sk_probe *probe; /* hosts are asked before the next start */
    bool has_asked;         /* the shape is what they answered */
    struct sk_start *start; /* of the engine */
    struct sk_link *link;
    struct sk_ranks ranks;
    struct sk_board board;
    int board_fd;
    bool was_ready; /* at least once */
    struct sk_end_signs signs;
    int pid; /* of the engine, 0 = none */
    uint64_t beat_number, ready_ms, step, progress;
    uint32_t unheard, unmoved; /* beats since the last frame, since the last step, or since the board's progress moved:
                                  beats, not time, so that a stopped daemon blames nobody */
    int n_handles;
    void (*done)(void *arg);
    void *done_arg;
};

static void on_start(uv_timer_t *t);

/* Another launcher starts it; we wait for it. */
static bool is_anothers(const struct sk_super *s)
{
    return s->conf.conf->engine_listen[0] != '\0';
}

static enum sk_end_kind kind_of(const struct sk_super *s)
{
    return is_anothers(s) ? SK_END_ANOTHERS : sk_shape_is_one(&s->shape) ? SK_END_OURS : SK_END_MPIRUNS;
}

/* --- state --- */

static void to(struct sk_super *s, enum sk_engine_state state)
{
    static const unsigned next[] = {
        [SK_ENGINE_BUILDING] =
            1u << SK_ENGINE_BUILDING | 1u << SK_ENGINE_STARTING | 1u << SK_ENGINE_FAILED | 1u << SK_ENGINE_STOPPING,
        [SK_ENGINE_STARTING] = 1u << SK_ENGINE_STARTING | 1u << SK_ENGINE_READY | 1u << SK_ENGINE_BACKOFF |
                               1u << SK_ENGINE_FAILED | 1u << SK_ENGINE_STOPPING,
        [SK_ENGINE_READY] = 1u << SK_ENGINE_BACKOFF | 1u << SK_ENGINE_STOPPING,
        [SK_ENGINE_BACKOFF] = 1u << SK_ENGINE_STARTING | 1u << SK_ENGINE_FAILED | 1u << SK_ENGINE_STOPPING,
        [SK_ENGINE_FAILED] = 1u << SK_ENGINE_STOPPING,
        [SK_ENGINE_STOPPING] = 1u << SK_ENGINE_STOPPED,
        [SK_ENGINE_STOPPED] = 0,
    };
    sk_assert(next[s->state] & (1u << state));
    s->state = state;
    if (s->conf.on_state && state < SK_ENGINE_STOPPING)
        s->conf.on_state(s->conf.arg);
}

static void progress(struct sk_super *s, const char *what, uint32_t permille)
{
    s->permille = permille > 1000 ? 1000 : permille;
    snprintf(s->text, sizeof s->text, "%s %u %%", what, s->permille / 10);
}

static void fail(struct sk_super *s, const char *why)
{
    snprintf(s->text, sizeof s->text, "%s", why); /* the owner says it aloud */
    to(s, SK_ENGINE_FAILED);
}

static void on_handle_closed(uv_handle_t *h)
{
    struct sk_super *s = h->data;
    if (--s->n_handles > 0)
        return;
    void (*done)(void *arg) = s->done;
    void *arg = s->done_arg;
    to(s, SK_ENGINE_STOPPED);
    sk_ranks_forget(&s->ranks, s->conf.metrics, s->conf.replica);
    sk_board_unmap(&s->board);
    close(s->board_fd);
    sk_free(s);
    if (done)
        done(arg);
}

/* Once, though what is drained at the end may close us before the end does. */
static void finish_close(struct sk_super *s)
{
    if (uv_is_closing((uv_handle_t *)&s->timer))
        return;
    uv_close((uv_handle_t *)&s->timer, on_handle_closed);
    uv_close((uv_handle_t *)&s->beat, on_handle_closed);
}

/* --- building --- */

static void on_build_progress(void *arg, uint32_t permille)
{
    progress(arg, "building", permille);
}

static void begin(struct sk_super *s);

static void on_build_end(void *arg, const char *dir, const char *why)
{
    struct sk_super *s = arg;
    s->build = NULL;
    if (s->state == SK_ENGINE_STOPPING) {
        finish_close(s);
    } else if (dir) {
        snprintf(s->dir, sizeof s->dir, "%s", dir);
        begin(s);
    } else {
        fail(s, why);
    }
}

static void build(struct sk_super *s)
{
    const struct sk_build_conf bc = {.conf = s->conf.conf,
                                     .bin_dir = s->conf.bin_dir,
                                     .arg = s,
                                     .on_progress = on_build_progress,
                                     .on_end = on_build_end};
    struct sk_err err;
    progress(s, "building", 0);
    if (sk_build_start(s->loop, &bc, &s->build, &err) != 0)
        fail(s, err.msg);
}

/* The directory is there. Its digest makes sure that engine and tokenizer are of one build. */
static void begin(struct sk_super *s)
{
    struct sk_dir dir;
    struct sk_err err;
    if (sk_dir_open(s->dir, &dir, &err) != 0) {
        fail(s, err.msg);
        return;
    }
    snprintf(s->digest, sizeof s->digest, "%s", dir.digest);
    sk_dir_close(&dir);
    s->conf.on_dir(s->conf.arg, s->dir);
    if (s->state == SK_ENGINE_BUILDING) /* on_dir may have closed us */
        uv_timer_start(&s->timer, on_start, 0, 0);
}

/* --- the flight recorder --- */

static int dump_flight(struct sk_super *s, const char *why, char *ret_path, struct sk_err *err)
{
    const struct sk_conf *c = s->conf.conf;
    char dir[SK_CONF_STR_MAX], cache[SK_DIR_MAX_CACHE];
    if (s->board.max_plan == 0)
        return sk_err_set(err, SK_ENOENT, "flight-plans", "--flight-plans is 0: nothing was recorded");
    int rc = c->flight_dir[0] ? 0 : sk_dir_cache(c->cache_dir, cache, sizeof cache, err);
    if (rc != 0)
        return rc;
    if (c->flight_dir[0])
        snprintf(dir, sizeof dir, "%s", c->flight_dir);
    else
        snprintf(dir, sizeof dir, "%s/flight", cache);
    return sk_dump_write(&s->board, dir, s->pid, why, ret_path, err);
}

int sk_super_dump_flight(struct sk_super *s, const char *why, char *ret_path, struct sk_err *err)
{
    int rc = dump_flight(s, why, ret_path, err);
    if (rc == 0)
        sk_log(SK_LOG_WARN, "the last steps of engine pid=%d (%s) are in %s; they hold prompts", s->pid, why, ret_path);
    return rc;
}

static void dump_after_end(struct sk_super *s, enum sk_end end)
{
    char path[SK_DUMP_MAX_PATH];
    struct sk_err err;
    int rc = sk_super_dump_flight(s, sk_end_name(end), path, &err);
    if (rc != 0 && rc != -SK_ENOENT)
        sk_log(SK_LOG_ERROR, "the last steps of the engine could not be written: %s", err.msg);
}

/* --- the engine's end --- */

static void kill_engine(struct sk_super *s, enum sk_end as, const char *why)
{
    if (!s->start || s->signs.was_killed)
        return;
    sk_log(SK_LOG_ERROR, "engine pid=%d is killed: %s", s->pid, why);
    snprintf(s->signs.said, sizeof s->signs.said, "%s", why);
    s->signs.was_killed = true;
    s->signs.killed_as = as;
    sk_start_kill(s->start, SIGKILL);
}

/* The time that the next start waits. One that did some work is started at once, however often: nobody is to wait for
 * what one request does to engines, and that is found out after a few (server/job/suspect.c). */
static uint64_t next_backoff(struct sk_super *s, bool was_up)
{
    if (was_up && (s->step > 0 || uv_now(s->loop) - s->ready_ms >= STEADY_MS))
        s->backoff_ms = 0;
    uint64_t ms = s->backoff_ms ? s->backoff_ms : was_up ? 0 : FIRST_BACKOFF_MS;
    s->backoff_ms = s->backoff_ms == 0                   ? FIRST_BACKOFF_MS
                    : s->backoff_ms * 2 < MAX_BACKOFF_MS ? s->backoff_ms * 2
                                                         : MAX_BACKOFF_MS;
    return ms;
}

/* An engine that never was READY may say no, or be broken, for good: FAILED. One that was is tried for ever, and so is
 * another launcher's, which may start a better one; who waits for it is told when it looks hopeless. */
static void back_off(struct sk_super *s, bool was_up, enum sk_end end, const char *why)
{
    bool is_failed_start = !was_up && !(end == SK_END_KILLED && s->was_ready); /* one that has served is not broken */
    s->n_failed_starts = was_up ? 0 : s->n_failed_starts + is_failed_start;
    sk_metric_add(s->conf.metrics, SK_METRIC_ENGINE_ENDS, 1, sk_end_name(end), NULL);
    bool is_refusal = s->signs.said[0] && !s->signs.is_lost;
    if (!s->was_ready && s->signs.kind != SK_END_ANOTHERS && (is_refusal || s->n_failed_starts >= MAX_FAILED_STARTS)) {
        fail(s, why);
        s->conf.on_lost(s->conf.arg, NULL, 0);
        return;
    }
    uint64_t ms = next_backoff(s, was_up);
    s->restarts++;
    snprintf(s->text, sizeof s->text, "%.448s, starting again in %.1f s", why, (double)ms / 1e3);
    sk_log(SK_LOG_WARN, "%s", s->text);
    uv_timer_start(&s->timer, on_start, ms, 0);
    to(s, SK_ENGINE_BACKOFF);
    if (was_up) {
        bool own_fault = end == SK_END_CRASH || end == SK_END_HANG;
        s->conf.on_lost(s->conf.arg, s->board.seat, own_fault ? sk_board_seats(&s->board) : 0);
    }
    if (is_failed_start && s->n_failed_starts == MAX_FAILED_STARTS && s->conf.on_hopeless)
        s->conf.on_hopeless(s->conf.arg);
}

static void on_engine_end(void *arg, int status)
{
    struct sk_super *s = arg;
    char why[512];
    s->start = NULL;
    uv_timer_stop(&s->beat);
    if (s->link) {
        sk_link_drain(s->link); /* its last frames, among them why it gave up */
        sk_link_close(s->link);
        s->link = NULL;
    }
    if (s->state == SK_ENGINE_STOPPING) {
        finish_close(s);
        return;
    }
    bool was_up = s->state == SK_ENGINE_READY;
    enum sk_end end = sk_end_of(&s->signs, status, was_up);
    sk_shape_lost(&s->shape, uv_now(s->loop));
    sk_ranks_forget(&s->ranks, s->conf.metrics, s->conf.replica);
    sk_end_describe(&s->signs, status, why, sizeof why);
    if (end == SK_END_CRASH || end == SK_END_HANG)
        dump_after_end(s, end);
    s->pid = 0;
    back_off(s, was_up, end, why);
}

/* What the engine sends can be its requests' doing; that our side of the channel is full, or has no memory, is not. */
static void on_link_down(void *arg, const char *why)
{
    struct sk_super *s = arg;
    char text[128];
    if (!s->start)
        return;
    if (s->state == SK_ENGINE_STOPPING) {
        if (is_anothers(s))
            sk_start_hung_up(s->start);
        return;
    }
    snprintf(text, sizeof text, "the channel to the engine: %s", why);
    if (strcmp(why, "connection lost") == 0)
        sk_start_hung_up(s->start);
    else
        kill_engine(s, strcmp(why, "protocol error") == 0 ? SK_END_CRASH : SK_END_KILLED, text);
}

/* --- frames --- */

static void on_hello(struct sk_super *s, const struct sk_wire_hello *h)
{
    char text[128];
    if (s->state != SK_ENGINE_STARTING)
        return;
    if (h->version != SK_WIRE_VERSION || strcmp(h->build, SK_VERSION) != 0) {
        kill_engine(s, SK_END_CRASH, "skein-engine is of another version than skeind");
        return;
    }
    if (strcmp(h->digest, s->digest) != 0 || h->credit == 0) {
        kill_engine(s, SK_END_CRASH, "the engine serves another directory, or nothing");
        return;
    }
    if (h->n_tp != s->shape.n_tp || h->n_pp != s->shape.n_pp) {
        snprintf(text, sizeof text, "the engine has tp %u x pp %u ranks, it should have %u x %u", h->n_tp, h->n_pp,
                 s->shape.n_tp, s->shape.n_pp);
        kill_engine(s, SK_END_CRASH, text);
        return;
    }
    s->was_ready = true;
    sk_shape_ready(&s->shape);
    s->ready_ms = uv_now(s->loop);
    s->unmoved = 0;
    s->permille = 1000;
    snprintf(s->text, sizeof s->text, "ready");
    sk_log(SK_LOG_INFO, "engine ready pid=%u backend=%s max_len=%u max_seqs=%u blocks=%u", h->pid, h->isa, h->max_len,
           h->max_seqs, h->n_blk[0]);
    to(s, SK_ENGINE_READY);
    s->conf.on_up(s->conf.arg, h);
}

static void moved(struct sk_super *s, uint64_t step)
{
    if (step == s->step)
        return;
    s->step = step;
    s->unmoved = 0;
}

static void on_engine_state(struct sk_super *s, const struct sk_wire_state *st)
{
    if (st->failed) {
        snprintf(s->signs.said, sizeof s->signs.said, "%.*s", (int)sizeof st->text, st->text);
        s->signs.is_lost = st->failed == SK_STATE_LOST;
    } else if (s->state == SK_ENGINE_STARTING) {
        progress(s, "loading", st->permille);
    }
}

/* A leader that shares no memory with us says who is on board, and we write it on the board in its place. */
static void take_seats(struct sk_super *s, const struct sk_wire_seats *f)
{
    const struct sk_wire_seat *seat = sk_wire_seats_list(f);
    sk_board_begin(&s->board, f->step, true);
    for (uint32_t i = 0; i < f->n_seat; i++)
        sk_board_add(&s->board, seat[i].job, seat[i].choice);
    if (f->n_seat == 0)
        sk_board_end(&s->board);
    atomic_store(&s->board.head->progress, f->progress);
}

static void on_frame(void *arg, const struct sk_frame *f)
{
    struct sk_super *s = arg;
    s->unheard = 0;
    switch (f->kind) {
    case SK_FRAME_HELLO:
        on_hello(s, (const struct sk_wire_hello *)f);
        break;
    case SK_FRAME_STATE:
        on_engine_state(s, (const struct sk_wire_state *)f);
        break;
    case SK_FRAME_BEAT:
        moved(s, ((const struct sk_wire_beat *)f)->step);
        break;
    case SK_FRAME_TOKENS:
        moved(s, ((const struct sk_wire_tokens *)f)->step);
        if (s->state == SK_ENGINE_READY)
            s->conf.on_frame(s->conf.arg, f);
        break;
    case SK_FRAME_STATS:
    case SK_FRAME_VIEW:
        if (s->state == SK_ENGINE_READY)
            s->conf.on_frame(s->conf.arg, f);
        break;
    case SK_FRAME_RANKS:
        if (s->state == SK_ENGINE_READY)
            sk_ranks_take(&s->ranks, (const struct sk_wire_ranks *)f, s->conf.metrics, s->conf.replica);
        break;
    case SK_FRAME_SEATS:
        take_seats(s, (const struct sk_wire_seats *)f);
        break;
    default:
        kill_engine(s, SK_END_CRASH, "the engine sent a frame of a kind that is not its to send");
    }
}

static uint64_t beat_ms(const struct sk_super *s)
{
    uint64_t ms = (uint64_t)s->conf.conf->engine_timeout / 4;
    return ms < MAX_BEAT_MS ? ms : MAX_BEAT_MS;
}

static uint32_t max_beats(const struct sk_super *s)
{
    return (uint32_t)((uint64_t)s->conf.conf->engine_timeout / beat_ms(s));
}

/* One that was stopped from outside hangs, too, but not of its own making. */
static void kill_hung(struct sk_super *s, const char *why)
{
    if (sk_start_is_stopped(s->start))
        kill_engine(s, SK_END_KILLED, "the engine was stopped (SIGSTOP) for --engine-timeout");
    else
        kill_engine(s, SK_END_HANG, why);
}

/* Steps of many rows take long, and meanwhile the leader sends nothing. */
static void look_at_progress(struct sk_super *s)
{
    uint64_t progress = sk_board_progress(&s->board);
    if (progress == s->progress)
        return;
    s->progress = progress;
    s->unheard = s->unmoved = 0;
}

static void on_beat(uv_timer_t *t)
{
    struct sk_super *s = t->data;
    uv_timer_set_repeat(t, beat_ms(s)); /* --engine-timeout may have been read anew */
    if (!s->start || sk_start_awaits(s->start))
        return;
    s->unheard++;
    s->unmoved = s->conf.is_busy(s->conf.arg) ? s->unmoved + 1 : 0;
    look_at_progress(s);
    if (!s->link && !s->has_asked && sk_shape_must_ask(&s->shape, uv_now(s->loop))) {
        kill_engine(s, SK_END_KILLED, "not all ranks came for --rank-loss-wait");
    } else if (s->unheard > max_beats(s)) {
        kill_hung(s, "the engine gave no sign of life for --engine-timeout");
    } else if (s->state == SK_ENGINE_READY && s->unmoved > max_beats(s)) {
        kill_hung(s, "the engine finished no step for --engine-timeout");
    } else if (s->link && s->state == SK_ENGINE_READY) {
        sk_wire_put_beat(sk_link_out(s->link), ++s->beat_number, s->step);
        sk_link_flush(s->link);
    }
}

/* --- starting --- */

static void on_leader(void *arg, int fd)
{
    struct sk_super *s = arg;
    struct sk_wire_hello hello = {.magic = SK_WIRE_MAGIC, .version = SK_WIRE_VERSION};
    const struct sk_link_conf lc = {.arg = s, .on_frame = on_frame, .on_down = on_link_down};
    if (sk_link_open(s->loop, fd, &lc, &s->link) != 0) {
        kill_engine(s, SK_END_CRASH,
                    "no memory for the channel to the engine"); /* and on_engine_end goes on from there */
        return;
    }
    s->unheard = 0;
    progress(s, "loading", 0);
    snprintf(hello.build, sizeof hello.build, "%s", SK_VERSION);
    snprintf(hello.digest, sizeof hello.digest, "%s", s->digest);
    sk_wire_put_hello(sk_link_out(s->link), &hello);
    sk_link_flush(s->link);
}

static int open_engine(struct sk_super *s, struct sk_err *err)
{
    const struct sk_start_conf sc = {.conf = s->conf.conf,
                                     .bin_dir = s->conf.bin_dir,
                                     .dir = s->dir,
                                     .shape = &s->shape,
                                     .replica = s->conf.replica,
                                     .number = s->number,
                                     .n = s->restarts,
                                     .board_fd = s->board_fd,
                                     .arg = s,
                                     .on_leader = on_leader,
                                     .on_end = on_engine_end};
    sk_board_clear(&s->board);
    int rc = sk_start_open(s->loop, &sc, &s->start, err);
    if (rc != 0)
        return rc;
    s->pid = sk_start_pid(s->start);
    if (sk_start_awaits(s->start)) {
        snprintf(s->text, sizeof s->text, "waiting for an engine at %s", sk_start_awaits(s->start));
        sk_log(SK_LOG_INFO, "%s", s->text);
    }
    return 0;
}

static void start_engine(struct sk_super *s)
{
    struct sk_err err;
    s->signs = (struct sk_end_signs){.kind = kind_of(s)};
    s->step = s->progress = 0;
    s->unheard = s->unmoved = 0;
    progress(s, "loading", 0);
    to(s, SK_ENGINE_STARTING);
    if (s->state != SK_ENGINE_STARTING)
        return; /* who was told has closed us */
    if (open_engine(s, &err) != 0) {
        s->signs.kind = SK_END_OURS; /* nothing has started, whose it ever would be */
        snprintf(s->signs.said, sizeof s->signs.said, "%s", err.msg);
        back_off(s, false, SK_END_START, err.msg);
        return;
    }
    uv_timer_start(&s->beat, on_beat, beat_ms(s), beat_ms(s));
}

static void on_hosts(void *arg, const struct sk_launch_hosts *alive)
{
    struct sk_super *s = arg;
    s->probe = NULL;
    if (s->state == SK_ENGINE_STOPPING) {
        finish_close(s);
        return;
    }
    sk_shape_fit(&s->shape, alive);
    start_engine(s);
}

static void on_first(uv_timer_t *t)
{
    struct sk_super *s = t->data;
    if (s->dir[0])
        begin(s);
    else
        build(s);
}

static void on_start(uv_timer_t *t)
{
    struct sk_super *s = t->data;
    s->has_asked = sk_shape_must_ask(&s->shape, uv_now(s->loop)) &&
                   sk_probe_start(s->loop, &s->shape.all, on_hosts, s, &s->probe) == 0;
    if (!s->has_asked)
        start_engine(s);
}

static uint32_t n_super; /* so far, in this process: their folders are apart */

int sk_super_open(struct uv_loop_s *loop, const struct sk_super_conf *conf, struct sk_super **ret, struct sk_err *err)
{
    const char *model = conf->conf->model;
    if (!*model)
        return sk_err_set(err, SK_EMISSING, "model",
                          "--model is missing: a GGUF file, a Hugging Face directory or an engine directory");
    if (!conf->dir && access(model, R_OK) != 0)
        return sk_err_errno(err, SK_ENOENT, "model", "cannot read the model %s", model);
    struct sk_super *s = sk_calloc(1, sizeof *s);
    if (!s)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    s->conf = *conf;
    s->loop = loop;
    s->number = n_super++;
    uint32_t n_seat =
        2 * (uint32_t)conf->conf->max_seqs; /* as many as an engine takes in: those on their way out too */
    int rc = sk_shape_init(&s->shape, conf->conf, err);
    if (rc == 0)
        rc = sk_board_make(n_seat, (uint32_t)conf->conf->flight_plans, SEGMENT_BYTES, &s->board_fd, &s->board, err);
    if (rc != 0) {
        sk_free(s);
        return rc;
    }
    if (conf->dir || sk_dir_is(model))
        snprintf(s->dir, sizeof s->dir, "%s", conf->dir ? conf->dir : model);
    s->was_ready = conf->was_ready;
    uv_timer_init(loop, &s->timer);
    uv_timer_init(loop, &s->beat);
    s->timer.data = s->beat.data = s;
    s->n_handles = 2;
    progress(s, s->dir[0] ? "loading" : "building", 0);
    uv_timer_start(&s->timer, on_first, 0, 0);
    *ret = s;
    return 0;
}

const struct sk_wire_rank *sk_super_ranks(const struct sk_super *s, uint32_t *ret_n)
{
    *ret_n = s->ranks.n;
    return s->ranks.list;
}

struct sk_link *sk_super_link(struct sk_super *s)
{
    return s->state == SK_ENGINE_READY ? s->link : NULL;
}

enum sk_engine_state sk_super_state(const struct sk_super *s)
{
    return s->state;
}

void sk_super_status(const struct sk_super *s, struct sk_engine_status *ret)
{
    uint32_t long_ago = max_beats(s) / 2 + 1;
    ret->state = s->state;
    ret->permille = s->permille;
    ret->restarts = s->restarts;
    ret->pid = s->pid;
    ret->making_progress = s->state == SK_ENGINE_READY && s->unheard <= long_ago && s->unmoved <= long_ago;
    snprintf(ret->text, sizeof ret->text, "%s", s->text);
}

static void on_grace_over(uv_timer_t *t)
{
    struct sk_super *s = t->data;
    if (s->start)
        sk_start_kill(s->start, SIGKILL);
    if (s->build)
        sk_build_kill(s->build, SIGKILL);
}

void sk_super_close(struct sk_super *s, void (*done)(void *arg), void *arg)
{
    s->done = done;
    s->done_arg = arg;
    enum sk_engine_state was = s->state;
    uv_timer_stop(&s->timer);
    uv_timer_stop(&s->beat);
    to(s, SK_ENGINE_STOPPING);
    if (s->probe)
        sk_probe_cut(s->probe);
    else if (s->build)
        sk_build_kill(s->build, SIGTERM);
    else if (!s->start)
        finish_close(s);
    if (s->start && was == SK_ENGINE_READY) {
        sk_wire_put_quit(sk_link_out(s->link));
        sk_link_flush(s->link);
    } else if (s->start) { /* while it loads it does not listen, and has nothing to lose */
        sk_start_kill(s->start, SIGKILL);
    }
    if (s->start || s->build)
        uv_timer_start(&s->timer, on_grace_over, QUIT_GRACE_MS, 0);
}
