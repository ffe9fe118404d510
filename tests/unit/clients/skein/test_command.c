#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clients/skein/command.h"

/* A session whose server cannot be reached, and what it notes. */
struct session {
    struct sk_chat chat;
    char *notes;
    size_t n_notes;
};

static int open_session(void **state)
{
    static struct sk_conf conf;
    struct session *s = calloc(1, sizeof *s);
    struct sk_err err = {0};
    sk_conf_defaults(&conf);
    sk_conf_set(&conf, SK_PROG_CHAT, "url", "http://127.0.0.1:1", NULL);
    sk_conf_set(&conf, SK_PROG_CHAT, "system", "brief", NULL);
    if (!s || sk_chat_init(&s->chat, &conf, SK_RENDER_PLAIN, &err))
        return -1;
    s->chat.notes = open_memstream(&s->notes, &s->n_notes);
    *state = s;
    return 0;
}

static int close_session(void **state)
{
    struct session *s = *state;
    sk_chat_done(&s->chat);
    fclose(s->chat.notes);
    free(s->notes);
    free(s);
    return 0;
}

/* The command's notes must contain `part`. */
static void check(struct session *s, const char *text, enum sk_command want, const char *part)
{
    fflush(s->chat.notes);
    const size_t before = s->n_notes;
    assert_int_equal(sk_command_run(&s->chat, text), want);
    fflush(s->chat.notes);
    if (!strstr(s->notes + before, part))
        fail_msg("%s: '%s' is not in '%s'", text, part, s->notes + before);
}

static void test_questions_are_none(void **state)
{
    check(*state, "hello /quit", SK_COMMAND_NONE, "");
    check(*state, "//etc/passwd, what is it?", SK_COMMAND_NONE, "");
    check(*state, "", SK_COMMAND_NONE, "");
}

static void test_help_and_unknown(void **state)
{
    check(*state, "/help", SK_COMMAND_RUN, "/regen");
    check(*state, "/nope", SK_COMMAND_RUN, "no such command (/help lists them): /nope");
    check(*state, "/\x1b[2J", SK_COMMAND_RUN, "/\\x1b[2J");
    check(*state, "/qui", SK_COMMAND_RUN, "no such command");
    check(*state, "/quit", SK_COMMAND_QUIT, "");
    check(*state, "/quit  ", SK_COMMAND_QUIT, "");
}

static void test_set(void **state)
{
    struct session *s = *state;
    check(s, "/set temperature 0.7", SK_COMMAND_RUN, "temperature: 0.7");
    assert_true(s->chat.conf.chat_temperature == 0.7);
    assert_true(sk_conf_given(&s->chat.conf, "temperature"));
    check(s, "/set top_p=0.5", SK_COMMAND_RUN, "top-p: 0.5");
    check(s, "/set", SK_COMMAND_RUN, "(the server's default)");
    check(s, "/set temperature", SK_COMMAND_RUN, "the server's default");
    assert_false(sk_conf_given(&s->chat.conf, "temperature"));
    check(s, "/set temperature hot", SK_COMMAND_RUN, "temperature must be a number");
    check(s, "/set temperature 3", SK_COMMAND_RUN, "from 0 to 2");
    check(s, "/set temprature 1", SK_COMMAND_RUN, "did you mean 'temperature'?");
    check(s, "/set url http://elsewhere", SK_COMMAND_RUN, "unknown option");
}

static void test_conversation(void **state)
{
    struct session *s = *state;
    assert_string_equal(s->chat.talk.system.text, "brief");
    check(s, "/regen", SK_COMMAND_RUN, "no question");
    assert_int_equal(sk_talk_question(&s->chat.talk, "q", 1, NULL), 0);
    assert_int_equal(sk_talk_answer(&s->chat.talk, "a", 1, false, NULL), 0);
    check(s, "/regen", SK_COMMAND_ASK, "");
    assert_int_equal(s->chat.talk.n_message, 1);
    check(s, "/system", SK_COMMAND_RUN, "no system prompt");
    assert_null(s->chat.talk.system.text);
    check(s, "/system be \n kind ", SK_COMMAND_RUN, "next question");
    assert_string_equal(s->chat.talk.system.text, "be \n kind");
    check(s, "/reset", SK_COMMAND_RUN, "new conversation");
    assert_int_equal(s->chat.talk.n_message, 0);
    assert_non_null(s->chat.talk.system.text);
}

static void test_save_and_load(void **state)
{
    struct session *s = *state;
    char path[] = "/tmp/test_command_XXXXXX", line[64];
    close(mkstemp(path));
    sk_talk_question(&s->chat.talk, "q", 1, NULL);
    snprintf(line, sizeof line, "/save %s", path);
    check(s, line, SK_COMMAND_RUN, path);
    sk_talk_reset(&s->chat.talk);
    snprintf(line, sizeof line, "/load %s", path);
    check(s, line, SK_COMMAND_RUN, "[1 messages]");
    assert_string_equal(s->chat.talk.messages[0].text, "q");
    unlink(path);
    check(s, line, SK_COMMAND_RUN, "skein: ");
    check(s, "/save", SK_COMMAND_RUN, "/save needs a file");
    check(s, "/load ", SK_COMMAND_RUN, "/load needs a file");
}

static void test_model_and_stats(void **state)
{
    struct session *s = *state;
    struct sk_err err = {0};
    check(s, "/model", SK_COMMAND_RUN, "cannot reach http://127.0.0.1:1/v1");
    assert_int_equal(sk_chat_find_model(&s->chat, &err), SK_ASK_UNREACHED);
    check(s, "/model some/name", SK_COMMAND_RUN, "model: some/name");
    assert_string_equal(s->chat.model, "some/name");
    check(s, "/stats", SK_COMMAND_RUN, "no answer yet");
    check(s, "/stats on", SK_COMMAND_RUN, "");
    assert_true(s->chat.conf.chat_stats);
    check(s, "/stats maybe", SK_COMMAND_RUN, "true or false");
}

static void test_unreached_question_stays(void **state)
{
    struct session *s = *state;
    struct sk_err err = {0};
    strcpy(s->chat.model, "m");
    sk_talk_question(&s->chat.talk, "q", 1, NULL);
    assert_int_equal(sk_chat_ask(&s->chat, &err), SK_ASK_UNREACHED);
    assert_non_null(strstr(err.msg, "cannot reach"));
    check(s, "/regen", SK_COMMAND_ASK, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_questions_are_none, open_session, close_session),
        cmocka_unit_test_setup_teardown(test_help_and_unknown, open_session, close_session),
        cmocka_unit_test_setup_teardown(test_set, open_session, close_session),
        cmocka_unit_test_setup_teardown(test_conversation, open_session, close_session),
        cmocka_unit_test_setup_teardown(test_save_and_load, open_session, close_session),
        cmocka_unit_test_setup_teardown(test_model_and_stats, open_session, close_session),
        cmocka_unit_test_setup_teardown(test_unreached_question_stays, open_session, close_session),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
