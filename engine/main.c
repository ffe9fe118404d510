/* skein-engine: one rank of a model, and its leader. Serves a daemon over an inherited socket (--fd), or measures,
 * replays or prints. */
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "comm/base/log.h"
#include "engine/bench.h"
#include "engine/load.h"

enum { LAST_WORDS_MS = 1000 };

enum mode { MODE_SERVE, MODE_BENCH, MODE_REPLAY, MODE_DUMP, MODE_HELP, MODE_VERSION };

struct args {
    enum mode mode;
    const char *file; /* of --replay and --dump */
    struct sk_bench_conf bench;
    struct sk_conf conf;
};

/* ---- serving ---- */

static void say_loading(void *arg, uint32_t permille, const char *text)
{
    struct sk_chan *c = arg;
    sk_wire_put_state(&c->out, permille, 0, text);
    sk_chan_flush(c);
}

static void say_nothing(void *arg, uint32_t permille, const char *text)
{
}

/* Why the engine gives up, if the daemon still listens. */
static void say_failed(struct sk_chan *c, const char *text)
{
    sk_wire_put_state(&c->out, 0, 1, text);
    struct pollfd p = {.fd = c->fd, .events = POLLOUT};
    while (sk_chan_flush(c) == 1 && poll(&p, 1, LAST_WORDS_MS) > 0)
        ;
}

_Static_assert((int)SK_WIRE_MAX_GROUPS == (int)SK_MAX_GROUPS, "HELLO has every group of a description");

static void put_hello(const struct sk_load *l, const struct sk_loop *loop, struct sk_chan *c)
{
    struct sk_wire_hello h = {.magic = SK_WIRE_MAGIC,
                              .version = SK_WIRE_VERSION,
                              .build = SK_VERSION,
                              .max_len = l->rank_conf.max_len,
                              .max_seqs = l->rank_conf.max_slot,
                              .block_tok = SK_KV_BLOCK,
                              .n_group = l->dir.desc.n_group,
                              .credit = sk_loop_credit(loop),
                              .pid = (uint32_t)getpid(),
                              .weights_bytes = l->need.weights,
                              .kv_bytes = l->need.kv,
                              .scratch_bytes = l->need.scratch + l->need.slots};
    snprintf(h.digest, sizeof h.digest, "%s", l->dir.digest);
    snprintf(h.isa, sizeof h.isa, "%s", l->isa);
    memcpy(h.n_blk, l->need.n_blk, sizeof h.n_blk);
    sk_wire_put_hello(&c->out, &h);
    sk_chan_flush(c);
}

/* The channel's buffer grows no further than this: a daemon that does not read stops the steps. */
static size_t out_bytes(const struct sk_loop *loop)
{
    size_t want = 4 * sk_loop_max_out(loop);
    return want > (1 << 20) ? want : 1 << 20;
}

static int serve(const struct sk_conf *conf, struct sk_err *err)
{
    struct sk_load load = {0};
    struct sk_load_loop l = {0};
    struct sk_chan chan;
    sk_chan_init(&chan, (int)conf->fd, 1 << 20);
    int rc = sk_load_open(conf, NULL, say_loading, &chan, &load, err);
    if (!rc)
        rc = sk_load_loop_open(&load, conf, &l, err);
    if (rc)
        goto out;
    chan.out.max = out_bytes(l.loop);
    put_hello(&load, l.loop, &chan);
    sk_log(SK_LOG_INFO, "ready: %s, %s, context %u tokens, %u sequences at once", load.dir.name, load.isa,
           load.rank_conf.max_len, load.rank_conf.max_slot);
    rc = sk_loop_serve(l.loop, &chan, err);
out:
    if (rc)
        say_failed(&chan, err->msg);
    sk_load_loop_close(&l);
    sk_load_close(&load);
    sk_chan_done(&chan);
    return rc;
}

/* A daemon that dies takes its engines with it, however it dies; a terminal's Ctrl-C, and what a service manager sends
 * to all processes of a service, are for the daemon, which says QUIT in its time. */
