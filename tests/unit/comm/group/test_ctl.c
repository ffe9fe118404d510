/* The control plane among threads that play ranks: of one host over shared memory, of others over socket pairs. Plans
 * of any size arrive whole and in order, replies come back, reports are seen, both ways at once never lock up, and what
 * is lost is told. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "comm/base/clock.h"
#include "comm/group/ctl_open.h"

enum { MAX_RANK = 8 };
static struct sk_err err;

struct job {
    int size, reply_rank, host[MAX_RANK];
    int leader_fd[MAX_RANK], far_fd[MAX_RANK]; /* ends of the connections */
    void *mem;
    size_t mem_bytes;
};

static struct sk_ctl_conf conf_of(const struct job *j, int rank)
{
    return (struct sk_ctl_conf){.rank = rank, .size = j->size, .reply_rank = j->reply_rank, .host = j->host};
}

static void job_init(struct job *j, int size, int reply_rank, const int *host)
{
    *j = (struct job){.size = size, .reply_rank = reply_rank};
    memcpy(j->host, host, (size_t)size * sizeof *host);
    bool shared = false;
    for (int i = 0; i < size; i++) {
        int pair[2] = {-1, -1};
        shared |= i > 0 && host[i] == host[0];
        if (host[i] != host[0])
            assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        j->leader_fd[i] = pair[0];
        j->far_fd[i] = pair[1];
    }
    struct sk_ctl_conf conf = conf_of(j, 0);
    if (shared) {
        j->mem_bytes = sk_ctl_bytes(&conf);
        j->mem = mmap(NULL, j->mem_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        assert_ptr_not_equal(j->mem, MAP_FAILED);
    }
}

static void job_done(struct job *j)
{
    if (j->mem)
        munmap(j->mem, j->mem_bytes);
}

static struct sk_ctl *job_open(const struct job *j, int rank)
{
    struct sk_ctl_conf conf = conf_of(j, rank);
    struct sk_ctl *c = NULL;
    int fd[MAX_RANK];
    for (int i = 0; i < j->size; i++)
        fd[i] = rank == 0 ? j->leader_fd[i] : -1;
    if (j->host[rank] != j->host[0])
        fd[0] = j->far_fd[rank];
    else
        conf.mem = j->mem;
    conf.fd = fd;
    return sk_ctl_open(&conf, &c, &err) ? NULL : c;
}

static uint64_t hash(uint64_t h, const void *p, size_t n)
{
    const uint8_t *b = p;
    for (size_t i = 0; i < n; i++)
        h = (h ^ b[i]) * 0x100000001b3u;
    return h;
}

static void fill(uint8_t *p, size_t n, int k)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(i * 31 + (i >> 8) + (size_t)k);
}

/* ---- followers ---- */

/* Runs plans until QUIT: replies with what came, reports. 0, or what went wrong. */
static int follow(const struct job *j, int rank)
{
    struct sk_ctl *c = job_open(j, rank);
    if (!c)
        return 1;
    uint64_t h = 0;
    int rc;
    for (uint64_t step = 1;; step++) {
        enum sk_ctl_kind kind;
        const void *p;
        size_t n;
        rc = sk_ctl_next(c, &kind, &p, &n);
        if (rc || kind == SK_CTL_QUIT)
            break;
        h = hash(h, p, n);
        if (rank == j->reply_rank && (rc = sk_ctl_reply(c, p, n)))
            break;
        struct sk_ctl_report r = {.step = step, .plan_hash = h, .pid = rank + 100, .host = j->host[rank]};
        sk_ctl_report(c, &r);
    }
    sk_ctl_close(c);
    return rc;
}

struct follower {
    const struct job *job;
    int rank, rc;
    pthread_t thread;
};

static void *follower_main(void *arg)
{
    struct follower *f = arg;
    f->rc = follow(f->job, f->rank);
    return NULL;
}

static void start(const struct job *j, struct follower *f)
{
    for (int i = 1; i < j->size; i++) {
        f[i] = (struct follower){.job = j, .rank = i};
        assert_int_equal(pthread_create(&f[i].thread, NULL, follower_main, &f[i]), 0);
    }
}

