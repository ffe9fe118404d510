#include "engine/build/tok_draft.h"

#include <math.h>
#include <string.h>

#include "comm/base/json.h"

/* tokenizer.json is written by Hugging Face's tokenizers; names and defaults here are those of its serde code. */

enum { MAX_NEST = 8 };

struct context {
    struct sk_tok_draft *d;
    struct sk_err *err;
    bool fused; /* decoder: the words have become one text */
};

typedef int each_fn(struct context *c, const struct cJSON *v, const char *type, int depth);

static int unsupported(struct context *c, const char *where, const char *what)
{
    return sk_err_set(c->err, SK_EUNSUP, NULL, "tokenizer.json: %s %s is not supported", where, what);
}

static bool flag(const struct cJSON *v, const char *key, bool otherwise)
{
    const struct cJSON *b = sk_json_get(v, key);
    return sk_json_type(b) == SK_JSON_BOOL ? sk_json_is_true(b) : otherwise;
}

static const char *text(const struct cJSON *v, const char *key)
{
    const char *s = sk_json_str(sk_json_get(v, key));
    return s ? s : "";
}

/* One component, or those of a Sequence in turn. */
static int each(struct context *c, const struct cJSON *v, const char *where, const char *list, int depth, each_fn *fn)
{
    if (sk_json_type(v) == SK_JSON_NULL)
        return 0;
    const char *type = text(v, "type");
    if (strcmp(type, "Sequence") != 0)
        return fn(c, v, type, depth);
    if (depth == MAX_NEST)
        return unsupported(c, where, "nested that deep");
    int rc = 0;
    const struct cJSON *part = sk_json_first(sk_json_get(v, list));
    for (; rc == 0 && part; part = sk_json_next(part))
        rc = each(c, part, where, list, depth + 1, fn);
    return rc;
}

/* {"String": s} or {"Regex": s}. */
static const char *pattern(const struct cJSON *v, uint32_t *ret_literal)
{
    const struct cJSON *p = sk_json_get(v, "pattern");
    const char *s = sk_json_str(sk_json_get(p, "String"));
    *ret_literal = s ? SK_VOCAB_LITERAL : 0;
    return s ? s : text(p, "Regex");
}

static int normalizer(struct context *c, const struct cJSON *v, const char *type, int depth)
{
    static const struct {
        const char *type;
        enum sk_vocab_op_kind kind;
    } plain[] = {{"NFC", SK_VOCAB_NFC},
                 {"NFD", SK_VOCAB_NFD},
                 {"NFKC", SK_VOCAB_NFKC},
                 {"NFKD", SK_VOCAB_NFKD},
                 {"Lowercase", SK_VOCAB_LOWERCASE},
                 {"StripAccents", SK_VOCAB_STRIP_ACCENTS}};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (!strcmp(type, plain[i].type))
            return sk_tok_draft_norm(c->d, plain[i].kind, 0, NULL, NULL, c->err);
    uint32_t literal;
    if (!strcmp(type, "Strip"))
        return sk_tok_draft_norm(c->d, SK_VOCAB_STRIP, flag(v, "strip_left", true) | flag(v, "strip_right", true) << 1,
                                 NULL, NULL, c->err);
    if (!strcmp(type, "Prepend"))
        return sk_tok_draft_norm(c->d, SK_VOCAB_PREPEND, 0, text(v, "prepend"), NULL, c->err);
    if (!strcmp(type, "Replace")) {
        const char *s = pattern(v, &literal);
        return sk_tok_draft_norm(c->d, SK_VOCAB_REPLACE, literal, s, text(v, "content"), c->err);
    }
    return unsupported(c, "normalizer", *type ? type : "without a type");
}

static int behaviour(struct context *c, const char *name, uint32_t *ret)
{
    static const char *const names[SK_VOCAB_N_BEHAVIOUR] = {"Isolated", "Removed", "MergedWithPrevious",
                                                            "MergedWithNext", "Contiguous"};
    for (uint32_t i = 0; i < SK_VOCAB_N_BEHAVIOUR; i++)
        if (!strcmp(name, names[i])) {
            *ret = i;
            return 0;
        }
    return unsupported(c, "split behavior", name);
}

static int split(struct context *c, const struct cJSON *v)
{
    uint32_t how = 0, literal;
    const char *s = pattern(v, &literal);
    int rc = behaviour(c, text(v, "behavior"), &how);
    if (rc == 0)
        rc = sk_tok_draft_pretok(c->d, SK_VOCAB_SPLIT, how | literal | (flag(v, "invert", false) ? SK_VOCAB_INVERT : 0),
                                 s, c->err);
    return rc;
}

