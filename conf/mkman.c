/* mkman FROM TO makes man pages in the folder TO of the texts FROM/PAGE.in. A line of a text that begins with @ stands
 * for what the tables of this folder say. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/base/conf.h"
#include "comm/base/conf_row.h"

enum { MAX_PATH = 4096, MAX_LINE = 1024 };

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static FILE *open_file(const char *dir, const char *name, const char *suffix, const char *mode)
{
    char path[MAX_PATH];
    snprintf(path, sizeof path, "%s/%s%s", dir, name, suffix);
    FILE *f = fopen(path, mode);
    if (!f)
        die(path);
    return f;
}

static void put_title(FILE *f, const char *arg)
{
    char name[64], section[8], date[16];
    sk_assert(sscanf(arg, "%63s %7s %15s", name, section, date) == 3);
    fprintf(f, ".\\\" made by conf/mkman.c: do not edit\n.TH %s %s %s \"skein " SK_VERSION "\" skein\n", name, section,
            date);
}

static void put_options(FILE *f, const char *arg)
{
    static const struct {
        const char *name;
        unsigned prog;
    } programs[] = {{"daemon", SK_PROG_DAEMON},
                    {"engine", SK_PROG_ENGINE},
                    {"build", SK_PROG_BUILD},
                    {"chat", SK_PROG_CHAT},
                    {"bench", SK_PROG_BENCH}};
    size_t i = 0, n = sizeof programs / sizeof programs[0];
    while (i < n && strcmp(arg, programs[i].name) != 0)
        i++;
    sk_assert(i < n);
    sk_conf_man(f, programs[i].prog);
}

/* A sentence that lists them. */
static void put_reload(FILE *f, const char *arg)
{
    const char *before = "";
    for (const struct sk_conf_row *r = sk_conf_rows; r < sk_conf_rows + sk_conf_n_rows; r++) {
        if (!(r->prog & SK_PROG_DAEMON) || !(r->prog & SK_OPT_RELOAD))
            continue;
        fprintf(f, "%s.BR ", before);
        sk_conf_man_text(f, r->name);
        before = " ,\n";
    }
    fputs(" .\n", f);
}

static void put_errors(FILE *f, const char *arg)
{
    for (int rc = 1; rc < SK_E_COUNT; rc++) {
        fprintf(f, ".TP\n\\fB%s\\fR, %d\n", sk_err_code(rc), sk_err_http(rc));
        sk_conf_man_text(f, sk_err_text(rc));
        fputs(sk_err_retry(rc) ? "; the same request may succeed later\n" : "\n", f);
    }
}

static void put_metrics(FILE *f, const char *arg)
{
    static const char *const kinds[] = {"Counter", "Gauge", "Histogram"};
    static const struct {
        const char *name, *labels, *help;
        enum { COUNTER, GAUGE, HISTOGRAM } kind;
    } rows[] = {
#define SK_METRIC(id, kind, name, labels, help) {name, labels, help, kind},
#include "conf/metrics.def"
#undef SK_METRIC
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        fprintf(f, ".TP\n\\fB%s\\fR", rows[i].name);
        if (*rows[i].labels)
            fprintf(f, " {%s}", rows[i].labels);
        fprintf(f, "\n%s: ", kinds[rows[i].kind]);
        sk_conf_man_text(f, rows[i].help);
        putc('\n', f);
    }
}

static const struct {
    const char *word;
    void (*put)(FILE *f, const char *arg);
} inserts[] = {{"@title ", put_title},
               {"@options ", put_options},
               {"@reload", put_reload},
               {"@errors", put_errors},
               {"@metrics", put_metrics}};

static void put_line(FILE *f, const char *line)
{
    for (size_t i = 0; i < sizeof inserts / sizeof inserts[0]; i++) {
        size_t n = strlen(inserts[i].word);
        if (strncmp(line, inserts[i].word, n) == 0) {
            inserts[i].put(f, line + n);
            return;
        }
    }
    sk_assert(*line != '@');
    fprintf(f, "%s\n", line);
}

static void make_page(const char *from, const char *to, const char *name)
{
    char line[MAX_LINE];
    FILE *in = open_file(from, name, ".in", "r"), *out = open_file(to, name, "", "w");
    while (fgets(line, sizeof line, in)) {
        line[strcspn(line, "\n")] = '\0';
        put_line(out, line);
    }
    if (ferror(in) || fclose(out) != 0)
        die(name);
    fclose(in);
}

int main(int argc, char **argv)
{
    static const char *const pages[] = {"skeind.8",      "skein-engine.1", "skein-build.1",
                                        "skein-bench.1", "skein.1",        "skein.conf.5"};
    if (argc != 3) {
        fprintf(stderr, "usage: mkman FROM TO\n");
        return 1;
    }
    for (size_t i = 0; i < sizeof pages / sizeof pages[0]; i++)
        make_page(argv[1], argv[2], pages[i]);
    return 0;
}
