#include "clients/client/target.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clients/client/plain.h"
#include "comm/base/json.h"

enum { MAX_WORDS = 300 /* bytes of a server's message that are shown */ };

/* ---- what the user gave ---- */

static bool is_local_host(const char *host)
{
    return strcmp(host, "localhost") == 0 || strncmp(host, "127.", 4) == 0 || strcmp(host, "[::1]") == 0;
}

static int bad_url(const char *url, const char *why, struct sk_err *err)
{
    char shown[200];
    sk_plain_line(shown, sizeof shown, url, strlen(url));
    return sk_err_set(err, SK_EINVAL, "url", "url '%s': %s", shown, why);
}

static int set_socket(struct sk_target *t, const char *url, struct sk_err *err)
{
    const char *path = url + strlen("unix:");
    if (!*path || strlen(path) >= sizeof t->socket)
        return bad_url(url, "the path of a Unix socket has 1 to 107 bytes", err);
    strcpy(t->socket, path);
    strcpy(t->url, "http://localhost/v1");
    return 0;
}

static const char *part(CURLU *u, CURLUPart what, char **ret)
{
    return curl_url_get(u, what, ret, 0) == CURLUE_OK ? *ret : NULL;
}

/* Why it cannot be used, or NULL. */
static const char *check_url(struct sk_target *t, CURLU *u)
{
    char *scheme = NULL, *host = NULL, *path = NULL, *rest = NULL, *whole = NULL;
    const char *why = NULL;
    if (!part(u, CURLUPART_SCHEME, &scheme) || (strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0))
        why = "it must begin with http://, https:// or unix:";
    else if (part(u, CURLUPART_USER, &rest) || part(u, CURLUPART_PASSWORD, &rest))
        why = "no user or password can be in it; a key goes into OPENAI_API_KEY";
    else if (part(u, CURLUPART_QUERY, &rest) || part(u, CURLUPART_FRAGMENT, &rest))
        why = "nothing can follow the path";
    else if (!part(u, CURLUPART_HOST, &host) || !part(u, CURLUPART_PATH, &path))
        why = "it has no host";
    else if (strcmp(path, "/") == 0 && curl_url_set(u, CURLUPART_PATH, "/v1", 0) != CURLUE_OK)
        why = "out of memory";
    else if (!part(u, CURLUPART_URL, &whole) || strlen(whole) >= sizeof t->url)
        why = "it is too long";
    if (!why) {
        strcpy(t->url, whole);
        for (size_t n = strlen(t->url); n && t->url[n - 1] == '/'; n--)
            t->url[n - 1] = '\0';
        t->is_local = is_local_host(host);
    }
    curl_free(scheme);
    curl_free(host);
    curl_free(path);
    curl_free(rest);
    curl_free(whole);
    return why;
}

static int set_url(struct sk_target *t, const char *url, struct sk_err *err)
{
    if (strlen(url) >= sizeof t->url)
        return sk_err_set(err, SK_EINVAL, "url", "url: more than %d bytes", SK_TARGET_MAX_URL - 1);
    if (strncmp(url, "unix:", 5) == 0)
        return set_socket(t, url, err);
    CURLU *u = curl_url();
    if (!u)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    CURLUcode rc = curl_url_set(u, CURLUPART_URL, url, 0);
    const char *why = rc == CURLUE_BAD_SCHEME || rc == CURLUE_UNSUPPORTED_SCHEME
                          ? "it must begin with http://, https:// or unix:"
                      : rc ? curl_url_strerror(rc)
                           : check_url(t, u);
    curl_url_cleanup(u);
    return why ? bad_url(url, why, err) : 0;
}

static int add_header(struct sk_target *t, const char *line, struct sk_err *err)
{
    struct curl_slist *more = curl_slist_append(t->headers, line);
    if (!more)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    t->headers = more;
    return 0;
}

