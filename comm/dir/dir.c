#include "comm/dir/dir.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "comm/base/json.h"
#include "comm/base/mem.h"

enum { MAX_CONFIG_BYTES = 16 << 20 };

/* The floats of sk_gen_defaults: name in config.json (that of generation_config.json) and place. */
static const struct gen_row {
    const char *name;
    size_t at;
} gen_rows[] = {
    {"temperature", offsetof(struct sk_gen_defaults, temperature)},
    {"top_p", offsetof(struct sk_gen_defaults, top_p)},
    {"min_p", offsetof(struct sk_gen_defaults, min_p)},
    {"typical_p", offsetof(struct sk_gen_defaults, typical_p)},
    {"repetition_penalty", offsetof(struct sk_gen_defaults, repetition_penalty)},
    {"eta_cutoff", offsetof(struct sk_gen_defaults, eta_cutoff)},
    {"epsilon_cutoff", offsetof(struct sk_gen_defaults, epsilon_cutoff)},
};
enum { N_GEN = sizeof gen_rows / sizeof *gen_rows };

static int config_path(const char *dir, const char *suffix, char *ret, size_t n, struct sk_err *err)
{
    if ((size_t)snprintf(ret, n, "%s/config.json%s", dir, suffix) >= n)
        return sk_err_set(err, SK_EINVAL, NULL, "path is too long: %.200s...", dir);
    return 0;
}

static int copy_str(const struct cJSON *v, const char *key, char *ret, size_t n, struct sk_err *err)
{
    const char *s = NULL;
    int rc = sk_json_get_str(v, key, &s, err);

    if (rc || !s)
        return rc;
    if (strlen(s) >= n)
        return sk_err_set(err, SK_EFORMAT, key, "%s is %zu bytes long, at most %zu are possible", key, strlen(s),
                          n - 1);
    strcpy(ret, s);
    return 0;
}

static int dup_str(const struct cJSON *v, const char *key, char **ret, struct sk_err *err)
{
    const char *s = NULL;
    int rc = sk_json_get_str(v, key, &s, err);

    if (rc || !s)
        return rc;
    *ret = sk_strdup(s);
    return *ret ? 0 : sk_err_set(err, SK_ENOMEM, key, "out of memory");
}

static int read_ids(const struct cJSON *list, const char *key, int32_t *ret, uint32_t max, uint32_t *ret_n,
                    struct sk_err *err)
{
    uint32_t n = 0;

    if (sk_json_len(list) > max)
        return sk_err_set(err, SK_EFORMAT, key, "%s has %zu entries, at most %u are possible", key, sk_json_len(list),
                          max);
    for (const struct cJSON *v = sk_json_first(list); v; v = sk_json_next(v)) {
        int64_t id;
        if (!sk_json_is_int(v, &id) || id < 0 || id > INT32_MAX)
            return sk_err_set(err, SK_EFORMAT, key, "%s must hold token ids", key);
        ret[n++] = (int32_t)id;
    }
    *ret_n = n;
    return 0;
}

static int read_gen(const struct cJSON *v, struct sk_gen_defaults *g, struct sk_err *err)
{
    int64_t top_k = -1, ngram = -1;
    bool sample = false;
    int rc;

    *g = (struct sk_gen_defaults){.top_k = -1, .no_repeat_ngram = -1, .do_sample = -1};
    for (int i = 0; i < N_GEN; i++) {
        double x = NAN;
        if ((rc = sk_json_get_num(v, gen_rows[i].name, -1e9, 1e9, &x, err)))
            return rc;
        *(float *)((char *)g + gen_rows[i].at) = (float)x;
    }
    if ((rc = sk_json_get_int(v, "top_k", 0, INT32_MAX, &top_k, err)) ||
        (rc = sk_json_get_int(v, "no_repeat_ngram_size", 0, INT32_MAX, &ngram, err)) ||
        (rc = sk_json_get_bool(v, "do_sample", &sample, err)))
        return rc;
    g->top_k = (int32_t)top_k;
    g->no_repeat_ngram = (int32_t)ngram;
    if (sk_json_type(sk_json_get(v, "do_sample")) == SK_JSON_BOOL)
        g->do_sample = sample;
    return 0;
}

static int read_selftest(const struct cJSON *v, struct sk_dir *d, struct sk_err *err)
{
    const struct cJSON *probs = sk_json_get(v, "logprobs");
    uint32_t n = 0;
    int rc = read_ids(sk_json_get(v, "ids"), "selftest.ids", d->selftest_ids, SK_SELFTEST_TOKENS, &n, err);

    if (rc)
        return rc;
    if (n != SK_SELFTEST_TOKENS || sk_json_len(probs) != SK_SELFTEST_TOKENS - 1)
        return sk_err_set(err, SK_EFORMAT, "selftest", "selftest must hold %d ids and %d log-probs", SK_SELFTEST_TOKENS,
                          SK_SELFTEST_TOKENS - 1);
    float *p = d->selftest_logprobs;
    for (const struct cJSON *x = sk_json_first(probs); x; x = sk_json_next(x)) {
        *p = (float)sk_json_num(x);
        if (!isfinite(*p++))
            return sk_err_set(err, SK_EFORMAT, "selftest.logprobs", "selftest.logprobs must hold numbers");
    }
    return 0;
}

