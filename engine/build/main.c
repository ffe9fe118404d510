/* skein-build: makes engine directories from GGUF files and Hugging Face checkpoints. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "comm/base/conf.h"
#include "engine/build/build.h"
#include "engine/build/cache.h"
#include "engine/model/tune.h"

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
    interrupted = sig;
}

static void usage(FILE *f)
{
    fputs("usage: skein-build SRC -o DIR        build the engine directory DIR\n"
          "       skein-build --cache SRC       the same in the cache; prints where\n"
          "       skein-build --explain DIR | --verify DIR | --tune DIR | --list | --prune\n"
          "SRC is a GGUF file or a directory with config.json and *.safetensors.\n\n",
          f);
    sk_conf_help(f, SK_PROG_BUILD);
}

/* What progress is shown on. */
struct show {
    bool porcelain, bar;
    int last;
};

static int on_progress(void *arg, int percent)
{
    struct show *s = arg;

    if (percent != s->last && s->porcelain) {
        printf("progress %d\n", percent);
        fflush(stdout);
    } else if (percent != s->last && s->bar) {
        fprintf(stderr, "\r[%-50.*s] %3d %%%s", percent / 2, "##################################################",
                percent,
                percent == 99    ? "  self-test"
                : percent == 100 ? "           \n"
                                 : "");
    }
    s->last = percent;
    return interrupted;
}

static int build(const struct sk_conf *c, const char *src, struct sk_err *err)
{
    struct show show = {.porcelain = c->porcelain, .bar = !c->porcelain && isatty(STDERR_FILENO), .last = -1};
    struct sk_build_conf conf = {.src = src,
                                 .dtype = c->dtype,
                                 .n_thread = (unsigned)c->threads,
                                 .progress = on_progress,
                                 .arg = &show,
                                 .report = c->porcelain ? NULL : stderr};
    char dir[1024], path[1024];
    int rc;

    if (c->output[0]) {
        rc = sk_build(&conf, c->output, err);
        snprintf(path, sizeof path, "%s", c->output);
    } else if (!(rc = sk_dir_cache(c->cache_dir, dir, sizeof dir, err))) {
        rc = sk_cache_get(&conf, dir, path, sizeof path, err);
    }
    if (rc && show.bar && show.last >= 0)
        fputc('\n', stderr);
    if (!rc && c->porcelain)
        printf("dir %s\n", path);
    else if (!rc && !c->output[0])
        puts(path);
    return rc;
}

static int explain(const char *path, struct sk_err *err)
{
    struct sk_dir d;
    struct sk_buf b;
    int rc = sk_dir_open(path, &d, err);

    if (rc)
        return rc;
    sk_buf_init(&b, 1 << 20);
    if ((rc = sk_desc_explain(&d.desc, &b)))
        sk_err_set(err, -rc, NULL, "out of memory");
    else
        fputs(b.p, stdout);
    sk_buf_done(&b);
    sk_dir_close(&d);
    return rc;
}

static int verify(const char *path, struct sk_err *err)
{
    uint32_t n_tensor;
    int rc = sk_build_verify(path, &n_tensor, err);

    if (!rc)
        printf("%s: %u tensors and the other files are as they were built\n", path, n_tensor);
    return rc;
}

static int tune(const struct sk_conf *c, struct sk_err *err)
{
    struct sk_buf report;

    sk_buf_init(&report, 1 << 16);
    int rc = sk_tune_measure(c->tune, (uint32_t)c->threads, &report, err);
    if (!rc)
        fputs(report.n > 0 ? report.p : "the defaults are best here\n", stdout);
    sk_buf_done(&report);
    return rc;
}

static int cache(const struct sk_conf *c, struct sk_err *err)
{
    char dir[1024];
    int rc = sk_dir_cache(c->cache_dir, dir, sizeof dir, err);

    if (rc)
        return rc;
    return c->list ? sk_cache_list(dir, stdout, err) : sk_cache_prune(dir, stdout, err);
}

static int run(const struct sk_conf *c, const char *src, struct sk_err *err)
{
    int n_task = !!c->explain[0] + !!c->verify[0] + !!c->tune[0] + c->list + c->prune + !!c->cache[0] + !!src;

    if (n_task != 1 || !!src != !!c->output[0])
        return sk_err_set(err, SK_EINVAL, NULL,
                          "one task is needed: SRC -o DIR, --cache, --explain, --verify, --tune, --list "
                          "or --prune (see --help)");
    if (c->explain[0])
        return explain(c->explain, err);
    if (c->verify[0])
        return verify(c->verify, err);
    if (c->tune[0])
        return tune(c, err);
    if (c->list || c->prune)
        return cache(c, err);
    return build(c, src ? src : c->cache, err);
}

int main(int argc, char **argv)
{
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESETHAND};
    struct sk_conf c;
    struct sk_err err = {0};
    const char *src = NULL;
    int n_src = 0, rc;

    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-h") || !strcmp(argv[i], "--help")) {
            usage(stdout);
            return 0;
        }
        if (!strcmp(argv[i], "--version")) {
            puts("skein-build " SK_VERSION);
            return 0;
        }
        if (!strcmp(argv[i], "-o"))
            argv[i] = "--output";
    }
    /* A build that is told to stop takes its half-made directory with it; told twice, it just ends. */
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGHUP, &sa, NULL);

    sk_conf_defaults(&c);
    if (!(rc = sk_conf_args(&c, SK_PROG_BUILD, argc, argv, &src, 1, &n_src, &err)))
        rc = run(&c, src, &err);
    if (rc && c.porcelain)
        printf("error %s\n", err.msg);
    else if (rc)
        fprintf(stderr, "skein-build: %s\n", err.msg);
    if (fflush(stdout) || ferror(stdout))
        rc = rc ? rc : -SK_EIO;
    return rc ? 1 : 0;
}
