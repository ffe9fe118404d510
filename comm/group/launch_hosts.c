/* The hostfile: who takes part, and whether they can. */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#include "comm/base/buf.h"
#include "comm/group/launch.h"

enum { MAX_FILE_BYTES = 64 << 10, MAX_SLOTS = 256, MAX_WORDS = 3, MAX_AGENT_WORDS = 16 };

struct where { /* for messages */
    const char *path;
    unsigned line;
};

static int parse_slots(const struct where *at, const char *word, uint32_t *ret, struct sk_err *err)
{
    char *end;
    if (strncmp(word, "slots=", 6) != 0)
        return sk_err_set(err, SK_EINVAL, "hostfile", "%s:%u: \"%.60s\" is neither slots=N nor a comment", at->path,
                          at->line, word);
    errno = 0;
    unsigned long n = isdigit((unsigned char)word[6]) ? strtoul(word + 6, &end, 10) : 0;
    if (errno || n < 1 || n > MAX_SLOTS || *end)
        return sk_err_set(err, SK_ERANGE, "hostfile", "%s:%u: slots must be 1 to %d", at->path, at->line, MAX_SLOTS);
    *ret = (uint32_t)n;
    return 0;
}

static bool is_name(const char *s)
{
    if (*s == '-') /* an option of the launch agent's */
        return false;
    for (; *s; s++) {
        if (!isalnum((unsigned char)*s) && !strchr(".-_:%", *s))
            return false;
    }
    return true;
}

static int add_host(const struct where *at, const char *name, uint32_t slots, struct sk_launch_hosts *h,
                    struct sk_err *err)
{
    if (strlen(name) >= sizeof h->host[0].name || !is_name(name))
        return sk_err_set(err, SK_EINVAL, "hostfile", "%s:%u: \"%.60s\" is no host's name", at->path, at->line, name);
    for (uint32_t i = 0; i < h->n; i++) {
        if (strcasecmp(h->host[i].name, name) == 0)
            return sk_err_set(err, SK_EINVAL, "hostfile", "%s:%u: %s stands there twice; say slots=N", at->path,
                              at->line, name);
    }
    if (h->n == SK_LAUNCH_MAX_HOST)
        return sk_err_set(err, SK_ERANGE, "hostfile", "%s:%u: more than %d hosts", at->path, at->line,
                          SK_LAUNCH_MAX_HOST);
    strcpy(h->host[h->n].name, name);
    h->host[h->n++].slots = slots;
    h->n_slot += slots;
    return 0;
}

static int parse_line(const struct where *at, char *line, struct sk_launch_hosts *h, struct sk_err *err)
{
    char *word[MAX_WORDS], *save;
    uint32_t n = 0, slots = 1;
    line[strcspn(line, "#")] = '\0';
    for (char *w = strtok_r(line, " \t\r", &save); w && n < MAX_WORDS; w = strtok_r(NULL, " \t\r", &save))
        word[n++] = w;
    if (n == 0)
        return 0;
    if (n == MAX_WORDS)
        return sk_err_set(err, SK_EINVAL, "hostfile", "%s:%u: a line is NAME [slots=N]", at->path, at->line);
    int rc = n == 2 ? parse_slots(at, word[1], &slots, err) : 0;
    return rc ? rc : add_host(at, word[0], slots, h, err);
}

int sk_launch_parse_hosts(const char *path, const char *s, size_t n, struct sk_launch_hosts *ret, struct sk_err *err)
{
    struct sk_launch_hosts h = {0};
    struct where at = {.path = path};
    char line[512];
    int rc = 0;
    for (size_t from = 0, to; rc == 0 && from < n; from = to + 1) {
        const char *end = memchr(s + from, '\n', n - from);
        to = end ? (size_t)(end - s) : n;
        at.line++;
        if (to - from >= sizeof line || memchr(s + from, '\0', to - from))
            return sk_err_set(err, SK_EINVAL, "hostfile", "%s:%u: a line is NAME [slots=N]", path, at.line);
        memcpy(line, s + from, to - from);
        line[to - from] = '\0';
        rc = parse_line(&at, line, &h, err);
    }
    if (rc == 0 && h.n == 0)
        rc = sk_err_set(err, SK_EINVAL, "hostfile", "%s names no host", path);
    if (rc == 0)
        *ret = h;
    return rc;
}

