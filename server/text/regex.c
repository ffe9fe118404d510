#include "server/text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "comm/base/mem.h"

/* Text comes from strangers: what a pattern can cost on it is bounded. No tokenizer known comes near. */
#define MAX_STEPS       20000000u
#define MAX_HEAP_KIB    16384u
#define STACK_START     (32 * 1024)
#define STACK_MAX_BYTES (1024 * 1024)

struct sk_regex {
    pcre2_general_context *memory;
    pcre2_code *code;
    pcre2_match_data *data;
    pcre2_match_context *limits;
    pcre2_jit_stack *stack;
    bool jit;
};

static void *allocate(size_t n, void *arg)
{
    return sk_malloc(n);
}

static void release(void *p, void *arg)
{
    sk_free(p);
}

static int no_memory(struct sk_err *err)
{
    return sk_err_set(err, SK_ENOMEM, NULL, "out of memory compiling a regex");
}

static int compile(struct sk_regex *r, const char *pattern, size_t n, bool literal, struct sk_err *err)
{
    /* Oniguruma's ^ and $ are those of lines. \C would cut characters. */
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
    pcre2_compile_context *context = pcre2_compile_context_create(r->memory);
    int code = 0;
    PCRE2_SIZE at = 0;
    if (!context)
        return no_memory(err);
    r->code = pcre2_compile((PCRE2_SPTR)pattern, n, literal ? PCRE2_UTF | PCRE2_LITERAL : options, &code, &at, context);
    pcre2_compile_context_free(context);
    if (r->code)
        return 0;
    if (code == PCRE2_ERROR_HEAP_FAILED)
        return no_memory(err);
    char why[160];
    pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
    return sk_err_set(err, SK_EFORMAT, NULL, "tokenizer: regex \"%.*s\": %s at byte %zu", n > 100 ? 100 : (int)n,
                      pattern, why, (size_t)at);
}

int sk_regex_new(const char *pattern, size_t n, bool literal, struct sk_regex **ret, struct sk_err *err)
{
    struct sk_regex *r = sk_calloc(1, sizeof *r);
    if (r)
        r->memory = pcre2_general_context_create(allocate, release, NULL);
    int rc = r && r->memory ? compile(r, pattern, n, literal, err) : no_memory(err);
    if (rc)
        goto out;
    r->data = pcre2_match_data_create(1, r->memory);
    r->limits = pcre2_match_context_create(r->memory);
    if (!r->data || !r->limits) {
        rc = no_memory(err);
        goto out;
    }
    pcre2_set_match_limit(r->limits, MAX_STEPS);
    pcre2_set_heap_limit(r->limits, MAX_HEAP_KIB);
    r->jit = pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE) == 0;
    if (r->jit) {
        r->stack = pcre2_jit_stack_create(STACK_START, STACK_MAX_BYTES, r->memory);
        pcre2_jit_stack_assign(r->limits, NULL, r->stack); /* without one PCRE2 uses 32 KiB of the machine's */
    }
    *ret = r;
    r = NULL;
out:
    sk_regex_free(r);
    return rc;
}

void sk_regex_free(struct sk_regex *r)
{
    if (!r)
        return;
    pcre2_jit_stack_free(r->stack);
    pcre2_match_context_free(r->limits);
    pcre2_match_data_free(r->data);
    pcre2_code_free(r->code);
    pcre2_general_context_free(r->memory);
    sk_free(r);
}

int sk_regex_next(struct sk_regex *r, const char *s, size_t n, size_t from, size_t *ret_start, size_t *ret_end)
{
    PCRE2_SPTR text = (PCRE2_SPTR)s;
    int rc = r->jit ? pcre2_jit_match(r->code, text, n, from, PCRE2_NO_UTF_CHECK, r->data, r->limits)
                    : pcre2_match(r->code, text, n, from, PCRE2_NO_UTF_CHECK, r->data, r->limits);
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    if (rc < 0)
        return -SK_ETOOBIG;
    const PCRE2_SIZE *bounds = pcre2_get_ovector_pointer(r->data);
    if (bounds[0] < from || bounds[1] < bounds[0]) /* \K can do that */
        return 0;
    *ret_start = bounds[0];
    *ret_end = bounds[1];
    return 1;
}