static int start_serving(const struct sk_conf *conf, struct sk_err *err)
{
    if (conf->fd < 0)
        return sk_err_set(err, SK_EMISSING, "fd",
                          "skein-engine is started by skeind, which passes --fd; or give --bench, --replay or --dump");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGUSR1, SIG_IGN);
    return serve(conf, err);
}

/* ---- the other modes ---- */

/* Steps as large as they may be, each token by a step of its own: what llama-bench measures, too. */
static int bench(struct args *a, struct sk_err *err)
{
    struct sk_load load = {0};
    struct sk_load_loop l = {0};
    a->conf.itl_target_ms = 60 * 1000;
    a->conf.prompt_lookup = false;
    int rc = sk_load_open(&a->conf, NULL, say_nothing, NULL, &load, err);
    if (!rc)
        rc = sk_load_loop_open(&load, &a->conf, &l, err);
    if (!rc)
        rc = sk_bench_run(&a->bench, &load, l.loop, err);
    sk_load_loop_close(&l);
    sk_load_close(&load);
    return rc;
}

static int replay(const struct args *a, struct sk_err *err)
{
    struct sk_load load = {0};
    struct sk_player *player = NULL;
    struct sk_record_head head;
    struct sk_replay_stats stats = {0};
    int rc = sk_player_open(a->file, &player, &head, err);
    if (!rc)
        rc = sk_load_open(&a->conf, &head, say_nothing, NULL, &load, err);
    if (!rc && strcmp(load.dir.digest, head.digest) != 0)
        rc = sk_err_set(err, SK_EFORMAT, NULL, "the recording is of engine directory %s, this is %s", head.digest,
                        load.dir.digest);
    if (rc)
        goto out;
    if (strcmp(load.isa, head.isa) != 0)
        printf("recorded on %s, replayed on %s: bits may differ\n", head.isa, load.isa);
    rc = sk_replay(player, load.rank, &stats, err);
    if (!rc)
        printf("replayed %" PRIu64 " steps, %" PRIu64 " rows, %s\n", stats.n_step, stats.n_row,
               stats.n_bare ? "all equal up to the last step, in which the recording breaks off" : "all equal");
out:
    sk_player_close(player);
    sk_load_close(&load);
    return rc;
}

static int dump(const struct args *a, struct sk_err *err)
{
    struct sk_player *player = NULL;
    struct sk_record_head head;
    struct sk_buf text;
    const void *plan;
    const struct sk_buf *rows;
    size_t n;
    sk_buf_init(&text, SK_RECORD_MAX);
    int rc = sk_player_open(a->file, &player, &head, err);
    if (rc)
        return rc;
    printf("# %s on %s\n", head.digest, head.isa);
    while ((rc = sk_player_next(player, &plan, &n, &rows, err)) == 1) {
        sk_buf_clear(&text);
        rc = sk_plan_dump(plan, &text);
        if (rc) {
            sk_err_set(err, -rc, NULL, "plan %" PRIu64 " is too long to print",
                       ((const struct sk_plan_head *)plan)->step);
            break;
        }
        fwrite(text.p, 1, text.n, stdout);
        if (!rows)
            puts("# the recording ends before this step's rows");
    }
    sk_player_close(player);
    sk_buf_done(&text);
    return rc;
}

/* ---- arguments ---- */

static void print_help(void)
{
    puts("usage: skein-engine --dir DIR --fd N [option...]\n"
         "       skein-engine --dir DIR --bench [option...]\n"
         "       skein-engine --dir DIR --replay FILE\n"
         "       skein-engine --dump FILE\n\n"
         "  --bench                measure prefill and decode, without HTTP\n"
         "  --bench-prefill N,...  tokens of the prompts whose prefill is timed (512)\n"
         "  --bench-depth N,...    tokens before those, multiples of --max-step-tokens (0)\n"
         "  --bench-decode N       tokens of each answer (128)\n"
         "  --bench-prompt N,...   tokens before those (128)\n"
         "  --bench-seqs N,...     sequences decoded at once (1,8,32)\n"
         "  --bench-reps N         runs, of which the median is printed (3)\n"
         "  --bench-json           print one JSON object a line\n"
         "  --replay FILE          run a recording, or a file of the flight recorder, again and compare every result\n"
         "  --dump FILE            print a recording's plans as text\n"
         "  --help, --version\n");
    sk_conf_help(stdout, SK_PROG_ENGINE);
}

