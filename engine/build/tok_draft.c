#include "engine/build/tok_draft.h"

#include <string.h>

#include "comm/base/mem.h"

#define MAX_BLOB ((size_t)1 << 30)

static int no_memory(struct sk_err *err)
{
    return sk_err_set(err, SK_ENOMEM, NULL, "tokenizer: out of memory");
}

void sk_tok_draft_init(struct sk_tok_draft *d, uint32_t n_vocab)
{
    *d = (struct sk_tok_draft){.n_vocab = n_vocab < SK_VOCAB_MAX_WORDS ? n_vocab : SK_VOCAB_MAX_WORDS,
                               .unk = SK_VOCAB_NO_WORD};
    sk_buf_init(&d->blob, MAX_BLOB);
    sk_buf_init(&d->scratch, 2 * SK_VOCAB_MAX_TOKEN_BYTES);
    sk_buf_reserve(&d->blob, 1); /* so that an empty word has an address; a failure shows at the first text */
}

void sk_tok_draft_done(struct sk_tok_draft *d)
{
    sk_free(d->words);
    sk_free(d->hash);
    sk_free(d->merges);
    sk_free(d->added);
    sk_buf_done(&d->blob);
    sk_buf_done(&d->scratch);
}

int sk_tok_draft_str(struct sk_tok_draft *d, const char *s, size_t n, struct sk_vocab_str *ret, struct sk_err *err)
{
    size_t at = d->blob.n;
    if (sk_buf_add(&d->blob, s, n))
        return sk_err_set(err, -d->blob.failed, NULL, "tokenizer: its texts exceed %zu bytes", MAX_BLOB);
    *ret = (struct sk_vocab_str){(uint32_t)at, (uint32_t)n};
    return 0;
}

static int grow_words(struct sk_tok_draft *d, uint32_t n, struct sk_err *err)
{
    if (n > d->cap_word) {
        uint32_t cap = n < d->cap_word * 2 ? d->cap_word * 2 : n + 1024;
        struct sk_vocab_word *p = sk_realloc(d->words, cap * sizeof *p);
        if (!p)
            return no_memory(err);
        d->words = p;
        d->cap_word = cap;
    }
    for (; d->n_word < n; d->n_word++)
        d->words[d->n_word] = (struct sk_vocab_word){.flags = SK_TOK_UNUSED};
    return 0;
}

int sk_tok_draft_word(struct sk_tok_draft *d, uint32_t id, const char *s, size_t n, unsigned flags, struct sk_err *err)
{
    if (id >= d->n_vocab)
        return sk_err_set(err, SK_EFORMAT, NULL,
                          "tokenizer: id %u of \"%.*s\" is not below the model's vocabulary of %u", id,
                          n > 60 ? 60 : (int)n, s, d->n_vocab);
    if (n > SK_VOCAB_MAX_TOKEN_BYTES)
        return sk_err_set(err, SK_EFORMAT, NULL, "tokenizer: the word of id %u has %zu bytes; at most %d", id, n,
                          SK_VOCAB_MAX_TOKEN_BYTES);
    int rc = id < d->n_word ? 0 : grow_words(d, id + 1, err);
    if (rc)
        return rc;
    if (d->words[id].flags != SK_TOK_UNUSED)
        return sk_err_set(err, SK_EFORMAT, NULL, "tokenizer: id %u has two words, the second is \"%.*s\"", id,
                          n > 60 ? 60 : (int)n, s);
    d->words[id].flags = flags;
    return sk_tok_draft_str(d, s, n, &d->words[id].word, err);
}

static uint32_t table_slots(size_t n)
{
    uint32_t slots = 8;
    while (slots < n + n / 2)
        slots *= 2;
    return slots;
}

static const char *word_at(const struct sk_tok_draft *d, uint32_t id)
{
    return d->blob.p + d->words[id].word.offset;
}

/* The slot of a word, or the empty one where it belongs. */
static uint32_t *find_slot(const struct sk_tok_draft *d, const char *s, size_t n)
{
    for (uint32_t i = sk_vocab_hash(s, n);; i++) {
        uint32_t *slot = &d->hash[i & (d->n_hash - 1)];
        if (*slot == 0 || (d->words[*slot - 1].word.n == n && memcmp(word_at(d, *slot - 1), s, n) == 0))
            return slot;
    }
}

