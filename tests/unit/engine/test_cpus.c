#define _GNU_SOURCE 1
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <sched.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/cpus.h"

static struct sk_cpus list(const char *text)
{
    struct sk_cpus c;
    assert_true(sk_cpus_read_list(text, &c));
    return c;
}

static void lists_of_sysfs_are_read(void **state)
{
    static const char *const bad[] = {"x", "1-", "3-1", "-1", "1,,2", "1024", "0-99999999999", "1;2"};
    struct sk_cpus c = list("0-3,8,10-11\n");
    const uint16_t want[] = {0, 1, 2, 3, 8, 10, 11};
    assert_int_equal(c.n, 7);
    assert_memory_equal(c.cpu, want, sizeof want);
    assert_int_equal(list("\n").n, 0);
    assert_int_equal(list("5").cpu[0], 5);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(sk_cpus_read_list(bad[i], &c));
}

/* Each CPU is in one part, parts differ by one at most and are stretches of the order given. */
static void parts_are_equal_and_all(void **state)
{
    for (uint32_t n = 0; n <= 40; n++)
        for (uint32_t n_part = 1; n_part <= 9; n_part++) {
            struct sk_cpus all = {.n = n}, part;
            uint32_t at = 0;
            for (uint32_t i = 0; i < n; i++)
                all.cpu[i] = (uint16_t)(100 + i);
            for (uint32_t i = 0; i < n_part; i++) {
                assert_int_equal(sk_cpus_part(&all, i, n_part, &part), n >= n_part);
                assert_true(n < n_part ? part.n == 0 : part.n == n / n_part || part.n == n / n_part + 1);
                for (uint32_t k = 0; k < part.n; k++)
                    assert_int_equal(part.cpu[k], 100 + at++);
            }
            assert_int_equal(at, n < n_part ? 0 : n);
        }
}

static void shares_are_read(void **state)
{
    static const char *const bad[] = {"", "1", "1/1", "2/2", "-1/2", "0/0", "0/2x", "a/b", "0/5000", "/2"};
    struct sk_err err;
    uint32_t i = 9, n = 9;
    assert_int_equal(sk_cpus_read_share("1/3", &i, &n, &err), 0);
    assert_true(i == 1 && n == 3);
    for (size_t k = 0; k < sizeof bad / sizeof bad[0]; k++) {
        assert_int_equal(sk_cpus_read_share(bad[k], &i, &n, &err), -SK_EINVAL);
        assert_string_equal(err.param, "cpu-share");
    }
}

static int count(cpu_set_t *ret)
{
    assert_int_equal(sched_getaffinity(0, sizeof *ret, ret), 0);
    return CPU_COUNT(ret);
}

/* The ranks of this process's CPUs, each in a child: apart from one another, together all, and no larger than their
 * threads. */
static void ranks_stay_on_their_cpus(void **state)
{
    cpu_set_t before, together;
    const int n_cpu = count(&before);
    CPU_ZERO(&together);
    for (int i = 0; i < n_cpu; i++) {
        int fd[2];
        cpu_set_t got;
        assert_int_equal(pipe(fd), 0);
        const pid_t pid = fork();
        if (pid == 0) {
            int n_thread = 0;
            const struct sk_cpus_conf c = {.share = "", .rank = i, .n_rank = n_cpu};
            if (sk_cpus_take(&c, &n_thread, NULL) || n_thread != 1 || sched_getaffinity(0, sizeof got, &got))
                _exit(1);
            _exit(write(fd[1], &got, sizeof got) == sizeof got ? 0 : 1);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        assert_int_equal(read(fd[0], &got, sizeof got), sizeof got);
        assert_int_equal(CPU_COUNT(&got), 1);
        CPU_OR(&together, &together, &got);
        close(fd[0]);
        close(fd[1]);
    }
    assert_true(CPU_EQUAL(&together, &before));
}

static void more_ranks_than_cpus_go_anywhere(void **state)
{
    cpu_set_t before, after;
    int n_thread = 0;
    const int n_cpu = count(&before);
    const struct sk_cpus_conf c = {.share = "0/1", .rank = 0, .n_rank = n_cpu + 1};
    assert_int_equal(sk_cpus_take(&c, &n_thread, NULL), 0);
    assert_int_equal(n_thread, 1);
    count(&after);
    assert_true(CPU_EQUAL(&before, &after));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_of_sysfs_are_read),
        cmocka_unit_test(parts_are_equal_and_all),
        cmocka_unit_test(shares_are_read),
        cmocka_unit_test(ranks_stay_on_their_cpus),
        cmocka_unit_test(more_ranks_than_cpus_go_anywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
