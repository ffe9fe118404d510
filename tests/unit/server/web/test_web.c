/* The page's files, and how they are answered. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <cmocka.h>

#include "server/api/api.h"
#include "server/web/web.h"

/* --- a pretended http --- */

struct sk_http_req {
    const char *path, *if_none_match;
    int status;
    struct sk_http_headers headers;
    char body[1 << 16];
    size_t n;
};

const char *sk_http_path(const struct sk_http_req *r)
{
    return r->path;
}

const char *sk_http_header(const struct sk_http_req *r, const char *name)
{
    return strcasecmp(name, "If-None-Match") == 0 ? r->if_none_match : NULL;
}

void sk_http_reply(struct sk_http_req *r, int status, const struct sk_http_headers *h, const char *body, size_t n)
{
    assert_int_equal(r->status, 0);
    assert_true(n <= sizeof r->body);
    r->status = status;
    r->headers = *h;
    memcpy(r->body, body, n);
    r->n = n;
}

static const char *header(const struct sk_http_req *r, const char *name)
{
    for (uint32_t i = 0; i < r->headers.n; i++) {
        if (strcasecmp(r->headers.more[i].name, name) == 0)
            return r->headers.more[i].value;
    }
    return NULL;
}

static void get(struct sk_http_req *r, const char *path, const char *if_none_match)
{
    memset(r, 0, sizeof *r);
    r->path = path;
    r->if_none_match = if_none_match;
    sk_web_page(&(struct sk_call){.req = r});
}

/* --- tests --- */

static void test_files_are_whole(void **state)
{
    assert_true(sk_web_n_file >= 3);
    for (size_t i = 0; i < sk_web_n_file; i++) {
        const struct sk_web_file *f = &sk_web_files[i];
        assert_ptr_equal(sk_web_find(f->path), f);
        assert_true(f->n > 0);
        assert_int_equal(strlen(f->text), f->n);
        assert_int_equal(f->etag[0], '"');
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(sk_web_files[k].etag, f->etag);
    }
    assert_non_null(strstr(sk_web_find("/")->text, "<!doctype html>"));
    assert_null(sk_web_find("/web/"));
    assert_null(sk_web_find("/web/index.html"));
    assert_null(sk_web_find("/web/../page.css"));
}

static void test_text_is_as_in_the_source(void **state)
{
    char path[512], text[1 << 16];
    const char *root = getenv("SK_SRCDIR");
    assert_non_null(root);
    for (size_t i = 0; i < sk_web_n_file; i++) {
        const struct sk_web_file *f = &sk_web_files[i];
        const char *name = strcmp(f->path, "/") == 0 ? "index.html" : f->path + strlen("/web/");
        snprintf(path, sizeof path, "%s/server/web/%s", root, name);
        FILE *in = fopen(path, "rb");
        assert_non_null(in);
        size_t n = fread(text, 1, sizeof text, in);
        fclose(in);
        assert_int_equal(n, f->n);
        assert_memory_equal(text, f->text, n);
    }
}

static void test_answer(void **state)
{
    static struct sk_http_req r;
    const struct sk_web_file *f = sk_web_find("/");
    get(&r, "/", NULL);
    assert_int_equal(r.status, 200);
    assert_int_equal(r.n, f->n);
    assert_memory_equal(r.body, f->text, f->n);
    assert_string_equal(r.headers.content_type, "text/html; charset=utf-8");
    assert_string_equal(header(&r, "ETag"), f->etag);
    assert_non_null(strstr(header(&r, "Content-Security-Policy"), "default-src 'none'"));
    assert_null(strstr(header(&r, "Content-Security-Policy"), "unsafe"));
    get(&r, "/web/page.css", NULL);
    assert_string_equal(r.headers.content_type, "text/css; charset=utf-8");
    get(&r, "/web/main.js", NULL);
    assert_string_equal(r.headers.content_type, "text/javascript; charset=utf-8");
    get(&r, "/web/nothing.js", NULL);
    assert_int_equal(r.status, 404);
    assert_null(header(&r, "ETag"));
}

static void test_client_has_it(void **state)
{
    static struct sk_http_req r;
    const char *tag = sk_web_find("/")->etag;
    char list[256], inner[64];
    snprintf(list, sizeof list, "\"a\", W/%s , \"b\"", tag);
    snprintf(inner, sizeof inner, "\"x%s", tag + 1); /* another tag, that ends with ours */
    const char *const yes[] = {tag, list, "*"}, *const no[] = {"", "\"\"", inner, "**"};
    for (size_t i = 0; i < sizeof yes / sizeof yes[0]; i++) {
        get(&r, "/", yes[i]);
        assert_int_equal(r.status, 304);
        assert_int_equal(r.n, 0);
        assert_string_equal(header(&r, "ETag"), tag);
    }
    for (size_t i = 0; i < sizeof no / sizeof no[0]; i++) {
        get(&r, "/", no[i]);
        assert_int_equal(r.status, 200);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files_are_whole),
        cmocka_unit_test(test_text_is_as_in_the_source),
        cmocka_unit_test(test_answer),
        cmocka_unit_test(test_client_has_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
