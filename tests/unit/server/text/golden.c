#include "tests/unit/server/text/golden.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include <cmocka.h>

#include "comm/base/json.h"
#include "comm/base/mem.h"
#include "engine/build/tok.h"

#define NUL_SPELLED "\xEE\x80\x80" /* U+E000 */

const char *golden_path(const char *path)
{
    static char full[2048];
    const char *root = getenv("SK_SRCDIR");
    snprintf(full, sizeof full, "%s%s%s", *path == '/' ? "" : root ? root : ".", *path == '/' ? "" : "/", path);
    return full;
}

const char *golden_shared(const char *path)
{
    static char full[2048];
    const char *root = getenv("SK_SHARED");
    snprintf(full, sizeof full, "%s/%s", root ? root : "../shared", path);
    return access(full, R_OK) == 0 ? full : NULL;
}

static void copy_stream(FILE *from, const char *to)
{
    FILE *f = fopen(to, "wb");
    assert_non_null(f);
    char chunk[65536];
    size_t n;
    while ((n = fread(chunk, 1, sizeof chunk, from)) > 0)
        assert_int_equal(fwrite(chunk, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

struct sk_vocab *golden_vocab(const char *path)
{
    char dir[] = "/tmp/sk-tok-XXXXXX", json[64], skv[64], command[2100];
    assert_non_null(mkdtemp(dir));
    snprintf(json, sizeof json, "%s/tokenizer.json", dir);
    snprintf(skv, sizeof skv, "%s/vocab.skv", dir);
    size_t n = strlen(path);
    bool packed = n > 3 && strcmp(path + n - 3, ".xz") == 0;
    snprintf(command, sizeof command, "%s '%s'", packed ? "xz -dc" : "cat", golden_path(path));
    FILE *f = popen(command, "r");
    assert_non_null(f);
    copy_stream(f, json);
    assert_int_equal(pclose(f), 0);

    struct sk_err err = {0};
    struct sk_tok_info info;
    struct sk_vocab *v = NULL;
    if (sk_tok_from_hf(dir, UINT32_MAX, skv, &info, &err) || sk_vocab_open(skv, &v, &err))
        fail_msg("%s: %s", path, err.msg);
    sk_free(info.chat_template);
    sk_free(info.tools_template);
    unlink(json);
    unlink(skv);
    rmdir(dir);
    return v;
}

void golden_open(struct golden_lines *g, const char *path)
{
    *g = (struct golden_lines){.f = fopen(golden_path(path), "r")};
    if (!g->f)
        fail_msg("cannot open %s", golden_path(path));
}

const struct cJSON *golden_next(struct golden_lines *g)
{
    sk_json_free(g->v);
    g->v = NULL;
    ssize_t n = getline(&g->line, &g->cap, g->f);
    if (n < 0) {
        fclose(g->f);
        free(g->line);
        return NULL;
    }
    for (char *p = g->line; (p = strstr(p, "\\u0000")); p += 6)
        memcpy(p, "\\ue000", 6);
    struct sk_err err = {0};
    if (sk_json_parse(g->line, (size_t)n, (size_t)n, &g->v, &err))
        fail_msg("golden line: %s", err.msg);
    return g->v;
}

char *golden_text(const struct cJSON *v, const char *key, size_t *ret_n)
{
    const char *s = sk_json_str(key ? sk_json_get(v, key) : v);
    if (!s)
        return NULL;
    char *out = malloc(strlen(s) + 1);
    assert_non_null(out);
    size_t n = 0;
    while (*s) {
        bool nul = strncmp(s, NUL_SPELLED, 3) == 0;
        out[n++] = nul ? '\0' : *s;
        s += nul ? 3 : 1;
    }
    out[n] = '\0';
    *ret_n = n;
    return out;
}

int32_t *golden_ids(const struct cJSON *v, const char *key, size_t *ret_n)
{
    const struct cJSON *list = sk_json_get(v, key);
    if (!list)
        return NULL;
    size_t n = 0;
    int32_t *ids = malloc((sk_json_len(list) + 1) * sizeof *ids);
    assert_non_null(ids);
    for (const struct cJSON *i = sk_json_first(list); i; i = sk_json_next(i))
        ids[n++] = (int32_t)sk_json_num(i);
    *ret_n = n;
    return ids;
}

char *golden_bytes(const struct cJSON *v, size_t *ret_n)
{
    const char *hex = sk_json_str(sk_json_get(v, "bytes_hex"));
    if (!hex)
        return NULL;
    size_t n = strlen(hex) / 2;
    char *out = malloc(n + 1);
    assert_non_null(out);
    for (size_t i = 0; i < n; i++) {
        unsigned byte;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
        out[i] = (char)byte;
    }
    *ret_n = n;
    return out;
}
