#include "engine/build/tok_draft.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "comm/base/mem.h"
#include "comm/base/utf8.h"

/* The byte that a character of GPT-2's byte-level alphabet spells, -1 = not of it. Printable Latin-1 bytes spell
 * themselves; the other 68 are U+0100 on, in order. */
static int byte_of(uint32_t cp)
{
    static const struct {
        uint8_t lo, hi;
    } odd[] = {{0x00, 0x20}, {0x7F, 0xA0}, {0xAD, 0xAD}};
    uint32_t left = cp - 0x100;
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        uint32_t n = odd[i].hi - odd[i].lo + 1u;
        if (cp >= odd[i].lo && cp <= odd[i].hi)
            return -1;
        if (cp >= 0x100 && left < n)
            return (int)(odd[i].lo + left);
        left -= n;
    }
    return cp < 0x100 ? (int)cp : -1;
}

static void undo_byte_level(struct sk_buf *b)
{
    for (int pass = 0; pass < 2; pass++) { /* is all of it of the alphabet? then in place, as bytes are shorter */
        size_t to = 0;
        for (size_t i = 0; i < b->n;) {
            uint32_t cp;
            int k = sk_utf8_next(b->p + i, b->n - i, &cp), byte = k > 0 ? byte_of(cp) : -1;
            if (byte < 0)
                return;
            i += (size_t)k;
            if (pass)
                b->p[to] = (char)byte;
            to++;
        }
        if (pass)
            b->n = to;
    }
}

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool undo_fallback(struct sk_buf *b)
{
    if (b->n != 6 || memcmp(b->p, "<0x", 3) != 0 || b->p[5] != '>' || hex(b->p[3]) < 0 || hex(b->p[4]) < 0)
        return false;
    b->p[0] = (char)(hex(b->p[3]) << 4 | hex(b->p[4]));
    b->n = 1;
    return true;
}

static void replace(struct sk_buf *b, struct sk_buf *tmp, const struct sk_tok_draft *d, const struct sk_tok_step *s)
{
    const char *a = d->blob.p + s->a.offset;
    sk_buf_clear(tmp);
    for (size_t i = 0; i < b->n;) {
        if (s->a.n && b->n - i >= s->a.n && memcmp(b->p + i, a, s->a.n) == 0) {
            sk_buf_add(tmp, d->blob.p + s->b.offset, s->b.n);
            i += s->a.n;
        } else {
            sk_buf_char(tmp, b->p[i++]);
        }
    }
    struct sk_buf swap = *b;
    *b = *tmp;
    *tmp = swap;
}

static void strip(struct sk_buf *b, const struct sk_tok_step *s)
{
    size_t from = 0;
    while (from < s->start && from < b->n && b->p[from] == ' ')
        from++;
    sk_buf_drop(b, from);
    for (uint32_t k = 0; k < s->stop && b->n && b->p[b->n - 1] == ' '; k++)
        b->n--;
}

static int decode_word(struct sk_tok_draft *d, struct sk_vocab_word *w, struct sk_buf *b, struct sk_buf *tmp,
                       struct sk_err *err)
{
    sk_buf_clear(b);
    sk_buf_add(b, d->blob.p + w->word.offset, w->word.n);
    for (uint32_t i = 0; i < d->n_step && b->n; i++) {
        const struct sk_tok_step *s = &d->steps[i];
        if (s->kind == SK_TOK_STEP_BYTE_LEVEL)
            undo_byte_level(b);
        else if (s->kind == SK_TOK_STEP_REPLACE)
            replace(b, tmp, d, s);
        else if (s->kind == SK_TOK_STEP_STRIP)
            strip(b, s);
        else if (undo_fallback(b)) {
            w->flags |= SK_TOK_BYTE;
            break; /* the byte is final */
        }
    }
    if (b->failed || b->n > SK_VOCAB_MAX_TOKEN_BYTES)
        return sk_err_set(err, SK_EFORMAT, NULL, "tokenizer: a token decodes to more than %d bytes",
                          SK_VOCAB_MAX_TOKEN_BYTES);
    w->bytes = w->word;
    if (b->n == w->word.n && (b->n == 0 || memcmp(b->p, d->blob.p + w->word.offset, b->n) == 0))
        return 0;
    return sk_tok_draft_str(d, b->p ? b->p : "", b->n, &w->bytes, err);
}

