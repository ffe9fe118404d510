#include "tests/unit/server/text/golden.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include <cmocka.h>

#include "comm/base/buf.h"
#include "comm/base/json.h"
#include "comm/base/mem.h"
#include "engine/build/gguf.h"
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

/* The directory of one compilation: where tokenizer.json and vocab.skv lie for a moment. */
struct workshop {
    char dir[32], json[64], skv[64];
};

static void enter(struct workshop *w, const char *path)
{
    char command[2100];
    size_t n = strlen(path);
    bool packed = n > 3 && strcmp(path + n - 3, ".xz") == 0;
    strcpy(w->dir, "/tmp/sk-tok-XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    snprintf(w->json, sizeof w->json, "%s/tokenizer.json", w->dir);
    snprintf(w->skv, sizeof w->skv, "%s/vocab.skv", w->dir);
    snprintf(command, sizeof command, "%s '%s'", packed ? "xz -dc" : "cat", golden_path(path));
    FILE *f = popen(command, "r");
    assert_non_null(f);
    copy_stream(f, w->json);
    assert_int_equal(pclose(f), 0);
}

static struct sk_vocab *leave(struct workshop *w)
{
    struct sk_err err = {0};
    struct sk_vocab *v = NULL;
    int rc = sk_vocab_open(w->skv, &v, &err);
    unlink(w->json);
    unlink(w->skv);
    rmdir(w->dir);
    if (rc)
        fail_msg("%s", err.msg);
    return v;
}

struct sk_vocab *golden_vocab(const char *path)
{
    struct workshop w;
    struct sk_err err = {0};
    struct sk_tok_info info;
    enter(&w, path);
    if (sk_tok_from_hf(w.dir, UINT32_MAX, w.skv, &info, &err))
        fail_msg("%s: %s", path, err.msg);
    sk_free(info.chat_template);
    sk_free(info.tools_template);
    return leave(&w);
}

/* ---- GGUF ---- */

struct word {
    const char *s;
    int type;
    float score;
};

static void put_u32(struct sk_buf *b, uint32_t x)
{
    sk_buf_add(b, &x, sizeof x);
}

static void put_str(struct sk_buf *b, const char *s)
{
    uint64_t n = strlen(s);
    sk_buf_add(b, &n, sizeof n);
    sk_buf_add(b, s, n);
}

static void put_array(struct sk_buf *b, const char *key, enum sk_gguf_kind kind, uint64_t n)
{
    put_str(b, key);
    put_u32(b, SK_GGUF_ARRAY);
    put_u32(b, (uint32_t)kind);
    sk_buf_add(b, &n, sizeof n);
}

static int32_t id_of(const struct cJSON *words, const char *a, const char *b)
{
    char word[1024];
    snprintf(word, sizeof word, "%s%s", a, b);
    return (int32_t)sk_json_num(sk_json_get(words, word));
}

/* Words by id with their types; scores where asked for. */
static struct word *list_words(const struct cJSON *root, bool scored, uint32_t *ret_n)
{
    const struct cJSON *model = sk_json_get(root, "model"), *words = sk_json_get(model, "vocab");
    uint32_t n = (uint32_t)sk_json_len(words);
    struct word *list = calloc(n, sizeof *list);
    assert_non_null(list);
    for (const struct cJSON *w = sk_json_first(words); w; w = sk_json_next(w)) {
        const char *s = sk_json_key(w);
        bool is_byte = scored && strlen(s) == 6 && strncmp(s, "<0x", 3) == 0;
        list[(uint32_t)sk_json_num(w)] = (struct word){s, is_byte ? 6 : 1, 0};
    }
    for (const struct cJSON *a = sk_json_first(sk_json_get(root, "added_tokens")); a; a = sk_json_next(a))
        list[(uint32_t)sk_json_num(sk_json_get(a, "id"))].type = sk_json_is_true(sk_json_get(a, "special")) ? 3 : 4;
    float rank = 0;
    const struct cJSON *m = scored ? sk_json_first(sk_json_get(model, "merges")) : NULL;
    for (; m; m = sk_json_next(m))
        list[id_of(words, sk_json_str(sk_json_first(m)), sk_json_str(sk_json_next(sk_json_first(m))))].score = -rank++;
    *ret_n = n;
    return list;
}

static void put_merges(struct sk_buf *b, const struct cJSON *root)
{
    const struct cJSON *merges = sk_json_get(sk_json_get(root, "model"), "merges");
    put_array(b, "tokenizer.ggml.merges", SK_GGUF_STR, sk_json_len(merges));
    for (const struct cJSON *m = sk_json_first(merges); m; m = sk_json_next(m)) {
        char pair[1024];
        snprintf(pair, sizeof pair, "%s %s", sk_json_str(sk_json_first(m)),
                 sk_json_str(sk_json_next(sk_json_first(m))));
        put_str(b, pair);
    }
}

static void put_gguf(struct sk_buf *b, const struct cJSON *root, const char *model, const char *pre)
{
    static const uint64_t n_tensors = 1, n_keys = 5;
    static const struct {
        uint64_t dim;
        uint32_t type;
        uint64_t offset;
    } __attribute__((packed)) tensor = {8, 0, 0}; /* eight F32: a file without tensors is refused */
    static const char data[64];
    uint32_t n;
    struct word *words = list_words(root, !pre, &n);
    sk_buf_str(b, "GGUF");
    put_u32(b, 3);
    sk_buf_add(b, &n_tensors, 8);
    sk_buf_add(b, &n_keys, 8);
    put_str(b, "tokenizer.ggml.model");
    put_u32(b, SK_GGUF_STR);
    put_str(b, model);
    put_str(b, pre ? "tokenizer.ggml.pre" : "tokenizer.ggml.add_bos_token");
    put_u32(b, pre ? SK_GGUF_STR : SK_GGUF_BOOL);
    if (pre)
        put_str(b, pre);
    else
        sk_buf_char(b, 0);
    put_array(b, "tokenizer.ggml.tokens", SK_GGUF_STR, n);
    for (uint32_t i = 0; i < n; i++)
        put_str(b, words[i].s);
    put_array(b, "tokenizer.ggml.token_type", SK_GGUF_I32, n);
    for (uint32_t i = 0; i < n; i++)
        put_u32(b, (uint32_t)words[i].type);
    if (pre) {
        put_merges(b, root);
    } else {
        put_array(b, "tokenizer.ggml.scores", SK_GGUF_F32, n);
        for (uint32_t i = 0; i < n; i++)
            sk_buf_add(b, &words[i].score, 4);
    }
    put_str(b, "t");
    put_u32(b, 1);
    sk_buf_add(b, &tensor, sizeof tensor);
    sk_buf_add(b, data, 32 - b->n % 32 + 32);
    free(words);
}

struct sk_vocab *golden_vocab_gguf(const char *path, const char *model, const char *pre)
{
    struct workshop w;
    struct sk_err err = {0};
    struct sk_tok_info info;
    struct cJSON *root;
    struct sk_gguf *g;
    struct sk_buf b;
    sk_buf_init(&b, 1 << 26);
    enter(&w, path);
    if (sk_json_load(w.json, 1 << 26, &root, &err))
        fail_msg("%s: %s", path, err.msg);
    put_gguf(&b, root, model, pre);
    assert_int_equal(b.failed, 0);
    if (sk_gguf_open_mem(b.p, b.n, &g, &err) || sk_tok_from_gguf(g, UINT32_MAX, w.skv, &info, &err))
        fail_msg("%s as GGUF: %s", path, err.msg);
    sk_free(info.chat_template);
    sk_free(info.tools_template);
    sk_gguf_close(g);
    sk_json_free(root);
    sk_buf_done(&b);
    return leave(&w);
}

/* ---- cases ---- */

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