/* Options that no other program has, and so are not in the table of options. */
static const struct own {
    const char *name;
    bool has_value;
    enum mode mode;
} own_options[] = {
    {"--bench", false, MODE_BENCH},      {"--bench-json", false, MODE_BENCH},  {"--bench-prefill", true, MODE_BENCH},
    {"--bench-depth", true, MODE_BENCH}, {"--bench-prompt", true, MODE_BENCH}, {"--bench-decode", true, MODE_BENCH},
    {"--bench-seqs", true, MODE_BENCH},  {"--bench-reps", true, MODE_BENCH},   {"--replay", true, MODE_REPLAY},
    {"--dump", true, MODE_DUMP},         {"--help", false, MODE_HELP},         {"--version", false, MODE_VERSION},
};

static const struct own *find_own(const char *word)
{
    for (size_t i = 0; i < sizeof own_options / sizeof own_options[0]; i++) {
        const struct own *o = &own_options[i];
        size_t n = strlen(o->name);
        if (strncmp(word, o->name, n) == 0 && (word[n] == '\0' || (o->has_value && word[n] == '=')))
            return o;
    }
    return NULL;
}

/* Takes those options; the others stay in argv, in order. */
static int take_own(struct args *a, int *argc, char **argv, struct sk_err *err)
{
    int n = 1;
    for (int i = 1; i < *argc; i++) {
        const struct own *o = find_own(argv[i]);
        if (!o) {
            argv[n++] = argv[i];
            continue;
        }
        const char *value = strchr(argv[i], '=');
        a->mode = o->mode;
        a->bench.json = a->bench.json || strcmp(o->name, "--bench-json") == 0;
        if (!o->has_value)
            continue;
        if (!value && i + 1 == *argc)
            return sk_err_set(err, SK_EMISSING, NULL, "%s needs a value", o->name);
        value = value ? value + 1 : argv[++i];
        if (o->mode != MODE_BENCH) {
            a->file = value;
            continue;
        }
        int rc = sk_bench_set(&a->bench, o->name + strlen("--bench-"), value, err);
        if (rc)
            return rc;
    }
    *argc = n;
    return 0;
}

static int run(struct args *a, struct sk_err *err)
{
    if (a->mode == MODE_HELP) {
        print_help();
        return 0;
    }
    if (a->mode == MODE_VERSION) {
        puts("skein-engine " SK_VERSION);
        return 0;
    }
    if (a->mode != MODE_DUMP && !a->conf.dir[0])
        return sk_err_set(err, SK_EMISSING, "dir", "--dir: the engine directory is missing");
    switch (a->mode) {
    case MODE_BENCH:
        return bench(a, err);
    case MODE_REPLAY:
        return replay(a, err);
    case MODE_DUMP:
        return dump(a, err);
    default:
        return start_serving(&a->conf, err);
    }
}

int main(int argc, char **argv)
{
    static struct args args;
    struct sk_err err = {0};
    sk_log_init("skein-engine", SK_LOG_INFO);
    sk_conf_defaults(&args.conf);
    sk_bench_default(&args.bench);
    int rc = take_own(&args, &argc, argv, &err);
    if (!rc)
        rc = sk_conf_args(&args.conf, SK_PROG_ENGINE, argc, argv, NULL, 0, NULL, &err);
    if (rc) {
        fprintf(stderr, "skein-engine: %s\n", err.msg);
        return 2;
    }
    sk_log_level_set(sk_log_level_of(args.conf.log_level));
    sk_log_json_set(strcmp(args.conf.log_format, "json") == 0);
    rc = run(&args, &err);
    if (rc)
        sk_log(SK_LOG_ERROR, "%s", err.msg);
    return rc ? 1 : 0;
}
