#include "comm/base/conf.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "comm/base/buf.h"
#include "comm/base/mem.h"

#define MAX_FILE_BYTES  (1 << 20)
#define MAX_DROPINS     256
#define MAX_NAMES_BYTES (MAX_DROPINS * 256)

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* Makes [*s, *end) a string without the white space around it. */
static char *trim(char *s, char *end)
{
    while (s < end && is_space(*s))
        s++;
    while (end > s && is_space(end[-1]))
        end--;
    *end = '\0';
    return s;
}

/* One line of a file, without its end; it is changed. A value in double quotes is what is between them: so blanks at
 * its ends can be said. */
static int set_line(struct sk_conf *c, unsigned prog, char *line, size_t n, struct sk_err *err)
{
    if (memchr(line, '\0', n))
        return sk_err_set(err, SK_EINVAL, NULL, "NUL byte");
    char *s = trim(line, line + n);
    if (*s == '#' || *s == '\0')
        return 0;
    char *eq = strchr(s, '=');
    if (!eq)
        return sk_err_set(err, SK_EINVAL, NULL, "expected 'name = value', not '%s'", s);
    char *value = trim(eq + 1, s + strlen(s));
    char *name = trim(s, eq);
    size_t n_value = strlen(value);
    if (n_value >= 2 && value[0] == '"' && value[n_value - 1] == '"') {
        value[n_value - 1] = '\0';
        value++;
    }
    if (strcmp(name, "config") == 0)
        return sk_err_set(err, SK_EINVAL, name, "a configuration file cannot name another one");
    return sk_conf_set(c, prog, name, value, err);
}

int sk_conf_text(struct sk_conf *c, unsigned prog, const char *path, const char *s, size_t n, struct sk_err *err)
{
    int rc = 0;
    struct sk_err why = {0};
    char *text = sk_malloc(n + 1);
    if (!text)
        return sk_err_set(err, SK_ENOMEM, NULL, "%s: out of memory", path);
    memcpy(text, s, n);
    text[n] = '\0';
    int n_line = 1;
    for (char *line = text, *end = text + n; line <= end; n_line++) {
        char *stop = memchr(line, '\n', (size_t)(end - line));
        if (!stop)
            stop = end;
        rc = set_line(c, prog, line, (size_t)(stop - line), &why);
        if (rc) {
            sk_err_set(err, -rc, why.param, "%s:%d: %s", path, n_line, why.msg);
            break;
        }
        line = stop + 1;
    }
    sk_free(text);
    return rc;
}

int sk_conf_file(struct sk_conf *c, unsigned prog, const char *path, struct sk_err *err)
{
    struct sk_buf b;
    sk_buf_init(&b, MAX_FILE_BYTES);
    int rc = sk_buf_file(&b, path, err);
    if (rc == 0)
        rc = sk_conf_text(c, prog, path, b.p, b.n, err);
    sk_buf_done(&b);
    return rc;
}

/* ---- drop-ins ---- */

static bool is_dropin(const char *name)
{
    size_t n = strlen(name);
    return name[0] != '.' && n > 5 && strcmp(name + n - 5, ".conf") == 0;
}

/* Appends the names that count, each with its NUL. */
static int list_dropins(const char *dir, struct sk_buf *names, int *ret_n, struct sk_err *err)
{
    DIR *d = opendir(dir);
    if (!d && errno == ENOENT)
        return 0;
    if (!d)
        return sk_err_errno(err, SK_EIO, NULL, "cannot read %s", dir);
    int rc = 0, n = 0;
    for (const struct dirent *e; rc == 0 && (e = readdir(d));) {
        if (!is_dropin(e->d_name))
            continue;
        rc = ++n > MAX_DROPINS ? sk_err_set(err, SK_ETOOBIG, NULL, "%s has more than %d files", dir, MAX_DROPINS)
                               : sk_buf_add(names, e->d_name, strlen(e->d_name) + 1);
        if (rc == -SK_ENOMEM)
            sk_err_set(err, SK_ENOMEM, NULL, "%s: out of memory", dir);
    }
    closedir(d);
    if (rc == 0)
        *ret_n = n;
    return rc;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

int sk_conf_dropins(struct sk_conf *c, unsigned prog, const char *path, struct sk_err *err)
{
    const char *sorted[MAX_DROPINS], *slash = strrchr(path, '/');
    struct sk_buf dir, file, names;
    int n = 0;
    sk_buf_init(&dir, SK_CONF_STR_MAX + 16);
    sk_buf_init(&file, SK_CONF_STR_MAX + 512);
    sk_buf_init(&names, MAX_NAMES_BYTES);
    int rc = sk_buf_fmt(&dir, "%.*sconf.d", slash ? (int)(slash - path + 1) : 0, path);
    if (rc)
        sk_err_set(err, -rc, NULL, "%s: %s", path, sk_err_text(rc));
    else
        rc = list_dropins(dir.p, &names, &n, err);
    for (int i = 0; i < n; i++)
        sorted[i] = i ? sorted[i - 1] + strlen(sorted[i - 1]) + 1 : names.p;
    qsort(sorted, (size_t)n, sizeof *sorted, compare_names);
    for (int i = 0; i < n && rc == 0; i++) {
        sk_buf_clear(&file);
        rc = sk_buf_fmt(&file, "%s/%s", dir.p, sorted[i]);
        rc = rc ? sk_err_set(err, -rc, NULL, "%s/%s: %s", dir.p, sorted[i], sk_err_text(rc))
                : sk_conf_file(c, prog, file.p, err);
    }
    sk_buf_done(&dir);
    sk_buf_done(&file);
    sk_buf_done(&names);
    return rc;
}
