/* skeind: options, then one loop.
 *
 * Start: listen, then build or load (until then requests are answered 503 with how far it is). Stop, on SIGTERM or
 * SIGINT: no new connections; running requests go on for a while, or until the second signal; then API, HTTP, engine,
 * templates, in the order of who calls whom. */
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <uv.h>
#include "comm/base/clock.h"
#include "comm/base/log.h"
#include "comm/base/mem.h"
#include "server/api/route.h"
#include "server/server.h"

enum {
    MAX_HEADER_BYTES = 8192,
    MAX_STREAM_QUEUE_BYTES = 1 << 20,
    DRAIN_MS = 10000,
    DRAIN_POLL_MS = 20,
    MMAP_BYTES = 256 << 10
};

static struct daemon {
    struct sk_server server;
    struct sk_conf conf;
    uv_loop_t loop;
    uv_signal_t term, intr;
    uv_timer_t drain;
    uint64_t drain_until; /* loop time, ms */
    char bin_dir[1024];
    bool stopping, was_ready;
    int exit_code;
} d;

/* --- stopping --- */

static void on_engine_closed(void *arg)
{
    d.server.n_engine = 0;
    sk_server_unload(&d.server.models[0]);
}

static void on_http_closed(void *arg)
{
    d.server.http = NULL;
    if (d.server.n_engine > 0)
        sk_engine_close(d.server.engines[0], on_engine_closed, NULL);
}

static void stop_now(void)
{
    if (d.stopping)
        return;
    d.stopping = true;
    uv_close((uv_handle_t *)&d.term, NULL);
    uv_close((uv_handle_t *)&d.intr, NULL);
    uv_close((uv_handle_t *)&d.drain, NULL);
    signal(SIGTERM, SIG_IGN); /* what is left takes a bounded time, and is better done than cut short */
    signal(SIGINT, SIG_IGN);
    sk_api_close(&d.server);
    sk_http_run(d.server.http); /* the last words go out */
    sk_http_close(d.server.http, on_http_closed, NULL);
}

static void on_drain(uv_timer_t *t)
{
    if (sk_http_active(d.server.http) == 0 || uv_now(&d.loop) >= d.drain_until)
        stop_now();
}

/* Never stops at once: the callers may be inside what would be closed. */
static void begin_stop(uint64_t drain_ms)
{
    if (d.stopping)
        return;
    d.server.draining = true;
    d.drain_until = uv_now(&d.loop) + drain_ms;
    uv_timer_start(&d.drain, on_drain, 0, DRAIN_POLL_MS);
}

static void on_signal(uv_signal_t *s, int signum)
{
    bool again = d.server.draining;
    sk_log(SK_LOG_INFO, "signal %d: stopping, %zu requests are running", signum, sk_http_active(d.server.http));
    sk_http_quiesce(d.server.http);
    begin_stop(again ? 0 : DRAIN_MS);
}

static void give_up(const char *why)
{
    fprintf(stderr, "skeind: %s\n", why);
    d.exit_code = 1;
    begin_stop(0);
}

/* --- the engine's events --- */

static void on_dir(void *arg, const char *path)
{
    struct sk_err err;
    if (sk_server_load(&d.server, &d.server.models[0], path, &err) != 0)
        give_up(err.msg);
}

static void on_state(void *arg)
{
    struct sk_engine_status st;
    sk_engine_status(d.server.engines[0], &st);
    if (st.state == SK_ENGINE_READY) {
        sk_log(SK_LOG_INFO, "ready");
        d.server.models[0].max_len = st.hello.max_len; /* less than the model's where memory is short */
        d.was_ready = true;
    } else if (st.state == SK_ENGINE_FAILED) {
        give_up(st.text);
    }
}

static void on_step(void *arg)
{
    if (d.server.http)
        sk_http_run(d.server.http);
}

/* --- starting --- */

/* "HOST:PORT", "[IPV6]:PORT", ":PORT"; *ret_host is cut out of `s`. */
static int split_listen(char *s, const char **ret_host, int *ret_port, struct sk_err *err)
{
    char *colon = strrchr(s, ':'), *end;
    long port = colon ? strtol(colon + 1, &end, 10) : -1;
    if (!colon || end == colon + 1 || *end || port < 0 || port > 65535)
        return sk_err_set(err, SK_EINVAL, "listen", "--listen %s: HOST:PORT is expected, the port in 0..65535", s);
    *colon = '\0';
    if (s[0] == '[' && colon > s + 1 && colon[-1] == ']') {
        colon[-1] = '\0';
        s++;
    }
    *ret_host = s;
    *ret_port = (int)port;
    return 0;
}

/* The other programs are beside this one, or on the PATH. */
static void find_bin_dir(char *ret, size_t n)
{
    char path[2048];
    const char *p = getenv("PATH");
    ssize_t len = readlink("/proc/self/exe", ret, n - 1);
    ret[len > 0 ? len : 0] = '\0';
    char *slash = strrchr(ret, '/');
    if (slash)
        *slash = '\0';
    snprintf(path, sizeof path, "%s/skein-engine", ret);
    if (access(path, X_OK) == 0)
        return;
    for (; p && *p; p += strcspn(p, ":"), p += *p == ':') {
        int dir_len = (int)strcspn(p, ":");
        snprintf(path, sizeof path, "%.*s/skein-engine", dir_len, p);
        if (access(path, X_OK) == 0) {
            snprintf(ret, n, "%.*s", dir_len, p);
            return;
        }
    }
}