/* Every id must be a row of the embedding. */
static int check_ids(const struct sk_dir *d, struct sk_err *err)
{
    for (uint32_t i = 0; i < d->n_eos; i++)
        if ((uint32_t)d->eos[i] >= d->desc.n_vocab)
            return sk_err_set(err, SK_EFORMAT, "eos", "eos id %d is outside the vocabulary of %u", d->eos[i],
                              d->desc.n_vocab);
    for (int i = 0; i < SK_SELFTEST_TOKENS; i++)
        if ((uint32_t)d->selftest_ids[i] >= d->desc.n_vocab)
            return sk_err_set(err, SK_EFORMAT, "selftest.ids", "self-test id %d is outside the vocabulary of %u",
                              d->selftest_ids[i], d->desc.n_vocab);
    if (d->bos >= (int64_t)d->desc.n_vocab)
        return sk_err_set(err, SK_EFORMAT, "bos", "bos id %d is outside the vocabulary of %u", d->bos, d->desc.n_vocab);
    if (strspn(d->digest, "0123456789abcdef") != 32)
        return sk_err_set(err, SK_EFORMAT, "digest", "digest must be 32 hexadecimal digits");
    return 0;
}

static int read_config(const struct cJSON *v, struct sk_dir *d, struct sk_err *err)
{
    int64_t format = -1, bos = -1;
    int rc = sk_json_get_int(v, "format", 0, INT32_MAX, &format, err);

    if (rc)
        return rc;
    if (format < 0)
        return sk_err_set(err, SK_EFORMAT, "format", "not an engine directory: config.json has no format");
    if (format != SK_DIR_FORMAT)
        return sk_err_set(err, SK_EFORMAT, "format",
                          "engine directory of format %lld, this program reads format %d: rebuild it with skein-build "
                          "from the original model",
                          (long long)format, SK_DIR_FORMAT);
    if ((rc = sk_desc_parse(sk_json_get(v, "description"), &d->desc, err)) ||
        (rc = copy_str(v, "name", d->name, sizeof d->name, err)) ||
        (rc = copy_str(v, "digest", d->digest, sizeof d->digest, err)) ||
        (rc = copy_str(v, "dtype", d->dtype, sizeof d->dtype, err)) ||
        (rc = sk_json_get_int(v, "created", 0, INT64_C(1) << 53, &d->created, err)) ||
        (rc = sk_json_get_int(v, "bos", -1, INT32_MAX, &bos, err)) ||
        (rc = read_ids(sk_json_get(v, "eos"), "eos", d->eos, SK_DIR_MAX_EOS, &d->n_eos, err)) ||
        (rc = copy_str(v, "bos_token", d->bos_token, sizeof d->bos_token, err)) ||
        (rc = copy_str(v, "eos_token", d->eos_token, sizeof d->eos_token, err)) ||
        (rc = dup_str(v, "chat_template", &d->chat_template, err)) ||
        (rc = dup_str(v, "tools_template", &d->tools_template, err)) ||
        (rc = read_gen(sk_json_get(v, "generation"), &d->gen, err)) ||
        (rc = read_selftest(sk_json_get(v, "selftest"), d, err)))
        return rc;
    d->bos = (int32_t)bos;
    return check_ids(d, err);
}

int sk_dir_open(const char *path, struct sk_dir *ret, struct sk_err *err)
{
    struct sk_dir d = {0};
    struct sk_err why = {0};
    struct cJSON *v = NULL;
    char file[sizeof d.path + 32];
    int rc;

    if ((size_t)snprintf(d.path, sizeof d.path, "%s", path) >= sizeof d.path)
        return sk_err_set(err, SK_EINVAL, NULL, "path is too long: %.200s...", path);
    if ((rc = config_path(path, "", file, sizeof file, err)) || (rc = sk_json_load(file, MAX_CONFIG_BYTES, &v, err)))
        goto out;
    if ((rc = read_config(v, &d, &why))) {
        sk_err_set(err, -rc, why.param, "%.200s: %.260s", file, why.msg);
        goto out;
    }
    *ret = d;
out:
    if (rc)
        sk_dir_close(&d);
    sk_json_free(v);
    return rc;
}

void sk_dir_close(struct sk_dir *d)
{
    sk_free(d->chat_template);
    sk_free(d->tools_template);
    d->chat_template = d->tools_template = NULL;
}

bool sk_dir_is(const char *path)
{
    char file[1024 + 32];
    struct stat st;

    return (size_t)snprintf(file, sizeof file, "%s/weights.skw", path) < sizeof file && !stat(file, &st) &&
           S_ISREG(st.st_mode);
}

static void put_str(struct sk_buf *b, const char *key, const char *s)
{
    if (!s)
        return;
    sk_buf_fmt(b, ",\n\"%s\": ", key);
    sk_json_quote(b, s, strlen(s));
}

