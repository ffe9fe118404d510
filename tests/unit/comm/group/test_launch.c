/* What mpirun is started with, on which hosts, and in which folders. */
#include <setjmp.h>
#include <stdbool.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "comm/base/mem.h"
#include "comm/group/launch.h"

static char folder[64];

/* --- hostfiles --- */

static int parse(const char *text, struct sk_launch_hosts *ret, struct sk_err *err)
{
    return sk_launch_parse_hosts("hosts", text, strlen(text), ret, err);
}

static void test_hosts(void **state)
{
    struct sk_launch_hosts h;
    struct sk_err err;
    assert_int_equal(parse("# two\nalpha slots=2\r\n\n  10.0.0.7\t# one slot\nfe80::1%eth0 slots=256", &h, &err), 0);
    assert_int_equal(h.n, 3);
    assert_int_equal(h.n_slot, 2 + 1 + 256);
    assert_string_equal(h.host[0].name, "alpha");
    assert_int_equal(h.host[0].slots, 2);
    assert_string_equal(h.host[1].name, "10.0.0.7");
    assert_int_equal(h.host[1].slots, 1);
}

static void refuses(const char *text, const char *why)
{
    struct sk_launch_hosts h = {.n = 77};
    struct sk_err err = {0};
    assert_int_not_equal(parse(text, &h, &err), 0);
    if (!strstr(err.msg, why))
        fail_msg("\"%s\" is not in \"%s\"", why, err.msg);
    assert_string_equal(err.param, "hostfile");
    assert_int_equal(h.n, 77);
}

static void test_bad_hosts(void **state)
{
    char line[700], many[SK_LAUNCH_MAX_HOST * 8 + 16] = "";
    refuses("", "names no host");
    refuses("# nobody\n", "names no host");
    refuses("a\nb slots=0", "hosts:2: slots must be 1 to 256");
    refuses("a slots=257", "slots must be");
    refuses("a slots=2x", "slots must be");
    refuses("a slots=-1", "slots must be");
    refuses("a slots=99999999999999999999", "slots must be");
    refuses("a max_slots=2", "hosts:1: \"max_slots=2\"");
    refuses("a slots=1 more", "NAME [slots=N]");
    refuses("a\nA slots=2", "hosts:2: A stands there twice");
    refuses("-oProxyCommand=x", "is no host's name");
    refuses("a;b", "is no host's name");
    memset(line, 'a', sizeof line - 1);
    line[sizeof line - 1] = '\0';
    refuses(line, "NAME [slots=N]");
    line[300] = '\0';
    refuses(line, "is no host's name");
    for (int i = 0; i <= SK_LAUNCH_MAX_HOST; i++)
        sprintf(many + strlen(many), "h%d\n", i);
    refuses(many, "hosts:65: more than 64 hosts");
}

static void put(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    fclose(f);
}

static void test_read_hosts(void **state)
{
    struct sk_launch_hosts h;
    struct sk_err err;
    char path[100];
    snprintf(path, sizeof path, "%s/hostfile", folder);
    assert_int_equal(sk_launch_read_hosts(path, &h, &err), -SK_ENOENT);
    assert_string_equal(err.param, "hostfile");
    put(path, "127.0.0.1 slots=2\n");
    assert_int_equal(sk_launch_read_hosts(path, &h, &err), 0);
    put(path, "127.0.0.1\nno-such-host.invalid\n");
    assert_int_equal(sk_launch_read_hosts(path, &h, &err), -SK_EINVAL);
    assert_non_null(strstr(err.msg, "host no-such-host.invalid is not known"));
}

