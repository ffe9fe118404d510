/* A key file is refused with a message that says where, or it is understood: then every bare key of it opens, as the
 * tenant without a name, and the digests in it do not. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/base/mem.h"
#include "server/api/auth.h"

#define MAX_KEY_BYTES 200

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_key(const struct sk_auth *a, const char *key, size_t n, bool is_known)
{
    char header[8 + MAX_KEY_BYTES];
    struct sk_auth_who who;
    struct sk_err err;
    snprintf(header, sizeof header, "Bearer %.*s", (int)n, key);
    int rc = sk_auth_check(a, &(struct sk_auth_asked){.authorization = header, .uid = -1}, &who, &err);
    sk_assert(rc == (is_known ? 0 : -SK_EAUTH));
    sk_assert(rc != 0 || (who.tenant && who.tenant->name[0] == '\0' && who.scopes == SK_SCOPE_INFERENCE));
}

static void check_lines(const struct sk_auth *a, const char *text, size_t n)
{
    for (const char *s = text, *end = text + n; s < end;) {
        const char *to = memchr(s, '\n', (size_t)(end - s));
        size_t n_line = (size_t)((to ? to : end) - s), n_blank = 0, n_word = 0;
        while (n_blank < n_line && strchr(" \t\r", s[n_blank]))
            n_blank++;
        while (n_blank + n_word < n_line && !strchr(" \t\r", s[n_blank + n_word]))
            n_word++;
        const char *rest = s + n_blank + n_word;
        bool alone = true;
        for (const char *p = rest; p < s + n_line; p++)
            alone = alone && strchr(" \t\r", *p);
        if (n_word > 0 && n_word < MAX_KEY_BYTES && s[n_blank] != '#' && alone)
            check_key(a, s + n_blank, n_word, true);
        s = to ? to + 1 : end;
    }
}

static bool same_name(const struct sk_keyfile *f, size_t i, size_t k)
{
    return strcmp(f->keys[i].name, f->keys[k].name) == 0;
}

static void check_keys(const struct sk_keyfile *f)
{
    for (size_t i = 0; i < f->n; i++) {
        const struct sk_key *k = &f->keys[i];
        sk_assert(k->scopes && !(k->scopes & ~SK_SCOPE_ALL) && k->line > 0 && k->limits.weight > 0);
        sk_assert(k->limits.rpm >= 0 && k->limits.tpm >= 0 && k->limits.concurrent >= 0);
        sk_assert(i == 0 || memcmp(k->digest, f->keys[i - 1].digest, sizeof k->digest) > 0);
        sk_assert(i == 0 || !same_name(f, i, i - 1) || k->limits.rpm == f->keys[i - 1].limits.rpm);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const char *text = (const char *)data;
    struct sk_keyfile f = {0};
    struct sk_auth *a = NULL;
    struct sk_tenants *tenants = NULL;
    struct sk_err err = {0};
    int rc = sk_keyfile_parse("fuzz", text, n, &f, &err);
    sk_assert(err.code == -rc && (rc == 0 || strncmp(err.msg, "fuzz:", 5) == 0));
    sk_assert(sk_auth_parse("fuzz", text, n, &a, &err) == rc);
    if (rc == 0) {
        check_keys(&f);
        sk_assert(sk_tenants_new(&tenants) == 0 && sk_auth_bind(a, tenants, &err) == 0);
        check_lines(a, text, n);
        check_key(a, "", 0, false);
        check_key(a, "sha256:", 7, false);
    }
    sk_keyfile_done(&f);
    sk_auth_free(a);
    sk_tenants_free(tenants);
    return 0;
}
