#include "engine/build/tok.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "comm/base/json.h"
#include "comm/base/mem.h"
#include "engine/build/tok_draft.h"

#define MAX_TOKENIZER ((size_t)256 << 20)
#define MAX_CONFIG    ((size_t)16 << 20)
#define MAX_TEMPLATE  ((size_t)4 << 20)

/* Kinds of model that are not BPE say so; very old files leave the type out. */
static int check_model(const struct cJSON *m, struct sk_err *err)
{
    const char *type = sk_json_str(sk_json_get(m, "type"));
    if (sk_json_type(m) != SK_JSON_OBJECT)
        return sk_err_set(err, SK_EFORMAT, NULL, "tokenizer.json: no model");
    if ((type && strcmp(type, "BPE") != 0) || !sk_json_get(m, "merges"))
        return sk_err_set(err, SK_EUNSUP, NULL, "tokenizer.json: model type %s is not supported; BPE is",
                          type ? type : "without merges");
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (int i = 0; i < 2; i++) {
        const char *s = sk_json_str(sk_json_get(m, affixes[i]));
        if (s && *s)
            return sk_err_set(err, SK_EUNSUP, NULL, "tokenizer.json: model.%s is not supported", affixes[i]);
    }
    if (sk_json_num(sk_json_get(m, "dropout")) > 0)
        return sk_err_set(err, SK_EUNSUP, NULL, "tokenizer.json: model.dropout is not supported");
    return 0;
}

static int read_words(struct sk_tok_draft *d, const struct cJSON *m, struct sk_err *err)
{
    int rc = 0;
    for (const struct cJSON *w = sk_json_first(sk_json_get(m, "vocab")); rc == 0 && w; w = sk_json_next(w)) {
        const char *word = sk_json_key(w);
        int64_t id;
        if (!word || !sk_json_is_int(w, &id) || id < 0 || id >= SK_VOCAB_MAX_WORDS)
            return sk_err_set(err, SK_EFORMAT, NULL, "tokenizer.json: model.vocab: a bad id");
        rc = sk_tok_draft_word(d, (uint32_t)id, word, strlen(word), SK_TOK_MODEL, err);
    }
    return rc ? rc : sk_tok_draft_index(d, err);
}

/* "a b" or ["a", "b"]; empty halves where it is neither. */
static void halves(const struct cJSON *v, struct sk_tok_text *a, struct sk_tok_text *b)
{
    const char *left = sk_json_str(v), *right = NULL;
    size_t n_left = 0;
    if (left) {
        n_left = strcspn(left, " ");
        right = left[n_left] ? left + n_left + 1 : NULL;
    } else if (sk_json_len(v) == 2) {
        left = sk_json_str(sk_json_first(v));
        right = sk_json_str(sk_json_next(sk_json_first(v)));
        n_left = left ? strlen(left) : 0;
    }
    *a = (struct sk_tok_text){left, n_left};
    *b = (struct sk_tok_text){right, right ? strlen(right) : 0};
}

static int read_merges(struct sk_tok_draft *d, const struct cJSON *m, struct sk_err *err)
{
    const struct cJSON *list = sk_json_get(m, "merges");
    uint32_t rank = 0;
    int rc = sk_tok_draft_merges(d, sk_json_len(list), err);
    for (const struct cJSON *v = sk_json_first(list); rc == 0 && v; v = sk_json_next(v)) {
        struct sk_tok_text a, b;
        halves(v, &a, &b);
        rc = sk_tok_draft_pair(d, rank++, a, b, err);
    }
    return rc;
}

static int read_model(struct sk_tok_draft *d, const struct cJSON *m, struct sk_err *err)
{
    int rc = check_model(m, err);
    if (rc == 0)
        rc = read_words(d, m, err);
    if (rc == 0)
        rc = read_merges(d, m, err);
    if (rc)
        return rc;
    if (sk_json_is_true(sk_json_get(m, "byte_fallback")))
        d->flags |= SK_VOCAB_BYTE_FALLBACK;
    if (sk_json_is_true(sk_json_get(m, "fuse_unk")))
        d->flags |= SK_VOCAB_FUSE_UNK;
    if (sk_json_is_true(sk_json_get(m, "ignore_merges")))
        d->flags |= SK_VOCAB_IGNORE_MERGES;
    const char *unk = sk_json_str(sk_json_get(m, "unk_token"));
    int id = unk ? sk_tok_draft_find(d, unk, strlen(unk)) : -1;
    if (id >= 0)
        d->unk = (uint32_t)id;
    return 0;
}

static int read_added(struct sk_tok_draft *d, const struct cJSON *root, struct sk_err *err)
{
    static const struct {
        const char *key;
        uint32_t flag;
    } flags[] = {{"lstrip", SK_VOCAB_LSTRIP},
                 {"rstrip", SK_VOCAB_RSTRIP},
                 {"single_word", SK_VOCAB_SINGLE_WORD},
                 {"normalized", SK_VOCAB_NORMALIZED}};
    int rc = 0;
    for (const struct cJSON *v = sk_json_first(sk_json_get(root, "added_tokens")); rc == 0 && v; v = sk_json_next(v)) {
        const char *word = sk_json_str(sk_json_get(v, "content"));
        int64_t id;
        if (!word || !sk_json_is_int(sk_json_get(v, "id"), &id) || id < 0 || id >= UINT32_MAX)
            return sk_err_set(err, SK_EFORMAT, NULL, "tokenizer.json: added_tokens: an entry without content or id");
        struct sk_vocab_added a = {.id = (uint32_t)id};
        for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
            if (sk_json_is_true(sk_json_get(v, flags[i].key)))
                a.flags |= flags[i].flag;
        rc = sk_tok_draft_added(d, &a, word, strlen(word), sk_json_is_true(sk_json_get(v, "special")), err);
    }
    return rc;
}

