#include "server/job/dump.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <regex.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "comm/dir/dir.h"

enum { MAX_TRIES = 10, MAX_NAME = 256, MAX_WHY = 32, MAX_ALIKE = 1000 };

static void plain_word(const char *why, char ret[MAX_WHY])
{
    size_t i = 0;
    for (; why[i] && i + 1 < MAX_WHY; i++) {
        bool plain = (why[i] >= 'a' && why[i] <= 'z') || (why[i] >= '0' && why[i] <= '9');
        ret[i] = plain ? why[i] : '-';
    }
    ret[i] = '\0';
}

/* Names begin with the time, so that they sort by age. */
static void begin_name(char *ret, size_t n, int pid, const char *why)
{
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    snprintf(ret, n, "flight-%04d%02d%02dT%02d%02d%02d.%03ld-%d-%s", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday,
             tm.tm_hour, tm.tm_min, tm.tm_sec, now.tv_nsec / 1000000, pid, why);
}

/* A new file at `stem`, or at stem.001 and so on where two of one millisecond would have one name. */
static int create_file(const char *stem, char ret_path[SK_DUMP_MAX_PATH], struct sk_err *err)
{
    int fd = -1, n = snprintf(ret_path, SK_DUMP_MAX_PATH, "%s", stem);
    for (int i = 0; fd < 0 && i < MAX_ALIKE && n < SK_DUMP_MAX_PATH; i++) {
        if (i > 0)
            n = snprintf(ret_path, SK_DUMP_MAX_PATH, "%s.%03d", stem, i);
        fd = n < SK_DUMP_MAX_PATH ? open(ret_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600) : -1;
        if (fd < 0 && errno != EEXIST)
            break;
    }
    if (n >= SK_DUMP_MAX_PATH)
        return sk_err_set(err, SK_EINVAL, "flight-dir", "the path of --flight-dir is too long");
    return fd >= 0 ? fd : sk_err_errno(err, SK_EIO, "flight-dir", "cannot create %s", ret_path);
}

static int write_file(const char *stem, const struct sk_buf *b, char ret_path[SK_DUMP_MAX_PATH], struct sk_err *err)
{
    char path[SK_DUMP_MAX_PATH];
    int rc = 0, fd = create_file(stem, path, err);
    if (fd < 0)
        return fd;
    for (size_t at = 0; at < b->n && rc == 0;) {
        ssize_t w = write(fd, b->p + at, b->n - at);
        if (w < 0 && errno != EINTR)
            rc = sk_err_errno(err, SK_EIO, "flight-dir", "cannot write %s", path);
        at += w > 0 ? (size_t)w : 0;
    }
    close(fd);
    if (rc)
        unlink(path);
    else
        memcpy(ret_path, path, sizeof path);
    return rc;
}

/* The name of every file of ours of that `why`, and of no other: the folder may be anybody's. */
static int names_of(const char *why, regex_t *ret)
{
    char pattern[MAX_NAME];
    snprintf(pattern, sizeof pattern, "^flight-[0-9]{8}T[0-9]{6}\\.[0-9]{3}-[0-9]+-%s-[0-9]{6,}(\\.[0-9]{3})?$", why);
    return regcomp(ret, pattern, REG_EXTENDED | REG_NOSUB);
}

/* Files in `dir` of such names; the name of the oldest. */
static int count_files(int fd, const regex_t *names, char ret_oldest[MAX_NAME])
{
    int n = 0;
    const struct dirent *e;
    DIR *d = fdopendir(dup(fd));
    ret_oldest[0] = '\0';
    if (!d)
        return 0;
    rewinddir(d);
    while ((e = readdir(d))) {
        if (strlen(e->d_name) >= MAX_NAME || regexec(names, e->d_name, 0, NULL, 0) != 0)
            continue;
        n++;
        if (!ret_oldest[0] || strcmp(e->d_name, ret_oldest) < 0)
            snprintf(ret_oldest, MAX_NAME, "%s", e->d_name);
    }
    closedir(d);
    return n;
}

static void remove_old(const char *dir, const char *why)
{
    char oldest[MAX_NAME];
    regex_t names;
    if (names_of(why, &names) != 0)
        return;
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    while (fd >= 0 && count_files(fd, &names, oldest) > SK_DUMP_MAX_FILES && unlinkat(fd, oldest, 0) == 0)
        ;
    if (fd >= 0)
        close(fd);
    regfree(&names);
}

/* A segment that its owner began anew meanwhile is looked for again: it is then the newer one. */
static int copy_segment(const struct sk_board *b, int index, struct sk_buf *out, uint64_t *ret_number)
{
    int rc = -SK_EAGAIN;
    for (int i = 0; i < MAX_TRIES && rc == -SK_EAGAIN; i++) {
        sk_buf_clear(out);
        rc = sk_board_copy_segment(b, index, out, ret_number);
    }
    return rc;
}

int sk_dump_write(const struct sk_board *b, const char *dir, int pid, const char *why, char ret_path[SK_DUMP_MAX_PATH],
                  struct sk_err *err)
{
    char word[MAX_WHY], name[MAX_NAME], stem[SK_DUMP_MAX_PATH], newest[SK_DUMP_MAX_PATH] = "";
    uint64_t number = 0;
    struct sk_buf buf;
    int rc = sk_dir_make(dir, 0700, err);
    if (rc)
        return rc;
    plain_word(why, word);
    begin_name(name, sizeof name, pid, word);
    sk_buf_init(&buf, b->segment_bytes);
    for (int i = 0; i < SK_BOARD_SEGMENTS && rc == 0; i++) {
        int n = copy_segment(b, i, &buf, &number);
        if (n < 0)
            rc = sk_err_set(err, -n, NULL, "flight recorder: %s", sk_err_text(n));
        if (n <= 0)
            continue;
        if (snprintf(stem, sizeof stem, "%s/%s-%06" PRIu64, dir, name, number) >= (int)sizeof stem)
            rc = sk_err_set(err, SK_EINVAL, "flight-dir", "the path of --flight-dir is too long");
        else
            rc = write_file(stem, &buf, newest, err);
    }
    sk_buf_done(&buf);
    remove_old(dir, word);
    if (rc == 0 && !newest[0])
        rc = sk_err_set(err, SK_ENOENT, NULL, "the flight recorder has nothing");
    if (rc == 0)
        memcpy(ret_path, newest, sizeof newest);
    return rc;
}
