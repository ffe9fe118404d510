#include "server/metrics/metrics.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static double seconds_of(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec * 1e-6;
}

/* 0 = not known. */
static double rss_bytes(void)
{
    char text[128];
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = '\0';
    unsigned long long size, resident;
    return sscanf(text, "%llu %llu", &size, &resident) == 2 ? (double)resident * (double)sysconf(_SC_PAGESIZE) : 0;
}

/* Without the one that counts them. */
static int n_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    if (!d)
        return 0;
    int n = -1;
    for (const struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

void sk_metrics_process(struct sk_metrics *m, int64_t started)
{
    struct rusage use;
    if (getrusage(RUSAGE_SELF, &use) == 0)
        sk_metric_total(m, SK_METRIC_CPU_SECONDS, seconds_of(use.ru_utime) + seconds_of(use.ru_stime), NULL, NULL);
    sk_metric_set(m, SK_METRIC_RSS, rss_bytes(), NULL, NULL);
    sk_metric_set(m, SK_METRIC_FDS, n_fds(), NULL, NULL);
    sk_metric_set(m, SK_METRIC_START_TIME, (double)started, NULL, NULL);
}
