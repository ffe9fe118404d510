/* The built-in page: its files are part of the program, so that it needs no folder and no network. Open to everybody,
 * since nothing in it is secret: what it shows it asks for by the API, with the key that its user gives it. */
#ifndef SK_WEB_H
#define SK_WEB_H
#include <stddef.h>

struct sk_call;

struct sk_web_file {
    const char *path; /* "/" or "/web/NAME" */
    const char *type; /* Content-Type */
    const char *etag; /* with its quotes; another text has another */
    const char *text;
    size_t n;
};
/* Made by embed.sh. */
extern const struct sk_web_file sk_web_files[];
extern const size_t sk_web_n_file;

/* NULL = there is none. */
const struct sk_web_file *sk_web_find(const char *path);
/* Answers GET / and /web/NAME: the file, 304 where the client has it, 404. */
void sk_web_page(const struct sk_call *c);

#endif
