/* A fixture's model as an engine directory on disk, for what opens one by its path. Asserts through cmocka. */
#ifndef SK_ENGINEDIR_H
#define SK_ENGINEDIR_H
#include "comm/dir/desc.h"
#include "comm/dir/pack.h"

/* Writes config.json and weights.skw into `dir`, which is there and empty; no vocabulary. */
void enginedir_write(const struct sk_desc *desc, enum sk_dtype dtype, const char *dir);
void enginedir_remove(const char *dir);

#endif
