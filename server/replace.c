#include "server/replace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "comm/base/log.h"
#include "server/job/super.h"

enum { POLL_MS = 20 };

static void on_timer(uv_timer_t *t);

static void to(struct sk_replace *r, enum sk_replace_state state)
{
    static const unsigned next[] = {
        [SK_REPLACE_IDLE] = 1u << SK_REPLACE_RESOLVING,
        [SK_REPLACE_RESOLVING] = 1u << SK_REPLACE_IDLE | 1u << SK_REPLACE_FREEING,
        [SK_REPLACE_FREEING] =
            1u << SK_REPLACE_FREEING | 1u << SK_REPLACE_STARTING | 1u << SK_REPLACE_RETIRING | 1u << SK_REPLACE_UNDOING,
        [SK_REPLACE_STARTING] = 1u << SK_REPLACE_FREEING | 1u << SK_REPLACE_RETIRING | 1u << SK_REPLACE_UNDOING,
        [SK_REPLACE_RETIRING] = 1u << SK_REPLACE_IDLE,
        [SK_REPLACE_UNDOING] = 1u << SK_REPLACE_IDLE,
    };
    sk_assert(next[r->state] & 1u << state);
    r->state = state;
    if (state == SK_REPLACE_IDLE)
        uv_timer_stop(&r->timer);
    else if (!uv_is_active((uv_handle_t *)&r->timer))
        uv_timer_start(&r->timer, on_timer, POLL_MS, POLL_MS);
}

static void finish(struct sk_replace *r)
{
    r->old = r->fresh = NULL;
    to(r, SK_REPLACE_IDLE);
    if (r->again)
        sk_replace_begin(r);
}

static void refuse(const char *why)
{
    sk_log(SK_LOG_ERROR, "the model stays as it was: %s", why);
}

/* --- what --model is --- */

static bool is_same_dir(const char *a, const char *b)
{
    char *x = realpath(a, NULL), *y = realpath(b, NULL);
    bool same = x && y && strcmp(x, y) == 0;
    free(x);
    free(y);
    return same;
}

static int open_fresh(struct sk_replace *r, struct sk_err *err)
{
    struct sk_server *s = r->server;
    struct sk_engine_conf conf = r->conf;
    if (s->n_engine == SK_SERVER_MAX_ENGINES)
        return sk_err_set(err, SK_EBUSY, NULL, "another one is just being replaced");
    r->fresh = sk_server_model_new();
    if (!r->fresh)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    int rc = sk_server_load(s, r->fresh, r->dir, err);
    conf.arg = r->fresh;
    conf.dir = r->dir;
    conf.is_vacant = true;
    if (rc == 0)
        rc = sk_engine_open(s->loop, &conf, &r->fresh->engine, err);
    if (rc != 0) {
        sk_server_model_free(r->fresh);
        r->fresh = NULL;
        return rc;
    }
    sk_engine_set_levels(r->fresh->engine, false);
    s->engines[s->n_engine++] = r->fresh->engine;
    return 0;
}

/* Whose turn it is: those that do not serve before those that do, so that the old model serves for as long as it can.
 */
static void choose(struct sk_replace *r)
{
    const struct sk_engine *old = r->old->engine;
    struct sk_replica_view v;
    bool any = false, serves = false, best = false;
    for (uint32_t i = 0; i < sk_engine_n_replica(old); i++) {
        sk_engine_replica(old, i, &v);
        serves = v.status.state == SK_ENGINE_READY && !v.is_drained;
        if (r->is_done[i] || (any && (serves || !best)))
            continue;
        r->at = i;
        any = true;
        best = serves;
    }
}

/* The last one of several is kept until what runs there is over (free_place). */
static void go_on(struct sk_replace *r)
{
    uint32_t n = sk_engine_n_replica(r->old->engine);
    if (r->n_done == n) {
        to(r, SK_REPLACE_RETIRING);
        return;
    }
    choose(r);
    if (r->n_done + 1 < n)
        sk_engine_take_off(r->old->engine, r->at);
    to(r, SK_REPLACE_FREEING);
}

static void tick_off(struct sk_replace *r)
{
    r->is_done[r->at] = true;
    r->n_done++;
}