static void test_check_hosts(void **state)
{
    struct sk_launch_hosts h;
    struct sk_err err;
    assert_int_equal(sk_launch_check_hosts(NULL, 64, &err), 0);
    assert_int_equal(parse("127.0.0.1 slots=2", &h, &err), 0);
    assert_int_equal(sk_launch_check_hosts(&h, 2, &err), 0);
    assert_int_equal(sk_launch_check_hosts(&h, 3, &err), -SK_ERANGE);
    assert_non_null(strstr(err.msg, "3 ranks, but the hostfile has 2 slots"));
    assert_int_equal(parse("192.0.2.1 slots=2\n127.0.0.1", &h, &err), 0); /* an address of documentation: RFC 5737 */
    assert_int_equal(sk_launch_check_hosts(&h, 2, &err), -SK_EINVAL);
    assert_non_null(strstr(err.msg, "192.0.2.1, must be this one"));
    assert_int_equal(parse("127.0.0.1\n192.0.2.1", &h, &err), 0);
    setenv("OMPI_MCA_plm_rsh_agent", "/nowhere/agent", 1);
    assert_int_equal(sk_launch_check_hosts(&h, 2, &err), -SK_EUNSUP);
    setenv("OMPI_MCA_plm_rsh_agent", "/bin/true", 1);
    assert_int_equal(sk_launch_check_hosts(&h, 2, &err), 0);
    unsetenv("OMPI_MCA_plm_rsh_agent");
}

static void test_agent(void **state)
{
    char *word[4], mem[64];
    setenv("OMPI_MCA_plm_rsh_agent", " sh -x\t-y : rsh", 1);
    assert_int_equal(sk_launch_agent(word, 4, mem, sizeof mem), 3);
    assert_int_equal(word[0][0], '/');
    assert_string_equal(strrchr(word[0], '/'), "/sh");
    assert_string_equal(word[1], "-x");
    assert_string_equal(word[2], "-y");
    setenv("OMPI_MCA_plm_rsh_agent", "not-a-program-of-this-host", 1);
    assert_int_equal(sk_launch_agent(word, 4, mem, sizeof mem), 0);
    unsetenv("OMPI_MCA_plm_rsh_agent");
}

/* --- the command line --- */

static const struct sk_launch_dirs dirs = {"/run/job", "/dev/shm/job"};

/* The word after `name`; NULL: it is not there. */
static const char *after(const struct sk_launch_argv *a, const char *name)
{
    for (int i = 0; i + 1 < a->n; i++) {
        if (strcmp(a->argv[i], name) == 0)
            return a->argv[i + 1];
    }
    return NULL;
}

static void test_one_host(void **state)
{
    char *rank[] = {"/bin/rank", "--tp=2", NULL};
    const struct sk_launch_conf conf = {.n_rank = 2, .dirs = &dirs, .rank_argv = rank};
    struct sk_launch_argv a;
    struct sk_err err;
    assert_int_equal(sk_launch_argv(&conf, &a, &err), 0);
    assert_int_equal(a.argv[0][0], '/');
    assert_string_equal(after(&a, "-n"), "2");
    assert_string_equal(after(&a, "plm"), "isolated");
    assert_string_equal(after(&a, "btl"), "self,vader");
    assert_string_equal(after(&a, "odls_base_sigkill_timeout"), "0");
    assert_string_equal(after(&a, "--bind-to"), "none");
    assert_string_equal(after(&a, "orte_tmpdir_base"), "/run/job");
    assert_string_equal(after(&a, "btl_vader_backing_directory"), "/dev/shm/job");
    assert_null(after(&a, "--hostfile"));
    assert_null(a.argv[a.n]);
    assert_string_equal(a.argv[a.n - 2], "/bin/rank");
    assert_string_equal(a.argv[a.n - 1], "--tp=2");
    sk_launch_argv_done(&a);

    setenv("OMPI_MCA_btl", "self,tcp", 1); /* the user's own */
    assert_int_equal(sk_launch_argv(&conf, &a, &err), 0);
    assert_null(after(&a, "btl"));
    unsetenv("OMPI_MCA_btl");
    sk_launch_argv_done(&a);
}

