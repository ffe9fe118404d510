/* The ranks of one engine, seen from one of them: how they are started, who this one is, and how it ends. With one rank
 * there is no world, and nothing here calls MPI. */
#ifndef SK_JOB_H
#define SK_JOB_H
#include <stdbool.h>
#include "comm/base/conf.h"
#include "comm/base/err.h"

struct sk_world;
struct sk_timeline;

struct sk_job {
    struct sk_world *world;       /* NULL: one rank */
    struct sk_timeline *timeline; /* NULL: none is kept */
};

static inline bool sk_job_is_large(const struct sk_conf *conf)
{
    return conf->tp * conf->pp > 1;
}
/* Runs this program's ranks, with the same arguments, under mpirun, and waits for their end. 0; -SK_EUNSUP (no mpirun);
 * -SK_EIO: they failed, and have said why. */
int sk_job_run(const struct sk_conf *conf, char **argv, struct sk_err *err);

/* This rank's place: the world is open and of one build, log lines say rank and host, this thread stays on its CPUs,
 * conf->threads is as many. Collective. *ret is to be closed whatever is returned. */
int sk_job_open(struct sk_conf *conf, struct sk_job *ret, struct sk_err *err);
/* Is this the rank that leads? */
bool sk_job_leads(const struct sk_job *j);
/* When the work is done, on all ranks: writes the timeline, if one was asked for. */
int sk_job_end(struct sk_job *j, const struct sk_conf *conf, struct sk_err *err);
void sk_job_close(struct sk_job *j);

#endif
