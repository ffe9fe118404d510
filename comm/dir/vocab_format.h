/* The bytes of vocab.skv and the opened view of them. Written by engine/build/tok_write.c, read by comm/dir/vocab.c and
 * by the encoder in server/text, nobody else. Little-endian; a head, then sections at multiples of 8, in any order,
 * each an array of one of the structs below. Strings lie in the BLOB section. sk_vocab_open has checked every offset,
 * id and count: readers need not. */
#ifndef SK_VOCAB_FORMAT_H
#define SK_VOCAB_FORMAT_H
#include "comm/dir/vocab.h"

#define SK_VOCAB_MAGIC   "SKEINV\n\0"
#define SK_VOCAB_FORMAT  1 /* raised with any change of the bytes or their meaning */
#define SK_VOCAB_NO_WORD UINT32_MAX

/* caps that open enforces; the writer refuses what is beyond them */
enum {
    SK_VOCAB_MAX_WORDS = 1 << 24,
    SK_VOCAB_MAX_ADDED_BYTES = 1024,
    SK_VOCAB_MAX_TOKEN_BYTES = 65535,
    SK_VOCAB_MAX_OPS = 16,         /* of the normalizer, and of the pre-tokenizer */
    SK_VOCAB_MAX_AFFIX = 8,        /* tokens that the post-processor adds in front, and behind */
    SK_VOCAB_MAX_PATTERN = 1 << 16 /* bytes of a string of a program */
};

enum sk_vocab_section {
    SK_VOCAB_WORDS,    /* struct sk_vocab_word, one an id */
    SK_VOCAB_HASH,     /* u32: open addressing (linear) over sk_vocab_hash of the word as written; id + 1, 0 = empty */
    SK_VOCAB_MERGES,   /* struct sk_vocab_merge: open addressing (linear) over sk_vocab_pair_hash */
    SK_VOCAB_ADDED,    /* struct sk_vocab_added */
    SK_VOCAB_CONTROLS, /* u32: ids with SK_TOK_CONTROL */
    SK_VOCAB_NORM,     /* struct sk_vocab_op: the normalizer, in order */
    SK_VOCAB_PRETOK,   /* struct sk_vocab_op: the pre-tokenizer, in order */
    SK_VOCAB_PREFIX,   /* u32: ids that the post-processor puts in front (bos) */
    SK_VOCAB_SUFFIX,   /* u32: and behind (eos) */
    SK_VOCAB_BLOB,     /* bytes */
    SK_VOCAB_N_SECTION
};

/* sk_vocab_head.flags */
enum {
    SK_VOCAB_BYTE_LEVEL =
        1, /* words are spelled in GPT-2's byte-level alphabet: a symbol is a byte, else a character */
    SK_VOCAB_BYTE_FALLBACK = 2, /* a character without a word becomes its <0xNN> words */
    SK_VOCAB_FUSE_UNK = 4,      /* neighbouring unknown characters give one unk */
    SK_VOCAB_IGNORE_MERGES = 8, /* a pre-token that is a word is that word, whatever the merges say (Llama 3) */
    SK_VOCAB_DROP_FIRST = 16    /* decode: the first token loses its leading spaces (the Metaspace decoder) */
};

struct sk_vocab_head {
    char magic[8];
    uint32_t format, flags;
    uint64_t file_bytes;
    uint32_t unk;         /* id for what has no word, or SK_VOCAB_NO_WORD: it is dropped */
    uint32_t strip_start; /* decode: spaces dropped at the start of the whole text, at most so many */
    struct {
        uint64_t offset, n; /* bytes from the head; elements */
    } section[SK_VOCAB_N_SECTION];
};

struct sk_vocab_str {
    uint32_t offset, n; /* in BLOB; not NUL-terminated */
};

struct sk_vocab_word {
    struct sk_vocab_str word, bytes; /* as written; as decoded */
    uint32_t flags;                  /* SK_TOK_* */
};

struct sk_vocab_merge {
    uint32_t left, right; /* left = SK_VOCAB_NO_WORD: an empty slot */
    uint32_t rank;        /* the lowest is merged first, the leftmost among equals */
    uint32_t id;
};

/* sk_vocab_added.flags */
enum {
    SK_VOCAB_LSTRIP = 1,      /* takes the white space before it */
    SK_VOCAB_RSTRIP = 2,      /* and behind it */
    SK_VOCAB_SINGLE_WORD = 4, /* only where it touches no word character */
    SK_VOCAB_NORMALIZED = 8   /* sought in the normalized text, itself normalized */
};