int sk_tok_read_json(struct sk_tok_draft *d, const struct cJSON *root, struct sk_err *err)
{
    int rc = read_model(d, sk_json_get(root, "model"), err);
    if (rc == 0)
        rc = read_added(d, root, err);
    return rc ? rc : sk_tok_program(d, root, err);
}

static bool file_in(const char *dir, const char *name, char path[1200])
{
    struct stat st;
    int n = snprintf(path, 1200, "%s/%s", dir, name);
    return n > 0 && n < 1200 && stat(path, &st) == 0;
}

/* A token's spelling: "s" or {"content": "s"}. Those that do not fit are as good as none. */
static void named_token(const struct sk_tok_draft *d, const struct cJSON *conf, const char *key, char name[128],
                        int32_t *id)
{
    const struct cJSON *v = sk_json_get(conf, key);
    const char *s = sk_json_type(v) == SK_JSON_OBJECT ? sk_json_str(sk_json_get(v, "content")) : sk_json_str(v);
    if (*name || !s || strlen(s) >= 128)
        return;
    strcpy(name, s);
    *id = sk_tok_draft_find(d, s, strlen(s));
}

static int copy_template(const char *s, char **ret, struct sk_err *err)
{
    if (!s || *ret)
        return 0;
    if (strlen(s) > MAX_TEMPLATE)
        return sk_err_set(err, SK_EFORMAT, NULL, "a chat template of more than %zu bytes", MAX_TEMPLATE);
    *ret = sk_strdup(s);
    return *ret ? 0 : sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
}

/* "chat_template": a string, or a list of {"name": "default" | "tool_use" | ..., "template": ...}. */
static int read_templates(const struct cJSON *conf, struct sk_tok_info *info, struct sk_err *err)
{
    const struct cJSON *t = sk_json_get(conf, "chat_template");
    int rc = copy_template(sk_json_str(t), &info->chat_template, err);
    if (sk_json_type(t) != SK_JSON_ARRAY)
        return rc;
    for (const struct cJSON *v = sk_json_first(t); rc == 0 && v; v = sk_json_next(v)) {
        const char *name = sk_json_str(sk_json_get(v, "name")), *s = sk_json_str(sk_json_get(v, "template"));
        if (name && !strcmp(name, "default"))
            rc = copy_template(s, &info->chat_template, err);
        if (name && !strcmp(name, "tool_use"))
            rc = copy_template(s, &info->tools_template, err);
    }
    return rc;
}

static int read_template_file(const char *path, char **ret, struct sk_err *err)
{
    struct sk_buf b;
    sk_buf_init(&b, MAX_TEMPLATE);
    int rc = sk_buf_file(&b, path, err);
    if (rc == 0)
        rc = copy_template(b.p ? b.p : "", ret, err);
    sk_buf_done(&b);
    return rc;
}

static int read_info(const struct sk_tok_draft *d, const char *dir, struct sk_tok_info *info, struct sk_err *err)
{
    static const char *const files[] = {"tokenizer_config.json", "special_tokens_map.json"};
    char path[1200];
    int rc = file_in(dir, "chat_template.jinja", path) ? read_template_file(path, &info->chat_template, err) : 0;
    for (int i = 0; rc == 0 && i < 2; i++) {
        struct cJSON *conf;
        if (!file_in(dir, files[i], path))
            continue;
        rc = sk_json_load(path, MAX_CONFIG, &conf, err);
        if (rc)
            break;
        named_token(d, conf, "bos_token", info->bos_token, &info->bos);
        named_token(d, conf, "eos_token", info->eos_token, &info->eos);
        rc = read_templates(conf, info, err);
        sk_json_free(conf);
    }
    return rc;
}

int sk_tok_from_hf(const char *dir, uint32_t n_vocab, const char *out_path, struct sk_tok_info *ret, struct sk_err *err)
{
    struct sk_tok_draft d;
    struct sk_tok_info info = {.bos = -1, .eos = -1};
    struct cJSON *root = NULL;
    char path[1200];
    sk_tok_draft_init(&d, n_vocab);
    int rc;
    if (!file_in(dir, "tokenizer.json", path)) {
        rc = sk_err_set(err, SK_ENOENT, NULL, "%.300s has no tokenizer.json (tokenizer.model alone is not supported)",
                        dir);
        goto out;
    }
    rc = sk_json_load(path, MAX_TOKENIZER, &root, err);
    if (rc == 0)
        rc = sk_tok_read_json(&d, root, err);
    if (rc == 0)
        rc = read_info(&d, dir, &info, err);
    if (rc == 0)
        rc = sk_tok_draft_write(&d, out_path, err);
    if (rc == 0) {
        *ret = info;
        info.chat_template = info.tools_template = NULL;
    }
out:
    sk_free(info.chat_template);
    sk_free(info.tools_template);
    sk_json_free(root);
    sk_tok_draft_done(&d);
    return rc;
}