static void join(const struct job *j, struct follower *f)
{
    for (int i = 1; i < j->size; i++) {
        pthread_join(f[i].thread, NULL);
        assert_int_equal(f[i].rc, 0);
    }
}

/* ---- the leader ---- */

static const size_t sizes[] = {0, 1, 7, 4096, 65536, 65537, (5 << 20) + 3, SK_CTL_MAX_MESSAGE, 9};
enum { N_SIZE = sizeof sizes / sizeof *sizes };

static void check_reports(struct sk_ctl *c, const struct job *j, uint64_t step, uint64_t h)
{
    struct sk_ctl_report r[MAX_RANK] = {0};
    uint64_t until_us = sk_clock_us() + 20000000;
    for (int i = 1; i < j->size;) {
        sk_ctl_reports(c, r);
        if (r[i].step == step) {
            assert_int_equal(r[i].plan_hash, h);
            assert_int_equal(r[i].pid, i + 100);
            assert_int_equal(r[i].host, j->host[i]);
            i++;
        }
        assert_true(sk_clock_us() < until_us);
    }
}

static void take_and_check(struct sk_ctl *c, uint8_t *want, int k)
{
    const void *p;
    size_t n;
    assert_int_equal(sk_ctl_take(c, true, &p, &n), 1);
    fill(want, sizes[k], k);
    assert_int_equal(n, sizes[k]);
    assert_memory_equal(p, want, n);
}

/* `ahead`: plans under way before the first reply is taken. */
static void lead(struct sk_ctl *c, const struct job *j, int ahead)
{
    uint8_t *plan = malloc(SK_CTL_MAX_MESSAGE + 1);
    uint64_t h = 0;
    const void *p;
    size_t n;
    assert_non_null(plan);
    assert_int_equal(sk_ctl_send(c, SK_CTL_PLAN, plan, SK_CTL_MAX_MESSAGE + 1), -SK_ETOOBIG);
    assert_int_equal(sk_ctl_take(c, false, &p, &n), 0);
    for (int k = 0; k < N_SIZE + ahead; k++) {
        if (k < N_SIZE) {
            fill(plan, sizes[k], k);
            h = hash(h, plan, sizes[k]);
            assert_int_equal(sk_ctl_send(c, SK_CTL_PLAN, plan, sizes[k]), 0);
        }
        if (j->reply_rank && k >= ahead)
            take_and_check(c, plan, k - ahead);
    }
    assert_int_equal(sk_ctl_take(c, false, &p, &n), 0);
    check_reports(c, j, N_SIZE, h);
    assert_int_equal(sk_ctl_send(c, SK_CTL_QUIT, NULL, 0), 0);
    free(plan);
}

static void play(int size, int reply_rank, const int *host, int ahead)
{
    struct job j;
    struct follower f[MAX_RANK];
    job_init(&j, size, reply_rank, host);
    start(&j, f);
    struct sk_ctl *c = job_open(&j, 0);
    assert_non_null(c);
    lead(c, &j, ahead);
    join(&j, f);
    sk_ctl_close(c);
    job_done(&j);
}

static void test_one_host(void **state)
{
    play(4, 2, (int[]){0, 0, 0, 0}, 0);
    play(2, 0, (int[]){0, 0}, 0);
}

static void test_hosts(void **state)
{
    play(4, 2, (int[]){0, 0, 1, 1}, 0); /* replies come by a connection */
    play(4, 2, (int[]){0, 1, 0, 1}, 0); /* replies come by the ring */
    play(3, 2, (int[]){0, 1, 2}, 0);    /* nobody shares memory with the leader */
    play(3, 0, (int[]){0, 1, 1}, 0);
}

/* All is sent before the first reply is taken: more than rings and sockets hold, both ways. */
static void test_both_ways(void **state)
{
    play(2, 1, (int[]){0, 0}, N_SIZE);
    play(2, 1, (int[]){0, 1}, N_SIZE);
    play(3, 2, (int[]){0, 0, 1}, N_SIZE);
}

