/* The daemon alone under load, with mock_engine behind it (tests/bench/front.sh starts both):
 *
 *   bench_front streams  --port N --count N --seconds N --pid SKEIND --times FILE [--key KEY]
 *   bench_front tokenize --port N --count N --seconds N --pid SKEIND [--key KEY]
 *
 * streams: so many open answers; a token's delay is from its frame's emission by the engine until it was read here.
 * tokenize: so many connections, each of which asks again when it has its answer. One thread, one line a figure. */
#define _GNU_SOURCE /* strcasestr */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "comm/base/clock.h"
#include "tests/tools/mock_times.h"

enum { N_EVENT = 1024, READ_BYTES = 1 << 16, REQUEST_BYTES = 1024, REPLY_BYTES = 4096, PATIENCE_S = 120 };
enum { RAMP_PER_S = 1500, PROMPT_TOK = 50, MAX_SAMPLES = 1 << 26 };

struct conn {
    int fd;
    uint32_t seed, n_tok;
    uint32_t matched; /* bytes of EVENT at the end of what was read */
    uint32_t n_reply; /* bytes of `reply` */
    uint64_t asked_ns;
    char *reply; /* tokenize */
};

static struct {
    const char *key, *times_path;
    int port, pid;
    uint32_t count;
    double seconds;

    int epoll;
    struct conn *conns;
    const struct mock_times *times;
    bool measuring;
    uint32_t n_begun; /* streams with a token */
    uint64_t n_done, n_ended;
    uint32_t *sample_us;
    size_t n_sample;
} b = {.count = 64, .seconds = 10};

static void die(const char *what)
{
    fprintf(stderr, "bench_front: %s%s%s\n", what, errno ? ": " : "", errno ? strerror(errno) : "");
    exit(1);
}

static void add_sample(uint64_t ns)
{
    if (b.measuring && b.n_sample < MAX_SAMPLES)
        b.sample_us[b.n_sample++] = (uint32_t)(ns / 1000);
}

static int compare(const void *x, const void *y)
{
    uint32_t a = *(const uint32_t *)x, c = *(const uint32_t *)y;
    return (a > c) - (a < c);
}

static double percentile_ms(double p)
{
    return b.n_sample ? b.sample_us[(size_t)(p * (double)(b.n_sample - 1))] / 1e3 : 0;
}

/* ---- the daemon's costs, from /proc ---- */

static double cpu_s(void)
{
    char path[64], text[1024];
    unsigned long user = 0, system = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", b.pid);
    FILE *f = fopen(path, "re");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    if (f)
        fclose(f);
    text[n] = '\0';
    const char *p = strrchr(text, ')');
    if (p)
        sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static double rss_kb(void)
{
    char path[64];
    long pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", b.pid);
    FILE *f = fopen(path, "re");
    if (f && fscanf(f, "%*d %ld", &pages) != 1)
        pages = 0;
    if (f)
        fclose(f);
    return (double)pages * (double)sysconf(_SC_PAGESIZE) / 1024;
}

/* ---- requests ---- */

static void dial(struct conn *c)
{
    const struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)b.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (const struct sockaddr *)&a, sizeof a) != 0)
        die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    if (epoll_ctl(b.epoll, EPOLL_CTL_ADD, c->fd, &e) != 0)
        die("epoll_ctl");
}

static void ask(struct conn *c, const char *path, const char *body)
{
    char request[REQUEST_BYTES];
    int n = snprintf(request, sizeof request,
                     "POST %s HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n%s%s%sContent-Length: "
                     "%zu\r\n\r\n%s",
                     path, b.key ? "Authorization: Bearer " : "", b.key ? b.key : "", b.key ? "\r\n" : "", strlen(body),
                     body);
    c->asked_ns = sk_clock_ns();
    if (send(c->fd, request, (size_t)n, MSG_NOSIGNAL) != n)
        die("a request could not be sent");
}

