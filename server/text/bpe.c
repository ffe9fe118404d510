#include "server/text/bpe.h"

#include <stdio.h>
#include <string.h>

#include "comm/base/mem.h"
#include "comm/base/utf8.h"
#include "comm/dir/vocab_format.h"

#define NONE         SK_VOCAB_NO_WORD
#define KEEP_SYMBOLS 65536 /* scratch that stays between calls */
#define FIRST_IDS    64
#define HEAP_ARITY   4 /* children side by side: fewer cache misses on the way down */

/* Text repeats itself: a direct-mapped cache of 4096 short pre-tokens answers nine of ten. */
#define CACHE_SLOTS 4096u
#define CACHE_WORDS 3 /* of 8 bytes: the pre-token, zero-padded, its length in the last byte */
#define CACHE_IDS   7

struct slot {
    uint64_t key[CACHE_WORDS];
    uint32_t n; /* 0: empty */
    uint32_t ids[CACHE_IDS];
};

struct symbol {
    uint32_t id; /* NONE: merged into the one before it */
    uint32_t prev, next;
};

struct candidate {
    uint64_t order; /* rank, then position: the smallest is merged first */
    const struct sk_vocab_merge *merge;
};

struct sk_bpe {
    const struct sk_vocab *v;
    uint32_t byte_id[256];     /* the word of a byte: by the byte-level alphabet, else of an ASCII character */
    uint32_t fallback_id[256]; /* the word <0xNN> */
    uint32_t alphabet[256];    /* the character that spells a byte */
    struct symbol *symbols;
    struct candidate *heap;
    size_t max_symbols, n_heap;
    struct slot cache[CACHE_SLOTS];
};

static uint32_t model_word(const struct sk_vocab *v, const char *s, size_t n)
{
    int id = sk_vocab_find(v, s, n);
    return id >= 0 && (v->words[id].flags & SK_TOK_MODEL) ? (uint32_t)id : NONE;
}

/* GPT-2's byte-level alphabet: printable Latin-1 bytes are themselves, the others follow from U+0100 on, in order. */
static void fill_alphabet(uint32_t alphabet[256])
{
    uint32_t next = 0x100;
    for (uint32_t b = 0; b < 256; b++)
        alphabet[b] = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xFF && b != 0xAD) ? b : next++;
}

int sk_bpe_new(const struct sk_vocab *v, struct sk_bpe **ret, struct sk_err *err)
{
    struct sk_bpe *b = sk_calloc(1, sizeof *b);
    if (!b)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory for an encoder");
    b->v = v;
    fill_alphabet(b->alphabet);
    bool byte_level = v->head->flags & SK_VOCAB_BYTE_LEVEL;
    for (uint32_t i = 0; i < 256; i++) {
        char s[8];
        b->byte_id[i] = NONE;
        if (byte_level || i < 0x80)
            b->byte_id[i] = model_word(v, s, (size_t)sk_utf8_put(byte_level ? b->alphabet[i] : i, s));
        int n = snprintf(s, sizeof s, "<0x%02X>", (unsigned)i);
        b->fallback_id[i] = model_word(v, s, (size_t)n);
    }
    *ret = b;
    return 0;
}

void sk_bpe_free(struct sk_bpe *b)
{
    if (!b)
        return;
    sk_free(b->symbols);
    sk_free(b->heap);
    sk_free(b);
}

void sk_bpe_trim(struct sk_bpe *b)
{
    if (b->max_symbols <= KEEP_SYMBOLS)
        return;
    sk_free(b->symbols);
    sk_free(b->heap);
    b->symbols = NULL;
    b->heap = NULL;
    b->max_symbols = 0;
}

int sk_bpe_ids_add(struct sk_bpe_ids *ids, uint32_t id)
{
    if (ids->n == ids->max)
        return -SK_ETOOBIG;
    if (ids->n == ids->cap) {
        size_t cap = ids->cap ? ids->cap * 2 : FIRST_IDS;
        int32_t *p = sk_realloc(ids->p, cap * sizeof *p);
        if (!p)
            return -SK_ENOMEM;
        ids->p = p;
        ids->cap = cap;
    }
    ids->p[ids->n++] = (int32_t)id;
    return 0;
}

