#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "comm/base/conf.h"
#include "comm/base/mem.h"

#define D SK_PROG_DAEMON
#define E SK_PROG_ENGINE

static void test_defaults(void **state)
{
    struct sk_conf c;
    sk_conf_defaults(&c);
    assert_int_equal(c.max_seqs, 64);
    assert_string_equal(c.listen, "127.0.0.1:8080");
    assert_string_equal(c.device, "cpu");
    assert_true(c.prefix_cache);
    assert_false(c.pin);
    assert_false(sk_conf_given(&c, "max-seqs"));
}

/* Each row's default, limits and choices fit one another: its printed default can be set again. */
static void test_table_is_consistent(void **state)
{
    struct sk_conf c, plain;
    struct sk_err err = {0};
    char *text = NULL;
    size_t n = 0;
    sk_conf_defaults(&plain);
    for (unsigned prog = 1; prog <= SK_PROG_BENCH; prog *= 2) {
        FILE *f = open_memstream(&text, &n);
        sk_conf_print(&plain, prog, f);
        fclose(f);
        for (char *p = text; (p = strstr(p, "\n#")); p++) {
            if (p[2] == ' ')
                continue;
            p[1] = ' '; /* uncomment */
        }
        sk_conf_defaults(&c);
        if (sk_conf_text(&c, prog, "defaults", text, n, &err))
            fail_msg("%s", err.msg);
        assert_memory_not_equal(c.given, plain.given, sizeof c.given);
        memset(c.given, 0, sizeof c.given);
        assert_memory_equal(&c, &plain, sizeof c);
        free(text);
    }
}

static void check_bad(const char *name, const char *value, int code, const char *msg)
{
    struct sk_conf c, before;
    struct sk_err err = {0};
    sk_conf_defaults(&c);
    before = c;
    int rc = sk_conf_set(&c, D, name, value, &err);
    if (rc != -code || strcmp(err.msg, msg) != 0)
        fail_msg("%s = %s gave %d, %s", name, value, rc, err.msg);
    assert_string_equal(err.param, name);
    assert_memory_equal(&c, &before, sizeof c);
}

static void test_bad_values(void **state)
{
    check_bad("max-seqs", "0", SK_ERANGE, "max-seqs must be from 1 to 4096 sequences, not '0'");
    check_bad("max-seqs", "99999999999999999999", SK_ERANGE,
              "max-seqs must be from 1 to 4096 sequences, not '99999999999999999999'");
    check_bad("max-seqs", "4k", SK_ETYPE, "max-seqs must be an integer from 1 to 4096 sequences, not '4k'");
    check_bad("max-seqs", "", SK_ETYPE, "max-seqs must be an integer from 1 to 4096 sequences, not ''");
    check_bad("max-seqs", " 4", SK_ETYPE, "max-seqs must be an integer from 1 to 4096 sequences, not ' 4'");
    check_bad("max-body", "2G", SK_ERANGE, "max-body must be from 1K to 1G bytes, not '2G'");
    check_bad("max-body", "-1", SK_ETYPE, "max-body must be a size such as 512M or 8G, from 1K to 1G bytes, not '-1'");
    check_bad("pin", "maybe", SK_ETYPE, "pin must be true or false, not 'maybe'");
    check_bad("device", "gpu", SK_EINVAL, "device must be one of cpu|ref, not 'gpu'");
    check_bad("device", "", SK_EINVAL, "device must be one of cpu|ref, not ''");
    check_bad("device", "cpu|ref", SK_EINVAL, "device must be one of cpu|ref, not 'cpu|ref'");
    check_bad("model", "a\nb", SK_EINVAL, "model has a control character at byte 1");
    check_bad("max-seq", "1", SK_EINVAL, "unknown option 'max-seq'; did you mean 'max-seqs'?");
    check_bad("max_seqs", "1", SK_EINVAL, "unknown option 'max_seqs'; did you mean 'max-seqs'?");
    check_bad("frobnicate", "1", SK_EINVAL, "unknown option 'frobnicate'");
    check_bad("fd", "1", SK_EINVAL, "unknown option 'fd'");

    struct sk_conf c;
    char longest[SK_CONF_STR_MAX + 1];
    memset(longest, 'x', SK_CONF_STR_MAX);
    longest[SK_CONF_STR_MAX] = '\0';
    sk_conf_defaults(&c);
    assert_int_equal(sk_conf_set(&c, D, "model", longest, NULL), -SK_ERANGE);
    assert_int_equal(sk_conf_set(&c, D, longest, "1", NULL), -SK_EINVAL);
    assert_int_equal(sk_conf_set(&c, D, "model", longest + 1, NULL), 0);
    assert_string_equal(c.model, longest + 1);
}