int sk_tok_draft_index(struct sk_tok_draft *d, struct sk_err *err)
{
    if (d->n_word == 0)
        return sk_err_set(err, SK_EFORMAT, NULL, "tokenizer: no words");
    sk_free(d->hash);
    d->n_hash = table_slots(d->n_word);
    d->hash = sk_calloc(d->n_hash, sizeof *d->hash);
    if (!d->hash)
        return no_memory(err);
    for (uint32_t id = 0; id < d->n_word; id++) {
        uint32_t *slot = d->words[id].flags & SK_TOK_UNUSED ? NULL : find_slot(d, word_at(d, id), d->words[id].word.n);
        if (slot && *slot == 0) /* of equal words the first */
            *slot = id + 1;
    }
    return 0;
}

int sk_tok_draft_find(const struct sk_tok_draft *d, const char *s, size_t n)
{
    return (int)*find_slot(d, s, n) - 1;
}

int sk_tok_draft_merges(struct sk_tok_draft *d, size_t n, struct sk_err *err)
{
    if (n > SK_VOCAB_MAX_WORDS)
        return sk_err_set(err, SK_EFORMAT, NULL, "tokenizer: %zu merges; at most %d", n, SK_VOCAB_MAX_WORDS);
    d->n_slot = table_slots(n);
    d->merges = sk_malloc(d->n_slot * sizeof *d->merges);
    if (!d->merges)
        return no_memory(err);
    for (uint32_t i = 0; i < d->n_slot; i++)
        d->merges[i] = (struct sk_vocab_merge){.left = SK_VOCAB_NO_WORD};
    return 0;
}

void sk_tok_draft_merge(struct sk_tok_draft *d, struct sk_vocab_merge m)
{
    struct sk_vocab_merge *slot;
    uint32_t i = sk_vocab_pair_hash(m.left, m.right);
    do
        slot = &d->merges[i++ & (d->n_slot - 1)];
    while (slot->left != SK_VOCAB_NO_WORD && !(slot->left == m.left && slot->right == m.right));
    *slot = m;
}

int sk_tok_draft_pair(struct sk_tok_draft *d, uint32_t rank, struct sk_tok_text a, struct sk_tok_text b,
                      struct sk_err *err)
{
    sk_buf_clear(&d->scratch);
    sk_buf_add(&d->scratch, a.s, a.n);
    sk_buf_add(&d->scratch, b.s, b.n);
    int left = a.n ? sk_tok_draft_find(d, a.s, a.n) : -1, right = b.n ? sk_tok_draft_find(d, b.s, b.n) : -1, id = -1;
    if (left >= 0 && right >= 0 && !d->scratch.failed)
        id = sk_tok_draft_find(d, d->scratch.p, d->scratch.n);
    if (id < 0)
        return sk_err_set(err, SK_EFORMAT, NULL, "tokenizer: merge %u is malformed or names no words of the vocabulary",
                          rank);
    sk_tok_draft_merge(d, (struct sk_vocab_merge){(uint32_t)left, (uint32_t)right, rank, (uint32_t)id});
    return 0;
}

/* What user text must never become: special tokens, and spellings of their kind that the tokenizer does not call
 * special (Qwen's <|fim_prefix|>, <|repo_name|>). Markers like <tool_call> or <think> are for the model's own answers
 * and stay out. */
static bool is_control(const char *s, size_t n, bool special)
{
    return special || (n > 4 && memcmp(s, "<|", 2) == 0 && memcmp(s + n - 2, "|>", 2) == 0);
}

int sk_tok_draft_added(struct sk_tok_draft *d, const struct sk_vocab_added *a, const char *s, size_t n, bool special,
                       struct sk_err *err)
{
    if (n == 0)
        return 0; /* could match nothing */
    if (n > SK_VOCAB_MAX_ADDED_BYTES)
        return sk_err_set(err, SK_EUNSUP, NULL, "tokenizer: an added token of %zu bytes; at most %d", n,
                          SK_VOCAB_MAX_ADDED_BYTES);
    int known = sk_tok_draft_find(d, s, n);
    uint32_t id = known >= 0 ? (uint32_t)known : a->id;
    if (id >= d->n_vocab)
        return 0;
    unsigned flags = SK_TOK_ADDED | (special ? SK_TOK_SPECIAL : 0) | (is_control(s, n, special) ? SK_TOK_CONTROL : 0);
    if (known >= 0) {
        d->words[id].flags |= flags;
    } else {
        int rc = sk_tok_draft_word(d, id, s, n, flags, err);
        if (rc == 0 && d->n_word > d->n_hash / 4 * 3)
            rc = sk_tok_draft_index(d, err);
        if (rc)
            return rc;
        *find_slot(d, s, n) = id + 1;
    }
    if (d->n_added == d->cap_added) {
        uint32_t cap = d->cap_added ? d->cap_added * 2 : 64;
        struct sk_vocab_added *p = sk_realloc(d->added, cap * sizeof *p);
        if (!p)
            return no_memory(err);
        d->added = p;
        d->cap_added = cap;
    }
    d->added[d->n_added++] = (struct sk_vocab_added){.id = id, .flags = a->flags};
    return 0;
}

