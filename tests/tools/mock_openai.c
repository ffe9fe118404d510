/* A server of the OpenAI API that computes nothing, to see what a client can take: one thread on epoll, kept
 * connections, chunked event streams. mock_openai [PORT [GAP_US]] prints `listening on http://127.0.0.1:PORT`; a token
 * comes every GAP_US microseconds (0: the whole answer at once). The request's model names the behaviour: see
 * `behaviours`. */
#define _GNU_SOURCE /* accept4, strcasestr */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { IN_BYTES = 1 << 20, OUT_BYTES = 1 << 18, MAX_EVENTS = 256, HUGE_LINE = 2 << 20 };

enum behaviour {
    GOOD,
    SSE,
    UTF8,
    JSON,
    SHORT,
    RESET,
    HUGE,
    EVENT,
    BUSY,
    FAIL,
    LATE,
    PLAIN,
    SILENT,
    CLOSE,
    N_BEHAVIOUR
};
static const char *const behaviours[N_BEHAVIOUR] = {
    [GOOD] = "mock",           [SSE] = "mock-sse",     /* a line that is no field of an event */
    [UTF8] = "mock-utf8",      [JSON] = "mock-json",   /* an event that is cut in its middle */
    [SHORT] = "mock-short",    [RESET] = "mock-reset", /* the connection is cut in a stream */
    [HUGE] = "mock-huge",      [EVENT] = "mock-event", /* an error within the stream */
    [BUSY] = "mock-busy",      [FAIL] = "mock-fail",   /* 429, 500 */
    [LATE] = "mock-late",                              /* 504 */
    [PLAIN] = "mock-not-http", [SILENT] = "mock-silent", [CLOSE] = "mock-close"}; /* keeps no connection */

struct conn {
    int fd;
    enum behaviour how;
    size_t n_in, n_out, n_sent;
    long n_token, n_prompt; /* tokens to come */
    long n_made;
    bool chat, streams, answering, closes;
    unsigned long long due_ns;
    struct conn *next, *prev; /* among those that answer */
    char in[IN_BYTES];
    char out[OUT_BYTES];
};

static int epoll_fd;
static long gap_ns;
static struct conn *answering;
static unsigned long long n_requests, n_tokens;

static unsigned long long now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (unsigned long long)t.tv_sec * 1000000000 + (unsigned long long)t.tv_nsec;
}

static void stop_answering(struct conn *c)
{
    if (!c->answering)
        return;
    c->answering = false;
    *(c->prev ? &c->prev->next : &answering) = c->next;
    if (c->next)
        c->next->prev = c->prev;
}

static void end_conn(struct conn *c)
{
    stop_answering(c);
    close(c->fd);
    free(c);
}

static void put(struct conn *c, const char *s, size_t n)
{
    if (n > sizeof c->out - c->n_out)
        abort();
    memcpy(c->out + c->n_out, s, n);
    c->n_out += n;
}

static void put_chunk(struct conn *c, const char *s, size_t n)
{
    char size[20];
    put(c, size, (size_t)sprintf(size, "%zx\r\n", n));
    put(c, s, n);
    put(c, "\r\n", 2);
}

static void put_reply(struct conn *c, const char *status, const char *type, const char *body)
{
    char head[256];
    put(c, head,
        (size_t)sprintf(head, "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n", status, type,
                        strlen(body)));
    put(c, body, strlen(body));
}

