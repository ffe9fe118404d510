/* The model of a running daemon is replaced by another one, replica by replica, while requests go on:
 *
 *   IDLE --begin--> RESOLVING --the same model--> IDLE (its replicas are restarted where its directory has moved)
 *   RESOLVING --another one, its tokenizer and templates are loaded--> FREEING
 *   FREEING --the old model has given up a replica--> STARTING --READY--> FREEING for the next, or RETIRING
 *   RETIRING --nobody holds the old model any more--> IDLE
 *   FREEING, STARTING, the first replica --in vain--> UNDOING --the old model has its replica back--> IDLE
 *
 * Each model has an engine of its own, with a queue of its own, so a request stays with the model whose tokenizer has
 * read it. New requests get the new model once its first replica is READY. What runs on the old one moves to its other
 * replicas, and on the last of them has --drain-timeout to end, then ends with an error that says so. Where there is
 * one replica, the new one starts beside the old one: for that time both are in memory. A new model that cannot be
 * loaded or started changes nothing: the old one goes on. Owner: loop thread. */
#ifndef SK_REPLACE_H
#define SK_REPLACE_H
#include <uv.h>
#include "server/server.h"

struct sk_super;

enum sk_replace_state {
    SK_REPLACE_IDLE,
    SK_REPLACE_RESOLVING,
    SK_REPLACE_FREEING,
    SK_REPLACE_STARTING,
    SK_REPLACE_RETIRING,
    SK_REPLACE_UNDOING
};

struct sk_replace {
    enum sk_replace_state state;
    struct sk_server *server;
    struct sk_engine_conf conf; /* of each engine; its arg is the model */
    uv_timer_t timer;           /* looks how far it is, unless IDLE */
    struct sk_super *resolver;  /* builds, or finds what is built */
    char dir[SK_CONF_STR_MAX];  /* engine directory that was found */
    bool again;                 /* --model changed meanwhile */
    struct sk_model *old, *fresh;
    uint32_t at;     /* replica whose turn it is */
    uint32_t n_done; /* before it */
    bool is_done[SK_ENGINE_MAX_REPLICAS];
    uint64_t until_ms; /* loop time, that the old model's requests have */
    bool is_closing;   /* an engine is: what comes then is up to its end */
    bool is_stopped;
};

/* server and what conf points to are borrowed. */
void sk_replace_init(struct sk_replace *r, struct sk_server *server, const struct sk_engine_conf *conf);
/* Looks whether --model is now another engine directory than the one that is served, and if so replaces it. */
void sk_replace_begin(struct sk_replace *r);
/* The daemon stops: nothing more is begun. The engines are closed by who stops it; then sk_replace_done. */
void sk_replace_stop(struct sk_replace *r);
void sk_replace_done(struct sk_replace *r); /* unloads the models, those that are served too */

#endif
