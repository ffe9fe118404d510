#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "engine/build/cache.h"
#include "engine/build/outdir.h"

static char scratch[64], cache[96], model[96];

static void copy(const char *from, const char *to)
{
    static char buf[1 << 20];
    FILE *in = fopen(from, "r"), *out = fopen(to, "w");

    assert_true(in && out);
    size_t n = fread(buf, 1, sizeof buf, in);
    assert_int_equal(fwrite(buf, 1, n, out), n);
    fclose(in);
    fclose(out);
}

static int setup(void **state)
{
    const char *root = getenv("SK_SRCDIR");
    char from[512];

    strcpy(scratch, "/tmp/skein-test-XXXXXX");
    if (!mkdtemp(scratch))
        return -1;
    snprintf(cache, sizeof cache, "%s/a/b", scratch); /* does not exist yet */
    snprintf(model, sizeof model, "%s/m.gguf", scratch);
    snprintf(from, sizeof from, "%s/tests/golden/gguf/llama-q4_0.gguf", root ? root : ".");
    copy(from, model);
    return 0;
}

static int teardown(void **state)
{
    char path[160];

    unlink(model);
    rmdir(cache);
    snprintf(path, sizeof path, "%s/a", scratch);
    rmdir(path);
    return rmdir(scratch); /* nothing else may be left */
}

static int n_built; /* builds that came to their end */

static int count(void *arg, int percent)
{
    n_built += percent == 100;
    return 0;
}

static void get(const char *dtype, char *ret_path, size_t n)
{
    struct sk_build_conf c = {.src = model, .dtype = dtype, .n_thread = 1, .progress = count};
    struct sk_err err = {0};

    if (sk_cache_get(&c, cache, ret_path, n, &err))
        fail_msg("%s", err.msg);
    assert_true(sk_dir_is(ret_path));
}

static int n_entries(void)
{
    DIR *d = opendir(cache);
    int n = 0;

    for (struct dirent *e; d && (e = readdir(d));)
        n += e->d_name[0] != '.';
    if (d)
        closedir(d);
    return n;
}

static void prune(void)
{
    FILE *f = tmpfile();
    struct sk_err err = {0};

    if (sk_cache_prune(cache, f, &err))
        fail_msg("%s", err.msg);
    fclose(f);
}

static void test_get(void **state)
{
    char a[512], b[512];

    n_built = 0;
    get("keep", a, sizeof a);
    assert_int_equal(n_built, 1);
    get("keep", b, sizeof b);
    assert_int_equal(n_built, 1);
    assert_string_equal(a, b);
    get("f32", b, sizeof b);
    assert_int_equal(n_built, 2);
    assert_string_not_equal(a, b);
    assert_int_equal(n_entries(), 2); /* and no locks or temporary directories */

    struct sk_build_conf c = {.src = a, .dtype = "keep"};
    assert_int_equal(sk_cache_get(&c, cache, b, sizeof b, NULL), 0); /* an engine directory is itself */
    assert_string_equal(a, b);

    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    assert_int_equal(sk_cache_list(cache, f, NULL), 0);
    fclose(f);
    assert_non_null(strstr(text, "  m  "));
    assert_non_null(strstr(text, "keep"));
    assert_non_null(strstr(text, "m.gguf"));
    free(text);

    prune();
    assert_int_equal(n_entries(), 2);
    unlink(model);
    prune();
    assert_int_equal(n_entries(), 0);
}

static void test_key(void **state)
{
    char a[SK_CACHE_KEY], b[SK_CACHE_KEY];
    struct sk_err err = {0};

    assert_int_equal(sk_cache_key(model, "keep", a, &err), 0);
    assert_int_equal(sk_cache_key(model, "keep", b, &err), 0);
    assert_string_equal(a, b);
    assert_int_equal(sk_cache_key(model, "q8", b, &err), 0);
    assert_string_not_equal(a, b);
    struct timespec times[2] = {{.tv_sec = 1000, .tv_nsec = 1}, {.tv_sec = 1000, .tv_nsec = 1}};
    assert_int_equal(utimensat(AT_FDCWD, model, times, 0), 0);
    assert_int_equal(sk_cache_key(model, "keep", b, &err), 0);
    assert_string_not_equal(a, b);
    times[1].tv_nsec = 2;
    assert_int_equal(utimensat(AT_FDCWD, model, times, 0), 0);
    assert_int_equal(sk_cache_key(model, "keep", a, &err), 0);
    assert_string_not_equal(a, b);
    assert_int_equal(sk_cache_key("/does/not/exist", "keep", b, &err), -SK_ENOENT);
}

/* What a killed build leaves is removed by the next build and by prune. */
static void test_leftovers(void **state)
{
    char path[512], stale[600], file[640];
    FILE *f;

    get("keep", path, sizeof path);
    assert_int_equal(sk_outdir_remove(path, NULL), 0);
    for (int i = 0; i < 2; i++) {
        snprintf(stale, sizeof stale, "%s.tmp.99999999", path);
        assert_int_equal(mkdir(stale, 0755), 0);
        snprintf(file, sizeof file, "%s/weights.skw", stale);
        assert_non_null(f = fopen(file, "w"));
        fclose(f);
        if (i == 0)
            get("keep", path, sizeof path);
        else
            prune();
        assert_int_equal(n_entries(), 1);
        assert_true(sk_dir_is(path));
    }
    assert_int_equal(sk_outdir_remove(path, NULL), 0);
}

/* Two processes at once: one builds, both get it. */
static void test_two_processes(void **state)
{
    char path[512];
    int status;
    pid_t pid = fork();

    if (!pid) {
        struct sk_build_conf c = {.src = model, .dtype = "keep", .n_thread = 1};
        _exit(sk_cache_get(&c, cache, path, sizeof path, NULL) ? 1 : 0);
    }
    get("keep", path, sizeof path);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(n_entries(), 1);
    assert_int_equal(sk_outdir_remove(path, NULL), 0);
}

static void test_no_cache(void **state)
{
    struct sk_err err = {0};
    FILE *f = tmpfile();
    assert_int_equal(sk_cache_list("/does/not/exist", f, &err), 0);
    assert_int_equal(ftell(f), 0);
    fclose(f);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_get, setup, teardown),
        cmocka_unit_test_setup_teardown(test_key, setup, teardown),
        cmocka_unit_test_setup_teardown(test_leftovers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_two_processes, setup, teardown),
        cmocka_unit_test(test_no_cache),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