static void test_processes(void **state)
{
    struct job j;
    pid_t pid[4];
    job_init(&j, 4, 2, (int[]){0, 0, 0, 1});
    for (int i = 1; i < 4; i++) {
        pid[i] = fork();
        if (pid[i] == 0)
            _exit(-follow(&j, i));
    }
    struct sk_ctl *c = job_open(&j, 0);
    assert_non_null(c);
    lead(c, &j, 1);
    for (int i = 1; i < 4; i++) {
        int status;
        assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
        assert_int_equal(status, 0);
    }
    sk_ctl_close(c);
    close(j.far_fd[3]);
    job_done(&j);
}

/* ---- connections that end, or say what they should not ---- */

static void test_leader_gone(void **state)
{
    for (int host = 0; host < 2; host++) {
        struct job j;
        enum sk_ctl_kind kind;
        const void *p;
        size_t n;
        job_init(&j, 2, 1, (int[]){0, host});
        struct sk_ctl *leader = job_open(&j, 0), *other = job_open(&j, 1);
        assert_int_equal(sk_ctl_send(leader, SK_CTL_PLAN, "last", 4), 0);
        sk_ctl_close(leader);
        assert_int_equal(sk_ctl_next(other, &kind, &p, &n), 0); /* what came before is read first */
        assert_int_equal(n, 4);
        assert_memory_equal(p, "last", 4);
        assert_int_equal(sk_ctl_next(other, &kind, &p, &n), -SK_EIO);
        assert_int_equal(sk_ctl_next(other, &kind, &p, &n), -SK_EIO);
        sk_ctl_close(other);
        job_done(&j);
    }
}

static void test_rank_gone(void **state)
{
    struct job j;
    const void *p;
    size_t n;
    job_init(&j, 3, 2, (int[]){0, 1, 2});
    struct sk_ctl *leader = job_open(&j, 0), *replier = job_open(&j, 2);
    assert_int_equal(sk_ctl_reply(replier, "done", 4), 0);
    assert_int_equal(sk_ctl_take(leader, true, &p, &n), 1);
    assert_int_equal(n, 4);
    close(j.far_fd[1]); /* another one than who replies */
    assert_int_equal(sk_ctl_take(leader, true, &p, &n), -SK_EIO);
    assert_int_equal(sk_ctl_take(leader, false, &p, &n), -SK_EIO);
    assert_int_equal(sk_ctl_send(leader, SK_CTL_PLAN, "x", 1), -SK_EIO);
    sk_ctl_close(leader);
    assert_int_equal(sk_ctl_reply(replier, "done", 4), -SK_EIO);
    sk_ctl_close(replier);
    job_done(&j);
}

/* A frame is two words, its bytes and its kind, and then so many bytes; it may come in any pieces. */
static void send_frame(int fd, uint32_t n, uint32_t kind, const void *p, size_t piece)
{
    uint8_t *all = malloc(8 + n);
    memcpy(all, &n, 4);
    memcpy(all + 4, &kind, 4);
    memcpy(all + 8, p, n);
    for (size_t at = 0; at < 8 + n; at += piece) {
        size_t k = 8 + n - at < piece ? 8 + n - at : piece;
        assert_int_equal(send(fd, all + at, k, MSG_NOSIGNAL), k);
        usleep(100); /* likely read by itself; right either way */
    }
    free(all);
}

static void test_pieces(void **state)
{
    struct job j;
    enum sk_ctl_kind kind;
    const void *p;
    size_t n;
    job_init(&j, 2, 1, (int[]){0, 1});
    struct sk_ctl *far = job_open(&j, 1);
    for (size_t piece = 1; piece < 12; piece++) {
        send_frame(j.leader_fd[1], 25, SK_CTL_PLAN, "twenty-five bytes of plan", piece);
        send_frame(j.leader_fd[1], 0, SK_CTL_QUIT, "", piece);
        assert_int_equal(sk_ctl_next(far, &kind, &p, &n), 0);
        assert_int_equal(kind, SK_CTL_PLAN);
        assert_int_equal(n, 25);
        assert_memory_equal(p, "twenty-five bytes of plan", 25);
        assert_int_equal(sk_ctl_next(far, &kind, &p, &n), 0);
        assert_int_equal(kind, SK_CTL_QUIT);
        assert_int_equal(n, 0);
    }
    sk_ctl_close(far);
    close(j.leader_fd[1]);
    job_done(&j);
}