static int open_http(struct sk_err *err)
{
    const struct sk_conf *c = &d.conf;
    char listen[SK_CONF_STR_MAX];
    struct sk_http_conf hc = {.max_body = (size_t)c->max_body,
                              .max_header = MAX_HEADER_BYTES,
                              .max_connections = (int)c->max_connections,
                              .request_timeout_ms = (int)c->request_timeout,
                              .keepalive_ms = (int)c->keepalive,
                              .max_stream_queue = MAX_STREAM_QUEUE_BYTES,
                              .arg = &d.server,
                              .on_request = sk_api_request};
    snprintf(listen, sizeof listen, "%s", c->listen);
    int rc = split_listen(listen, &hc.host, &hc.port, err);
    if (rc == 0)
        rc = sk_http_open(&d.loop, &hc, &d.server.http, err);
    return rc;
}

static int open_engine(struct sk_err *err)
{
    const struct sk_engine_conf ec = {
        .conf = &d.conf, .bin_dir = d.bin_dir, .on_dir = on_dir, .on_state = on_state, .on_step = on_step};
    struct sk_model *m = &d.server.models[0];
    find_bin_dir(d.bin_dir, sizeof d.bin_dir);
    int rc = sk_engine_open(&d.loop, &ec, &d.server.engines[0], err);
    if (rc != 0)
        return rc;
    d.server.n_engine = d.server.n_model = 1;
    m->engine = d.server.engines[0];
    snprintf(m->name, sizeof m->name, "%s", d.conf.model_name);
    return 0;
}

/* Each connection is a descriptor, and the usual soft limit is 1,024. */
static void raise_fd_limit(void)
{
    struct rlimit r;
    rlim_t want = (rlim_t)d.conf.max_connections + 256;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0 || r.rlim_cur >= want)
        return;
    r.rlim_cur = want < r.rlim_max ? want : r.rlim_max;
    setrlimit(RLIMIT_NOFILE, &r);
    if (r.rlim_cur < want)
        sk_log(SK_LOG_WARN, "the limit of open files, %llu, is below what --max-connections wants",
               (unsigned long long)r.rlim_cur);
}

static void open_signals(void)
{
    signal(SIGPIPE, SIG_IGN);
    uv_signal_init(&d.loop, &d.term);
    uv_signal_init(&d.loop, &d.intr);
    uv_timer_init(&d.loop, &d.drain);
    uv_signal_start(&d.term, on_signal, SIGTERM);
    uv_signal_start(&d.intr, on_signal, SIGINT);
}

/* The listener first: a busy port is said before minutes of building. */
static int open_all(struct sk_err *err)
{
    d.server.loop = &d.loop;
    d.server.conf = &d.conf;
    d.server.started = sk_clock_unix();
    int rc = open_http(err);
    if (rc == 0)
        rc = sk_api_open(&d.server, err);
    if (rc == 0)
        rc = open_engine(err);
    return rc;
}

static void say_listening(void)
{
    char host[SK_CONF_STR_MAX];
    snprintf(host, sizeof host, "%s", d.conf.listen);
    *strrchr(host, ':') = '\0';
    printf("skeind: listening on http://%s:%d\n", host[0] ? host : "127.0.0.1", sk_http_port(d.server.http));
    fflush(stdout);
}

static void print_help(void)
{
    puts("Usage: skeind --model PATH [OPTION]...\nServes a language model over HTTP with the API of "
         "OpenAI.\n\nOptions:");
    sk_conf_help(stdout, SK_PROG_DAEMON);
    puts(
        "  --print-config              print the options as a file for --config; without others, the commented sample\n"
        "  --help, --version");
}

static enum sk_log_level level_of(const char *name)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    int i = SK_LOG_DEBUG;
    while (i > 0 && strcmp(names[i], name) != 0)
        i--;
    return (enum sk_log_level)i;
}

static int usage_error(const struct sk_err *err)
{
    fprintf(stderr, "skeind: %s\n", err->msg);
    return 1;
}

/* Takes the word out of argv. */
static bool take_flag(int *argc, char **argv, const char *flag)
{
    for (int i = 1; i < *argc; i++) {
        if (strcmp(argv[i], flag) == 0) {
            memmove(argv + i, argv + i + 1, (size_t)(*argc - i) * sizeof *argv); /* with the NULL at the end */
            --*argc;
            return true;
        }
    }
    return false;
}

int main(int argc, char **argv)
{
    struct sk_err err;
    mallopt(M_MMAP_THRESHOLD, MMAP_BYTES); /* else it grows with the first large body, which then stays in the heap */
    if (take_flag(&argc, argv, "--help")) {
        print_help();
        return 0;
    }
    if (take_flag(&argc, argv, "--version")) {
        puts("skeind " SK_VERSION);
        return 0;
    }
    const bool print = take_flag(&argc, argv, "--print-config");
    sk_conf_defaults(&d.conf);
    if (sk_conf_args(&d.conf, SK_PROG_DAEMON, argc, argv, NULL, 0, NULL, &err) != 0)
        return usage_error(&err);
    if (print) {
        sk_conf_print(&d.conf, SK_PROG_DAEMON, stdout);
        return 0;
    }
    sk_log_init("skeind", level_of(d.conf.log_level));
    raise_fd_limit();
    uv_loop_init(&d.loop);
    open_signals();
    if (open_all(&err) != 0)
        return usage_error(&err); /* nothing runs yet that would need an orderly end */
    say_listening();
    uv_run(&d.loop, UV_RUN_DEFAULT);
    uv_loop_close(&d.loop);
    return d.exit_code;
}
