/* skein-engine: one rank of a model, and its leader. Serves a daemon over an inherited socket (--fd), or one of several
 * ranks over an address (--connect); or measures, replays or prints. */
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "comm/base/log.h"
#include "comm/base/mem.h"
#include "comm/group/launch.h"
#include "comm/group/world.h"
#include "comm/wire/join.h"
#include "engine/bench.h"
#include "engine/job.h"
#include "engine/load.h"

enum { LAST_WORDS_MS = 1000 };

enum mode { MODE_SERVE, MODE_BENCH, MODE_REPLAY, MODE_DUMP, MODE_HELP, MODE_VERSION };

struct args {
    enum mode mode;
    bool is_silent;   /* the error has been said */
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

/* Why the engine gives up, if the daemon still listens. What ranks, hosts and links do is no request's fault. */
static void say_failed(struct sk_chan *c, const struct sk_job *job, int rc, const char *text)
{
    const bool lost = job->world && (rc == -SK_EIO || rc == -SK_EDIVERGED);
    sk_wire_put_state(&c->out, 0, lost ? SK_STATE_LOST : SK_STATE_FAILED, text);
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
                              .n_tp = l->world ? (uint32_t)l->world->n_tp : 1,
                              .n_pp = l->world ? (uint32_t)l->world->n_pp : 1,
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

/* Work is what the leader does on an open engine while the other ranks follow. */
struct work {
    struct args *args;
    struct sk_job job;
    struct sk_chan *chan; /* serving: to the daemon */
    struct sk_load load;
    struct sk_load_loop loop;
    struct sk_player *player; /* replaying */
    struct sk_record_head head;
};

/* Ranks that were in step are no more: none of them can be told anything, so all end at once. */
static void end_all(const struct work *w, int rc, const struct sk_err *err)
{
    if (rc && w->chan && w->chan->fd >= 0)
        say_failed(w->chan, &w->job, rc, err->msg);
    if (!w->job.world)
        return;
    if (rc)
        sk_log(SK_LOG_ERROR, "%s", err->msg);
    sk_world_abort(rc ? 1 : 0);
}

static int load(struct work *w, const struct sk_record_head *replay, struct sk_err *err)
{
    const struct sk_load_conf lc = {.options = &w->args->conf,
                                    .replay = replay,
                                    .world = w->job.world,
                                    .timeline = w->job.timeline,
                                    .cb = w->chan && sk_job_leads(&w->job) ? say_loading : say_nothing,
                                    .arg = w->chan};
    int rc = sk_load_open(&lc, &w->load, err);
    if (rc && w->chan && sk_job_leads(&w->job))
        say_failed(w->chan, &w->job, rc, err->msg);
    return rc;
}

/* All ranks, after loading: the leader leads. */
static int run(struct work *w, int (*lead)(struct work *w, struct sk_err *err), struct sk_err *err)
{
    int rc = sk_job_leads(&w->job) ? lead(w, err) : sk_load_follow(&w->load, err);
    if (rc)
        end_all(w, rc, err);
    return rc ? rc : sk_job_end(&w->job, &w->args->conf, err);
}

static int lead_serving(struct work *w, struct sk_err *err)
{
    const struct sk_load *l = &w->load;
    int rc = sk_load_loop_open(l, &w->args->conf, &w->loop, err);
    if (rc)
        return rc;
    w->chan->out.max = out_bytes(w->loop.loop);
    put_hello(l, w->loop.loop, w->chan);
    sk_log(SK_LOG_INFO, "ready: %s, %s, context %u tokens, %u sequences at once", l->dir.name, l->isa,
           l->rank_conf.max_len, l->rank_conf.max_slot);
    rc = sk_loop_serve(w->loop.loop, w->chan, err);
    if (!rc && !w->loop.loop->quit)
        end_all(w, 0, NULL); /* the daemon is gone */
    if (!rc)
        sk_load_loop_close(&w->loop);
    return rc;
}

/* The daemon of several ranks: an address, since mpirun passes no descriptor on. */
static int join(struct work *w, int *ret_fd, struct sk_err *err)
{
    struct sk_conf *conf = &w->args->conf;
    int rc = 0, board_fd = -1;
    if (sk_job_leads(&w->job)) {
        const char *token = getenv(SK_LAUNCH_TOKEN);
        rc = token ? sk_join_connect(conf->connect, token, ret_fd, &board_fd, err)
                   : sk_err_set(err, SK_EMISSING, "connect", "--connect needs the daemon's token in $" SK_LAUNCH_TOKEN);
        conf->board_fd = board_fd;
    }
    return w->job.world ? sk_world_check(w->job.world, rc, err) : rc;
}

static int serve(struct work *w, struct sk_err *err)
{
    struct sk_chan chan;
    int fd = (int)w->args->conf.fd;
    int rc = w->args->conf.connect[0] ? join(w, &fd, err) : 0;
    if (rc)
        return rc;
    sk_chan_init(&chan, fd, 1 << 20);
    w->chan = &chan;
    rc = load(w, NULL, err);
    if (!rc)
        rc = run(w, lead_serving, err);
    sk_load_loop_close(&w->loop);
    sk_load_close(&w->load);
    sk_chan_done(&chan);
    w->chan = NULL;
    return rc;
}

/* A daemon that dies takes its engines with it, however it dies; a terminal's Ctrl-C, and what a service manager sends
 * to all processes of a service, are for the daemon, which says QUIT in its time. */
static int start_serving(const struct sk_conf *conf, struct sk_err *err)
{
    if (conf->fd < 0 && !conf->connect[0])
        return sk_err_set(err, SK_EMISSING, "fd",
                          "skein-engine is started by skeind, which passes --fd; or give --bench, --replay or --dump");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGUSR1, SIG_IGN);
    return 0;
}

/* ---- the other modes ---- */

static int lead_bench(struct work *w, struct sk_err *err)
{
    int rc = sk_load_loop_open(&w->load, &w->args->conf, &w->loop, err);
    if (!rc)
        rc = sk_bench_run(&w->args->bench, &w->load, w->loop.loop, err);
    if (!rc)
        sk_load_loop_close(&w->loop);
    return rc;
}

/* Steps as large as they may be, each token by a step of its own: what llama-bench measures, too. */
static int bench(struct work *w, struct sk_err *err)
{
    w->args->conf.itl_target_ms = 60 * 1000;
    w->args->conf.prompt_lookup = false;
    int rc = load(w, NULL, err);
    if (!rc)
        rc = run(w, lead_bench, err);
    sk_load_loop_close(&w->loop);
    sk_load_close(&w->load);
    return rc;
}

static bool is_same_grid(const struct sk_record_head *h, const struct sk_conf *conf)
{
    return (h->n_tp ? h->n_tp : 1) == conf->tp && (h->n_pp ? h->n_pp : 1) == conf->pp;
}

static int lead_replay(struct work *w, struct sk_err *err)
{
    const bool exact = is_same_grid(&w->head, &w->args->conf) && strcmp(w->load.isa, w->head.isa) == 0;
    struct sk_replay_stats s = {0};
    struct sk_crew *crew;
    int rc = sk_load_crew(&w->load, &crew, err);
    if (rc)
        return rc;
    if (!exact)
        printf("recorded on %s, --tp %u --pp %u; replayed on %s, --tp %" PRId64 " --pp %" PRId64 ": bits may differ\n",
               w->head.isa, w->head.n_tp, w->head.n_pp, w->load.isa, w->args->conf.tp, w->args->conf.pp);
    rc = sk_replay(w->player, crew, exact, &s, err);
    if (rc)
        return rc;
    sk_crew_close(crew);
    printf("replayed %" PRIu64 " steps, %" PRIu64 " rows, ", s.n_step, s.n_row);
    if (s.n_row_differ)
        printf("%" PRIu64 " of them differ, by at most %.3g in a log-prob; %" PRIu64 " have another token",
               s.n_row_differ, s.max_differ, s.n_tok_differ);
    else
        printf("all equal");
    puts(s.n_bare ? " up to the last steps, in which the recording breaks off" : "");
    return 0;
}

static int replay(struct work *w, struct sk_err *err)
{
    int rc = sk_player_open(w->args->file, &w->player, &w->head, err);
    if (w->job.world)
        rc = sk_world_check(w->job.world, rc, err);
    if (!rc)
        rc = load(w, &w->head, err);
    if (!rc && strcmp(w->load.dir.digest, w->head.digest) != 0)
        rc = sk_err_set(err, SK_EFORMAT, NULL, "the recording is of engine directory %s, this is %s", w->head.digest,
                        w->load.dir.digest);
    if (!rc)
        rc = run(w, lead_replay, err);
    sk_player_close(w->player);
    sk_load_close(&w->load);
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

/* What is everyone's error is said once, by the leader, and before the world closes: a rank that ends with an error
 * makes mpirun kill the others, and none ends before all close. */
static void say_error(struct args *a, const struct sk_job *job, const struct sk_err *err)
{
    if (sk_job_leads(job))
        sk_log(SK_LOG_ERROR, "%s", err->msg);
    a->is_silent = true;
}

/* The modes that need an engine: each on one rank, or on all of them. */
static int run_engine(struct args *a, char **argv, struct sk_err *err)
{
    static int (*const modes[])(struct work * w, struct sk_err * err) = {
        [MODE_SERVE] = serve, [MODE_BENCH] = bench, [MODE_REPLAY] = replay};
    struct work w = {.args = a};
    if (!a->conf.dir[0])
        return sk_err_set(err, SK_EMISSING, "dir", "--dir: the engine directory is missing");
    int rc = a->mode == MODE_SERVE ? start_serving(&a->conf, err) : 0;
    if (rc)
        return rc;
    if (sk_job_is_large(&a->conf) && a->mode != MODE_SERVE && !sk_world_launched())
        return sk_job_run(&a->conf, argv, err);
    rc = sk_job_open(&a->conf, &w.job, err);
    if (!rc)
        rc = modes[a->mode](&w, err);
    if (rc && w.job.world)
        say_error(a, &w.job, err);
    sk_job_close(&w.job);
    return rc;
}

static int run_mode(struct args *a, char **argv, struct sk_err *err)
{
    switch (a->mode) {
    case MODE_HELP:
        print_help();
        return 0;
    case MODE_VERSION:
        puts("skein-engine " SK_VERSION);
        return 0;
    case MODE_DUMP:
        return dump(a, err);
    default:
        return run_engine(a, argv, err);
    }
}

/* The arguments as they were: for ranks that get the same. */
static char **keep(int argc, char **argv)
{
    char **copy = sk_calloc((size_t)argc + 1, sizeof *copy);
    if (copy)
        memcpy(copy, argv, (size_t)argc * sizeof *copy);
    return copy;
}

int main(int argc, char **argv)
{
    static struct args args;
    struct sk_err err = {0};
    char **all = keep(argc, argv);
    sk_log_init("skein-engine", SK_LOG_INFO);
    sk_conf_defaults(&args.conf);
    sk_bench_default(&args.bench);
    int rc = all ? take_own(&args, &argc, argv, &err) : sk_err_set(&err, SK_ENOMEM, NULL, "out of memory");
    if (!rc)
        rc = sk_conf_args(&args.conf, SK_PROG_ENGINE, argc, argv, NULL, 0, NULL, &err);
    if (rc) {
        fprintf(stderr, "skein-engine: %s\n", err.msg);
        return 2;
    }
    sk_log_level_set(sk_log_level_of(args.conf.log_level));
    sk_log_json_set(strcmp(args.conf.log_format, "json") == 0);
    rc = run_mode(&args, all, &err);
    if (rc && !args.is_silent)
        sk_log(SK_LOG_ERROR, "%s", err.msg);
    sk_free(all);
    return rc ? 1 : 0;
}