static void put_gen(struct sk_buf *b, const struct sk_gen_defaults *g)
{
    const char *sep = "";

    sk_buf_str(b, ",\n\"generation\": {");
    for (int i = 0; i < N_GEN; i++) {
        float x = *(const float *)((const char *)g + gen_rows[i].at);
        if (isnan(x))
            continue;
        sk_buf_fmt(b, "%s\"%s\": ", sep, gen_rows[i].name);
        sk_json_put_num(b, (double)x);
        sep = ", ";
    }
    if (g->top_k >= 0) {
        sk_buf_fmt(b, "%s\"top_k\": %d", sep, g->top_k);
        sep = ", ";
    }
    if (g->no_repeat_ngram >= 0) {
        sk_buf_fmt(b, "%s\"no_repeat_ngram_size\": %d", sep, g->no_repeat_ngram);
        sep = ", ";
    }
    if (g->do_sample >= 0)
        sk_buf_fmt(b, "%s\"do_sample\": %s", sep, g->do_sample ? "true" : "false");
    sk_buf_char(b, '}');
}

static int print_config(const struct sk_dir *d, struct sk_buf *b)
{
    sk_buf_fmt(b, "{\"format\": %d", SK_DIR_FORMAT);
    put_str(b, "name", d->name);
    put_str(b, "digest", d->digest);
    put_str(b, "dtype", d->dtype);
    sk_buf_fmt(b, ",\n\"created\": %lld,\n\"description\": ", (long long)d->created);
    sk_desc_print(&d->desc, b);
    sk_buf_fmt(b, ",\n\"bos\": %d,\n\"eos\": [", d->bos);
    for (uint32_t i = 0; i < d->n_eos; i++)
        sk_buf_fmt(b, "%s%d", i ? ", " : "", d->eos[i]);
    sk_buf_char(b, ']');
    put_str(b, "bos_token", d->bos_token);
    put_str(b, "eos_token", d->eos_token);
    put_str(b, "chat_template", d->chat_template);
    put_str(b, "tools_template", d->tools_template);
    put_gen(b, &d->gen);
    sk_buf_str(b, ",\n\"selftest\": {\"ids\": [");
    for (int i = 0; i < SK_SELFTEST_TOKENS; i++)
        sk_buf_fmt(b, "%s%d", i ? ", " : "", d->selftest_ids[i]);
    sk_buf_str(b, "], \"logprobs\": [");
    for (int i = 0; i < SK_SELFTEST_TOKENS - 1; i++) {
        sk_buf_str(b, i ? ", " : "");
        sk_json_put_num(b, (double)d->selftest_logprobs[i]);
    }
    return sk_buf_str(b, "]}}\n");
}

static int write_all(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t w = write(fd, p, n);
        if (w < 0 && errno == EINTR)
            continue;
        if (w <= 0)
            return -1;
        p += w;
        n -= (size_t)w;
    }
    return 0;
}

int sk_dir_save(const struct sk_dir *d, const char *path, struct sk_err *err)
{
    char file[1024 + 32], tmp[1024 + 32];
    struct sk_buf b;
    int rc, fd = -1;

    sk_buf_init(&b, MAX_CONFIG_BYTES);
    if ((rc = config_path(path, "", file, sizeof file, err)) || (rc = config_path(path, ".tmp", tmp, sizeof tmp, err)))
        goto out;
    if ((rc = print_config(d, &b))) {
        sk_err_set(err, -rc, NULL, "config.json would be larger than %d bytes", MAX_CONFIG_BYTES);
        goto out;
    }
    fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0 || write_all(fd, b.p, b.n) || fsync(fd) || rename(tmp, file))
        rc = sk_err_errno(err, SK_EIO, NULL, "cannot write %s", file);
out:
    if (fd >= 0)
        close(fd);
    sk_buf_done(&b);
    return rc;
}

int sk_dir_cache(const char *option, char *ret, size_t n, struct sk_err *err)
{
    const char *systemd = getenv("CACHE_DIRECTORY"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int len;

    if (option[0])
        len = snprintf(ret, n, "%s", option);
    else if (systemd && systemd[0])
        len = snprintf(ret, n, "%s", systemd);
    else if (xdg && xdg[0] == '/')
        len = snprintf(ret, n, "%s/skein", xdg);
    else if (home && home[0] == '/')
        len = snprintf(ret, n, "%s/.cache/skein", home);
    else
        return sk_err_set(err, SK_EINVAL, "cache-dir", "no cache directory: neither HOME nor XDG_CACHE_HOME is set");
    if (len >= (int)n || len >= SK_DIR_MAX_CACHE)
        return sk_err_set(err, SK_EINVAL, "cache-dir", "the cache directory's path is longer than %d bytes",
                          SK_DIR_MAX_CACHE);
    return 0;
}

int sk_dir_make(const char *path, unsigned mode, struct sk_err *err)
{
    char part[1024];

    for (size_t n = 1; n <= strlen(path) && n < sizeof part; n++) {
        if (path[n] && path[n] != '/')
            continue;
        snprintf(part, sizeof part, "%.*s", (int)n, path);
        if (mkdir(part, mode) && errno != EEXIST)
            return sk_err_errno(err, SK_EIO, NULL, "cannot create %s", part);
    }
    return 0;
}
