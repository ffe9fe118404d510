/* A server of server/http whose loop runs in a thread of its own, and a client of raw bytes.
 *
 * Its paths: /echo answers at once with the body, /later a little later; /stream sends 200 events and ends, /silent
 * none, /flood more than any reader takes; /hang never answers; /big answers 300 kB; /peer says who asks; the rest is
 * 404.
 */
#ifndef SERVE_H
#define SERVE_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include "server/http/cors.h"
#include "server/http/http.h"
#include "server/http/listen.h"
#include "server/http/tls.h"

enum { SERVE_MAX_BODY = 100000, SERVE_MAX_QUEUE = 65536, SERVE_MAX_HEADER = 8192, SERVE_BIG = 300000, WAIT_MS = 10000 };

struct serve {
    struct sk_http *http;
    struct sk_listen listen;
    struct sk_http_limits limits; /* may be changed between requests */
    struct sk_cors cors;
    struct sk_tls *tls; /* set before serve_start; freed by the owner after serve_stop */
    int port;           /* 0: a Unix socket */
    atomic_int n_request, n_gone, n_free, n_late;
};
extern struct serve srv;

void serve_reset(const char *address);          /* defaults: 64 connections, a minute for everything */
int serve_start(void);                          /* 0, or -1: said on stderr */
int serve_stop(void);                           /* 0 = every request was freed and the loop is empty */
void serve_call(void (*fn)(void *), void *arg); /* on the loop's thread; returns when it has run */

int dial(void);
void dial_with(int fd);                      /* a socket that is not connected yet */
void say_n(int fd, const char *p, size_t n); /* the server may close on us: the answer tells */
void say(int fd, const char *s);
/* Reads until `end` has been seen, or the peer closes (`end` NULL: only then). Never waits for ever. */
char *hear(int fd, const char *end);
void hang_up(int fd, bool reset);
void wait_for(atomic_int *counter, int value);
void expect_answer(const char *request, const char *status, const char *holds);
int count(const char *s, const char *what);

#define CLOSE "Host: h\r\nConnection: close\r\n"

#endif