static void test_bytes(void **state)
{
    static const struct {
        const char *text;
        int64_t want; /* -1: refused */
    } cases[] = {
        {"0", 0},
        {"7", 7},
        {"8G", INT64_C(8) << 30},
        {"512MiB", 512 << 20},
        {"1.5k", 1536},
        {"1.5K", 1536},
        {"2t", INT64_C(2) << 40},
        {"3B", 3},
        {"1KB", 1024},
        {"0.25G", 1 << 28},
        {"9223372036854775807", INT64_MAX},
        {"9223372036854775808", -1},
        {"8388608T", -1},
        {"8388607.5T", INT64_MAX - (INT64_C(1) << 39) + 1},
        {"1.1251k", 1152},
        {"1.125k", 1152},
        {"", -1},
        {"-1", -1},
        {"+1", -1},
        {" 1", -1},
        {"1 ", -1},
        {"G", -1},
        {"1.5", -1},
        {"1x", -1},
        {"1GG", -1},
        {"1i", -1},
        {"0x10", -1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int64_t x = -1;
        int rc = sk_conf_bytes(cases[i].text, &x);
        assert_int_equal(rc, cases[i].want < 0 ? -SK_EINVAL : 0);
        assert_true(x == cases[i].want);
    }
}

static void test_text(void **state)
{
    static const char text[] = "# comment\r\n"
                               "\n"
                               "  max-seqs =  8  \r\n"
                               "max-seqs=9\n"
                               "model = \" /m # not a comment \"\n"
                               "  # another\n"
                               "max-body = 2M\n"
                               "chat-template =\n"
                               "pin = yes";
    struct sk_conf c;
    struct sk_err err = {0};
    sk_conf_defaults(&c);
    if (sk_conf_text(&c, D, "f", text, sizeof text - 1, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(c.max_seqs, 9);
    assert_string_equal(c.model, " /m # not a comment ");
    assert_int_equal(c.max_body, 2 << 20);
    assert_true(c.pin);
    assert_true(sk_conf_given(&c, "pin"));
    assert_true(sk_conf_given(&c, "chat-template"));
    assert_false(sk_conf_given(&c, "listen"));
}

static void check_bad_text(const char *text, size_t n, int code, const char *msg)
{
    struct sk_conf c;
    struct sk_err err = {0};
    sk_conf_defaults(&c);
    int rc = sk_conf_text(&c, D, "f.conf", text, n, &err);
    if (rc != -code || strcmp(err.msg, msg) != 0)
        fail_msg("%s gave %d, %s", text, rc, err.msg);
}

static void test_bad_text(void **state)
{
    check_bad_text("\n\npin = 2", 9, SK_ETYPE, "f.conf:3: pin must be true or false, not '2'");
    check_bad_text("pin\n", 4, SK_EINVAL, "f.conf:1: expected 'name = value', not 'pin'");
    check_bad_text("pin = \0", 7, SK_EINVAL, "f.conf:1: NUL byte");
    check_bad_text("= 1", 3, SK_EINVAL, "f.conf:1: unknown option ''");
    check_bad_text("\nconfig = x\n", 12, SK_EINVAL, "f.conf:2: a configuration file cannot name another one");
    check_bad_text("max-seqs = 1 # one\n", 19, SK_ETYPE,
                   "f.conf:1: max-seqs must be an integer from 1 to 4096 sequences, not '1 # one'");
}

static void write_file(char *path, const char *text)
{
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static int args(struct sk_conf *c, char **argv, struct sk_err *err)
{
    int argc = 0;
    while (argv[argc])
        argc++;
    sk_conf_defaults(c);
    return sk_conf_args(c, D, argc, argv, NULL, 0, NULL, err);
}

static void test_args(void **state)
{
    char path[] = "/tmp/test_conf.XXXXXX";
    write_file(path, "max-seqs = 3\nmax-queue = 4\n");
    struct sk_conf c;
    struct sk_err err = {0};
    char *argv[] = {"skeind",
                    "--max-seqs",
                    "5",
                    "--model=/m=n",
                    "--pin",
                    "--no-prefix-cache",
                    "--generation-defaults",
                    "off",
                    "--config",
                    path,
                    "--threads=1",
                    "--threads=2",
                    NULL};
    if (args(&c, argv, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(c.max_seqs, 5); /* although --config comes later */
    assert_int_equal(c.max_queue, 4);
    assert_int_equal(c.threads, 2);
    assert_string_equal(c.model, "/m=n");
    assert_true(c.pin);
    assert_false(c.prefix_cache);
    assert_false(c.generation_defaults);
    assert_string_equal(c.config, path);
    unlink(path);
    assert_int_equal(args(&c, argv, &err), -SK_ENOENT);
    assert_non_null(strstr(err.msg, path));
}

/* `files`: name, text, name, text ... NULL */
static void make_folder(char *dir, const char *const *files)
{
    char path[256];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/conf.d", dir);
    assert_int_equal(mkdir(path, 0700), 0);
    for (; *files; files += 2) {
        snprintf(path, sizeof path, "%s/%s", dir, files[0]);
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        fputs(files[1], f);
        fclose(f);
    }
}

static void remove_folder(const char *dir)
{
    char command[256];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    assert_int_equal(system(command), 0);
}

static void test_dropins(void **state)
{
    static const char *const files[] = {"x.conf",
                                        "max-seqs = 1\nmax-queue = 1\nthreads = 1\n",
                                        "conf.d/20-b.conf",
                                        "max-seqs = 20\n",
                                        "conf.d/10-a.conf",
                                        "max-seqs = 10\nmax-queue = 10\n",
                                        "conf.d/3-c.conf",
                                        "max-seqs = 3\n", /* by bytes: behind the others */
                                        "conf.d/.x.conf",
                                        "max-seqs = 99\n",
                                        "conf.d/x.conf~",
                                        "max-seqs = 99\n",
                                        "conf.d/README",
                                        "max-seqs = 99\n",
                                        "conf.d/.conf",
                                        "max-seqs = 99\n",
                                        NULL};
    char dir[] = "/tmp/test_conf.XXXXXX", path[64], want[256];
    struct sk_conf c;
    struct sk_err err = {0};
    make_folder(dir, files);
    snprintf(path, sizeof path, "%s/x.conf", dir);
    char *argv[] = {"skeind", "--threads=7", "--config", path, NULL};
    if (args(&c, argv, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(c.max_seqs, 3);
    assert_int_equal(c.max_queue, 10);
    assert_int_equal(c.threads, 7);

    snprintf(path, sizeof path, "%s/conf.d/15.conf", dir);
    FILE *f = fopen(path, "w");
    fputs("\nmax-seq = 1\n", f);
    fclose(f);
    snprintf(want, sizeof want, "%s:2: unknown option 'max-seq'; did you mean 'max-seqs'?", path);
    snprintf(path, sizeof path, "%s/x.conf", dir);
    assert_int_equal(args(&c, argv, &err), -SK_EINVAL);
    assert_string_equal(err.msg, want);
    remove_folder(dir);
}

/* Without a folder the path is relative; conf.d may be missing, but not be something else. */
static void test_dropins_beside_a_bare_name(void **state)
{
    char dir[] = "/tmp/test_conf.XXXXXX", old[1024];
    struct sk_conf c;
    struct sk_err err = {0};
    assert_non_null(getcwd(old, sizeof old));
    make_folder(dir, (const char *const[]){"x.conf", "", "conf.d/a.conf", "max-seqs = 5\n", NULL});
    assert_int_equal(chdir(dir), 0);
    char *argv[] = {"skeind", "--config", "x.conf", NULL};
    assert_int_equal(args(&c, argv, &err), 0);
    assert_int_equal(c.max_seqs, 5);
    assert_int_equal(system("rm -rf conf.d"), 0);
    assert_int_equal(args(&c, argv, &err), 0);
    assert_int_equal(c.max_seqs, 64);
    assert_int_equal(system("touch conf.d"), 0);
    assert_int_equal(args(&c, argv, &err), -SK_EIO);
    assert_string_equal(err.msg, "cannot read conf.d: Not a directory");
    assert_int_equal(chdir(old), 0);
    remove_folder(dir);
}

static void test_dropins_are_bounded(void **state)
{
    char dir[] = "/tmp/test_conf.XXXXXX", path[64];
    struct sk_conf c;
    struct sk_err err = {0};
    make_folder(dir, (const char *const[]){"x.conf", "", NULL});
    for (int i = 0; i <= 256; i++) {
        snprintf(path, sizeof path, "%s/conf.d/%d.conf", dir, i);
        fclose(fopen(path, "w"));
    }
    snprintf(path, sizeof path, "%s/x.conf", dir);
    char *argv[] = {"skeind", "--config", path, NULL};
    assert_int_equal(args(&c, argv, &err), -SK_ETOOBIG);
    assert_non_null(strstr(err.msg, "conf.d has more than 256 files"));
    snprintf(path, sizeof path, "%s/conf.d/0.conf", dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/x.conf", dir);
    assert_int_equal(args(&c, argv, &err), 0);
    remove_folder(dir);
}

static void test_dropins_short_of_memory(void **state)
{
    char dir[] = "/tmp/test_conf.XXXXXX", path[64];
    make_folder(dir, (const char *const[]){"x.conf", "max-seqs = 2\n", "conf.d/a.conf", "max-seqs = 3\n", NULL});
    snprintf(path, sizeof path, "%s/x.conf", dir);
    char *argv[] = {"skeind", "--config", path, NULL};
    int rc = -SK_ENOMEM;
    for (uint64_t n = 1; rc == -SK_ENOMEM; n++) {
        struct sk_conf c;
        struct sk_err err = {0};
        sk_mem_fail_at(n, 0);
        rc = args(&c, argv, &err);
        sk_mem_fail_at(0, 0);
        assert_int_equal(err.code, -rc);
        assert_int_equal(c.max_seqs == 3, rc == 0);
        assert_true(n < 100);
    }
    assert_int_equal(rc, 0);
    remove_folder(dir);
}

static void test_reload(void **state)
{
    struct sk_conf to, from;
    struct sk_buf names;
    sk_conf_defaults(&to);
    sk_conf_set(&to, D, "max-queue", "5", NULL);
    sk_conf_set(&to, D, "config", "a", NULL);
    sk_conf_defaults(&from);
    sk_conf_set(&from, D, "config", "b", NULL); /* not worth a word */
    sk_conf_set(&from, D, "log-level", "debug", NULL);
    sk_conf_set(&from, D, "api-key-file", "/k", NULL);
    sk_conf_set(&from, D, "max-seqs", "3", NULL);
    sk_conf_set(&from, D, "listen", "x", NULL);
    sk_conf_set(&from, E, "dir", "/d", NULL); /* another program's */
    sk_buf_init(&names, 1024);
    sk_conf_reload(&to, &from, D, &names);
    assert_string_equal(names.p, "listen, max-seqs");
    assert_string_equal(to.log_level, "debug");
    assert_string_equal(to.api_key_file, "/k");
    assert_int_equal(to.max_queue, 1024);
    assert_false(sk_conf_given(&to, "max-queue"));
    assert_true(sk_conf_given(&to, "log-level"));
    assert_int_equal(to.max_seqs, 64);
    assert_string_equal(to.listen, "127.0.0.1:8080");
    assert_false(sk_conf_given(&to, "listen"));
    assert_string_equal(to.dir, "");

    struct sk_conf before = to; /* the same again changes nothing, and names the same */
    sk_buf_clear(&names);
    sk_conf_reload(&to, &from, D, &names);
    assert_memory_equal(&to, &before, sizeof to);
    assert_string_equal(names.p, "listen, max-seqs");
    sk_buf_clear(&names);
    sk_conf_reload(&to, &before, D, &names);
    assert_int_equal(names.n, 0);
    sk_buf_done(&names);
}

static void test_bad_args(void **state)
{
    struct sk_conf c;
    struct sk_err err = {0};
    assert_int_equal(args(&c, (char *[]){"p", "--model", NULL}, &err), -SK_EMISSING);
    assert_string_equal(err.msg, "--model needs a value");
    assert_int_equal(args(&c, (char *[]){"p", "--model", "--pin", NULL}, &err), -SK_EMISSING);
    assert_int_equal(args(&c, (char *[]){"p", "--modle", "x", NULL}, &err), -SK_EINVAL);
    assert_string_equal(err.msg, "unknown option 'modle'; did you mean 'model'?");
    assert_int_equal(args(&c, (char *[]){"p", "--no-model", NULL}, &err), -SK_EINVAL);
    assert_int_equal(args(&c, (char *[]){"p", "--no-pin=true", NULL}, &err), -SK_EINVAL);
    assert_int_equal(args(&c, (char *[]){"p", "-x", NULL}, &err), -SK_EINVAL);
    assert_int_equal(args(&c, (char *[]){"p", "word", NULL}, &err), -SK_EINVAL);
    assert_string_equal(err.msg, "unexpected argument 'word'");
    assert_int_equal(args(&c, (char *[]){"p", "--max-seqs", "-1", NULL}, &err), -SK_ERANGE);
}

static void test_words(void **state)
{
    struct sk_conf c;
    const char *rest[2];
    int n_rest = -1;
    char *argv[] = {"p", "a", "--pin", "b", "--threads", "4", NULL};
    sk_conf_defaults(&c);
    assert_int_equal(sk_conf_args(&c, D, 6, argv, rest, 2, &n_rest, NULL), 0);
    assert_int_equal(n_rest, 2);
    assert_string_equal(rest[0], "a");
    assert_string_equal(rest[1], "b");
    assert_true(c.pin);
    assert_int_equal(sk_conf_args(&c, D, 6, argv, rest, 1, &n_rest, NULL), -SK_EINVAL);
}

static void test_print_reads_back(void **state)
{
    struct sk_conf c, back;
    struct sk_err err = {0};
    char *text;
    size_t n;
    sk_conf_defaults(&c);
    sk_conf_set(&c, D, "model", " \"/a b\" ", NULL);
    sk_conf_set(&c, D, "model-name", "\"", NULL);
    sk_conf_set(&c, D, "chat-template", "\"\"", NULL);
    sk_conf_set(&c, D, "max-body", "1025", NULL);
    sk_conf_set(&c, D, "kv-memory", "3G", NULL);
    sk_conf_set(&c, D, "pin", "on", NULL);
    sk_conf_set(&c, D, "max-seqs", "64", NULL); /* the default, but said */
    FILE *f = open_memstream(&text, &n);
    sk_conf_print(&c, D, f);
    fclose(f);
    assert_non_null(strstr(text, "\nkv-memory = 3G\n"));
    assert_non_null(strstr(text, "\n#listen = 127.0.0.1:8080\n"));
    assert_non_null(strstr(text, "\nmax-seqs = 64\n"));
    assert_null(strstr(text, "config ="));
    sk_conf_defaults(&back);
    if (sk_conf_text(&back, D, "printed", text, n, &err))
        fail_msg("%s", err.msg);
    assert_memory_equal(&back, &c, sizeof c);
    free(text);
}

static void test_to_args(void **state)
{
    struct sk_conf c, back;
    char *argv[8] = {"skein-engine"};
    sk_conf_defaults(&c);
    assert_int_equal(sk_conf_to_args(&c, E, argv + 1, 7), 0);
    sk_conf_set(&c, D, "max-seqs", "5", NULL);
    sk_conf_set(&c, D, "pin", "true", NULL);
    sk_conf_set(&c, D, "max-queue", "1024", NULL); /* the default */
    sk_conf_set(&c, D, "listen", "x", NULL);       /* not the engine's */
    sk_conf_set(&c, E, "dir", "/a b=\"c", NULL);
    int n = sk_conf_to_args(&c, E, argv + 1, 7);
    assert_int_equal(n, 3);
    sk_conf_defaults(&back);
    assert_int_equal(sk_conf_args(&back, E, n + 1, argv, NULL, 0, NULL, NULL), 0);
    assert_int_equal(back.max_seqs, 5);
    assert_true(back.pin);
    assert_string_equal(back.dir, "/a b=\"c");
    assert_string_equal(back.listen, "127.0.0.1:8080");
    for (int i = 1; i <= n; i++)
        sk_free(argv[i]);
    assert_int_equal(sk_conf_to_args(&c, E, argv + 1, 2), -SK_ETOOBIG);
    sk_mem_fail_at(2, 0);
    assert_int_equal(sk_conf_to_args(&c, E, argv + 1, 7), -SK_ENOMEM);
    sk_mem_fail_at(0, 0);
}

static void test_help(void **state)
{
    char *text;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    sk_conf_help(f, D);
    fclose(f);
    assert_non_null(strstr(text, "  --max-seqs N                sequences that run at once [from 1 to 4096\n"
                                 "                              sequences; default 64]\n"));
    assert_non_null(strstr(text, "  --[no-]pin  "));
    assert_null(strstr(text, "--fd"));
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
        assert_in_range(strlen(line), 1, 80);
    free(text);
}

static void test_reload_is_marked(void **state)
{
    struct sk_conf c;
    char *text;
    size_t n;
    sk_conf_defaults(&c);
    FILE *f = open_memstream(&text, &n);
    sk_conf_print(&c, D, f);
    fclose(f);
    assert_non_null(strstr(text, "\n# log lines: event key=value, or a JSON object each [default text; reload]\n"));
    assert_non_null(strstr(text, "\n# certificate chain (PEM): the TCP addresses of --listen serve HTTPS [reload]\n"));
    assert_non_null(strstr(text, "\n# pin compute threads to CPUs [default false]\n"));
    free(text);
    f = open_memstream(&text, &n);
    sk_conf_print(&c, E, f);
    fclose(f);
    assert_null(strstr(text, "reload"));
    free(text);
}

static void test_octal_stays_text(void **state)
{
    struct sk_conf c;
    sk_conf_defaults(&c);
    assert_int_equal(sk_conf_text(&c, D, "f", "socket-mode = 0600", 18, NULL), 0);
    assert_string_equal(c.socket_mode, "0600");
}

static void test_man(void **state)
{
    char *text;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    sk_conf_man(f, D);
    fclose(f);
    assert_non_null(strstr(text, ".TP\n\\fB\\-\\-log\\-format\\fR \\fItext|json\\fR\n"
                                 "log lines: event key=value, or a JSON object each [default text; reload]\n"));
    assert_non_null(strstr(text, ".TP\n\\fB\\-\\-\\fR[\\fBno\\-\\fR]\\fBpin\\fR\n"));
    assert_null(strstr(text, "board"));
    for (const char *line = text; *line; line = strchr(line, '\n') + 1)
        assert_true(*line != '\'' && (*line != '.' || strncmp(line, ".TP\n", 4) == 0));
    free(text);
    f = open_memstream(&text, &n);
    sk_conf_man_text(f, ".a\\b-c'd~e^f`g\"");
    fclose(f);
    assert_string_equal(text, "\\&.a\\eb\\-c\\(aqd\\(tie\\(haf\\(gag\"");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_table_is_consistent),
        cmocka_unit_test(test_bad_values),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_bad_text),
        cmocka_unit_test(test_args),
        cmocka_unit_test(test_dropins),
        cmocka_unit_test(test_dropins_beside_a_bare_name),
        cmocka_unit_test(test_dropins_are_bounded),
        cmocka_unit_test(test_dropins_short_of_memory),
        cmocka_unit_test(test_reload),
        cmocka_unit_test(test_bad_args),
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_print_reads_back),
        cmocka_unit_test(test_to_args),
        cmocka_unit_test(test_help),
        cmocka_unit_test(test_reload_is_marked),
        cmocka_unit_test(test_octal_stays_text),
        cmocka_unit_test(test_man),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