struct sk_vocab_added {
    uint32_t id, flags;
};

enum sk_vocab_op_kind {
    /* normalizer */
    SK_VOCAB_NFC,
    SK_VOCAB_NFD,
    SK_VOCAB_NFKC,
    SK_VOCAB_NFKD,
    SK_VOCAB_LOWERCASE,
    SK_VOCAB_STRIP_ACCENTS,
    SK_VOCAB_STRIP,   /* arg: 1 left, 2 right, 3 both */
    SK_VOCAB_REPLACE, /* a by b; arg: SK_VOCAB_LITERAL */
    SK_VOCAB_PREPEND, /* a, unless the text is empty */
    /* pre-tokenizer */
    SK_VOCAB_SPLIT,        /* at matches of a; arg: behaviour | SK_VOCAB_LITERAL | SK_VOCAB_INVERT */
    SK_VOCAB_DIGITS,       /* numeric characters apart; arg: SK_VOCAB_ISOLATED or SK_VOCAB_CONTIGUOUS */
    SK_VOCAB_PREFIX_SPACE, /* a space in front, unless there is one */
    SK_VOCAB_METASPACE,    /* spaces become a; arg: scheme | SK_VOCAB_METASPACE_SPLIT */
    SK_VOCAB_N_OP
};

/* of SPLIT: what becomes of a match */
enum sk_vocab_behaviour {
    SK_VOCAB_ISOLATED,
    SK_VOCAB_REMOVED,
    SK_VOCAB_MERGED_WITH_PREVIOUS,
    SK_VOCAB_MERGED_WITH_NEXT,
    SK_VOCAB_CONTIGUOUS,
    SK_VOCAB_N_BEHAVIOUR
};

/* of METASPACE: where a is put in front */
enum sk_vocab_scheme {
    SK_VOCAB_PREPEND_NEVER,
    SK_VOCAB_PREPEND_FIRST, /* at the start of the whole text only */
    SK_VOCAB_PREPEND_ALWAYS,
    SK_VOCAB_N_SCHEME
};

#define SK_VOCAB_ARG_MASK        0xFFu
#define SK_VOCAB_LITERAL         0x100u /* the pattern is a plain string, else a regex */
#define SK_VOCAB_INVERT          0x200u /* the matches are what lies between those of the pattern */
#define SK_VOCAB_METASPACE_SPLIT 0x400u /* and the text is cut before each a */

struct sk_vocab_op {
    uint32_t kind, arg;
    struct sk_vocab_str a, b; /* well-formed UTF-8 */
};

/* The opened file. Everything but the struct itself points into the mapping. */
struct sk_vocab {
    const struct sk_vocab_head *head;
    const struct sk_vocab_word *words;
    const uint32_t *hash;
    const struct sk_vocab_merge *merges;
    const struct sk_vocab_added *added;
    const uint32_t *controls, *prefix, *suffix;
    const struct sk_vocab_op *norm, *pretok;
    const char *blob;
    uint32_t n_word, n_added, n_control, n_prefix, n_suffix, n_norm, n_pretok;
    uint32_t hash_mask, merge_mask;
    uint32_t max_token_bytes;
    void *map; /* NULL: the bytes are the caller's */
    size_t map_bytes;
};

static inline uint32_t sk_vocab_hash(const char *s, size_t n)
{
    uint64_t h = 0xCBF29CE484222325u; /* FNV-1a */
    for (size_t i = 0; i < n; i++)
        h = (h ^ (uint8_t)s[i]) * 0x100000001B3u;
    return (uint32_t)(h ^ h >> 32);
}

static inline uint32_t sk_vocab_pair_hash(uint32_t left, uint32_t right)
{
    uint64_t h = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u; /* Fibonacci hashing, Knuth vol. 3, 6.4 */
    return (uint32_t)(h >> 32 ^ h >> 12);
}

/* The merge of two words, NULL = none. */
static inline const struct sk_vocab_merge *sk_vocab_merge(const struct sk_vocab *v, uint32_t left, uint32_t right)
{
    for (uint32_t i = sk_vocab_pair_hash(left, right);; i++) {
        const struct sk_vocab_merge *m = &v->merges[i & v->merge_mask];
        if (m->left == left && m->right == right)
            return m;
        if (m->left == SK_VOCAB_NO_WORD)
            return NULL;
    }
}

static inline const char *sk_vocab_at(const struct sk_vocab *v, struct sk_vocab_str s)
{
    return v->blob + s.offset;
}

#endif
