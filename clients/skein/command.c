#include "clients/skein/command.h"

#include <string.h>

#include "clients/client/plain.h"
#include "comm/base/conf_row.h"
#include "comm/base/mem.h"

enum { MAX_SHOWN = 1 << 20 };

/* Shows text of any origin on a line of its own. */
static void note(struct sk_chat *c, const char *before, const char *s)
{
    struct sk_buf b;
    sk_buf_init(&b, MAX_SHOWN);
    sk_plain_put(&b, s, strlen(s));
    fprintf(c->notes, "%s%s\n", before, b.p ? b.p : "");
    sk_buf_done(&b);
}

static enum sk_command report(struct sk_chat *c, int rc, const struct sk_err *err)
{
    if (rc)
        note(c, "skein: ", err->msg);
    return SK_COMMAND_RUN;
}

/* ---- one function each; `arg` is what follows the word, "" if nothing ---- */

static enum sk_command reset(struct sk_chat *c, const char *arg)
{
    sk_talk_reset(&c->talk);
    fputs("[a new conversation]\n", c->notes);
    return SK_COMMAND_RUN;
}

static enum sk_command save(struct sk_chat *c, const char *arg)
{
    struct sk_err err = {0};
    int rc = *arg ? sk_talk_save(&c->talk, arg, &err) : sk_err_set(&err, SK_EMISSING, NULL, "/save needs a file");
    if (!rc)
        note(c, "[saved to] ", arg);
    return report(c, rc, &err);
}

static enum sk_command load(struct sk_chat *c, const char *arg)
{
    struct sk_err err = {0};
    int rc = *arg ? sk_talk_load(&c->talk, arg, &err) : sk_err_set(&err, SK_EMISSING, NULL, "/load needs a file");
    if (!rc)
        fprintf(c->notes, "[%zu messages]\n", c->talk.n_message);
    return report(c, rc, &err);
}

static enum sk_command model(struct sk_chat *c, const char *arg)
{
    struct sk_err err = {0};
    if (strlen(arg) >= sizeof c->model)
        return report(
            c, sk_err_set(&err, SK_ERANGE, NULL, "a model's name has at most %d bytes", SK_CHAT_MAX_MODEL - 1), &err);
    if (*arg)
        strcpy(c->model, arg);
    else if (sk_chat_find_model(c, &err) != SK_ASK_DONE)
        return report(c, -err.code, &err);
    note(c, "model: ", c->model);
    return SK_COMMAND_RUN;
}

static enum sk_command set_system(struct sk_chat *c, const char *arg)
{
    struct sk_err err = {0};
    int rc = sk_talk_system(&c->talk, arg, strlen(arg), &err);
    if (!rc)
        fputs(*arg ? "[from the next question on]\n" : "[no system prompt]\n", c->notes);
    return report(c, rc, &err);
}

static void show_settings(struct sk_chat *c)
{
    for (const struct sk_conf_row *r = sk_conf_rows; r < sk_conf_rows + sk_conf_n_rows; r++) {
        struct sk_buf b;
        if (!(r->prog & SK_OPT_FIELD))
            continue;
        sk_buf_init(&b, MAX_SHOWN);
        if (sk_conf_row_is_given(r, &c->conf))
            sk_conf_row_put_value(&b, r, &c->conf);
        fprintf(c->notes, "  %-20s", r->name);
        note(c, "", b.n ? b.p : "(the server's default)");
        sk_buf_done(&b);
    }
}

static enum sk_command set(struct sk_chat *c, const char *arg)
{
    struct sk_err err = {0};
    char name[64];
    const size_t n = strcspn(arg, " =");
    const char *value = arg + n + strspn(arg + n, " =");
    if (!*arg) {
        show_settings(c);
        return SK_COMMAND_RUN;
    }
    sk_plain_line(name, sizeof name, arg, n);
    for (char *p = name; *p; p++) /* the API's spelling will do, too */
        if (*p == '_')
            *p = '-';
    const struct sk_conf_row *r = sk_conf_row_find(SK_OPT_FIELD, name);
    if (r && !*value) {
        sk_conf_row_give(r, &c->conf, false);
        fprintf(c->notes, "%s: the server's default\n", name);
        return SK_COMMAND_RUN;
    }
    int rc = sk_conf_set(&c->conf, SK_OPT_FIELD, name, value, &err);
    if (!rc) {
        fprintf(c->notes, "%s: ", name);
        note(c, "", value);
    }
    return report(c, rc, &err);
}

static enum sk_command again(struct sk_chat *c, const char *arg)
{
    if (sk_talk_again(&c->talk))
        return SK_COMMAND_ASK;
    fputs("skein: no question was asked yet\n", c->notes);
    return SK_COMMAND_RUN;
}

static enum sk_command stats(struct sk_chat *c, const char *arg)
{
    struct sk_err err = {0};
    if (!*arg)
        sk_chat_show_stats(c);
    else
        return report(c, sk_conf_set(&c->conf, SK_PROG_CHAT, "stats", arg, &err), &err);
    return SK_COMMAND_RUN;
}

static enum sk_command quit(struct sk_chat *c, const char *arg)
{
    return SK_COMMAND_QUIT;
}

static enum sk_command help(struct sk_chat *c, const char *arg);

static const struct {
    const char *word, *arg, *text;
    enum sk_command (*run)(struct sk_chat *c, const char *arg);
} commands[] = {
    {"/help", "", "this list", help},
    {"/reset", "", "forget the conversation, but not the system prompt", reset},
    {"/save", "FILE", "write the conversation to FILE, as JSON", save},
    {"/load", "FILE", "go on with the conversation in FILE", load},
    {"/model", "[NAME]", "ask the model NAME from now on; show which one it is", model},
    {"/system", "[TEXT]", "set the system prompt; without TEXT there is none", set_system},
    {"/set", "[NAME [VALUE]]", "set a sampling option, such as temperature 0.7; without VALUE: the server's default",
     set},
    {"/regen", "", "ask the last question again", again},
    {"/stats", "[on|off]", "figures of the last answer; on: after each one", stats},
    {"/quit", "", "leave (also ^D)", quit},
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static enum sk_command help(struct sk_chat *c, const char *arg)
{
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(c->notes, "  %-8s%-16s%s\n", commands[i].word, commands[i].arg, commands[i].text);
    fputs("A line that ends in \\ goes on in the next one; \"\"\" begins and ends a text of several lines;\n"
          "// begins a question with a slash. ^C stops an answer.\n",
          c->notes);
    return SK_COMMAND_RUN;
}

enum sk_command sk_command_run(struct sk_chat *c, const char *text)
{
    static const char blanks[] = " \t\n";
    enum sk_command done = SK_COMMAND_RUN;
    if (*text != '/' || text[1] == '/')
        return SK_COMMAND_NONE;
    const size_t n = strcspn(text, blanks);
    const char *from = text + n + strspn(text + n, blanks);
    size_t n_arg = strlen(from);
    while (n_arg && strchr(blanks, from[n_arg - 1]))
        n_arg--;
    char *arg = sk_strndup(from, n_arg);
    int i = 0;
    while (i < N_COMMANDS && (strlen(commands[i].word) != n || memcmp(commands[i].word, text, n) != 0))
        i++;
    if (!arg)
        fputs("skein: out of memory\n", c->notes);
    else if (i == N_COMMANDS)
        note(c, "skein: no such command (/help lists them): ", text);
    else
        done = commands[i].run(c, arg);
    sk_free(arg);
    return done;
}
