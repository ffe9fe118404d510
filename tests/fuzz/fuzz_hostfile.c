/* A hostfile: what is taken in can be written down and is then read as the same; the rest is an error with a text. */
#include <stdio.h>
#include <string.h>

#include "comm/base/mem.h"
#include "comm/group/launch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static char text[SK_LAUNCH_MAX_HOST * 300];
    static struct sk_launch_hosts h, back;
    struct sk_err err = {0};
    size_t at = 0;
    int rc = sk_launch_parse_hosts("fuzz", (const char *)data, n, &h, &err);
    if (rc != 0) {
        sk_assert(err.code == -rc && err.msg[0]);
        return 0;
    }
    uint32_t n_slot = 0;
    for (uint32_t i = 0; i < h.n; i++) {
        n_slot += h.host[i].slots;
        at += (size_t)snprintf(text + at, sizeof text - at, "%s slots=%u\n", h.host[i].name, h.host[i].slots);
    }
    sk_assert(h.n > 0 && h.n <= SK_LAUNCH_MAX_HOST && n_slot == h.n_slot);
    sk_assert(sk_launch_parse_hosts("again", text, at, &back, &err) == 0 && back.n == h.n);
    for (uint32_t i = 0; i < h.n; i++)
        sk_assert(strcmp(h.host[i].name, back.host[i].name) == 0 && h.host[i].slots == back.host[i].slots);
    return 0;
}
