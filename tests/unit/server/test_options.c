#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "server/options.h"

static char dir[64];

static const char *put(const char *name, const char *text)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    return path;
}

static int open_dir(void **state)
{
    snprintf(dir, sizeof dir, "/tmp/sk-options-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

static void test_next(void **state)
{
    const char *at = " a:1,, unix:/b c ,d";
    char word[16];
    assert_true(sk_options_next(&at, word, sizeof word));
    assert_string_equal(word, "a:1");
    assert_true(sk_options_next(&at, word, sizeof word));
    assert_string_equal(word, "unix:/b c");
    assert_true(sk_options_next(&at, word, 1));
    assert_string_equal(word, "");
    assert_false(sk_options_next(&at, word, sizeof word));
    assert_false(sk_options_next(&at, word, sizeof word));
    at = ", ,";
    assert_false(sk_options_next(&at, word, sizeof word));
}

static void test_mode(void **state)
{
    static const struct {
        const char *text;
        int rc;
        unsigned mode;
    } cases[] = {{"0660", 0, 0660},       {"777", 0, 0777},       {"0", 0, 0},           {"1000", -SK_ERANGE, 0},
                 {"rw", -SK_EINVAL, 0},   {"", -SK_EINVAL, 0},    {"68", -SK_EINVAL, 0}, {"-1", -SK_EINVAL, 0},
                 {"66 0", -SK_EINVAL, 0}, {" 660", -SK_EINVAL, 0}};
    struct sk_conf c;
    struct sk_err err;
    sk_conf_defaults(&c);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        unsigned mode = 0;
        snprintf(c.socket_mode, sizeof c.socket_mode, "%s", cases[i].text);
        assert_int_equal(sk_options_mode(&c, &mode, &err), cases[i].rc);
        assert_int_equal(mode, cases[i].mode);
    }
}

static void read_options(struct sk_conf *c, char *key_file)
{
    char *argv[] = {"skeind", key_file, NULL};
    struct sk_err err;
    assert_int_equal(sk_options_read(c, key_file ? 2 : 1, argv, &err), 0);
}

static void test_credentials(void **state)
{
    struct sk_conf c;
    char own[] = "--api-key-file=/own", path[128];
    unsetenv("CREDENTIALS_DIRECTORY");
    read_options(&c, NULL);
    assert_string_equal(c.api_key_file, "");
    setenv("CREDENTIALS_DIRECTORY", dir, 1);
    read_options(&c, NULL); /* it is empty */
    assert_string_equal(c.api_key_file, "");
    snprintf(path, sizeof path, "%s", put("skein_api-keys", ""));
    read_options(&c, NULL);
    assert_string_equal(c.api_key_file, path);
    snprintf(path, sizeof path, "%s", put("api-keys", ""));
    read_options(&c, NULL);
    assert_string_equal(c.api_key_file, path);
    read_options(&c, own);
    assert_string_equal(c.api_key_file, "/own");
    unsetenv("CREDENTIALS_DIRECTORY");
}

struct complaints {
    int n;
    char params[256];
};

static void complain(void *arg, const struct sk_err *why)
{
    struct complaints *c = arg;
    size_t n = strlen(c->params);
    assert_true(why->msg[0]);
    snprintf(c->params + n, sizeof c->params - n, "%s;", why->param);
    c->n++;
}

/* Every mistake is told, not only the first. */
static void test_check(void **state)
{
    struct sk_conf c;
    struct complaints told = {0};
    sk_conf_defaults(&c);
    snprintf(c.model, sizeof c.model, "%s", dir);
    assert_int_equal(sk_options_check(&c, complain, &told), 0);

    snprintf(c.listen, sizeof c.listen, "127.0.0.1:1,nonsense");
    snprintf(c.admin_listen, sizeof c.admin_listen, "unix:");
    snprintf(c.socket_mode, sizeof c.socket_mode, "x");
    snprintf(c.tls_cert, sizeof c.tls_cert, "/nowhere");
    snprintf(c.cors_origins, sizeof c.cors_origins, "no origin");
    snprintf(c.api_key_file, sizeof c.api_key_file, "%s", put("keys", "# none\n"));
    snprintf(c.chat_template, sizeof c.chat_template, "/nowhere");
    snprintf(c.model, sizeof c.model, "/nowhere");
    assert_int_equal(sk_options_check(&c, complain, &told), 8);
    assert_int_equal(told.n, 8);
    assert_int_equal(strncmp(told.params, "listen;admin-listen;socket-mode;tls-key;cors-origins;api-key-file;", 66), 0);

    sk_conf_defaults(&c);
    snprintf(c.model, sizeof c.model, "/dev/null");
    snprintf(c.cache_dir, sizeof c.cache_dir, "%s", put("file", ""));
    snprintf(c.flight_dir, sizeof c.flight_dir, "%s/file/below", dir);
    snprintf(c.engine_record, sizeof c.engine_record, "%s/missing/record", dir);
    memset(&told, 0, sizeof told);
    sk_options_check(&c, complain, &told);
    assert_string_equal(told.params, "model;cache-dir;flight-dir;engine-record;");
    snprintf(c.model, sizeof c.model, "%s/file", dir);
    snprintf(c.cache_dir, sizeof c.cache_dir, "%s/is/made", dir);
    snprintf(c.flight_dir, sizeof c.flight_dir, "%s", dir);
    snprintf(c.engine_record, sizeof c.engine_record, "%s/record", dir);
    assert_int_equal(sk_options_check(&c, complain, &told), 0);

    c.listen[0] = '\0';
    for (int i = 0; i < 20; i++) /* too many */
        strcat(c.listen, ":1,");
    memset(&told, 0, sizeof told);
    sk_options_check(&c, complain, &told);
    assert_int_equal(strncmp(told.params, "listen;", 7), 0);
}

static void check_twice(const char *listen, const char *admin_listen, const char *params)
{
    struct sk_conf c;
    struct complaints told = {0};
    struct sk_err err;
    sk_conf_defaults(&c);
    snprintf(c.model, sizeof c.model, "%s", dir);
    assert_int_equal(sk_conf_set(&c, SK_PROG_DAEMON, "admin-listen", admin_listen, &err), 0);
    assert_int_equal(sk_conf_set(&c, SK_PROG_DAEMON, "listen", listen, &err), 0);
    sk_options_check(&c, complain, &told);
    assert_string_equal(told.params, params);
}

static void test_named_twice(void **state)
{
    check_twice("127.0.0.1:80,[::1]:80,unix:/a", "127.0.0.1:81,unix:/b", "");
    check_twice("127.0.0.1:80, 127.0.0.1:80", "", "listen;");
    check_twice("unix:/a:0,unix:/a:0", "", "listen;");
    check_twice("127.0.0.1:80", "unix:/b,127.0.0.1:80", "admin-listen;");
    check_twice("127.0.0.1:0,127.0.0.1:0", "127.0.0.1:0", ""); /* each takes another port */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_next), cmocka_unit_test(test_mode),
                                       cmocka_unit_test_setup_teardown(test_credentials, open_dir, remove_dir),
                                       cmocka_unit_test_setup_teardown(test_check, open_dir, remove_dir),
                                       cmocka_unit_test_setup_teardown(test_named_twice, open_dir, remove_dir)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