/* Room for a word of n bytes: at most n symbols. A candidate leaves the heap for at most two new ones and takes a
 * symbol with it, so there are never more than 2 n. */
static int reserve(struct sk_bpe *b, size_t n)
{
    if (n <= b->max_symbols)
        return 0;
    size_t max = n < 2 * b->max_symbols ? 2 * b->max_symbols : n;
    struct symbol *symbols = sk_realloc(b->symbols, max * sizeof *symbols);
    if (!symbols)
        return -SK_ENOMEM;
    b->symbols = symbols;
    struct candidate *heap = sk_realloc(b->heap, 2 * max * sizeof *heap);
    if (!heap)
        return -SK_ENOMEM;
    b->heap = heap;
    b->max_symbols = max;
    return 0;
}

static uint32_t put_symbol(struct sk_bpe *b, uint32_t n, uint32_t id)
{
    b->symbols[n] = (struct symbol){.id = id, .prev = n ? n - 1 : NONE, .next = n + 1};
    return n + 1;
}

/* What a character without a word becomes. `last_unk`: the symbol before it is an unk, too. */
static uint32_t put_unknown(struct sk_bpe *b, uint32_t n, const char *s, size_t len, bool *last_unk)
{
    const struct sk_vocab_head *h = b->v->head;
    bool fallback = h->flags & SK_VOCAB_BYTE_FALLBACK;
    for (size_t i = 0; fallback && i < len; i++)
        fallback = b->fallback_id[(uint8_t)s[i]] != NONE;
    if (fallback) {
        for (size_t i = 0; i < len; i++)
            n = put_symbol(b, n, b->fallback_id[(uint8_t)s[i]]);
        *last_unk = false;
        return n;
    }
    if (h->unk == NONE)
        return n;
    if (!(*last_unk && (h->flags & SK_VOCAB_FUSE_UNK)))
        n = put_symbol(b, n, h->unk);
    *last_unk = true;
    return n;
}

static uint32_t put_symbols(struct sk_bpe *b, const char *s, size_t len)
{
    bool byte_level = b->v->head->flags & SK_VOCAB_BYTE_LEVEL, last_unk = false;
    uint32_t n = 0, cp;
    for (size_t i = 0, k; i < len; i += k) {
        k = byte_level || (signed char)s[i] >= 0 ? 1 : (size_t)sk_utf8_next(s + i, len - i, &cp);
        uint32_t id = k == 1 ? b->byte_id[(uint8_t)s[i]] : model_word(b->v, s + i, k);
        if (id == NONE) {
            n = put_unknown(b, n, s + i, k, &last_unk);
        } else {
            n = put_symbol(b, n, id);
            last_unk = false;
        }
    }
    if (n)
        b->symbols[n - 1].next = NONE;
    return n;
}

static void push(struct sk_bpe *b, uint32_t pos)
{
    uint32_t next = b->symbols[pos].next;
    const struct sk_vocab_merge *m =
        next == NONE ? NULL : sk_vocab_merge(b->v, b->symbols[pos].id, b->symbols[next].id);
    if (!m)
        return;
    struct candidate c = {.order = (uint64_t)m->rank << 32 | pos, .merge = m};
    size_t i = b->n_heap++;
    for (; i && b->heap[(i - 1) / HEAP_ARITY].order > c.order; i = (i - 1) / HEAP_ARITY)
        b->heap[i] = b->heap[(i - 1) / HEAP_ARITY];
    b->heap[i] = c;
}

static struct candidate pop(struct sk_bpe *b)
{
    struct candidate top = b->heap[0], last = b->heap[--b->n_heap];
    size_t i = 0;
    for (size_t child; (child = HEAP_ARITY * i + 1) < b->n_heap; i = child) {
        size_t end = child + HEAP_ARITY < b->n_heap ? child + HEAP_ARITY : b->n_heap;
        for (size_t k = child + 1; k < end; k++)
            if (b->heap[k].order < b->heap[child].order)
                child = k;
        if (b->heap[child].order >= last.order)
            break;
        b->heap[i] = b->heap[child];
    }
    b->heap[i] = last;
    return top;
}