/* False: the connection is gone. */
static bool flush(struct conn *c)
{
    while (c->n_sent < c->n_out) {
        ssize_t n = send(c->fd, c->out + c->n_sent, c->n_out - c->n_sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            return true;
        if (n < 0) {
            end_conn(c);
            return false;
        }
        c->n_sent += (size_t)n;
    }
    c->n_sent = c->n_out = 0;
    if (c->closes && !c->answering) {
        end_conn(c);
        return false;
    }
    return true;
}

/* ---- answers ---- */

static void put_token(struct conn *c)
{
    char s[256];
    static const char *const forms[] = {
        "data: "
        "{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1,\"model\":\"mock\",\"choices\":[{\"index\":0,"
        "\"text\":\" word\",\"logprobs\":null,\"finish_reason\":null}]}\n\n",
        "data: "
        "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"mock\",\"choices\":[{"
        "\"index\":0,\"delta\":{\"content\":\" word\"},\"finish_reason\":null}]}\n\n"};
    put_chunk(c, s, (size_t)sprintf(s, "%s", forms[c->chat]));
    c->n_made++;
    n_tokens++;
}

static void put_end(struct conn *c)
{
    char s[512];
    put_chunk(c, s,
              (size_t)sprintf(s,
                              "data: {\"choices\":[{\"index\":0,\"%s,\"finish_reason\":\"length\"}]}\n\n"
                              "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":%ld,\"completion_tokens\":%ld,"
                              "\"total_tokens\":%ld}}\n\ndata: [DONE]\n\n",
                              c->chat ? "delta\":{}" : "text\":\"\"", c->n_prompt, c->n_made, c->n_prompt + c->n_made));
    put(c, "0\r\n\r\n", 5);
}

/* What a misbehaving server sends in the middle of its answer. True: the answer goes on. */
static bool misbehave(struct conn *c)
{
    static const char huge[1024] = {[0 ... 1023] = 'x'};
    static const char *const wrong[N_BEHAVIOUR] = {
        [SSE] = "this is no event\n\n",
        [UTF8] = "data: {\"choices\":[{\"text\":\"\xff\xfe\"}]}\n\n",
        [JSON] = "data: {\"choices\":[{\"text\":\" wo\n\n",
        [EVENT] = "data: {\"error\":{\"message\":\"the engine fell over\",\"type\":\"server_error\"}}\n\n",
    };
    if (wrong[c->how])
        put_chunk(c, wrong[c->how], strlen(wrong[c->how]));
    if (c->how == HUGE)
        for (int i = 0; i < HUGE_LINE / 1024 && c->n_out + 2048 < sizeof c->out; i++)
            put_chunk(c, huge, sizeof huge);
    if (c->how == SHORT)
        put(c, "0\r\n\r\n", 5);
    if (c->how == RESET)
        c->closes = true;
    return c->how != SHORT && c->how != RESET && c->how != SILENT;
}

/* The tokens that are due; true: the answer is complete, or over. */
static bool answer(struct conn *c, unsigned long long now)
{
    while (c->n_made < c->n_token && c->due_ns <= now && c->n_out + 1024 < sizeof c->out) {
        put_token(c);
        c->due_ns += (unsigned long long)gap_ns;
        if (c->n_made == 2 && !misbehave(c)) {
            if (c->how == SILENT)
                c->due_ns = ~0ULL;
            return c->how != SILENT;
        }
    }
    if (c->n_made < c->n_token)
        return false;
    if (c->how == HUGE && c->n_made == c->n_token) { /* the line goes on for ever */
        misbehave(c);
        return false;
    }
    put_end(c);
    return true;
}

static void answer_whole(struct conn *c)
{
    char body[512];
    snprintf(body, sizeof body,
             "{\"object\":\"x\",\"choices\":[{\"index\":0,\"%s,\"finish_reason\":\"length\"}],\"usage\":{"
             "\"prompt_tokens\":%ld,\"completion_tokens\":%ld}}",
             c->chat ? "message\":{\"content\":\" word\"}" : "text\":\" word\"", c->n_prompt, c->n_token);
    n_tokens += (unsigned long long)c->n_token;
    put_reply(c, "200 OK", "application/json", body);
}

/* ---- requests ---- */

static long number_after(const char *body, const char *key, long otherwise)
{
    const char *at = strstr(body, key);
    return at ? atol(at + strlen(key)) : otherwise;
}

static long count_blanks(const char *body)
{
    long n = 0;
    for (; *body; body++)
        n += *body == ' ';
    return n;
}

static enum behaviour behaviour_of(const char *body)
{
    const char *at = strstr(body, "\"model\":\"");
    for (int i = 0; at && i < N_BEHAVIOUR; i++) {
        size_t n = strlen(behaviours[i]);
        if (strncmp(at + 9, behaviours[i], n) == 0 && at[9 + n] == '"')
            return (enum behaviour)i;
    }
    return GOOD;
}

static void take_post(struct conn *c, const char *body)
{
    c->how = behaviour_of(body);
    c->n_prompt = count_blanks(body);
    c->n_token = number_after(body, "_tokens\":", 16);
    c->streams = strstr(body, "\"stream\":true") != NULL;
    c->closes = c->how == CLOSE;
    c->n_made = 0;
    n_requests++;
    if (c->how == BUSY) {
        put_reply(c, "429 Too Many Requests", "application/json", "{\"error\":{\"message\":\"queue full\"}}");
    } else if (c->how == FAIL) {
        put_reply(c, "500 Oops", "application/json", "{\"error\":{\"message\":\"it broke\"}}");
    } else if (c->how == LATE) {
        put_reply(c, "504 Late", "application/json", "{\"error\":{\"message\":\"too late\"}}");
    } else if (c->how == PLAIN) {
        put(c, "SSH-2.0-mock\r\n", 14);
        c->closes = true;
    } else if (!c->streams) {
        answer_whole(c);
    } else {
        static const char head[] =
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        put(c, head, sizeof head - 1);
        c->due_ns = now_ns() + (unsigned long long)gap_ns;
        c->answering = !answer(c, now_ns());
        if (c->answering) {
            c->prev = NULL;
            c->next = answering;
            if (answering)
                answering->prev = c;
            answering = c;
        }
    }
}

static void take_get(struct conn *c)
{
    char body[256];
    if (strncmp(c->in, "GET /v1/models ", 15) == 0) {
        put_reply(c, "200 OK", "application/json",
                  "{\"object\":\"list\",\"data\":[{\"id\":\"mock\",\"object\":\"model\"}]}");
    } else if (strncmp(c->in, "GET /metrics ", 13) == 0) {
        snprintf(body, sizeof body,
                 "# TYPE mock_requests_total counter\nmock_requests_total %llu\n# TYPE mock_tokens_total counter\n"
                 "mock_tokens_total{kind=\"answer\"} %llu\n# TYPE mock_busy gauge\nmock_busy 1\n",
                 n_requests, n_tokens);
        put_reply(c, "200 OK", "text/plain", body);
    } else {
        put_reply(c, "404 Not Found", "application/json", "{\"error\":{\"message\":\"no such path\"}}");
    }
}

/* Takes the request at the front of `in`, if it is complete; its bytes, else 0. */
static size_t take_request(struct conn *c)
{
    c->in[c->n_in] = '\0';
    char *end = strstr(c->in, "\r\n\r\n");
    if (!end)
        return 0;
    char *length = strcasestr(c->in, "content-length:");
    size_t n_body = length && length < end ? (size_t)atol(length + 15) : 0;
    size_t n = (size_t)(end + 4 - c->in) + n_body;
    if (c->n_in < n)
        return 0;
    char after = c->in[n];
    c->in[n] = '\0';
    c->chat = strncmp(c->in, "POST /v1/chat/", 14) == 0;
    if (strncmp(c->in, "POST ", 5) == 0)
        take_post(c, end + 4);
    else
        take_get(c);
    c->in[n] = after;
    return n;
}

static void on_readable(struct conn *c)
{
    for (;;) {
        ssize_t got = recv(c->fd, c->in + c->n_in, sizeof c->in - 1 - c->n_in, 0);
        if (got < 0 && errno == EAGAIN)
            break;
        if (got <= 0) {
            end_conn(c);
            return;
        }
        c->n_in += (size_t)got;
        if (c->n_in < sizeof c->in - 1)
            break;
    }
    for (size_t n; !c->answering && (n = take_request(c));) {
        memmove(c->in, c->in + n, c->n_in - n);
        c->n_in -= n;
    }
    flush(c);
}

static void on_accept(int listener)
{
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct conn *c = malloc(sizeof *c);
        if (!c)
            abort();
        memset(c, 0, offsetof(struct conn, in));
        c->fd = fd;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e);
    }
}

