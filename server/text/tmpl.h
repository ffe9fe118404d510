/* Chat templates, rendered by Jinja2 itself in at most two small helper processes (python3 -I), off the loop. A
 * template comes with the model, so from a third party: helpers run with CPU-time, memory and 1 s wall limits and are
 * killed and restarted when they misbehave. */
#ifndef SK_TMPL_H
#define SK_TMPL_H
#include <stddef.h>
#include <stdint.h>
#include "comm/base/err.h"

struct uv_loop_s;
struct sk_tmpl;

struct sk_tmpl_conf {
    const char *source; /* the template; NULL = none: every render is -SK_EUNSUP naming --chat-template */
    const char *bos_token, *eos_token; /* template variables; "" = none */
    /* Spellings of control tokens: they get SK_TOKEN_GUARD inside in all strings of messages, tools and kwargs. */
    const char *const *guarded;
    size_t n_guarded;
    int wall_ms, max_out_bytes; /* limits of one render */
};

/* Starts no process yet. The strings are copied. */
int sk_tmpl_new(struct uv_loop_s *loop, const struct sk_tmpl_conf *conf, struct sk_tmpl **ret, struct sk_err *err);
/* Kills the helpers; pending renders get -SK_EUNAVAIL. `done` (may be NULL) runs when all handles are closed. */
void sk_tmpl_close(struct sk_tmpl *t, void (*done)(void *arg), void *arg);

/* rc 0: text[0..n) is the prompt (borrowed for the call). Else `err` says why: -SK_ETMPL raise_exception or an error of
 * the template with its message, -SK_ETIMEOUT, -SK_ETOOBIG, -SK_EUNSUP. Called from the loop, never from inside
 * sk_tmpl_render. */
typedef void sk_tmpl_cb(void *arg, int rc, const char *text, size_t n, const struct sk_err *err);
/* Renders `json`: {"messages": [...], "tools": [...]|null, "kwargs": {...}, "add_generation_prompt": bool,
 * "continue_final_message": bool, "chat_template": "..."|null}, already checked; openai normalisation (null content,
 * text parts, argument strings) is done in here. Returns an id for sk_tmpl_cancel, or -SK_EUNSUP / -SK_EQUEUE /
 * -SK_ENOMEM at once (then cb is not called). */
int sk_tmpl_render(struct sk_tmpl *t, const char *json, size_t n, sk_tmpl_cb *cb, void *arg, struct sk_err *err);
void sk_tmpl_cancel(struct sk_tmpl *t, int id);     /* cb will not be called; unknown ids are ignored */
uint64_t sk_tmpl_restarts(const struct sk_tmpl *t); /* helpers that were started again so far */

#endif