static size_t receive(const struct conn *c, char *p, size_t max)
{
    ssize_t n = recv(c->fd, p, max, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n <= 0)
        die("a connection was closed");
    return (size_t)n;
}

/* ---- streams ---- */

static void ask_stream(struct conn *c)
{
    char body[REQUEST_BYTES / 2];
    int n = snprintf(body, sizeof body,
                     "{\"stream\":true,\"seed\":%u,\"max_tokens\":1600,\"ignore_eos\":true,\"prompt\":[5", c->seed);
    for (int i = 1; i < PROMPT_TOK; i++)
        n += snprintf(body + n, sizeof body - (size_t)n, ",%d", 5 + i);
    snprintf(body + n, sizeof body - (size_t)n, "]}");
    ask(c, "/v1/completions", body);
}

static void take_token(struct conn *c, uint64_t now)
{
    uint64_t step = b.times->first_step[c->seed] + c->n_tok;
    b.n_begun += c->n_tok++ == 0;
    b.n_done += b.measuring;
    add_sample(now - b.times->emitted_ns[step % MOCK_MAX_STEPS]);
}

/* Each event with an object in it is a token; the start of one may be cut between two reads. */
static void read_stream(struct conn *c)
{
    static const char event[] = "data: {";
    static char data[READ_BYTES];
    size_t n = receive(c, data, sizeof data);
    uint64_t now = sk_clock_ns();
    if (c->n_tok == 0 && n > 12 && memcmp(data, "HTTP/1.1 ", 9) == 0 && memcmp(data + 9, "200", 3) != 0) {
        fwrite(data, 1, n, stderr);
        errno = 0;
        die("a request was refused");
    }
    for (size_t i = 0; i < n; i++) {
        c->matched = data[i] == event[c->matched] ? c->matched + 1 : data[i] == event[0];
        if (c->matched == sizeof event - 1) {
            c->matched = 0;
            take_token(c, now);
        }
    }
}

/* ---- tokenize ---- */

static void ask_tokenize(struct conn *c)
{
    ask(c, "/tokenize", "{\"content\":\"a bird\"}");
}

/* Bytes of the whole answer that `reply` begins with, 0 = not known yet. */
static size_t reply_bytes(const struct conn *c)
{
    const char *end = strstr(c->reply, "\r\n\r\n"), *length = strcasestr(c->reply, "content-length:");
    if (!end || !length || length > end)
        return 0;
    return (size_t)(end + 4 - c->reply) + strtoul(length + strlen("content-length:"), NULL, 10);
}

static void read_reply(struct conn *c)
{
    if (!c->reply)
        c->reply = calloc(1, REPLY_BYTES);
    if (!c->reply)
        die("no memory");
    c->n_reply += (uint32_t)receive(c, c->reply + c->n_reply, REPLY_BYTES - 1 - c->n_reply);
    c->reply[c->n_reply] = '\0';
    size_t n = reply_bytes(c);
    if (n == 0 || c->n_reply < n)
        return;
    if (c->n_reply != n || memcmp(c->reply, "HTTP/1.1 200", 12) != 0) {
        fprintf(stderr, "%s\n", c->reply);
        errno = 0;
        die("an answer that is none");
    }
    add_sample(sk_clock_ns() - c->asked_ns);
    b.n_done += b.measuring;
    c->n_reply = 0;
    ask_tokenize(c);
}

/* ---- the run ---- */

static void turn(int wait_ms, void (*on_readable)(struct conn *c))
{
    struct epoll_event events[N_EVENT];
    int n = epoll_wait(b.epoll, events, N_EVENT, wait_ms);
    for (int i = 0; i < n; i++)
        on_readable(events[i].data.ptr);
}

/* Without sleeping: to wake a sleeper would cost the daemon. */
static void turn_until(uint64_t until_ns, void (*on_readable)(struct conn *c))
{
    while (sk_clock_ns() < until_ns)
        turn(0, on_readable);
}