/* Sends what is due everywhere; returns the milliseconds until more is. */
static int on_tick(void)
{
    unsigned long long now = now_ns(), first = now + 1000000000;
    for (struct conn *c = answering, *next; c; c = next) {
        next = c->next;
        if (c->due_ns <= now && answer(c, now))
            stop_answering(c);
        else if (c->due_ns < first)
            first = c->due_ns;
        if (c->n_out)
            flush(c);
    }
    return first <= now ? 0 : first - now > 1000000000 ? 1000 : (int)((first - now) / 1000000);
}

static int listen_on(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 4096) || getsockname(fd, (struct sockaddr *)&a, &n)) {
        perror("mock_openai");
        exit(1);
    }
    printf("listening on http://127.0.0.1:%d\n", ntohs(a.sin_port));
    fflush(stdout);
    return fd;
}

int main(int argc, char **argv)
{
    struct epoll_event events[MAX_EVENTS], e = {.events = EPOLLIN};
    signal(SIGPIPE, SIG_IGN);
    gap_ns = argc > 2 ? atol(argv[2]) * 1000 : 0;
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    int listener = listen_on(argc > 1 ? atoi(argv[1]) : 0);
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &e);
    for (;;) {
        int n = epoll_wait(epoll_fd, events, MAX_EVENTS, answering ? on_tick() : -1);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (!c)
                on_accept(listener);
            else if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                on_readable(c);
            else if (c->n_out)
                flush(c);
        }
    }
}