static void test_several_hosts(void **state)
{
    char *rank[] = {"/bin/rank", NULL};
    struct sk_launch_hosts h;
    struct sk_launch_dirs d;
    const struct sk_launch_conf conf = {.n_rank = 3, .hosts = &h, .dirs = &d, .rank_argv = rank};
    struct sk_launch_argv a;
    struct sk_err err;
    char text[100];
    snprintf(d.dir, sizeof d.dir, "%s", folder);
    strcpy(d.shm, "/nowhere");
    assert_int_equal(parse("a slots=2\nb", &h, &err), 0);
    setenv("SKEIN_ISA", "avx2", 1);
    setenv(SK_LAUNCH_TOKEN, "secret", 1);
    assert_int_equal(sk_launch_argv(&conf, &a, &err), 0);
    assert_string_equal(after(&a, "btl"), "tcp,self,vader");
    assert_string_equal(after(&a, "--map-by"), "slot");
    assert_string_equal(after(&a, "oob_tcp_keepalive_time"), "2");
    bool exported = false; /* other variables of this kind may be set, too */
    for (int i = 0; i + 1 < a.n; i++)
        exported |= strcmp(a.argv[i], "-x") == 0 && strcmp(a.argv[i + 1], "SKEIN_ISA") == 0;
    assert_true(exported);
    assert_null(after(&a, "plm"));
    for (int i = 0; i < a.n; i++)
        assert_null(strstr(a.argv[i], SK_LAUNCH_TOKEN));
    FILE *f = fopen(after(&a, "--hostfile"), "r");
    assert_non_null(f);
    size_t n = fread(text, 1, sizeof text - 1, f);
    text[n] = '\0';
    fclose(f);
    assert_string_equal(text, "a slots=2\nb slots=1\n");
    sk_launch_argv_done(&a);

    strcpy(d.dir, "/nowhere");
    assert_int_equal(sk_launch_argv(&conf, &a, &err), -SK_EIO);
    unsetenv("SKEIN_ISA");
    unsetenv(SK_LAUNCH_TOKEN);
}

static void test_too_long(void **state)
{
    char *rank[SK_LAUNCH_MAX_ARGS + 1];
    const struct sk_launch_conf conf = {.n_rank = 2, .dirs = &dirs, .rank_argv = rank};
    struct sk_launch_argv a;
    struct sk_err err;
    for (int i = 0; i < SK_LAUNCH_MAX_ARGS; i++)
        rank[i] = "x";
    rank[SK_LAUNCH_MAX_ARGS] = NULL;
    assert_int_equal(sk_launch_argv(&conf, &a, &err), -SK_ETOOBIG);
    sk_mem_fail_at(1, 0);
    assert_int_equal(sk_launch_argv(&conf, &a, &err), -SK_ENOMEM);
    sk_mem_fail_at(0, 0);
}

static void test_status(void **state)
{
    assert_true(WIFSIGNALED(sk_launch_status(137 << 8)) && WTERMSIG(sk_launch_status(137 << 8)) == SIGKILL);
    assert_true(WIFSIGNALED(sk_launch_status(139 << 8)) && WTERMSIG(sk_launch_status(139 << 8)) == SIGSEGV);
    assert_true(WIFSIGNALED(sk_launch_status(SIGKILL))); /* mpirun itself */
    assert_int_equal(WEXITSTATUS(sk_launch_status(1 << 8)), 1);
    assert_int_equal(WEXITSTATUS(sk_launch_status(205 << 8)), 205); /* it lost a host */
    assert_int_equal(sk_launch_status(0), 0);
}

/* --- is mpirun there? --- */

static void with_mpirun(const char *script, const char *why)
{
    struct sk_err err = {0};
    char path[100], *before = strdup(getenv("PATH"));
    snprintf(path, sizeof path, "%s/bin", folder);
    mkdir(path, 0700);
    setenv("PATH", path, 1);
    snprintf(path, sizeof path, "%s/bin/mpirun", folder);
    unlink(path);
    if (script) {
        put(path, script);
        assert_int_equal(chmod(path, 0700), 0);
    }
    int rc = sk_launch_check(&err);
    setenv("PATH", before, 1);
    free(before);
    assert_int_equal(rc, why ? -SK_EUNSUP : 0);
    if (why && !strstr(err.msg, why))
        fail_msg("\"%s\" is not in \"%s\"", why, err.msg);
}