static void take_dir(struct sk_replace *r)
{
    struct sk_model *m = r->server->models[0];
    struct sk_dir dir;
    struct sk_err err;
    if (sk_dir_open(r->dir, &dir, &err) != 0) {
        refuse(err.msg);
        finish(r);
        return;
    }
    const char *last;
    bool same = strcmp(dir.digest, m->dir.digest) == 0;
    sk_dir_close(&dir);
    if (same && is_same_dir(r->dir, sk_engine_dir(m->engine))) {
        finish(r);
        return;
    }
    if (sk_engine_is_rolling(m->engine, &last)) {
        refuse("a replica is just being restarted");
        finish(r);
        return;
    }
    if (same) {
        sk_log(SK_LOG_INFO, "the model is now at %s: its replicas are restarted", r->dir);
        sk_engine_move(m->engine, r->dir);
        if (sk_engine_restart(m->engine, SK_ENGINE_ALL, &err) != 0)
            refuse(err.msg);
        finish(r);
        return;
    }
    r->old = m;
    r->n_done = 0;
    memset(r->is_done, 0, sizeof r->is_done);
    if (open_fresh(r, &err) != 0) {
        refuse(err.msg);
        finish(r);
        return;
    }
    sk_log(SK_LOG_INFO, "%s is replaced by %s", m->name, r->fresh->name);
    go_on(r);
}

static void on_resolver_closed(void *arg)
{
    struct sk_replace *r = arg;
    r->resolver = NULL;
    if (r->is_stopped)
        return;
    if (r->dir[0])
        take_dir(r);
    else
        finish(r);
}

static void close_resolver(struct sk_replace *r)
{
    if (sk_super_state(r->resolver) < SK_ENGINE_STOPPING)
        sk_super_close(r->resolver, on_resolver_closed, r);
}

/* It has built what is to be built; its engine is not wanted. */
static void on_dir(void *arg, const char *path)
{
    struct sk_replace *r = arg;
    snprintf(r->dir, sizeof r->dir, "%s", path);
    close_resolver(r);
}

static void on_state(void *arg)
{
    struct sk_replace *r = arg;
    struct sk_engine_status st = {0};
    if (sk_super_state(r->resolver) != SK_ENGINE_FAILED)
        return;
    sk_super_status(r->resolver, &st);
    refuse(st.text);
    close_resolver(r);
}

void sk_replace_begin(struct sk_replace *r)
{
    const struct sk_super_conf sc = {.conf = r->conf.conf,
                                     .bin_dir = r->conf.bin_dir,
                                     .metrics = r->conf.metrics,
                                     .arg = r,
                                     .on_dir = on_dir,
                                     .on_state = on_state};
    struct sk_err err;
    r->again = r->state != SK_REPLACE_IDLE;
    if (r->is_stopped || r->again)
        return;
    if (!r->server->models[0]->loaded) {
        sk_log(SK_LOG_WARN,
               "--model was not looked at, since the first model is not loaded yet: send SIGHUP again then");
        return;
    }
    to(r, SK_REPLACE_RESOLVING);
    r->dir[0] = '\0';
    if (sk_super_open(r->server->loop, &sc, &r->resolver, &err) == 0)
        return;
    refuse(err.msg);
    finish(r);
}

/* --- replica by replica --- */

static enum sk_engine_state state_of(const struct sk_engine *e, uint32_t i, char ret_text[512])
{
    struct sk_replica_view v;
    sk_engine_replica(e, i, &v);
    snprintf(ret_text, 512, "%.511s", v.status.text);
    return v.is_hopeless ? SK_ENGINE_FAILED : v.status.state;
}

static void undo(struct sk_replace *r, const char *why)
{
    refuse(why);
    sk_engine_take_off(r->fresh->engine, r->at);
    to(r, SK_REPLACE_UNDOING);
}

/* One that holds the model may still have its prompt made, and is no job yet. */
static bool is_over(const struct sk_replace *r)
{
    return r->old->n_user == 0 || uv_now(r->server->loop) >= r->until_ms;
}

static void end_old(struct sk_replace *r)
{
    uint32_t n = sk_engine_n_job(r->old->engine);
    if (n > 0)
        sk_log(SK_LOG_WARN, "%u requests of the old model are ended: --drain-timeout is over", n);
    sk_engine_end_all(r->old->engine, SK_EREPLACED);
}

/* The new model goes on without that replica. */
static void give_up(struct sk_replace *r, const char *why)
{
    sk_log(SK_LOG_ERROR, "replica %u of the new model cannot be started: %s", r->at, why);
    tick_off(r);
    go_on(r);
}

/* The place is free, or there is one more than usual: a model alone on its replica keeps it until another one is up. */
static void free_place(struct sk_replace *r)
{
    struct sk_engine *old = r->old->engine;
    uint32_t n = sk_engine_n_replica(old);
    char text[512];
    struct sk_err err;
    if (n > 1 && r->n_done + 1 == n && state_of(old, r->at, text) != SK_ENGINE_STOPPED) {
        if (!is_over(r))
            return;
        end_old(r);
        sk_engine_take_off(old, r->at);
    }
    if (n > 1 && state_of(old, r->at, text) != SK_ENGINE_STOPPED)
        return;
    if (sk_engine_put_on(r->fresh->engine, r->at, &err) == 0)
        to(r, SK_REPLACE_STARTING);
    else if (r->n_done == 0)
        undo(r, err.msg);
    else
        give_up(r, err.msg);
}