static int set_key(struct sk_target *t, const char *key, struct sk_err *err)
{
    char line[SK_TARGET_MAX_KEY + 32];
    size_t n = strlen(key);
    if (n >= SK_TARGET_MAX_KEY)
        return sk_err_set(err, SK_EINVAL, "api-key", "the API key has more than %d bytes", SK_TARGET_MAX_KEY - 1);
    for (size_t i = 0; i < n; i++) /* a line end in it would be a header of its own */
        if (key[i] <= ' ' || key[i] > '~')
            return sk_err_set(err, SK_EINVAL, "api-key", "the API key has a character at byte %zu that no key has", i);
    snprintf(line, sizeof line, "Authorization: Bearer %s", key);
    return add_header(t, line, err);
}

static int set_ca_file(struct sk_target *t, const char *path, struct sk_err *err)
{
    if (strlen(path) >= sizeof t->ca_file)
        return sk_err_set(err, SK_EINVAL, "ca-file", "ca-file: more than %d bytes", SK_TARGET_MAX_URL - 1);
    if (access(path, R_OK) != 0) /* libcurl would only say that the handshake failed */
        return sk_err_errno(err, SK_EINVAL, "ca-file", "ca-file %s", path);
    strcpy(t->ca_file, path);
    return 0;
}

int sk_target_init(struct sk_target *t, const struct sk_target_conf *c, struct sk_err *err)
{
    const char *key = c->api_key && *c->api_key ? c->api_key : getenv("OPENAI_API_KEY");
    *t = (struct sk_target){.insecure = c->insecure, .connect_ms = c->connect_ms, .silence_ms = c->silence_ms};
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return sk_err_set(err, SK_ENOMEM, NULL, "libcurl cannot be initialised");
    int rc = set_url(t, c->url, err);
    if (!rc && c->ca_file && *c->ca_file)
        rc = set_ca_file(t, c->ca_file, err);
    if (!rc)
        rc = add_header(t, "Content-Type: application/json", err);
    if (!rc)
        rc = add_header(t, "Expect:", err); /* libcurl would wait for a 100 before a long body */
    if (!rc && key && *key)
        rc = set_key(t, key, err);
    if (rc)
        sk_target_done(t);
    return rc;
}

void sk_target_done(struct sk_target *t)
{
    curl_slist_free_all(t->headers);
    *t = (struct sk_target){0};
}

/* ---- handles ---- */

static size_t origin_length(const char *url)
{
    const char *host = strstr(url, "://") + 3;
    return (size_t)(host - url) + strcspn(host, "/");
}

int sk_target_body(CURL *h, const char *body, size_t n, struct sk_err *err)
{
    if (curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)n) != CURLE_OK ||
        curl_easy_setopt(h, CURLOPT_POSTFIELDS, body) != CURLE_OK)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    return 0;
}

int sk_target_handle(const struct sk_target *t, const char *path, const char *body, size_t n, CURL **ret,
                     struct sk_err *err)
{
    char url[SK_TARGET_MAX_URL + 256];
    const bool at_root = strncmp(path, "//", 2) == 0;
    const int n_base = (int)(at_root ? origin_length(t->url) : strlen(t->url));
    if (snprintf(url, sizeof url, "%.*s%s", n_base, t->url, path + at_root) >= (int)sizeof url)
        return sk_err_set(err, SK_EINVAL, NULL, "the path is too long");
    CURL *h = curl_easy_init();
    if (!h)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");