static int byte_level(struct context *c, const struct cJSON *v)
{
    int rc = 0;
    if (flag(v, "add_prefix_space", true))
        rc = sk_tok_draft_pretok(c->d, SK_VOCAB_PREFIX_SPACE, 0, NULL, c->err);
    if (rc == 0 && flag(v, "use_regex", true))
        rc = sk_tok_draft_pretok(c->d, SK_VOCAB_SPLIT, SK_VOCAB_ISOLATED, SK_TOK_GPT2_SPLIT, c->err);
    c->d->flags |= SK_VOCAB_BYTE_LEVEL;
    return rc;
}

static uint32_t scheme_of(const struct cJSON *v)
{
    const char *s = text(v, "prepend_scheme");
    if (!strcmp(s, "never") || (!*s && !flag(v, "add_prefix_space", true)))
        return SK_VOCAB_PREPEND_NEVER;
    return !strcmp(s, "first") ? SK_VOCAB_PREPEND_FIRST : SK_VOCAB_PREPEND_ALWAYS;
}

static int pre_tokenizer(struct context *c, const struct cJSON *v, const char *type, int depth)
{
    struct sk_tok_draft *d = c->d;
    if (d->flags & SK_VOCAB_BYTE_LEVEL) /* what follows would see its alphabet instead of the text */
        return unsupported(c, "a pre_tokenizer behind ByteLevel:", type);
    if (!strcmp(type, "ByteLevel"))
        return byte_level(c, v);
    if (!strcmp(type, "Split"))
        return split(c, v);
    if (!strcmp(type, "Digits"))
        return sk_tok_draft_pretok(d, SK_VOCAB_DIGITS,
                                   flag(v, "individual_digits", false) ? SK_VOCAB_ISOLATED : SK_VOCAB_CONTIGUOUS, NULL,
                                   c->err);
    if (!strcmp(type, "Metaspace"))
        return sk_tok_draft_pretok(d, SK_VOCAB_METASPACE,
                                   scheme_of(v) | (flag(v, "split", true) ? SK_VOCAB_METASPACE_SPLIT : 0),
                                   text(v, "replacement"), c->err);
    if (!strcmp(type, "Whitespace"))
        return sk_tok_draft_pretok(d, SK_VOCAB_SPLIT, SK_VOCAB_REMOVED | SK_VOCAB_INVERT,
                                   "[\\w\\p{M}\\p{Pc}]+|[^\\w\\p{M}\\p{Pc}\\s]+", c->err);
    if (!strcmp(type, "WhitespaceSplit"))
        return sk_tok_draft_pretok(d, SK_VOCAB_SPLIT, SK_VOCAB_REMOVED, "\\s", c->err);
    if (!strcmp(type, "Punctuation")) {
        uint32_t how = SK_VOCAB_ISOLATED;
        const char *name = text(v, "behavior");
        int rc = *name ? behaviour(c, name, &how) : 0;
        return rc ? rc : sk_tok_draft_pretok(d, SK_VOCAB_SPLIT, how, "[!-/:-@\\[-`{-~]|\\p{P}", c->err);
    }
    return unsupported(c, "pre_tokenizer", *type ? type : "without a type");
}

static int strip_step(struct context *c, const struct cJSON *v)
{
    int64_t start = 0, stop = 0;
    int rc = sk_json_get_int(v, "start", 0, 1000, &start, c->err);
    if (rc == 0)
        rc = sk_json_get_int(v, "stop", 0, 1000, &stop, c->err);
    if (rc)
        return rc;
    if (strcmp(text(v, "content"), " ") != 0)
        return unsupported(c, "decoder Strip", "of something other than a space");
    if (c->fused && stop)
        return unsupported(c, "decoder Strip", "at the end of the text");
    if (c->fused) {
        c->d->strip_start += (uint32_t)start;
        return 0;
    }
    rc = sk_tok_draft_step(c->d, SK_TOK_STEP_STRIP, NULL, NULL, c->err);
    if (rc == 0) {
        c->d->steps[c->d->n_step - 1].start = (uint32_t)start;
        c->d->steps[c->d->n_step - 1].stop = (uint32_t)stop;
    }
    return rc;
}

