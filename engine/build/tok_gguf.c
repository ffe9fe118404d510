#include "engine/build/tok.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "comm/base/mem.h"
#include "comm/base/utf8.h"
#include "engine/build/gguf.h"
#include "engine/build/tok_draft.h"

#define MAX_TEMPLATE    ((size_t)4 << 20)
#define MAX_SCORED_WORD 256            /* bytes of a word that merges can make, where they come from scores */
#define META            "\xE2\x96\x81" /* U+2581, SentencePiece's space */

/* tokenizer.ggml.token_type (ggml docs/gguf.md) */
enum { TYPE_NORMAL = 1, TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER = 4, TYPE_UNUSED = 5, TYPE_BYTE = 6 };

#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define TAIL        "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER       "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER       "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"

/* tokenizer.ggml.pre says how text is split before merging. Which name means which split: llama.cpp,
 * src/llama-vocab.cpp; the regexes are those of the models' own tokenizer.json. */
static const struct split {
    const char *names; /* each between spaces */
    const char *regex; /* behind Digits, if that is set; all Isolated */
    bool digits, nfc, ignore_merges, add_bos;
} splits[] = {
    {" default gpt-2 phi-2 mpt olmo jais ", SK_TOK_GPT2_SPLIT, .digits = false},
    {" smollm starcoder refact command-r codeshell exaone minerva-7b ", SK_TOK_GPT2_SPLIT, .digits = true},
    {" qwen2 deepseek-r1-qwen stablelm2 ",
     CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" TAIL, .nfc = true},
    {" llama3 llama-v3 llama-bpe falcon3 ",
     CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" TAIL,
     .ignore_merges = true, .add_bos = true},
    {" dbrx smaug-bpe ", CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" TAIL,
     .digits = false},
    {" tekken ",
     "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER
     "*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" TAIL,
     .ignore_merges = true, .add_bos = true},
};

struct source {
    const struct sk_gguf *g;
    struct sk_tok_draft *d;
    struct sk_gguf_array tokens, types;
    struct sk_err *err;
    bool scored, add_bos, add_eos, add_space;
    uint32_t bos, eos; /* SK_VOCAB_NO_WORD = none */
};

static int bad(struct source *s, const char *what)
{
    return sk_err_set(s->err, SK_EFORMAT, NULL, "GGUF: %s", what);
}

static int type_of(const struct source *s, uint64_t i)
{
    int32_t type = TYPE_NORMAL;
    if (s->types.n)
        sk_gguf_at_i32(&s->types, i, &type);
    return type;
}

static int read_words(struct source *s)
{
    int rc = sk_gguf_array(s->g, "tokenizer.ggml.tokens", &s->tokens, s->err);
    if (rc == 0)
        rc = sk_gguf_array(s->g, "tokenizer.ggml.token_type", &s->types, s->err);
    if (rc)
        return rc;
    if (s->tokens.n == 0 || s->tokens.n > SK_VOCAB_MAX_WORDS || (s->types.n && s->types.n != s->tokens.n))
        return bad(s, "tokenizer.ggml.tokens: none, too many, or not as many as token_type");
    for (uint64_t i = 0; i < s->tokens.n; i++) {
        const char *word;
        size_t n;
        if (sk_gguf_at_str(&s->tokens, i, &word, &n))
            return bad(s, "tokenizer.ggml.tokens is not a list of strings");
        int type = type_of(s, i);
        bool model = type == TYPE_NORMAL || type == TYPE_USER || type == TYPE_BYTE;
        rc = sk_tok_draft_word(s->d, (uint32_t)i, word, n, model ? SK_TOK_MODEL : 0, s->err);
        if (rc)
            return rc;
    }
    rc = sk_tok_draft_index(s->d, s->err);
    for (uint64_t i = 0; rc == 0 && i < s->tokens.n; i++) {
        const char *word;
        size_t n;
        int type = type_of(s, i);
        bool special = type == TYPE_CONTROL || type == TYPE_UNKNOWN;
        if ((!special && type != TYPE_USER) || sk_gguf_at_str(&s->tokens, i, &word, &n))
            continue;
        if (!sk_utf8_valid(word, n))
            return bad(s, "a control token is not UTF-8");
        rc = sk_tok_draft_added(s->d, &(struct sk_vocab_added){.id = (uint32_t)i}, word, n, special, s->err);
    }
    return rc;
}

static int read_merges(struct source *s)
{
    struct sk_gguf_array list = {0};
    int rc = sk_gguf_array(s->g, "tokenizer.ggml.merges", &list, s->err);
    if (rc)
        return rc;
    rc = sk_tok_draft_merges(s->d, list.n, s->err);
    for (uint64_t i = 0; rc == 0 && i < list.n; i++) {
        struct sk_tok_text a, b = {0};
        if (sk_gguf_at_str(&list, i, &a.s, &a.n))
            return bad(s, "tokenizer.ggml.merges is not a list of strings");
        const char *space = a.n ? memchr(a.s, ' ', a.n) : NULL;
        if (space) {
            b = (struct sk_tok_text){space + 1, a.n - (size_t)(space - a.s) - 1};
            a.n = (size_t)(space - a.s);
        }
        rc = sk_tok_draft_pair(s->d, (uint32_t)i, a, b, s->err);
    }
    return rc;
}

struct scored {
    float score;
    uint32_t id;
};

static int by_score(const void *pa, const void *pb)
{
    const struct scored *a = pa, *b = pb;
    return a->score != b->score ? (a->score < b->score) - (a->score > b->score) : (a->id > b->id) - (a->id < b->id);
}

static bool can_merge(const struct source *s, int id)
{
    return id >= 0 && (type_of(s, (uint64_t)id) == TYPE_NORMAL || type_of(s, (uint64_t)id) == TYPE_USER);
}

/* The pairs of words that make word `id`; put in as merges where `rank` is not SK_VOCAB_NO_WORD. Returns their count.
 */
static size_t pairs_of(const struct source *s, uint32_t id, uint32_t rank)
{
    const char *word;
    size_t n, count = 0;
    if (sk_gguf_at_str(&s->tokens, id, &word, &n) || n > MAX_SCORED_WORD)
        return 0;
    for (size_t i = 1; i < n; i++) {
        if ((word[i] & 0xC0) == 0x80)
            continue;
        int left = sk_tok_draft_find(s->d, word, i), right = sk_tok_draft_find(s->d, word + i, n - i);
        if (!can_merge(s, left) || !can_merge(s, right))
            continue;
        count++;
        if (rank != SK_VOCAB_NO_WORD)
            sk_tok_draft_merge(s->d, (struct sk_vocab_merge){(uint32_t)left, (uint32_t)right, rank, id});
    }
    return count;
}

/* SentencePiece has no merges: of all pairs side by side it joins those whose word has the highest score. So each pair
 * that makes a word is a merge, and equal scores are one rank (Kudo and Richardson, SentencePiece, EMNLP 2018; its
 * bpe_model.cc). */
static int merges_from_scores(struct source *s)
{
    struct sk_gguf_array list = {0};
    int rc = sk_gguf_array(s->g, "tokenizer.ggml.scores", &list, s->err);
    if (rc)
        return rc;
    if (list.n != s->tokens.n)
        return bad(s, "tokenizer.ggml.scores: not as many as tokens");
    struct scored *order = sk_malloc(list.n * sizeof *order);
    if (!order)
        return sk_err_set(s->err, SK_ENOMEM, NULL, "tokenizer: out of memory");
    size_t n = 0, n_pair = 0;
    for (uint64_t i = 0; i < list.n; i++) {
        float score = 0;
        if (!can_merge(s, (int)i))
            continue;
        if (sk_gguf_at_f32(&list, i, &score) || isnan(score))
            score = -INFINITY;
        order[n++] = (struct scored){score, (uint32_t)i};
        n_pair += pairs_of(s, (uint32_t)i, SK_VOCAB_NO_WORD);
    }
    qsort(order, n, sizeof *order, by_score);
    rc = sk_tok_draft_merges(s->d, n_pair, s->err);
    for (size_t i = 0, rank = 0; rc == 0 && i < n; i++) {
        rank += i && order[i].score != order[i - 1].score;
        pairs_of(s, order[i].id, (uint32_t)rank);
    }
    sk_free(order);
    return rc;
}

static int spm_program(struct source *s)
{
    struct sk_tok_draft *d = s->d;
    int rc = 0;
    d->flags |= SK_VOCAB_BYTE_FALLBACK | SK_VOCAB_FUSE_UNK;
    if (s->add_space)
        rc = sk_tok_draft_norm(d, SK_VOCAB_PREPEND, 0, META, NULL, s->err);
    if (rc == 0)
        rc = sk_tok_draft_norm(d, SK_VOCAB_REPLACE, SK_VOCAB_LITERAL, " ", META, s->err);
    if (rc == 0)
        rc = sk_tok_draft_step(d, SK_TOK_STEP_REPLACE, META, " ", s->err);
    if (rc == 0)
        rc = sk_tok_draft_step(d, SK_TOK_STEP_BYTE_FALLBACK, NULL, NULL, s->err);
    d->strip_start = s->add_space;
    return rc;
}

static const struct split *find_split(const char *name, size_t n)
{
    char key[66] = " ";
    if (n == 0 || n > 63 || memchr(name, ' ', n) || memchr(name, 0, n))
        return NULL;
    memcpy(key + 1, name, n);
    key[n + 1] = ' ';
    for (size_t i = 0; i < sizeof splits / sizeof *splits; i++)
        if (strstr(splits[i].names, key))
            return &splits[i];
    return NULL;
}

static int bpe_program(struct source *s)
{
    const char *pre = "default";
    size_t n = strlen(pre);
    int rc = sk_gguf_str(s->g, "tokenizer.ggml.pre", &pre, &n, s->err);
    if (rc)
        return rc;
    const struct split *split = find_split(pre, n);
    if (!split)
        return sk_err_set(s->err, SK_EUNSUP, NULL, "GGUF: tokenizer.ggml.pre \"%.*s\" is not supported",
                          n > 60 ? 60 : (int)n, pre);
    struct sk_tok_draft *d = s->d;
    d->flags |= SK_VOCAB_BYTE_LEVEL | (split->ignore_merges ? SK_VOCAB_IGNORE_MERGES : 0);
    s->add_bos = split->add_bos;
    if (split->nfc)
        rc = sk_tok_draft_norm(d, SK_VOCAB_NFC, 0, NULL, NULL, s->err);
    if (rc == 0 && split->digits)
        rc = sk_tok_draft_pretok(d, SK_VOCAB_DIGITS, SK_VOCAB_ISOLATED, NULL, s->err);
    if (rc == 0)
        rc = sk_tok_draft_pretok(d, SK_VOCAB_SPLIT, SK_VOCAB_ISOLATED, split->regex, s->err);
    return rc ? rc : sk_tok_draft_step(d, SK_TOK_STEP_BYTE_LEVEL, NULL, NULL, s->err);
}

static int read_model(struct source *s)
{
    const char *model = "none";
    size_t n = strlen(model);
    int rc = sk_gguf_str(s->g, "tokenizer.ggml.model", &model, &n, s->err);
    if (rc)
        return rc;
    bool bpe = n == 4 && !memcmp(model, "gpt2", 4);
    s->scored = n == 5 && !memcmp(model, "llama", 5);
    if (!bpe && !s->scored)
        return sk_err_set(s->err, SK_EUNSUP, NULL,
                          "GGUF: tokenizer.ggml.model \"%.*s\" is not supported; gpt2 and llama are",
                          n > 60 ? 60 : (int)n, model);
    s->add_bos = s->scored;
    s->add_space = s->scored;
    s->bos = s->scored ? 1 : SK_VOCAB_NO_WORD;
    s->eos = s->scored ? 2 : SK_VOCAB_NO_WORD;
    rc = read_words(s);
    if (rc == 0)
        rc = s->scored ? merges_from_scores(s) : read_merges(s);
    if (rc == 0)
        rc = sk_gguf_bool(s->g, "tokenizer.ggml.add_space_prefix", &s->add_space, s->err);
    if (rc == 0)
        rc = s->scored ? spm_program(s) : bpe_program(s);
    return rc;
}

static int read_ids(struct source *s)
{
    struct sk_tok_draft *d = s->d;
    uint32_t unk = s->scored ? 0 : SK_VOCAB_NO_WORD;
    int rc = sk_gguf_u32(s->g, "tokenizer.ggml.bos_token_id", &s->bos, s->err);
    if (rc == 0)
        rc = sk_gguf_u32(s->g, "tokenizer.ggml.eos_token_id", &s->eos, s->err);
    if (rc == 0 && s->scored) /* byte-level words spell everything */
        rc = sk_gguf_u32(s->g, "tokenizer.ggml.unknown_token_id", &unk, s->err);
    if (rc == 0)
        rc = sk_gguf_bool(s->g, "tokenizer.ggml.add_bos_token", &s->add_bos, s->err);
    if (rc == 0)
        rc = sk_gguf_bool(s->g, "tokenizer.ggml.add_eos_token", &s->add_eos, s->err);
    if (rc)
        return rc;
    d->unk = unk < d->n_word ? unk : SK_VOCAB_NO_WORD;
    if (s->add_bos && s->bos < d->n_word)
        d->prefix[d->n_prefix++] = s->bos;
    if (s->add_eos && s->eos < d->n_word)
        d->suffix[d->n_suffix++] = s->eos;
    return 0;
}

static int32_t name_token(const struct source *s, uint32_t id, char name[128])
{
    if (id >= s->d->n_word)
        return -1;
    struct sk_vocab_str w = s->d->words[id].word;
    if (w.n < 128) /* a longer one is none that a template would know */
        memcpy(name, s->d->blob.p + w.offset, w.n);
    return (int32_t)id;
}

static int read_template(const struct source *s, const char *key, char **ret)
{
    const char *p = NULL;
    size_t n = 0;
    int rc = sk_gguf_str(s->g, key, &p, &n, s->err);
    if (rc || !p)
        return rc;
    if (n > MAX_TEMPLATE || memchr(p, 0, n) || !sk_utf8_valid(p, n))
        return sk_err_set(s->err, SK_EFORMAT, NULL, "GGUF: %s is not UTF-8 text of at most %zu bytes", key,
                          MAX_TEMPLATE);
    *ret = sk_strndup(p, n);
    return *ret ? 0 : sk_err_set(s->err, SK_ENOMEM, NULL, "out of memory");
}

int sk_tok_from_gguf(const struct sk_gguf *g, uint32_t n_vocab, const char *out_path, struct sk_tok_info *ret,
                     struct sk_err *err)
{
    struct sk_tok_draft d;
    struct source s = {.g = g, .d = &d, .err = err};
    struct sk_tok_info info = {.bos = -1, .eos = -1};
    sk_tok_draft_init(&d, n_vocab);
    int rc = read_model(&s);
    if (rc == 0)
        rc = read_ids(&s);
    if (rc == 0)
        rc = read_template(&s, "tokenizer.chat_template", &info.chat_template);
    if (rc == 0)
        rc = read_template(&s, "tokenizer.chat_template.tool_use", &info.tools_template);
    if (rc == 0)
        rc = sk_tok_draft_write(&d, out_path, err);
    if (rc == 0) {
        info.bos = name_token(&s, s.bos, info.bos_token);
        info.eos = name_token(&s, s.eos, info.eos_token);
        *ret = info;
        info.chat_template = info.tools_template = NULL;
    }
    sk_free(info.chat_template);
    sk_free(info.tools_template);
    sk_tok_draft_done(&d);
    return rc;
}
