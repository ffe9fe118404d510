/* skein: a chat in the terminal with any server that speaks the OpenAI API. */
#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clients/client/plain.h"
#include "clients/skein/chat.h"
#include "clients/skein/command.h"
#include "clients/skein/input.h"
#include "clients/skein/interrupt.h"
#include "clients/skein/line.h"

enum { EXIT_OK = 0, EXIT_USAGE = 1, EXIT_UNREACHED = 2, EXIT_REFUSED = 3, EXIT_BROKEN = 4, EXIT_STOPPED = 130 };

static void usage(FILE *f)
{
    fputs("usage: skein [OPTION]...                 a chat, line by line; /help lists its commands\n"
          "       skein [OPTION]... QUESTION        one answer\n"
          "       COMMAND | skein [OPTION]... [QUESTION]   the input is added to the question\n\n",
          f);
    sk_conf_help(f, SK_PROG_CHAT);
    fputs("\nexit status: 0 done; 1 usage, a file or the input; 2 the server cannot be reached or trusted (TLS);\n"
          "3 it answered with an error; 4 its answer broke off or is none; 130 interrupted\n",
          f);
}

static int complain(const struct sk_err *err)
{
    char shown[sizeof err->msg];
    sk_plain_line(shown, sizeof shown, err->msg, strlen(err->msg));
    fprintf(stderr, "skein: %s\n", shown);
    return EXIT_USAGE;
}

static int exit_of(enum sk_ask_end end)
{
    static const int exits[] = {
        [SK_ASK_DONE] = EXIT_OK,         [SK_ASK_FAILED] = EXIT_USAGE,  [SK_ASK_UNREACHED] = EXIT_UNREACHED,
        [SK_ASK_REFUSED] = EXIT_REFUSED, [SK_ASK_BROKEN] = EXIT_BROKEN, [SK_ASK_STOPPED] = EXIT_STOPPED};
    return exits[end];
}

/* ---- one question ---- */

static int read_question(const char *word, struct sk_buf *b, struct sk_err *err)
{
    int rc = word ? sk_buf_str(b, word) : 0;
    if (rc)
        return sk_err_set(err, -rc, NULL, "the question: %s", sk_err_text(rc));
    if (isatty(STDIN_FILENO))
        return 0;
    const size_t n_word = b->n;
    if (n_word)
        sk_buf_str(b, "\n\n");
    rc = sk_input_pipe(b, STDIN_FILENO, err);
    while (!rc && b->n && strchr(" \t\r\n", b->p[b->n - 1]))
        b->p[--b->n] = '\0';
    return rc;
}

static int ask_once(struct sk_chat *c, const char *word)
{
    struct sk_err err = {0};
    struct sk_buf question;
    sk_buf_init(&question, SK_INPUT_MAX_BYTES);
    int rc = read_question(word, &question, &err);
    if (!rc && question.n == 0)
        rc = sk_err_set(&err, SK_EMISSING, NULL, "there is no question");
    if (!rc)
        rc = sk_talk_question(&c->talk, question.p, question.n, &err);
    sk_buf_done(&question);
    if (rc || (rc = sk_interrupt_open(&err))) /* until now ^C just ends us */
        return complain(&err);
    enum sk_ask_end end = sk_chat_ask(c, &err);
    if (end != SK_ASK_DONE)
        complain(&err);
    return exit_of(end);
}

/* ---- a chat ---- */

static void ask(struct sk_chat *c)
{
    struct sk_err err = {0};
    enum sk_ask_end end = sk_chat_ask(c, &err);
    if (end == SK_ASK_STOPPED)
        fputs("[stopped; /regen asks again]\n", stderr);
    else if (end != SK_ASK_DONE)
        complain(&err);
}

/* False: the user leaves. */
static bool take(struct sk_chat *c, const struct sk_buf *text)
{
    struct sk_err err = {0};
    const char *s = text->p;
    if (s[strspn(s, " \t\n")] == '\0')
        return true;
    switch (sk_command_run(c, s)) {
    case SK_COMMAND_QUIT:
        return false;
    case SK_COMMAND_ASK:
        ask(c);
        break;
    case SK_COMMAND_RUN:
        break;
    case SK_COMMAND_NONE:
        s += *s == '/'; /* it was doubled */
        if (sk_talk_question(&c->talk, s, text->n - (size_t)(s - text->p), &err))
            complain(&err);
        else
            ask(c);
        break;
    }
    return true;
}

static void converse(struct sk_chat *c, struct sk_line *l)
{
    struct sk_input in;
    const char *line;
    size_t n;
    sk_input_init(&in);
    for (;;) {
        struct sk_err err = {0};
        int rc = sk_line_read(l, in.is_open ? "| " : "> ", &line, &n);
        if (rc == -SK_ECANCEL) {
            fputc('\n', stderr);
            sk_input_clear(&in);
            continue;
        }
        if (rc <= 0)
            break;
        rc = sk_input_line(&in, line, n, &err);
        if (rc < 0)
            complain(&err);
        else if (rc && !take(c, &in.text))
            break;
    }
    sk_input_done(&in);
}

static int chat(struct sk_chat *c)
{
    struct sk_err err = {0};
    struct sk_line *l;
    char shown[SK_CHAT_MAX_MODEL];
    int rc = sk_interrupt_open(&err);
    if (rc || (rc = sk_line_open(&l, &err)))
        return complain(&err);
    if (err.code)
        complain(&err); /* without a history, then */
    if (sk_chat_find_model(c, &err) == SK_ASK_DONE) {
        sk_plain_line(shown, sizeof shown, c->model, strlen(c->model));
        fprintf(stderr, "%s. /help lists the commands, ^D leaves.\n", shown);
    } else {
        complain(&err); /* it may come back before the first question */
    }
    converse(c, l);
    sk_line_close(l);
    return EXIT_OK;
}

static enum sk_render_mode mode_of_stdout(void)
{
    const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");
    if (!isatty(STDOUT_FILENO))
        return SK_RENDER_RAW;
    return (no_color && *no_color) || !term || strcmp(term, "dumb") == 0 ? SK_RENDER_PLAIN : SK_RENDER_STYLED;
}

int main(int argc, char **argv)
{
    static struct sk_chat c; /* large: it holds every option */
    static struct sk_conf conf;
    struct sk_err err = {0};
    const char *word = NULL;
    int n_word = 0;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-h") == 0 || strcmp(argv[i], "--help") == 0) {
            usage(stdout);
            return EXIT_OK;
        }
        if (strcmp(argv[i], "--version") == 0) {
            puts("skein " SK_VERSION);
            return EXIT_OK;
        }
    }
    /* the line editor counts columns; a model's text is UTF-8 wherever we are */
    setlocale(LC_CTYPE, "");
    if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
        setlocale(LC_CTYPE, "C.UTF-8");
    signal(SIGPIPE, SIG_IGN); /* a reader that left is an error of the write */

    sk_conf_defaults(&conf);
    if (sk_conf_args(&conf, SK_PROG_CHAT, argc, argv, &word, 1, &n_word, &err) ||
        sk_chat_init(&c, &conf, mode_of_stdout(), &err))
        return complain(&err);
    int status = !n_word && isatty(STDIN_FILENO) ? chat(&c) : ask_once(&c, word);
    sk_chat_done(&c);
    return status;
}
