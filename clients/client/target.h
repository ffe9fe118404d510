/* The server that a client talks to: checked once, then a source of prepared libcurl handles, and of sentences for what
 * goes wrong with them. */
#ifndef SK_TARGET_H
#define SK_TARGET_H
#include <curl/curl.h>
#include <stdbool.h>
#include <stdint.h>
#include "comm/base/buf.h"
#include "comm/base/err.h"

enum { SK_TARGET_MAX_URL = 1024, SK_TARGET_MAX_KEY = 1024 };

struct sk_target_conf {             /* borrowed for the call; "" is as NULL */
    const char *url;                /* http://HOST[:PORT][/PATH], https://... or unix:PATH; without a path, /v1 */
    const char *api_key;            /* NULL: the environment's OPENAI_API_KEY, if that is set */
    const char *ca_file;            /* NULL: the system's authorities */
    bool insecure;                  /* the server's certificate is not checked */
    int64_t connect_ms, silence_ms; /* for the connection; without a byte from the server; 0: for ever */
};

struct sk_target {
    char url[SK_TARGET_MAX_URL]; /* without a slash at its end; "http://localhost/v1" of a Unix socket */
    char socket[108];            /* "" or the Unix socket's path */
    char ca_file[SK_TARGET_MAX_URL];
    bool insecure, is_local; /* is_local: never through a proxy */
    int64_t connect_ms, silence_ms;
    struct curl_slist *headers; /* owned, shared by all handles */
};

/* Also initialises libcurl (once for all threads, so before they start). -SK_EINVAL: url, key or file. */
int sk_target_init(struct sk_target *t, const struct sk_target_conf *c, struct sk_err *err);
void sk_target_done(struct sk_target *t); /* after the last handle is cleaned up */

/* A handle for `path`, which follows the URL ("/models"); "//metrics" takes the place of the URL's own path. `body`
 * NULL: GET, else POST of n bytes of JSON, which must live as long as the transfer. The caller sets the callbacks and
 * calls curl_easy_cleanup. -SK_ENOMEM, -SK_EINVAL. */
int sk_target_handle(const struct sk_target *t, const char *path, const char *body, size_t n, CURL **ret,
                     struct sk_err *err);
/* Gives a handle of this target another body, for one that is used again. */
int sk_target_body(CURL *h, const char *body, size_t n, struct sk_err *err);

/* A transfer that failed: -SK_EUNAVAIL (not reached), -SK_EAUTH (TLS), -SK_EDEADLINE (silent), -SK_EPROTO (it broke off
 * or was not HTTP), -SK_ENOMEM. `detail` is what the handle's CURLOPT_ERRORBUFFER says, or NULL. */
int sk_target_failed(const struct sk_target *t, CURL *h, CURLcode rc, const char *detail, struct sk_err *err);
/* An answer whose status is not 200; `body` is what came with it, maybe cut. The message has the server's own words,
 * printable. -SK_EPROTO. */
int sk_target_refused(const struct sk_target *t, long status, const char *body, size_t n, struct sk_err *err);

/* What an error body says, printable: error.message, error or message of an object, else the text itself. */
void sk_target_words(char *dst, size_t size, const char *body, size_t n);

#endif
