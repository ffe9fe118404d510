#include "comm/dir/vocab.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "comm/base/mem.h"
#include "comm/base/utf8.h"
#include "comm/dir/vocab_format.h"

_Static_assert(sizeof(struct sk_vocab_head) == 32 + SK_VOCAB_N_SECTION * 16, "the head has no padding");
_Static_assert(sizeof(struct sk_vocab_word) == 20 && sizeof(struct sk_vocab_op) == 24, "records have no padding");

static const uint32_t element_bytes[SK_VOCAB_N_SECTION] = {
    [SK_VOCAB_WORDS] = sizeof(struct sk_vocab_word),
    [SK_VOCAB_HASH] = sizeof(uint32_t),
    [SK_VOCAB_MERGES] = sizeof(struct sk_vocab_merge),
    [SK_VOCAB_ADDED] = sizeof(struct sk_vocab_added),
    [SK_VOCAB_CONTROLS] = sizeof(uint32_t),
    [SK_VOCAB_NORM] = sizeof(struct sk_vocab_op),
    [SK_VOCAB_PRETOK] = sizeof(struct sk_vocab_op),
    [SK_VOCAB_PREFIX] = sizeof(uint32_t),
    [SK_VOCAB_SUFFIX] = sizeof(uint32_t),
    [SK_VOCAB_BLOB] = 1,
};

static int bad(struct sk_err *err, const char *what)
{
    return sk_err_set(err, SK_EFORMAT, NULL, "compiled tokenizer: %s", what);
}

static int check_head(const struct sk_vocab_head *h, size_t n, struct sk_err *err)
{
    if (n < sizeof *h || memcmp(h->magic, SK_VOCAB_MAGIC, sizeof h->magic) != 0)
        return bad(err, "not a vocab.skv file");
    if (h->format != SK_VOCAB_FORMAT)
        return sk_err_set(err, SK_EFORMAT, NULL,
                          "compiled tokenizer: format %u, this build reads %u; run skein-build again", h->format,
                          SK_VOCAB_FORMAT);
    if (h->file_bytes != n)
        return sk_err_set(err, SK_EFORMAT, NULL, "compiled tokenizer: %zu bytes, its head says %llu", n,
                          (unsigned long long)h->file_bytes);
    for (int i = 0; i < SK_VOCAB_N_SECTION; i++) {
        uint64_t offset = h->section[i].offset, count = h->section[i].n;
        if (offset % 8 || offset > n || count > (n - offset) / element_bytes[i] || count >= UINT32_MAX)
            return bad(err, "a section lies outside the file");
    }
    return 0;
}

static bool str_ok(const struct sk_vocab *v, struct sk_vocab_str s)
{
    uint64_t n_blob = v->head->section[SK_VOCAB_BLOB].n;
    return s.offset <= n_blob && s.n <= n_blob - s.offset;
}

/* Patterns and added tokens cut the text: were they not whole characters, the pieces would not be UTF-8. */
static bool text_ok(const struct sk_vocab *v, struct sk_vocab_str s, uint32_t min, uint32_t max)
{
    return str_ok(v, s) && s.n >= min && s.n <= max && sk_utf8_valid(sk_vocab_at(v, s), s.n);
}

static int check_words(struct sk_vocab *v, struct sk_err *err)
{
    if (v->n_word == 0 || v->n_word > SK_VOCAB_MAX_WORDS)
        return bad(err, "no words, or too many");
    for (uint32_t i = 0; i < v->n_word; i++) {
        const struct sk_vocab_word *w = &v->words[i];
        if (!str_ok(v, w->word) || !str_ok(v, w->bytes) || w->bytes.n > SK_VOCAB_MAX_TOKEN_BYTES)
            return bad(err, "a word lies outside the file or is too long");
        if ((w->flags & SK_TOK_BYTE) && w->bytes.n != 1)
            return bad(err, "a byte token is not one byte");
        if (w->bytes.n > v->max_token_bytes)
            v->max_token_bytes = w->bytes.n;
    }
    return 0;
}

