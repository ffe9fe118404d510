/* skein-bench: loads a server of the OpenAI API and measures what its clients see. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "clients/bench/report.h"
#include "comm/base/conf.h"

static volatile sig_atomic_t stop;

static void on_signal(int sig)
{
    stop = sig;
}

static void usage(FILE *f)
{
    fputs("usage: skein-bench URL [OPTION]...\n"
          "URL is that of a server of the OpenAI API, such as http://127.0.0.1:8080 or unix:PATH.\n\n",
          f);
    sk_conf_help(f, SK_PROG_BENCH);
}

/* ---- the progress line ---- */

struct progress {
    uint64_t last_ns, last_n_piece;
    bool shown;
};

static void show(void *arg, const struct sk_round *r, uint64_t now_ns, uint64_t n_in_flight)
{
    struct progress *p = arg;
    if (now_ns < p->last_ns) /* another round */
        *p = (struct progress){.shown = p->shown};
    uint64_t n_piece = r->itl.seen + r->ttft.seen;
    double since_s = (double)(now_ns - p->last_ns) / 1e9;
    fprintf(stderr, "\r\033[K%6.1f s  %llu sent  %llu ok  %llu failed  %llu in flight  %.0f tokens/s",
            (double)now_ns / 1e9, (unsigned long long)r->n_sent, (unsigned long long)r->n_end[SK_ROUND_OK],
            (unsigned long long)sk_round_n_error(r), (unsigned long long)n_in_flight,
            since_s > 0 && n_piece > p->last_n_piece ? (double)(n_piece - p->last_n_piece) / since_s : 0);
    if (r->e2e.seen)
        fprintf(stderr, "  mean TTFT %.0f ms, e2e %.0f ms", r->ttft.seen ? r->ttft.sum / (double)r->ttft.seen : 0,
                r->e2e.sum / (double)r->e2e.seen);
    p->last_ns = now_ns;
    p->last_n_piece = n_piece;
    p->shown = true;
}

/* ---- */

/* A connection is a descriptor. */
static void raise_limit(void)
{
    struct rlimit l;
    if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < l.rlim_max) {
        l.rlim_cur = l.rlim_max;
        setrlimit(RLIMIT_NOFILE, &l);
    }
}

static int write_files(const struct sk_run *r, struct sk_err *err)
{
    const struct {
        const char *path;
        int (*make)(const struct sk_run *r, struct sk_buf *b);
    } files[] = {{r->conf->bench_json, sk_report_json},
                 {r->conf->bench_csv, sk_report_csv},
                 {r->conf->bench_html, sk_report_html}};
    int rc = 0;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        if (files[i].path[0] && rc == 0)
            rc = sk_report_file(r, files[i].make, files[i].path, err);
    return rc;
}

static bool any_failed(const struct sk_run *r)
{
    for (int i = 0; i < r->n_round; i++)
        if (sk_round_n_error(&r->rounds[i]))
            return true;
    return false;
}

static void warn_of_file(const struct sk_run *r)
{
    if (!r->trace.n_bad)
        return;
    fputs(r->trace.bad.p ? r->trace.bad.p : "", stderr);
    fprintf(stderr, "skein-bench: %llu malformed entries of %s are passed over, %zu are used\n",
            (unsigned long long)r->trace.n_bad, r->conf->bench_file, r->trace.n);
}

static int complain(const struct sk_err *err)
{
    fprintf(stderr, "skein-bench: %s\n", err->msg);
    return 1;
}

static int run(const struct sk_conf *c, const char *url)
{
    static struct sk_run r;
    struct progress progress = {0};
    struct sk_err err = {0}, file_err = {0};
    int code = 0;
    if (sk_run_init(&r, c, url, &stop, &err)) {
        sk_run_done(&r);
        return complain(&err);
    }
    warn_of_file(&r);
    if (isatty(STDERR_FILENO)) {
        r.tick = show;
        r.arg = &progress;
    }
    if (sk_run(&r, &err))
        code = complain(&err);
    if (progress.shown)
        fputs("\r\033[K", stderr);
    sk_report_text(&r, stdout);
    if (r.n_round && write_files(&r, &file_err))
        code = complain(&file_err);
    if (code == 0 && any_failed(&r))
        code = 2;
    sk_run_done(&r);
    return code;
}

int main(int argc, char **argv)
{
    static struct sk_conf c;
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESETHAND};
    struct sk_err err = {0};
    const char *url = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-h") == 0 || strcmp(argv[i], "--help") == 0) {
            usage(stdout);
            return 0;
        }
        if (strcmp(argv[i], "--version") == 0) {
            puts("skein-bench " SK_VERSION);
            return 0;
        }
    }
    /* Told to stop, it reports what it has; told twice, it just ends. */
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    raise_limit();
    sk_conf_defaults(&c);
    if (sk_conf_args(&c, SK_PROG_BENCH, argc, argv, &url, 1, NULL, &err))
        return complain(&err);
    if (!url) {
        usage(stderr);
        return 1;
    }
    int code = run(&c, url);
    return fflush(stdout) || ferror(stdout) ? 1 : code;
}