int sk_launch_read_hosts(const char *path, struct sk_launch_hosts *ret, struct sk_err *err)
{
    struct sk_launch_hosts h;
    struct sk_buf text;
    sk_buf_init(&text, MAX_FILE_BYTES);
    int rc = sk_buf_file(&text, path, err);
    if (rc == 0)
        rc = sk_launch_parse_hosts(path, text.p ? text.p : "", text.n, &h, err);
    else if (err)
        strcpy(err->param, "hostfile");
    sk_buf_done(&text);
    for (uint32_t i = 0; rc == 0 && i < h.n; i++) {
        struct addrinfo *list = NULL;
        int e = getaddrinfo(h.host[i].name, NULL, NULL, &list);
        if (e != 0)
            rc = sk_err_set(err, SK_EINVAL, "hostfile", "%s: host %s is not known: %s", path, h.host[i].name,
                            gai_strerror(e));
        else
            freeaddrinfo(list);
    }
    if (rc == 0)
        *ret = h;
    return rc;
}

static bool is_same(const struct sockaddr *a, const struct sockaddr *b)
{
    if (a->sa_family != b->sa_family)
        return false;
    if (a->sa_family == AF_INET)
        return ((const struct sockaddr_in *)a)->sin_addr.s_addr == ((const struct sockaddr_in *)b)->sin_addr.s_addr;
    return a->sa_family == AF_INET6 &&
           memcmp(&((const struct sockaddr_in6 *)a)->sin6_addr, &((const struct sockaddr_in6 *)b)->sin6_addr, 16) == 0;
}

/* Is one of the name's addresses one of ours? */
static bool is_here(const char *name)
{
    struct addrinfo *list = NULL;
    struct ifaddrs *ours = NULL;
    bool found = false;
    if (getaddrinfo(name, NULL, NULL, &list) == 0 && getifaddrs(&ours) == 0) {
        for (const struct addrinfo *a = list; a; a = a->ai_next) {
            for (const struct ifaddrs *i = ours; i; i = i->ifa_next)
                found = found || (i->ifa_addr && is_same(a->ai_addr, i->ifa_addr));
        }
    }
    if (list)
        freeaddrinfo(list);
    if (ours)
        freeifaddrs(ours);
    return found;
}

int sk_launch_check_hosts(const struct sk_launch_hosts *hosts, uint32_t n_rank, struct sk_err *err)
{
    char mem[1024], self[256] = "", *agent[MAX_AGENT_WORDS];
    if (!hosts)
        return 0;
    if (n_rank > hosts->n_slot)
        return sk_err_set(err, SK_ERANGE, "hostfile", "--tp x --pp are %u ranks, but the hostfile has %u slots", n_rank,
                          hosts->n_slot);
    gethostname(self, sizeof self - 1);
    if (strcasecmp(hosts->host[0].name, self) != 0 && !is_here(hosts->host[0].name))
        return sk_err_set(err, SK_EINVAL, "hostfile",
                          "the first host of the hostfile, %s, must be this one (%s): rank 0 is beside the daemon",
                          hosts->host[0].name, self);
    if (hosts->n > 1 && sk_launch_agent(agent, MAX_AGENT_WORDS, mem, sizeof mem) == 0)
        return sk_err_set(
            err, SK_EUNSUP, "hostfile",
            "the other hosts of the hostfile are reached with ssh, or what $OMPI_MCA_plm_rsh_agent names: "
            "there is none");
    return 0;
}