/* Look-ups end at an empty slot, so there must be one. */
static int check_tables(const struct sk_vocab *v, struct sk_err *err)
{
    uint64_t n_hash = v->head->section[SK_VOCAB_HASH].n, n_merge = v->head->section[SK_VOCAB_MERGES].n;
    if (n_hash == 0 || (n_hash & (n_hash - 1)) || n_merge == 0 || (n_merge & (n_merge - 1)))
        return bad(err, "a table's size is not a power of two");
    uint32_t n_empty = 0;
    for (uint64_t i = 0; i < n_hash; i++) {
        n_empty += v->hash[i] == 0;
        if (v->hash[i] > v->n_word)
            return bad(err, "the word table names an id that is none");
    }
    uint32_t n_free = 0;
    for (uint64_t i = 0; i < n_merge; i++) {
        const struct sk_vocab_merge *m = &v->merges[i];
        if (m->left == SK_VOCAB_NO_WORD)
            n_free++;
        else if (m->left >= v->n_word || m->right >= v->n_word || m->id >= v->n_word)
            return bad(err, "a merge names an id that is none");
    }
    if (n_empty == 0 || n_free == 0)
        return bad(err, "a table is full");
    return 0;
}

static int check_ids(const uint32_t *ids, uint32_t n, const struct sk_vocab *v, struct sk_err *err)
{
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] >= v->n_word)
            return bad(err, "a list names an id that is none");
    return 0;
}

static int check_lists(const struct sk_vocab *v, struct sk_err *err)
{
    for (uint32_t i = 0; i < v->n_added; i++)
        if (v->added[i].id >= v->n_word || !text_ok(v, v->words[v->added[i].id].word, 1, SK_VOCAB_MAX_ADDED_BYTES))
            return bad(err, "a bad added token");
    if (v->n_prefix > SK_VOCAB_MAX_AFFIX || v->n_suffix > SK_VOCAB_MAX_AFFIX)
        return bad(err, "too many tokens from the post-processor");
    if (v->head->unk != SK_VOCAB_NO_WORD && v->head->unk >= v->n_word)
        return bad(err, "the unknown token is none");
    int rc = check_ids(v->controls, v->n_control, v, err);
    if (rc == 0)
        rc = check_ids(v->prefix, v->n_prefix, v, err);
    if (rc == 0)
        rc = check_ids(v->suffix, v->n_suffix, v, err);
    return rc;
}

static bool op_ok(const struct sk_vocab *v, const struct sk_vocab_op *op, bool norm)
{
    if (op->kind >= SK_VOCAB_N_OP || (op->kind < SK_VOCAB_SPLIT) != norm)
        return false;
    uint32_t arg = op->arg & SK_VOCAB_ARG_MASK;
    bool needs_a = op->kind == SK_VOCAB_REPLACE || op->kind == SK_VOCAB_PREPEND || op->kind == SK_VOCAB_SPLIT ||
                   op->kind == SK_VOCAB_METASPACE;
    if (!text_ok(v, op->a, needs_a, SK_VOCAB_MAX_PATTERN) || !text_ok(v, op->b, 0, SK_VOCAB_MAX_PATTERN))
        return false;
    if (op->kind == SK_VOCAB_SPLIT || op->kind == SK_VOCAB_DIGITS)
        return arg < SK_VOCAB_N_BEHAVIOUR;
    return op->kind != SK_VOCAB_METASPACE || arg < SK_VOCAB_N_SCHEME;
}

static int check_programs(const struct sk_vocab *v, struct sk_err *err)
{
    if (v->n_norm > SK_VOCAB_MAX_OPS || v->n_pretok > SK_VOCAB_MAX_OPS)
        return bad(err, "too many steps in the normalizer or pre-tokenizer");
    for (uint32_t i = 0; i < v->n_norm; i++)
        if (!op_ok(v, &v->norm[i], true))
            return bad(err, "a bad step in the normalizer");
    for (uint32_t i = 0; i < v->n_pretok; i++)
        if (!op_ok(v, &v->pretok[i], false))
            return bad(err, "a bad step in the pre-tokenizer");
    return 0;
}

static const void *section(const struct sk_vocab_head *h, enum sk_vocab_section s, uint32_t *ret_n)
{
    if (ret_n)
        *ret_n = (uint32_t)h->section[s].n;
    return (const char *)h + h->section[s].offset;
}