/* Oniguruma reads a [ inside a class as a class in the class and && as an intersection; \h is a hexadecimal digit. */
static int check_regex(const char *s, struct sk_err *err)
{
    const char *what = NULL;
    bool in_class = false;
    for (const char *p = s; *p && !what; p++) {
        if (*p == '\\') {
            p++;
            if (*p == 'h' || *p == 'H')
                what = "\\h";
            if (!*p)
                break;
        } else if (!in_class) {
            in_class = *p == '[';
            if (in_class && p[1] == '^')
                p++;
            if (in_class && p[1] == ']')
                p++;
        } else if (*p == ']') {
            in_class = false;
        } else if (*p == '[' && p[1] == ':') {
            const char *end = strstr(p, ":]");
            p = end ? end + 1 : p;
        } else if (*p == '[') {
            what = "a class inside a class";
        } else if (*p == '&' && p[1] == '&') {
            what = "an intersection of classes";
        }
    }
    return what ? sk_err_set(err, SK_EUNSUP, NULL, "tokenizer: %s in the regex \"%.120s\" is not supported", what, s)
                : 0;
}

static int add_op(struct sk_tok_draft *d, struct sk_vocab_op *ops, uint32_t *n, struct sk_vocab_op op,
                  const char *const text[2], struct sk_err *err)
{
    if (*n == SK_VOCAB_MAX_OPS)
        return sk_err_set(err, SK_EUNSUP, NULL, "tokenizer: more than %d steps in the normalizer or pre_tokenizer",
                          SK_VOCAB_MAX_OPS);
    struct sk_vocab_str *to[2] = {&op.a, &op.b};
    bool is_regex = (op.kind == SK_VOCAB_SPLIT || op.kind == SK_VOCAB_REPLACE) && !(op.arg & SK_VOCAB_LITERAL);
    int rc = is_regex ? check_regex(text[0], err) : 0;
    for (int i = 0; rc == 0 && i < 2; i++) {
        size_t len = text[i] ? strlen(text[i]) : 0;
        if (len > SK_VOCAB_MAX_PATTERN || (text[0] && !*text[0]))
            return sk_err_set(err, SK_EUNSUP, NULL, "tokenizer: an empty pattern, or one of more than %d bytes",
                              SK_VOCAB_MAX_PATTERN);
        rc = sk_tok_draft_str(d, text[i] ? text[i] : "", len, to[i], err);
    }
    if (rc == 0)
        ops[(*n)++] = op;
    return rc;
}

int sk_tok_draft_norm(struct sk_tok_draft *d, enum sk_vocab_op_kind kind, uint32_t arg, const char *a, const char *b,
                      struct sk_err *err)
{
    return add_op(d, d->norm, &d->n_norm, (struct sk_vocab_op){.kind = kind, .arg = arg}, (const char *[2]){a, b}, err);
}

int sk_tok_draft_pretok(struct sk_tok_draft *d, enum sk_vocab_op_kind kind, uint32_t arg, const char *a,
                        struct sk_err *err)
{
    return add_op(d, d->pretok, &d->n_pretok, (struct sk_vocab_op){.kind = kind, .arg = arg},
                  (const char *[2]){a, NULL}, err);
}

int sk_tok_draft_step(struct sk_tok_draft *d, enum sk_tok_step_kind kind, const char *a, const char *b,
                      struct sk_err *err)
{
    if (d->n_step == SK_TOK_MAX_STEPS)
        return sk_err_set(err, SK_EUNSUP, NULL, "tokenizer: more than %d steps in the decoder", SK_TOK_MAX_STEPS);
    struct sk_tok_step *s = &d->steps[d->n_step];
    *s = (struct sk_tok_step){.kind = kind};
    int rc = a ? sk_tok_draft_str(d, a, strlen(a), &s->a, err) : 0;
    if (rc == 0 && b)
        rc = sk_tok_draft_str(d, b, strlen(b), &s->b, err);
    if (rc == 0)
        d->n_step++;
    return rc;
}
