/* skeind: options, open, loop.
 *
 * Start: listen, then build or load; until then requests are answered 503 with how far it is. SIGTERM, SIGINT: stop.h.
 * SIGHUP: reload.h. SIGUSR1: the engines' last steps are written out. */
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
#include "server/api/route.h"
#include "server/listeners.h"
#include "server/options.h"
#include "server/reload.h"
#include "server/replace.h"
#include "server/report.h"
#include "server/server.h"
#include "server/slice.h"
#include "server/stop.h"

enum { MMAP_BYTES = 256 << 10, SPARE_FDS = 256 };

static const int signums[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1};
enum { N_SIGNAL = sizeof signums / sizeof signums[0] };

static struct daemon {
    int argc;
    char **argv; /* without the words that are no options */
    struct sk_conf conf;
    struct sk_server server;
    struct sk_notify notify;
    struct sk_report report;
    struct sk_stop stop;
    struct sk_replace replace;
    uv_loop_t loop;
    uv_signal_t signals[N_SIGNAL];
    char bin_dir[1024];
    bool has_terminal, is_ready;
    bool was_ready; /* some time since the start */
    int exit_code;
} d;

static void give_up(const char *why)
{
    fprintf(stderr, "skeind: %s\n", why);
    d.exit_code = 1;
    sk_stop_begin(&d.stop, 0);
}

/* --- signals --- */

static void stop(int signum)
{
    sk_log(SK_LOG_INFO, "signal %d: stopping, %zu requests are running", signum, sk_server_active(&d.server));
    sk_stop_begin(&d.stop, (uint64_t)d.conf.drain_timeout);
}

static void reload(void)
{
    if (d.server.draining)
        return;
    sk_report_reloading(&d.report);
    if (sk_reload(&d.server, &d.conf, d.argc, d.argv))
        sk_replace_begin(&d.replace);
    sk_report_reloaded(&d.report);
}

static void dump_flight(void)
{
    char path[1024];
    struct sk_err err;
    for (uint32_t i = 0; i < d.server.n_engine; i++) {
        if (sk_engine_dump_flight(d.server.engines[i], "signal", path, &err) != 0) /* else it says where they are */
            sk_log(SK_LOG_WARN, "the engine's last steps were not written: %s", err.msg);
    }
}

static void on_signal(uv_signal_t *s, int signum)
{
    if (signum == SIGUSR1)
        dump_flight();
    else if (signum == SIGHUP && !(d.has_terminal && !isatty(STDIN_FILENO))) /* which tells that its terminal is gone */
        reload();
    else
        stop(signum);
}

static void open_signals(void)
{
    signal(SIGPIPE, SIG_IGN);
    d.has_terminal = isatty(STDIN_FILENO);
    for (int i = 0; i < N_SIGNAL; i++) {
        uv_signal_init(&d.loop, &d.signals[i]);
        uv_signal_start(&d.signals[i], on_signal, signums[i]);
    }
}

/* What is left when this is called takes a bounded time, and is better done than cut short. */
static void close_signals(void)
{
    for (int i = 0; i < N_SIGNAL; i++) {
        uv_close((uv_handle_t *)&d.signals[i], NULL);
        signal(signums[i], SIG_IGN);
    }
}

/* --- the engine's events --- */

static void on_dir(void *arg, const char *path)
{
    struct sk_model *m = arg;
    struct sk_err err;
    if (sk_server_load(&d.server, m, path, &err) == 0)
        sk_server_serve(&d.server, m);
    else
        give_up(err.msg);
}

static void on_state(void *arg)
{
    struct sk_model *m = arg;
    struct sk_engine_status st;
    if (m != d.server.models[0]) /* one that comes or goes: replace.c looks after it */
        return;
    sk_engine_status(m->engine, &st);
    bool is_ready = st.state == SK_ENGINE_READY;
    if (is_ready && !d.is_ready)
        sk_log(SK_LOG_INFO, "ready");
    if (is_ready)
        m->max_len = st.hello.max_len;                     /* less than the model's where memory is short */
    else if (st.state == SK_ENGINE_FAILED && !d.was_ready) /* later one replica's end is not the daemon's */
        give_up(st.text);
    d.is_ready = is_ready;
    d.was_ready |= is_ready;
    sk_report_state(&d.report);
}

static void on_step(void *arg)
{
    sk_server_run_http(&d.server);
    sk_report_step(&d.report);
}

/* --- opening --- */

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