static void bind(struct sk_vocab *v, const struct sk_vocab_head *h)
{
    v->head = h;
    v->words = section(h, SK_VOCAB_WORDS, &v->n_word);
    v->hash = section(h, SK_VOCAB_HASH, &v->hash_mask);
    v->merges = section(h, SK_VOCAB_MERGES, &v->merge_mask);
    v->added = section(h, SK_VOCAB_ADDED, &v->n_added);
    v->controls = section(h, SK_VOCAB_CONTROLS, &v->n_control);
    v->norm = section(h, SK_VOCAB_NORM, &v->n_norm);
    v->pretok = section(h, SK_VOCAB_PRETOK, &v->n_pretok);
    v->prefix = section(h, SK_VOCAB_PREFIX, &v->n_prefix);
    v->suffix = section(h, SK_VOCAB_SUFFIX, &v->n_suffix);
    v->blob = section(h, SK_VOCAB_BLOB, NULL);
    v->hash_mask--; /* counts until here, powers of two as check_tables will find */
    v->merge_mask--;
}

int sk_vocab_open_mem(const void *p, size_t n, struct sk_vocab **ret, struct sk_err *err)
{
    if ((uintptr_t)p % 8)
        return bad(err, "not aligned to 8 bytes");
    int rc = check_head(p, n, err);
    if (rc)
        return rc;
    struct sk_vocab *v = sk_calloc(1, sizeof *v);
    if (!v)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory opening a tokenizer");
    bind(v, p);
    rc = check_words(v, err);
    if (rc == 0)
        rc = check_tables(v, err);
    if (rc == 0)
        rc = check_lists(v, err);
    if (rc == 0)
        rc = check_programs(v, err);
    if (rc) {
        sk_free(v);
        return rc;
    }
    *ret = v;
    return 0;
}

int sk_vocab_open(const char *path, struct sk_vocab **ret, struct sk_err *err)
{
    int rc = 0;
    void *map = MAP_FAILED;
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        rc = sk_err_errno(err, SK_ENOENT, NULL, "cannot open %s", path);
        goto out;
    }
    if (fstat(fd, &st) < 0) {
        rc = sk_err_errno(err, SK_EIO, NULL, "cannot stat %s", path);
        goto out;
    }
    if (!S_ISREG(st.st_mode) || st.st_size < (off_t)sizeof(struct sk_vocab_head)) {
        rc = sk_err_set(err, SK_EFORMAT, NULL, "%s: not a compiled tokenizer", path);
        goto out;
    }
    map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        rc = sk_err_errno(err, SK_EIO, NULL, "cannot map %s", path);
        goto out;
    }
    rc = sk_vocab_open_mem(map, (size_t)st.st_size, ret, err);
    if (rc)
        goto out;
    (*ret)->map = map;
    (*ret)->map_bytes = (size_t)st.st_size;
out:
    if (rc && map != MAP_FAILED)
        munmap(map, (size_t)st.st_size);
    if (fd >= 0)
        close(fd);
    return rc;
}

void sk_vocab_close(struct sk_vocab *v)
{
    if (!v)
        return;
    if (v->map)
        munmap(v->map, v->map_bytes);
    sk_free(v);
}

uint32_t sk_vocab_size(const struct sk_vocab *v)
{
    return v->n_word;
}

const char *sk_vocab_bytes(const struct sk_vocab *v, uint32_t id, size_t *ret_n)
{
    *ret_n = v->words[id].bytes.n;
    return sk_vocab_at(v, v->words[id].bytes);
}

const char *sk_vocab_word(const struct sk_vocab *v, uint32_t id, size_t *ret_n)
{
    *ret_n = v->words[id].word.n;
    return sk_vocab_at(v, v->words[id].word);
}

unsigned sk_vocab_flags(const struct sk_vocab *v, uint32_t id)
{
    return v->words[id].flags;
}

int sk_vocab_find(const struct sk_vocab *v, const char *word, size_t n)
{
    for (uint32_t i = sk_vocab_hash(word, n);; i++) {
        uint32_t slot = v->hash[i & v->hash_mask];
        if (slot == 0)
            return -1;
        struct sk_vocab_str w = v->words[slot - 1].word;
        if (w.n == n && memcmp(sk_vocab_at(v, w), word, n) == 0)
            return (int)(slot - 1);
    }
}

int sk_vocab_max_token_bytes(const struct sk_vocab *v)
{
    return (int)v->max_token_bytes;
}

uint32_t sk_vocab_n_controls(const struct sk_vocab *v)
{
    return v->n_control;
}

uint32_t sk_vocab_control(const struct sk_vocab *v, uint32_t i)
{
    return v->controls[i];
}