static int decode_words(struct sk_tok_draft *d, struct sk_err *err)
{
    struct sk_buf b, tmp;
    sk_buf_init(&b, 2 * SK_VOCAB_MAX_TOKEN_BYTES);
    sk_buf_init(&tmp, 2 * SK_VOCAB_MAX_TOKEN_BYTES);
    int rc = 0;
    for (uint32_t id = 0; rc == 0 && id < d->n_word; id++)
        rc = decode_word(d, &d->words[id], &b, &tmp, err);
    sk_buf_done(&b);
    sk_buf_done(&tmp);
    return rc;
}

static int write_all(const char *path, const char *p, size_t n, struct sk_err *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return sk_err_errno(err, SK_EIO, NULL, "cannot create %s", path);
    int rc = 0;
    while (n) {
        ssize_t k = write(fd, p, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0) {
            rc = sk_err_errno(err, SK_EIO, NULL, "cannot write %s", path);
            break;
        }
        p += k;
        n -= (size_t)k;
    }
    if (close(fd) < 0 && rc == 0)
        rc = sk_err_errno(err, SK_EIO, NULL, "cannot write %s", path);
    return rc;
}

static size_t round8(size_t n)
{
    return (n + 7) / 8 * 8;
}

static int write_file(const struct sk_tok_draft *d, const uint32_t *controls, uint32_t n_control, const char *path,
                      struct sk_err *err)
{
    const struct {
        const void *p;
        size_t n, size;
    } section[SK_VOCAB_N_SECTION] = {
        [SK_VOCAB_WORDS] = {d->words, d->n_word, sizeof *d->words},
        [SK_VOCAB_HASH] = {d->hash, d->n_hash, sizeof *d->hash},
        [SK_VOCAB_MERGES] = {d->merges, d->n_slot, sizeof *d->merges},
        [SK_VOCAB_ADDED] = {d->added, d->n_added, sizeof *d->added},
        [SK_VOCAB_CONTROLS] = {controls, n_control, sizeof *controls},
        [SK_VOCAB_NORM] = {d->norm, d->n_norm, sizeof *d->norm},
        [SK_VOCAB_PRETOK] = {d->pretok, d->n_pretok, sizeof *d->pretok},
        [SK_VOCAB_PREFIX] = {d->prefix, d->n_prefix, sizeof *d->prefix},
        [SK_VOCAB_SUFFIX] = {d->suffix, d->n_suffix, sizeof *d->suffix},
        [SK_VOCAB_BLOB] = {d->blob.p, d->blob.n, 1},
    };
    struct sk_vocab_head head = {.magic = SK_VOCAB_MAGIC,
                                 .format = SK_VOCAB_FORMAT,
                                 .flags = d->flags,
                                 .unk = d->unk,
                                 .strip_start = d->strip_start};
    size_t n = sizeof head;
    for (int i = 0; i < SK_VOCAB_N_SECTION; i++) {
        n = round8(n);
        head.section[i].offset = n;
        head.section[i].n = section[i].n;
        n += section[i].n * section[i].size;
    }
    head.file_bytes = n;
    char *file = sk_calloc(1, n);
    if (!file)
        return sk_err_set(err, SK_ENOMEM, NULL, "tokenizer: out of memory writing %zu bytes", n);
    memcpy(file, &head, sizeof head);
    for (int i = 0; i < SK_VOCAB_N_SECTION; i++)
        if (section[i].n)
            memcpy(file + head.section[i].offset, section[i].p, section[i].n * section[i].size);
    int rc = write_all(path, file, n, err);
    sk_free(file);
    return rc;
}

int sk_tok_draft_write(struct sk_tok_draft *d, const char *path, struct sk_err *err)
{
    int rc = sk_tok_draft_index(d, err); /* again: added tokens have come */
    if (rc == 0)
        rc = decode_words(d, err);
    if (rc)
        return rc;
    uint32_t n_control = 0;
    uint32_t *controls = sk_malloc(d->n_word * sizeof *controls);
    if (!controls)
        return sk_err_set(err, SK_ENOMEM, NULL, "tokenizer: out of memory");
    for (uint32_t id = 0; id < d->n_word; id++)
        if (d->words[id].flags & SK_TOK_CONTROL)
            controls[n_control++] = id;
    rc = write_file(d, controls, n_control, path, err);
    sk_free(controls);
    return rc;
}