static void open_all(void (*first)(struct conn *c), void (*on_readable)(struct conn *c))
{
    uint64_t start = sk_clock_ns();
    for (uint32_t i = 0; i < b.count; i++) {
        b.conns[i] = (struct conn){.seed = i};
        dial(&b.conns[i]);
        first(&b.conns[i]);
        turn_until(start + (uint64_t)(i + 1) * 1000000000 / RAMP_PER_S, on_readable);
    }
}

static void measure(void (*on_readable)(struct conn *c), const char *what)
{
    double cpu = cpu_s();
    uint64_t start = sk_clock_ns();
    b.measuring = true;
    turn_until(start + (uint64_t)(b.seconds * 1e9), on_readable);
    b.measuring = false;
    double s = (double)(sk_clock_ns() - start) / 1e9;
    cpu = cpu_s() - cpu;
    qsort(b.sample_us, b.n_sample, sizeof *b.sample_us, compare);
    printf("  %s per second    %.0f\n", what, (double)b.n_done / s);
    printf("  delay p50         %.3f ms\n", percentile_ms(0.5));
    printf("  delay p99         %.3f ms\n", percentile_ms(0.99));
    printf("  delay max         %.3f ms\n", percentile_ms(1));
    printf("  skeind CPU        %.0f %% of a core, %.2f us for each\n", 100 * cpu / s,
           b.n_done ? cpu * 1e6 / (double)b.n_done : 0);
}

static void map_times(void)
{
    int fd = b.times_path ? open(b.times_path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        die("--times");
    b.times = mmap(NULL, sizeof *b.times, PROT_READ, MAP_SHARED, fd, 0);
    if (b.times == MAP_FAILED)
        die("--times");
    close(fd);
}

static void bench_streams(void)
{
    if (b.count > MOCK_MAX_SEEDS)
        die("too many streams");
    map_times();
    double before = rss_kb();
    open_all(ask_stream, read_stream);
    uint64_t until = sk_clock_ns() + (uint64_t)PATIENCE_S * 1000000000;
    while (b.n_begun < b.count) {
        turn(10, read_stream);
        if (sk_clock_ns() > until) {
            errno = 0;
            die("not every stream begins");
        }
    }
    printf("%u streams\n", b.count);
    measure(read_stream, "tokens");
    printf("  skeind RSS        %.1f kB for each stream\n", (rss_kb() - before) / b.count);
}

static void bench_tokenize(void)
{
    open_all(ask_tokenize, read_reply);
    printf("tokenize, %u connections\n", b.count);
    measure(read_reply, "requests");
}

static void set(const char *name, const char *value)
{
    if (strcmp(name, "--port") == 0)
        b.port = atoi(value);
    else if (strcmp(name, "--pid") == 0)
        b.pid = atoi(value);
    else if (strcmp(name, "--count") == 0)
        b.count = (uint32_t)strtoul(value, NULL, 10);
    else if (strcmp(name, "--seconds") == 0)
        b.seconds = strtod(value, NULL);
    else if (strcmp(name, "--times") == 0)
        b.times_path = value;
    else if (strcmp(name, "--key") == 0)
        b.key = value;
    else
        die(name);
}

int main(int argc, char **argv)
{
    for (int i = 2; i + 1 < argc; i += 2)
        set(argv[i], argv[i + 1]);
    b.epoll = epoll_create1(EPOLL_CLOEXEC);
    b.conns = calloc(b.count, sizeof *b.conns);
    b.sample_us = mmap(NULL, MAX_SAMPLES * sizeof *b.sample_us, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (b.epoll < 0 || !b.conns || b.sample_us == MAP_FAILED)
        die("no memory");
    if (argc > 1 && strcmp(argv[1], "streams") == 0)
        bench_streams();
    else if (argc > 1 && strcmp(argv[1], "tokenize") == 0)
        bench_tokenize();
    else
        die("usage: bench_front streams|tokenize --port N ...");
    return 0;
}