static void merge_all(struct sk_bpe *b, uint32_t n)
{
    struct symbol *sym = b->symbols;
    b->n_heap = 0;
    for (uint32_t i = 0; i + 1 < n; i++)
        push(b, i);
    while (b->n_heap) {
        struct candidate c = pop(b);
        uint32_t pos = (uint32_t)c.order, next = sym[pos].next;
        if (sym[pos].id != c.merge->left || next == NONE || sym[next].id != c.merge->right)
            continue; /* one of the two has been merged since */
        sym[pos].id = c.merge->id;
        sym[pos].next = sym[next].next;
        sym[next].id = NONE;
        if (sym[pos].next != NONE)
            sym[sym[pos].next].prev = pos;
        push(b, pos);
        if (sym[pos].prev != NONE)
            push(b, sym[pos].prev);
    }
}

/* The whole pre-token as a word, with ignore_merges. */
static uint32_t whole_word(const struct sk_bpe *b, const char *s, size_t n)
{
    const struct sk_vocab *v = b->v;
    if (!(v->head->flags & SK_VOCAB_IGNORE_MERGES) || n > v->max_token_bytes)
        return NONE;
    if (!(v->head->flags & SK_VOCAB_BYTE_LEVEL))
        return model_word(v, s, n);
    char spelled[512];
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        if (k + 4 > sizeof spelled)
            return NONE;
        k += (size_t)sk_utf8_put(b->alphabet[(uint8_t)s[i]], spelled + k);
    }
    return model_word(v, spelled, k);
}

static struct slot *find_slot(struct sk_bpe *b, const char *s, size_t n, uint64_t key[CACHE_WORDS])
{
    memset(key, 0, CACHE_WORDS * sizeof *key);
    memcpy(key, s, n);
    ((uint8_t *)key)[CACHE_WORDS * 8 - 1] = (uint8_t)n;
    uint64_t h = key[0] * 0x9E3779B97F4A7C15u ^ key[1] * 0xC2B2AE3D27D4EB4Fu ^ key[2] * 0x165667B19E3779F9u;
    h ^= h >> 29;
    return &b->cache[(h * 0x9E3779B97F4A7C15u) >> 52 & (CACHE_SLOTS - 1)];
}

int sk_bpe_word(struct sk_bpe *b, const char *s, size_t n, struct sk_bpe_ids *out)
{
    uint64_t key[CACHE_WORDS];
    struct slot *slot = n < sizeof key ? find_slot(b, s, n, key) : NULL;
    int rc = 0;
    if (slot && slot->n && memcmp(slot->key, key, sizeof key) == 0) {
        for (uint32_t i = 0; rc == 0 && i < slot->n; i++)
            rc = sk_bpe_ids_add(out, slot->ids[i]);
        return rc;
    }

    uint32_t whole = whole_word(b, s, n);
    uint32_t n_symbols = 1;
    rc = reserve(b, n);
    if (rc)
        return rc;
    if (whole != NONE) {
        put_symbol(b, 0, whole);
        b->symbols[0].next = NONE;
    } else {
        n_symbols = put_symbols(b, s, n);
        merge_all(b, n_symbols);
    }
    size_t before = out->n;
    for (uint32_t i = n_symbols ? 0 : NONE; rc == 0 && i != NONE; i = b->symbols[i].next)
        rc = sk_bpe_ids_add(out, b->symbols[i].id);
    size_t made = out->n - before;
    if (rc == 0 && slot && made && made <= CACHE_IDS) {
        memcpy(slot->key, key, sizeof key);
        slot->n = (uint32_t)made;
        for (size_t i = 0; i < made; i++)
            slot->ids[i] = (uint32_t)out->p[before + i];
    }
    return rc;
}
