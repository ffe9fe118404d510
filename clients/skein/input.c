#include "clients/skein/input.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static const char quotes[] = "\"\"\"";
enum { N_QUOTES = 3, READ_BYTES = 65536 };

void sk_input_init(struct sk_input *in)
{
    *in = (struct sk_input){0};
    sk_buf_init(&in->text, SK_INPUT_MAX_BYTES);
}

void sk_input_done(struct sk_input *in)
{
    sk_buf_done(&in->text);
}

void sk_input_clear(struct sk_input *in)
{
    sk_buf_clear(&in->text);
    in->is_open = in->is_block = false;
}

static int too_big(int rc, struct sk_err *err)
{
    if (rc == -SK_ETOOBIG)
        return sk_err_set(err, SK_ETOOBIG, NULL, "the input has more than %d bytes", SK_INPUT_MAX_BYTES);
    return sk_err_set(err, -rc, NULL, "out of memory");
}

int sk_input_line(struct sk_input *in, const char *line, size_t n, struct sk_err *err)
{
    bool is_first = !in->is_open;
    if (is_first) {
        sk_input_clear(in);
        in->is_block = n >= N_QUOTES && memcmp(line, quotes, N_QUOTES) == 0;
        if (in->is_block) {
            line += N_QUOTES;
            n -= N_QUOTES;
        }
    }
    const size_t n_end = in->is_block ? N_QUOTES : 1;
    const bool has_end = n >= n_end && memcmp(line + n - n_end, in->is_block ? quotes : "\\", n_end) == 0;
    if (has_end)
        n -= n_end;
    in->is_open = in->is_block ? !has_end : has_end;
    /* quotes on lines of their own add no empty lines */
    const bool is_bare = in->is_block && n == 0 && (is_first || has_end);
    if (!is_first && !is_bare && in->text.n)
        sk_buf_char(&in->text, '\n');
    int rc = sk_buf_add(&in->text, line, n);
    if (rc) {
        sk_input_clear(in);
        return too_big(rc, err);
    }
    return !in->is_open;
}

int sk_input_pipe(struct sk_buf *b, int fd, struct sk_err *err)
{
    char chunk[READ_BYTES];
    for (;;) {
        ssize_t got = read(fd, chunk, sizeof chunk);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return sk_err_errno(err, SK_EIO, NULL, "cannot read standard input");
        if (got == 0)
            return 0;
        int rc = sk_buf_add(b, chunk, (size_t)got);
        if (rc)
            return too_big(rc, err);
    }
}