static int open_engine(struct sk_err *err)
{
    struct sk_model *m = sk_server_model_new();
    if (!m)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    const struct sk_engine_conf ec = {.conf = &d.conf,
                                      .arg = m,
                                      .bin_dir = d.bin_dir,
                                      .metrics = d.server.metrics,
                                      .on_dir = on_dir,
                                      .on_state = on_state,
                                      .on_step = on_step};
    d.server.models[0] = m;
    find_bin_dir(d.bin_dir, sizeof d.bin_dir);
    int rc = sk_engine_open(&d.loop, &ec, &d.server.engines[0], err);
    if (rc != 0)
        return rc;
    sk_replace_init(&d.replace, &d.server, &ec);
    d.server.n_engine = d.server.n_model = 1;
    m->engine = d.server.engines[0];
    snprintf(m->name, sizeof m->name, "%s", d.conf.model_name);
    return 0;
}

/* Each connection is a descriptor, and the usual soft limit is 1,024. */
static void raise_fd_limit(void)
{
    struct rlimit r;
    rlim_t want = (rlim_t)d.conf.max_connections + SPARE_FDS;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0 || r.rlim_cur >= want)
        return;
    r.rlim_cur = want < r.rlim_max ? want : r.rlim_max;
    setrlimit(RLIMIT_NOFILE, &r);
    if (r.rlim_cur < want)
        sk_log(SK_LOG_WARN, "the limit of open files, %llu, is below what --max-connections wants",
               (unsigned long long)r.rlim_cur);
}

/* The listeners before the engine: a busy port is said before minutes of building. */
static int open_all(struct sk_err *err)
{
    uv_loop_init(&d.loop);
    open_signals();
    sk_notify_open(&d.notify);
    int rc = sk_server_open(&d.server, &d.loop, &d.conf, err);
    if (rc == 0)
        rc = sk_listeners_open(&d.server, &d.notify, err);
    if (rc == 0)
        rc = sk_api_open(&d.server, err);
    if (rc == 0)
        rc = open_engine(err);
    if (rc != 0)
        return rc;
    sk_report_open(&d.report, &d.server, &d.notify);
    sk_stop_init(&d.stop, &d.server, &d.report, &d.replace);
    d.stop.on_closing = close_signals;
    return 0;
}

static void close_rest(void)
{
    uv_loop_close(&d.loop);
    sk_server_done(&d.server);
    sk_notify_close(&d.notify);
}

/* --- options --- */

static void print_help(void)
{
    puts("Usage: skeind --model PATH [OPTION]...\nServes a language model over HTTP with the API of "
         "OpenAI.\n\nOptions:");
    sk_conf_help(stdout, SK_PROG_DAEMON);
    puts(
        "  --check-config              say what is wrong with the options and the files that they name, or ok\n"
        "  --print-config              print the options as a file for --config; without others, the commented sample\n"
        "  --help, --version");
}

static void complain(void *arg, const struct sk_err *why)
{
    fprintf(stderr, "skeind: %s\n", why->msg);
}

/* Takes the word out of argv. */
static bool take_flag(const char *flag)
{
    for (int i = 1; i < d.argc; i++) {
        if (strcmp(d.argv[i], flag) == 0) {
            memmove(d.argv + i, d.argv + i + 1, (size_t)(d.argc - i) * sizeof *d.argv); /* with the NULL at the end */
            d.argc--;
            return true;
        }
    }
    return false;
}

int main(int argc, char **argv)
{
    struct sk_err err;
    d.argc = argc;
    d.argv = argv;
    mallopt(M_MMAP_THRESHOLD, MMAP_BYTES); /* else it grows with the first large body, which then stays in the heap */
    if (take_flag("--help")) {
        print_help();
        return 0;
    }
    if (take_flag("--version")) {
        puts("skeind " SK_VERSION);
        return 0;
    }
    const bool print = take_flag("--print-config"), check = take_flag("--check-config");
    if (sk_options_read(&d.conf, d.argc, d.argv, &err) != 0) {
        complain(NULL, &err);
        return 1;
    }
    if (print) {
        sk_conf_print(&d.conf, SK_PROG_DAEMON, stdout);
        return 0;
    }
    if (sk_options_check(&d.conf, complain, NULL) > 0)
        return 1;
    if (check) {
        puts("ok");
        return 0;
    }
    sk_log_init("skeind", sk_log_level_of(d.conf.log_level));
    sk_options_log(&d.conf);
    raise_fd_limit();
    sk_slice_shorten();
    if (open_all(&err) != 0) {
        complain(NULL, &err);
        return 1; /* nothing runs yet that would need an orderly end */
    }
    sk_listeners_announce(&d.server);
    uv_run(&d.loop, UV_RUN_DEFAULT);
    close_rest();
    return d.exit_code;
}
