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

#include "clients/skein/talk.h"
#include "comm/base/mem.h"

static char dir[] = "/tmp/test_talk_XXXXXX";

static int set_up(void **state)
{
    return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state)
{
    return rmdir(dir); /* every test has cleaned up */
}

static int say(struct sk_talk *t, const char *question, const char *answer, bool is_partial)
{
    int rc = question ? sk_talk_question(t, question, strlen(question), NULL) : 0;
    return rc || !answer ? rc : sk_talk_answer(t, answer, strlen(answer), is_partial, NULL);
}

static void check_request(const struct sk_talk *t, const struct sk_conf *c, const char *want)
{
    struct sk_buf b;
    sk_buf_init(&b, 1 << 16);
    assert_int_equal(sk_talk_request(t, "m\"1", c, &b), 0);
    assert_string_equal(b.p, want);
    sk_buf_done(&b);
}

static void test_request(void **state)
{
    struct sk_conf c;
    struct sk_talk t;
    sk_conf_defaults(&c);
    sk_talk_init(&t);
    say(&t, "q1", "a1", true);
    say(&t, "q\n2", NULL, false);
    check_request(&t, &c,
                  "{\"model\":\"m\\\"1\",\"messages\":[{\"role\":\"user\",\"content\":\"q1\"},"
                  "{\"role\":\"assistant\",\"content\":\"a1\"},{\"role\":\"user\",\"content\":\"q\\n2\"}],"
                  "\"stream\":true}");
    sk_talk_reset(&t);
    sk_talk_system(&t, "be brief", 8, NULL);
    say(&t, "q", NULL, false);
    sk_conf_set(&c, SK_PROG_CHAT, "top-p", "0.9", NULL);
    sk_conf_set(&c, SK_PROG_CHAT, "seed", "7", NULL);
    sk_conf_set(&c, SK_PROG_CHAT, "stop", "\"", NULL);
    sk_conf_set(&c, SK_PROG_CHAT, "stats", "on", NULL);
    check_request(&t, &c,
                  "{\"model\":\"m\\\"1\",\"messages\":[{\"role\":\"system\",\"content\":\"be brief\"},"
                  "{\"role\":\"user\",\"content\":\"q\"}],\"stream\":true,"
                  "\"stream_options\":{\"include_usage\":true},\"top_p\":0.9,\"seed\":7,\"stop\":\"\\\"\"}");
    sk_talk_done(&t);
}

static void test_unanswered_question_is_replaced(void **state)
{
    struct sk_talk t;
    sk_talk_init(&t);
    assert_false(sk_talk_again(&t));
    say(&t, "first", NULL, false);
    say(&t, "second", NULL, false);
    assert_int_equal(t.n_message, 1);
    assert_string_equal(t.messages[0].text, "second");
    assert_int_equal(t.n_bytes, 6);
    say(&t, NULL, "answer", false);
    assert_true(sk_talk_again(&t));
    assert_int_equal(t.n_message, 1);
    assert_true(sk_talk_again(&t));
    sk_talk_done(&t);
}

static void test_limits(void **state)
{
    struct sk_talk t;
    struct sk_err err = {0};
    char *big = malloc(SK_TALK_MAX_BYTES + 1);
    assert_non_null(big);
    memset(big, 'x', SK_TALK_MAX_BYTES + 1);
    sk_talk_init(&t);
    assert_int_equal(sk_talk_question(&t, big, SK_TALK_MAX_BYTES + 1, &err), -SK_ETOOBIG);
    assert_non_null(strstr(err.msg, "16777216"));
    assert_int_equal(sk_talk_question(&t, big, SK_TALK_MAX_BYTES, &err), 0);
    assert_int_equal(sk_talk_question(&t, big, SK_TALK_MAX_BYTES, &err), 0); /* in its place */
    assert_int_equal(sk_talk_answer(&t, "x", 1, false, &err), -SK_ETOOBIG);
    assert_int_equal(t.n_message, 1);
    sk_talk_reset(&t);
    for (int i = 0; i < SK_TALK_MAX_MESSAGES; i++)
        assert_int_equal(i % 2 ? say(&t, NULL, "a", false) : say(&t, "q", NULL, false), 0);
    assert_int_equal(sk_talk_question(&t, "q", 1, &err), -SK_ETOOBIG);
    assert_non_null(strstr(err.msg, "4096"));
    assert_int_equal(sk_talk_question(&t, "\xFF", 1, &err), -SK_EUTF8);
    sk_talk_done(&t);
    free(big);
}