static void test_check(void **state)
{
    with_mpirun(NULL, "which is not in PATH");
    with_mpirun("#!/bin/sh\necho 'mpirun (Open MPI) 4.1.4'\n", NULL);
    with_mpirun("#!/bin/sh\necho 'mpirun (Open MPI) 5.0.3'\n", "of Open MPI 5.0");
    with_mpirun("#!/bin/sh\necho 'HYDRA build details:'\n", "not Open MPI's but \"HYDRA build details:\"");
    with_mpirun("#!/bin/sh\nexit 1\n", "says nothing");
}

/* --- folders --- */

static void make_old(const char *below, char *ret, size_t n)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    snprintf(ret, n, "%s/job-%d-0", below, (int)pid);
    assert_int_equal(mkdir(ret, 0700), 0);
}

static void test_dirs(void **state)
{
    struct sk_launch_dirs d, again;
    struct sk_err err;
    struct stat st;
    char base[80], old[100], file[120];
    snprintf(base, sizeof base, "%s/skein", folder);
    setenv("XDG_RUNTIME_DIR", folder, 1);
    assert_int_equal(mkdir(base, 0700), 0);
    make_old(base, old, sizeof old);
    assert_int_equal(sk_launch_make_dirs(3, &d, &err), 0);
    assert_memory_equal(d.dir, base, strlen(base));
    assert_true(stat(d.dir, &st) == 0 && (st.st_mode & 0777) == 0700);
    assert_int_equal(stat(d.shm, &st), 0);
    assert_int_not_equal(access(old, F_OK), 0);

    snprintf(file, sizeof file, "%s/litter", d.dir);
    put(file, "x");
    assert_int_equal(sk_launch_make_dirs(3, &again, &err), 0);
    assert_string_equal(again.dir, d.dir);
    assert_int_not_equal(access(file, F_OK), 0);
    assert_int_equal(sk_launch_make_dirs(4, &again, &err), 0); /* beside it */
    assert_int_equal(access(d.dir, F_OK), 0);
    put(file, "x");
    sk_launch_wipe(&d);
    sk_launch_wipe(&again);
    assert_int_not_equal(access(d.dir, F_OK), 0);
    assert_int_not_equal(access(d.shm, F_OK), 0);
}

static void test_bad_dirs(void **state)
{
    struct sk_launch_dirs d;
    struct sk_err err;
    char path[100], run[100];
    snprintf(run, sizeof run, "%s/run", folder);
    assert_int_equal(mkdir(run, 0700), 0);
    setenv("RUNTIME_DIRECTORY", run, 1);
    assert_int_equal(chmod(run, 0777), 0);
    assert_int_equal(sk_launch_make_dirs(0, &d, &err), -SK_EIO);
    assert_non_null(strstr(err.msg, "no one else may write to"));
    assert_int_equal(chmod(run, 0700), 0);
    snprintf(path, sizeof path, "%s/link", folder);
    assert_int_equal(symlink(run, path), 0);
    setenv("RUNTIME_DIRECTORY", path, 1);
    assert_int_equal(sk_launch_make_dirs(0, &d, &err), -SK_EIO);
    unsetenv("RUNTIME_DIRECTORY");
}

static int setup(void **state)
{
    unsetenv("RUNTIME_DIRECTORY");
    unsetenv("OMPI_MCA_plm_rsh_agent");
    snprintf(folder, sizeof folder, "/tmp/skein-test-launch-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int teardown(void **state)
{
    char cmd[100];
    snprintf(cmd, sizeof cmd, "rm -rf %s", folder);
    return system(cmd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hosts),    cmocka_unit_test(test_bad_hosts),     cmocka_unit_test(test_read_hosts),
        cmocka_unit_test(test_agent),    cmocka_unit_test(test_check_hosts),   cmocka_unit_test(test_check),
        cmocka_unit_test(test_one_host), cmocka_unit_test(test_several_hosts), cmocka_unit_test(test_too_long),
        cmocka_unit_test(test_status),   cmocka_unit_test(test_dirs),          cmocka_unit_test(test_bad_dirs),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