static int decoder(struct context *c, const struct cJSON *v, const char *type, int depth)
{
    struct sk_tok_draft *d = c->d;
    if (!strcmp(type, "Fuse")) {
        c->fused = true;
        return 0;
    }
    if (!strcmp(type, "Strip"))
        return strip_step(c, v);
    if (c->fused)
        return unsupported(c, "a decoder behind Fuse:", type);
    if (!strcmp(type, "ByteLevel"))
        return sk_tok_draft_step(d, SK_TOK_STEP_BYTE_LEVEL, NULL, NULL, c->err);
    if (!strcmp(type, "ByteFallback"))
        return sk_tok_draft_step(d, SK_TOK_STEP_BYTE_FALLBACK, NULL, NULL, c->err);
    if (!strcmp(type, "Metaspace")) {
        if (scheme_of(v) != SK_VOCAB_PREPEND_NEVER)
            d->flags |= SK_VOCAB_DROP_FIRST;
        return sk_tok_draft_step(d, SK_TOK_STEP_REPLACE, text(v, "replacement"), " ", c->err);
    }
    if (!strcmp(type, "Replace")) {
        uint32_t literal;
        const char *s = pattern(v, &literal);
        return literal ? sk_tok_draft_step(d, SK_TOK_STEP_REPLACE, s, text(v, "content"), c->err)
                       : unsupported(c, "decoder Replace", "of a regex");
    }
    return unsupported(c, "decoder", *type ? type : "without a type");
}

static int affix(struct context *c, bool behind, const char *word, int64_t id)
{
    struct sk_tok_draft *d = c->d;
    uint32_t *ids = behind ? d->suffix : d->prefix, *n = behind ? &d->n_suffix : &d->n_prefix;
    if (id < 0 || id >= d->n_word)
        return sk_err_set(c->err, SK_EFORMAT, NULL, "tokenizer.json: post_processor names \"%s\", which is no token",
                          word);
    if (*n == SK_VOCAB_MAX_AFFIX)
        return unsupported(c, "post_processor", "with that many tokens");
    ids[(*n)++] = (uint32_t)id;
    return 0;
}

/* {"single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}], "special_tokens": {"<s>": {"ids": [1]}}} */
static int template(struct context *c, const struct cJSON *v)
{
    bool behind = false;
    int rc = 0;
    const struct cJSON *part = sk_json_first(sk_json_get(v, "single"));
    for (; rc == 0 && part; part = sk_json_next(part)) {
        if (sk_json_get(part, "Sequence")) {
            behind = true;
            continue;
        }
        const char *word = text(sk_json_get(part, "SpecialToken"), "id");
        const struct cJSON *ids = sk_json_get(sk_json_get(sk_json_get(v, "special_tokens"), word), "ids");
        int64_t id = -1;
        if (sk_json_len(ids) == 0)
            rc = affix(c, behind, word, -1);
        for (const struct cJSON *i = sk_json_first(ids); rc == 0 && i; i = sk_json_next(i))
            rc = affix(c, behind, word, sk_json_is_int(i, &id) ? id : -1);
    }
    return rc;
}

static int post_processor(struct context *c, const struct cJSON *v, const char *type, int depth)
{
    if (!strcmp(type, "ByteLevel")) /* changes offsets only */
        return 0;
    if (!strcmp(type, "TemplateProcessing"))
        return template(c, v);
    if (!strcmp(type, "RobertaProcessing") || !strcmp(type, "BertProcessing")) {
        const char *cls = sk_json_str(sk_json_first(sk_json_get(v, "cls"))),
                   *sep = sk_json_str(sk_json_first(sk_json_get(v, "sep")));
        int rc = affix(c, false, cls ? cls : "cls", cls ? sk_tok_draft_find(c->d, cls, strlen(cls)) : -1);
        return rc ? rc : affix(c, true, sep ? sep : "sep", sep ? sk_tok_draft_find(c->d, sep, strlen(sep)) : -1);
    }
    return unsupported(c, "post_processor", *type ? type : "without a type");
}

int sk_tok_program(struct sk_tok_draft *d, const struct cJSON *root, struct sk_err *err)
{
    struct context c = {.d = d, .err = err};
    const struct cJSON *dec = sk_json_get(root, "decoder");
    int rc = each(&c, sk_json_get(root, "normalizer"), "normalizer", "normalizers", 0, normalizer);
    if (rc == 0)
        rc = each(&c, sk_json_get(root, "pre_tokenizer"), "pre_tokenizer", "pretokenizers", 0, pre_tokenizer);
    if (rc == 0 && sk_json_type(dec) == SK_JSON_NULL)
        rc = unsupported(&c, "a tokenizer", "without a decoder");
    if (rc == 0)
        rc = each(&c, dec, "decoder", "decoders", 0, decoder);
    if (rc == 0)
        rc = each(&c, sk_json_get(root, "post_processor"), "post_processor", "processors", 0, post_processor);
    return rc;
}