static void test_nonsense(void **state)
{
    const struct {
        uint32_t n, kind;
    } bad[] = {{4, 0}, {4, 3}, {4, 4}, {4, 99}, {SK_CTL_MAX_MESSAGE + 1, SK_CTL_PLAN}, {UINT32_MAX, SK_CTL_PLAN}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct job j;
        enum sk_ctl_kind kind;
        const void *p;
        size_t n;
        job_init(&j, 2, 1, (int[]){0, 1});
        struct sk_ctl *far = job_open(&j, 1);
        assert_int_equal(send(j.leader_fd[1], &bad[i], 8, MSG_NOSIGNAL), 8);
        assert_int_equal(sk_ctl_next(far, &kind, &p, &n), -SK_EIO);
        sk_ctl_close(far);
        close(j.leader_fd[1]);
        job_done(&j);
    }
    /* A reply from a rank that has none to give. */
    struct job j;
    const void *p;
    size_t n;
    job_init(&j, 3, 2, (int[]){0, 1, 2});
    struct sk_ctl *leader = job_open(&j, 0);
    send_frame(j.far_fd[1], 4, 3, "fake", 12);
    assert_int_equal(sk_ctl_take(leader, true, &p, &n), -SK_EIO);
    sk_ctl_close(leader);
    close(j.far_fd[1]);
    close(j.far_fd[2]);
    job_done(&j);
}

/* Reports are whole, whenever they are looked at. */
struct reporter {
    struct sk_ctl *ctl;
    uint64_t n;
};

static void *report_often(void *arg)
{
    struct reporter *r = arg;
    for (uint64_t i = 1; i <= r->n; i++)
        sk_ctl_report(r->ctl, &(struct sk_ctl_report){.step = i, .plan_hash = ~i, .sum = i * 3, .rss_bytes = i + 7});
    return NULL;
}

static void test_reports(void **state)
{
    struct job j;
    struct sk_ctl_report r[3] = {0};
    job_init(&j, 3, 0, (int[]){0, 0, 1});
    struct sk_ctl *c[3] = {job_open(&j, 0), job_open(&j, 1), job_open(&j, 2)};
    sk_ctl_reports(c[0], r);
    assert_int_equal(r[1].step, 0);
    sk_ctl_report(c[0], &(struct sk_ctl_report){.step = 5});
    struct reporter who[2] = {{c[1], 20000}, {c[2], 20000}};
    pthread_t t[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&t[i], NULL, report_often, &who[i]), 0);
    uint64_t until_us = sk_clock_us() + 60000000;
    do {
        uint64_t before[3] = {0, r[1].step, r[2].step};
        sk_ctl_reports(c[0], r);
        assert_int_equal(r[0].step, 5);
        for (int i = 1; i < 3; i++) {
            assert_true(r[i].step >= before[i]);
            if (r[i].step) {
                assert_int_equal(r[i].plan_hash, ~r[i].step);
                assert_int_equal(r[i].sum, r[i].step * 3);
                assert_int_equal(r[i].rss_bytes, r[i].step + 7);
            }
        }
        assert_true(sk_clock_us() < until_us);
    } while (r[1].step < 20000 || r[2].step < 20000);
    for (int i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
    for (int i = 2; i >= 0; i--)
        sk_ctl_close(c[i]);
    job_done(&j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_processes), /* forks: before there are threads */
        cmocka_unit_test(test_one_host),    cmocka_unit_test(test_hosts),     cmocka_unit_test(test_both_ways),
        cmocka_unit_test(test_leader_gone), cmocka_unit_test(test_rank_gone), cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_nonsense),    cmocka_unit_test(test_reports),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
