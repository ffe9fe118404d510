#include "clients/skein/line.h"

#include <errno.h>
#include <histedit.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clients/skein/interrupt.h"
#include "comm/base/mem.h"

struct sk_line {
    EditLine *el;
    History *history;
    const char *prompt;
    char path[PATH_MAX]; /* of the history; "": none */
};

static char *prompt_of(EditLine *el)
{
    struct sk_line *l;
    el_get(el, EL_CLIENTDATA, &l);
    return (char *)l->prompt; /* libedit only reads it */
}

/* Makes a folder and those above it. */
static int make_folder(char *path)
{
    for (char *p = path + 1; *p; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        int rc = mkdir(path, 0700);
        *p = '/';
        if (rc != 0 && errno != EEXIST)
            return -SK_EIO;
    }
    return mkdir(path, 0700) != 0 && errno != EEXIST ? -SK_EIO : 0;
}

/* As the XDG Base Directory Specification says: a relative path counts as none. */
static int find_history(char path[PATH_MAX], struct sk_err *err)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    int n = state && *state == '/' ? snprintf(path, PATH_MAX, "%s/skein", state)
            : home && *home == '/' ? snprintf(path, PATH_MAX, "%s/.local/state/skein", home)
                                   : 0;
    if (n <= 0 || n + sizeof "/history" > PATH_MAX)
        return sk_err_set(err, SK_ENOENT, NULL, "no history: neither XDG_STATE_HOME nor HOME is usable");
    if (make_folder(path))
        return sk_err_errno(err, SK_EIO, NULL, "no history: %s", path);
    strcat(path, "/history");
    return 0;
}

int sk_line_open(struct sk_line **ret, struct sk_err *err)
{
    HistEvent event;
    struct sk_line *l = sk_calloc(1, sizeof *l);
    if (!l)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    l->prompt = "";
    l->el = el_init("skein", stdin, isatty(STDOUT_FILENO) ? stdout : stderr, stderr);
    l->history = history_init();
    if (!l->el || !l->history) {
        sk_line_close(l);
        return sk_err_set(err, SK_ENOMEM, NULL, "the line editor cannot be started");
    }
    history(l->history, &event, H_SETSIZE, SK_LINE_MAX_HISTORY);
    history(l->history, &event, H_SETUNIQUE, 1);
    el_set(l->el, EL_CLIENTDATA, l);
    el_set(l->el, EL_PROMPT, prompt_of);
    el_set(l->el, EL_EDITOR, "emacs");
    el_set(l->el, EL_HIST, history, l->history);
    el_set(l->el, EL_BIND, "^R", "em-inc-search-prev", NULL);
    el_source(l->el, NULL); /* the user's ~/.editrc */
    if (find_history(l->path, err))
        l->path[0] = '\0';
    else
        history(l->history, &event, H_LOAD, l->path);
    *ret = l;
    return 0;
}

void sk_line_close(struct sk_line *l)
{
    HistEvent event;
    if (l->history && l->path[0])
        history(l->history, &event, H_SAVE, l->path);
    if (l->history)
        history_end(l->history);
    if (l->el)
        el_end(l->el);
    sk_free(l);
}

int sk_line_read(struct sk_line *l, const char *prompt, const char **ret, size_t *ret_n)
{
    HistEvent event;
    int n = 0;
    l->prompt = prompt;
    sk_interrupt_take(); /* one that came too late for the answer */
    el_resize(l->el);
    el_set(l->el, EL_PREP_TERM, 1); /* before the prompt, so that what is typed at it is edited by us */
    const char *s = el_gets(l->el, &n);
    if (sk_interrupt_take())
        return -SK_ECANCEL;
    if (!s)
        return n < 0 ? -SK_EIO : 0;
    if (n > 0 && s[n - 1] == '\n')
        n--;
    if (n > 0)
        history(l->history, &event, H_ENTER, s);
    *ret = s;
    *ret_n = (size_t)n;
    return 1;
}