    CURLcode rc = curl_easy_setopt(h, CURLOPT_URL, url);
    rc = rc ? rc : curl_easy_setopt(h, CURLOPT_HTTPHEADER, t->headers);
    rc = rc ? rc : curl_easy_setopt(h, CURLOPT_USERAGENT, "skein/" SK_VERSION);
    rc = rc ? rc : curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http,https");
    rc = rc ? rc : curl_easy_setopt(h, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    rc = rc ? rc : curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    rc = rc ? rc : curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS, (long)t->connect_ms);
    if (t->silence_ms) {
        rc = rc ? rc : curl_easy_setopt(h, CURLOPT_LOW_SPEED_LIMIT, 1L);
        rc = rc ? rc : curl_easy_setopt(h, CURLOPT_LOW_SPEED_TIME, (long)((t->silence_ms + 999) / 1000));
    }
    if (t->socket[0])
        rc = rc ? rc : curl_easy_setopt(h, CURLOPT_UNIX_SOCKET_PATH, t->socket);
    if (t->is_local || t->socket[0])
        rc = rc ? rc : curl_easy_setopt(h, CURLOPT_NOPROXY, "*");
    if (t->ca_file[0])
        rc = rc ? rc : curl_easy_setopt(h, CURLOPT_CAINFO, t->ca_file);
    if (t->insecure) {
        rc = rc ? rc : curl_easy_setopt(h, CURLOPT_SSL_VERIFYPEER, 0L);
        rc = rc ? rc : curl_easy_setopt(h, CURLOPT_SSL_VERIFYHOST, 0L);
    }
    if (rc || (body && sk_target_body(h, body, n, err))) {
        curl_easy_cleanup(h);
        return sk_err_set(err, SK_ENOMEM, NULL, "libcurl: %s", curl_easy_strerror(rc ? rc : CURLE_OUT_OF_MEMORY));
    }
    *ret = h;
    return 0;
}

/* ---- what went wrong ---- */

static int kind_of(CURLcode rc, bool is_begun)
{
    switch (rc) {
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_ISSUER_ERROR:
        return SK_EAUTH;
    case CURLE_OPERATION_TIMEDOUT:
        return is_begun ? SK_EDEADLINE : SK_EUNAVAIL;
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
        return SK_EUNAVAIL;
    case CURLE_OUT_OF_MEMORY:
        return SK_ENOMEM;
    default:
        return SK_EPROTO;
    }
}

int sk_target_failed(const struct sk_target *t, CURL *h, CURLcode rc, const char *detail, struct sk_err *err)
{
    const char *where = t->socket[0] ? t->socket : t->url;
    char why[MAX_WORDS]; /* it can quote the server */
    double connected_s = 0;
    curl_easy_getinfo(h, CURLINFO_CONNECT_TIME, &connected_s);
    if (!detail || !*detail)
        detail = curl_easy_strerror(rc);
    sk_plain_line(why, sizeof why, detail, strlen(detail));

    const int kind = kind_of(rc, connected_s > 0);
    switch (kind) {
    case SK_EAUTH:
        return sk_err_set(
            err, kind, NULL, "%s: TLS: %s%s", where, why,
            rc == CURLE_PEER_FAILED_VERIFICATION ? " (--ca-file FILE says who may sign, --insecure does without)" : "");
    case SK_EDEADLINE:
        return sk_err_set(err, kind, NULL, "%s: nothing came for %lld ms", where, (long long)t->silence_ms);
    case SK_EUNAVAIL:
        return sk_err_set(err, kind, NULL, "cannot reach %s: %s", where, why);
    default:
        return sk_err_set(err, kind, NULL, "%s: the answer broke off: %s", where, why);
    }
}

/* error.message of the body, error itself where that is a text, as some servers have it; NULL: neither. */
static const char *message_of(const struct cJSON *body)
{
    const struct cJSON *e = sk_json_get(body, "error");
    const char *s = sk_json_str(sk_json_get(e, "message"));
    if (!s)
        s = sk_json_str(e);
    return s ? s : sk_json_str(sk_json_get(body, "message"));
}

void sk_target_words(char *dst, size_t size, const char *body, size_t n)
{
    struct cJSON *v = NULL;
    const char *words = sk_json_parse(body, n, n, &v, NULL) == 0 ? message_of(v) : NULL;
    size_t n_words = words ? strlen(words) : n;
    if (!words)
        words = body;
    for (; n_words && strchr("\r\n\t ", *words); words++)
        n_words--;
    sk_plain_line(dst, size, words, n_words);
    sk_json_free(v);
}

int sk_target_refused(const struct sk_target *t, long status, const char *body, size_t n, struct sk_err *err)
{
    char words[MAX_WORDS];
    sk_target_words(words, sizeof words, body, n);
    return sk_err_set(err, SK_EPROTO, NULL, "%s answered %ld%s%s", t->socket[0] ? t->socket : t->url, status,
                      words[0] ? ": " : "", words);
}