static void test_save_and_load(void **state)
{
    struct sk_talk t, again;
    struct stat st;
    char path[64];
    snprintf(path, sizeof path, "%s/talk.json", dir);
    sk_talk_init(&t);
    sk_talk_init(&again);
    sk_talk_system(&t, "s", 1, NULL);
    say(&t, "q \"\\ \xC3\xA4\n", "a\x1b", true);
    say(&t, "q2", "", false);
    assert_int_equal(sk_talk_save(&t, path, NULL), 0);
    assert_int_equal(sk_talk_save(&t, path, NULL), 0); /* over the old one */
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    say(&again, "forgotten", NULL, false);
    assert_int_equal(sk_talk_load(&again, path, NULL), 0);
    assert_int_equal(again.n_message, 4);
    assert_int_equal(again.n_bytes, t.n_bytes);
    assert_string_equal(again.system.text, "s");
    for (size_t i = 0; i < 4; i++) {
        assert_string_equal(again.messages[i].text, t.messages[i].text);
        assert_int_equal(again.messages[i].is_answer, t.messages[i].is_answer);
        assert_int_equal(again.messages[i].is_partial, t.messages[i].is_partial);
    }
    unlink(path);
    sk_talk_done(&t);
    sk_talk_done(&again);
}

static void test_save_fails(void **state)
{
    struct sk_talk t;
    struct sk_err err = {0};
    char path[64];
    sk_talk_init(&t);
    assert_int_equal(sk_talk_save(&t, "/nonexistent/talk.json", &err), -SK_EIO);
    assert_non_null(strstr(err.msg, "/nonexistent/talk.json"));
    snprintf(path, sizeof path, "%s/d", dir);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(sk_talk_save(&t, path, &err), -SK_EIO); /* nor is anything left beside it */
    assert_int_equal(rmdir(path), 0);
    sk_talk_done(&t);
}

static void check_bad_file(const char *json, const char *part)
{
    struct sk_talk t;
    struct sk_err err = {0};
    char path[64];
    snprintf(path, sizeof path, "%s/bad.json", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(json, f);
    fclose(f);
    sk_talk_init(&t);
    say(&t, "kept", NULL, false);
    assert_true(sk_talk_load(&t, path, &err) < 0);
    if (!strstr(err.msg, part) || !strstr(err.msg, path))
        fail_msg("'%s' is not in '%s'", part, err.msg);
    assert_int_equal(t.n_message, 1);
    assert_string_equal(t.messages[0].text, "kept");
    sk_talk_done(&t);
    unlink(path);
}

static void test_bad_files(void **state)
{
    check_bad_file("", "");
    check_bad_file("{\"messages\":[]", "byte");
    check_bad_file("[]", "array \"messages\"");
    check_bad_file("{\"messages\":{}}", "array \"messages\"");
    check_bad_file("{\"messages\":[],\"x\":1}", "array \"messages\" only");
    check_bad_file("{\"messages\":[1]}", "messages[0]: it must be an object");
    check_bad_file("{\"messages\":[{\"role\":\"user\"}]}", "messages[0]: role and content");
    check_bad_file("{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"tool\",\"content\":\"\"}]}",
                   "messages[1]: role must be");
    check_bad_file("{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"system\",\"content\":\"\"}]}",
                   "messages[1]: only the first");
    check_bad_file("{\"messages\":[{\"role\":\"user\",\"content\":\"q\",\"name\":\"n\"}]}", "only");
    check_bad_file("{\"messages\":[{\"role\":\"user\",\"content\":\"q\",\"partial\":true}]}", "assistant");
    check_bad_file("{\"messages\":[{\"role\":\"assistant\",\"content\":\"q\",\"partial\":1}]}", "true or false");
}

static void test_out_of_memory(void **state)
{
    struct sk_talk t;
    for (int n = 1;; n++) {
        sk_talk_init(&t);
        sk_mem_fail_at((uint64_t)n, 0);
        int rc = say(&t, "q", "a", false);
        sk_mem_fail_at(0, 0);
        sk_talk_done(&t);
        if (rc == 0)
            break;
        assert_int_equal(rc, -SK_ENOMEM);
        assert_true(n < 10);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_request),       cmocka_unit_test(test_unanswered_question_is_replaced),
        cmocka_unit_test(test_limits),        cmocka_unit_test(test_save_and_load),
        cmocka_unit_test(test_save_fails),    cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
