#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clients/client/target.h"

static void check_url(const char *url, const char *want)
{
    struct sk_target t;
    struct sk_err err = {0};
    const struct sk_target_conf c = {.url = url};
    if (sk_target_init(&t, &c, &err))
        fail_msg("%s: %s", url, err.msg);
    assert_string_equal(t.url, want);
    sk_target_done(&t);
}

static void check_bad(struct sk_target_conf c, const char *part)
{
    struct sk_target t;
    struct sk_err err = {0};
    assert_int_equal(sk_target_init(&t, &c, &err), -SK_EINVAL);
    if (!strstr(err.msg, part))
        fail_msg("'%s' is not in '%s'", part, err.msg);
}

static void test_urls(void **state)
{
    check_url("http://127.0.0.1:8080/v1", "http://127.0.0.1:8080/v1");
    check_url("http://127.0.0.1:8080/v1//", "http://127.0.0.1:8080/v1");
    check_url("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1");
    check_url("https://api.example.org/openai/v1/", "https://api.example.org/openai/v1");
    check_url("http://[::1]:8080/", "http://[::1]:8080/v1");
    check_url("unix:/run/skein.sock", "http://localhost/v1");
}

static void test_bad_urls(void **state)
{
    char longer[SK_TARGET_MAX_URL + 16] = "http://h/";
    memset(longer + 9, 'x', sizeof longer - 10);
    check_bad((struct sk_target_conf){.url = "localhost:8080"}, "must begin with http://");
    check_bad((struct sk_target_conf){.url = "file:///etc/passwd"}, "must begin with http://");
    check_bad((struct sk_target_conf){.url = "http://u:p@host/v1"}, "OPENAI_API_KEY");
    check_bad((struct sk_target_conf){.url = "http://host/v1?x=1"}, "nothing can follow");
    check_bad((struct sk_target_conf){.url = "http://host:99999/"}, "http://host:99999/");
    check_bad((struct sk_target_conf){.url = "unix:"}, "Unix socket");
    check_bad((struct sk_target_conf){.url = longer}, "1023 bytes");
    check_bad((struct sk_target_conf){.url = "http://h", .api_key = "a\r\nX-Evil: 1"}, "byte 1");
    check_bad((struct sk_target_conf){.url = "http://h", .ca_file = "/nonexistent.pem"}, "/nonexistent.pem");
}

static bool has_header(const struct sk_target *t, const char *line)
{
    for (const struct curl_slist *h = t->headers; h; h = h->next)
        if (strcmp(h->data, line) == 0)
            return true;
    return false;
}

static void test_key(void **state)
{
    struct sk_target t;
    struct sk_target_conf c = {.url = "http://h", .api_key = ""};
    setenv("OPENAI_API_KEY", "from-env", 1);
    assert_int_equal(sk_target_init(&t, &c, NULL), 0);
    assert_true(has_header(&t, "Authorization: Bearer from-env"));
    sk_target_done(&t);
    c.api_key = "given";
    assert_int_equal(sk_target_init(&t, &c, NULL), 0);
    assert_true(has_header(&t, "Authorization: Bearer given"));
    sk_target_done(&t);
    unsetenv("OPENAI_API_KEY");
}

static void check_handle(const struct sk_target *t, const char *path, const char *want)
{
    CURL *h;
    char *url;
    assert_int_equal(sk_target_handle(t, path, "{}", 2, &h, NULL), 0);
    curl_easy_getinfo(h, CURLINFO_EFFECTIVE_URL, &url);
    assert_string_equal(url, want);
    curl_easy_cleanup(h);
}

static void test_paths(void **state)
{
    struct sk_target t;
    const struct sk_target_conf c = {.url = "http://h:1/a/v1"};
    assert_int_equal(sk_target_init(&t, &c, NULL), 0);
    check_handle(&t, "/models", "http://h:1/a/v1/models");
    check_handle(&t, "//metrics", "http://h:1/metrics");
    sk_target_done(&t);
}

static void check_words(const char *body, const char *want)
{
    char words[64];
    sk_target_words(words, sizeof words, body, strlen(body));
    assert_string_equal(words, want);
}

static void test_words(void **state)
{
    check_words("{\"error\":{\"message\":\"no \\u001b[2J room\"}}", "no \\x1b[2J room");
    check_words("{\"error\":\"Unauthorized\"}", "Unauthorized");
    check_words("{\"message\":\"m\"}", "m");
    check_words("\r\n <html>\n", "<html> ");
    check_words("{\"a\":1}", "{\"a\":1}");
    check_words("", "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_urls),  cmocka_unit_test(test_bad_urls), cmocka_unit_test(test_key),
        cmocka_unit_test(test_paths), cmocka_unit_test(test_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
