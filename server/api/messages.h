/* The conversation of a chat request: checks messages, tools and template fields and writes what server/text/tmpl.h
 * renders. */
#ifndef SK_MESSAGES_H
#define SK_MESSAGES_H
#include <stdbool.h>
#include "comm/base/buf.h"
#include "comm/base/err.h"

struct cJSON;
struct sk_model;
struct sk_tmpl;

/* Appends the JSON for sk_tmpl_render. -SK_EMISSING, -SK_ETYPE, -SK_EINVAL, -SK_EUNSUP (parts that are not text);
 * err->param says where, for example "messages[2].content[0].type". */
int sk_messages_put(const struct cJSON *body, struct sk_buf *b, struct sk_err *err);

/* The model's template for this body: the one for tools where it has one and tools are given. */
struct sk_tmpl *sk_messages_tmpl(const struct sk_model *m, const struct cJSON *body);

#endif