static void serve_fresh(struct sk_replace *r)
{
    struct sk_engine_status st;
    sk_engine_set_levels(r->old->engine, false);
    sk_engine_set_levels(r->fresh->engine, true);
    sk_engine_status(r->fresh->engine, &st);
    r->fresh->max_len = st.hello.max_len;
    sk_server_serve(r->server, r->fresh);
    r->until_ms = uv_now(r->server->loop) + (uint64_t)r->conf.conf->drain_timeout;
    sk_log(SK_LOG_INFO, "%s serves from now on", r->fresh->name);
}

static void look_at_start(struct sk_replace *r)
{
    char text[512];
    enum sk_engine_state state = state_of(r->fresh->engine, r->at, text);
    if (state == SK_ENGINE_FAILED && r->n_done == 0) {
        undo(r, text);
    } else if (state == SK_ENGINE_FAILED) {
        give_up(r, text);
    } else if (state == SK_ENGINE_READY) {
        if (r->n_done == 0)
            serve_fresh(r);
        tick_off(r);
        go_on(r);
    }
}

/* --- the end of a model --- */

static void remove_engine(struct sk_server *s, const struct sk_engine *e)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_engine; i++) {
        if (s->engines[i] != e)
            s->engines[n++] = s->engines[i];
    }
    s->n_engine = n;
}

static void on_old_closed(void *arg)
{
    struct sk_replace *r = arg;
    sk_log(SK_LOG_INFO, "%s is gone", r->old->name);
    sk_server_model_free(r->old);
    r->is_closing = false;
    finish(r);
}

static void on_fresh_closed(void *arg)
{
    struct sk_replace *r = arg;
    sk_server_model_free(r->fresh);
    r->is_closing = false;
    finish(r);
}

static void close_engine(struct sk_replace *r, struct sk_engine *e, void (*done)(void *arg))
{
    r->is_closing = true;
    uv_timer_stop(&r->timer);
    sk_engine_close(e, done, r);
    remove_engine(r->server, e);
}

static void retire(struct sk_replace *r)
{
    struct sk_engine *old = r->old->engine;
    char text[512];
    if (sk_engine_n_replica(old) == 1 && state_of(old, 0, text) != SK_ENGINE_STOPPED) {
        if (!is_over(r))
            return;
        end_old(r);
        sk_engine_take_off(old, 0);
    }
    if (r->old->n_user == 0)
        close_engine(r, old, on_old_closed);
}

static void undo_rest(struct sk_replace *r)
{
    struct sk_err err;
    char text[512];
    if (state_of(r->fresh->engine, r->at, text) != SK_ENGINE_STOPPED)
        return;
    if (sk_engine_n_replica(r->old->engine) > 1 && sk_engine_put_on(r->old->engine, r->at, &err) != 0)
        sk_log(SK_LOG_ERROR, "replica %u cannot be started again: %s", r->at, err.msg);
    close_engine(r, r->fresh->engine, on_fresh_closed);
}

static void on_timer(uv_timer_t *t)
{
    struct sk_replace *r = t->data;
    switch (r->state) {
    case SK_REPLACE_FREEING:
        free_place(r);
        break;
    case SK_REPLACE_STARTING:
        look_at_start(r);
        break;
    case SK_REPLACE_RETIRING:
        retire(r);
        break;
    case SK_REPLACE_UNDOING:
        undo_rest(r);
        break;
    default:
        break;
    }
}

/* --- life --- */

void sk_replace_init(struct sk_replace *r, struct sk_server *server, const struct sk_engine_conf *conf)
{
    *r = (struct sk_replace){.server = server, .conf = *conf};
    uv_timer_init(server->loop, &r->timer);
    r->timer.data = r;
}

void sk_replace_stop(struct sk_replace *r)
{
    r->is_stopped = true;
    uv_close((uv_handle_t *)&r->timer, NULL);
    if (r->resolver)
        close_resolver(r);
}

/* A model whose engine is just being closed is unloaded at the end of that. */
void sk_replace_done(struct sk_replace *r)
{
    struct sk_server *s = r->server;
    struct sk_model *other = r->old == s->models[0] ? r->fresh : r->old;
    if (!r->is_closing)
        sk_server_model_free(other);
    sk_server_model_free(s->models[0]);
    s->n_model = 0;
}
