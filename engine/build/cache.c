#include "engine/build/cache.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include "engine/build/outdir.h"
#include "engine/build/safetensors.h"

static void hash_file(XXH3_state_t *s, const char *path)
{
    struct stat st;
    uint64_t words[5] = {0};

    if (!stat(path, &st)) {
        words[0] = (uint64_t)st.st_size;
        words[1] = (uint64_t)st.st_mtim.tv_sec;
        words[2] = (uint64_t)st.st_mtim.tv_nsec;
        words[3] = st.st_ino;
        words[4] = 1; /* exists */
    }
    XXH3_128bits_update(s, path, strlen(path) + 1);
    XXH3_128bits_update(s, words, sizeof words);
}

static int hash_shard(void *arg, const char *path, struct sk_err *err)
{
    hash_file(arg, path);
    return 0;
}

static int hash_hf(XXH3_state_t *s, const char *dir, struct sk_err *err)
{
    static const char *const names[] = {"config.json",
                                        "generation_config.json",
                                        "tokenizer.json",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "chat_template.jinja",
                                        "model.safetensors.index.json"};
    char path[PATH_MAX + 64];

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        hash_file(s, path);
    }
    return sk_safetensors_files(dir, hash_shard, s, err);
}

int sk_cache_key(const char *src, const char *dtype, char ret[SK_CACHE_KEY], struct sk_err *err)
{
    char real[PATH_MAX];
    enum sk_build_kind kind;
    uint32_t format = SK_DIR_FORMAT;
    int rc = sk_build_detect(src, &kind, err);

    if (rc)
        return rc;
    if (!realpath(src, real))
        return sk_err_errno(err, SK_ENOENT, NULL, "cannot open %s", src);
    XXH3_state_t *s = XXH3_createState();
    if (!s)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    XXH3_128bits_reset(s);
    XXH3_128bits_update(s, &format, sizeof format);
    XXH3_128bits_update(s, dtype, strlen(dtype) + 1);
    if (kind == SK_BUILD_GGUF)
        hash_file(s, real);
    else
        rc = hash_hf(s, real, err);
    XXH128_hash_t h = XXH3_128bits_digest(s);
    XXH3_freeState(s);
    if (!rc)
        snprintf(ret, SK_CACHE_KEY, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
    return rc;
}

static int write_source(const char *dir, const struct sk_build_conf *c, struct sk_err *err)
{
    char path[1280], real[PATH_MAX];

    snprintf(path, sizeof path, "%.1200s/source", dir);
    FILE *f = realpath(c->src, real) ? fopen(path, "we") : NULL;
    if (!f)
        return sk_err_errno(err, SK_EIO, NULL, "cannot write %s", path);
    int bad = fprintf(f, "%s\n%s\n", c->dtype, real) < 0;
    bad |= fflush(f) || fsync(fileno(f));
    bad |= fclose(f);
    return bad ? sk_err_errno(err, SK_EIO, NULL, "cannot write %s", path) : 0;
}

/* Dtype and path from an entry's `source`. */
static bool read_source(const char *dir, char *dtype, size_t n_dtype, char *src, size_t n_src)
{
    char path[1280];

    snprintf(path, sizeof path, "%.1200s/source", dir);
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    bool ok = fgets(dtype, (int)n_dtype, f) && fgets(src, (int)n_src, f);
    fclose(f);
    if (!ok)
        return false;
    dtype[strcspn(dtype, "\n")] = 0;
    src[strcspn(src, "\n")] = 0;
    return true;
}

int sk_cache_get(const struct sk_build_conf *c, const char *dir, char *ret_path, size_t n, struct sk_err *err)
{
    char key[SK_CACHE_KEY], path[SK_DIR_MAX_CACHE + SK_CACHE_KEY + 1];
    enum sk_build_kind kind;
    struct sk_outdir o;
    int rc;

    if ((rc = sk_build_detect(c->src, &kind, err)))
        return rc;
    if (kind == SK_BUILD_ENGINE_DIR) {
        if ((size_t)snprintf(ret_path, n, "%s", c->src) >= n)
            return sk_err_set(err, SK_EINVAL, NULL, "path is too long: %.200s...", c->src);
        return 0;
    }
    if ((rc = sk_cache_key(c->src, c->dtype, key, err)) || (rc = sk_dir_make(dir, 0755, err)))
        return rc;
    if (snprintf(path, sizeof path, "%s/%s", dir, key) >= (int)sizeof path || strlen(path) >= n)
        return sk_err_set(err, SK_EINVAL, "cache-dir", "path is too long: %.200s...", dir);
    if ((rc = sk_outdir_lock(&o, path, err)))
        return rc;
    if (!sk_dir_is(path) && !(rc = sk_outdir_make(&o, err)) && !(rc = sk_build_fill(c, o.tmp, err)) &&
        !(rc = write_source(o.tmp, c, err)))
        rc = sk_outdir_commit(&o, err);
    sk_outdir_done(&o);
    if (!rc)
        strcpy(ret_path, path);
    return rc;
}

/* Calls `each` for every entry of the cache that looks like a key. */
static int for_each(const char *dir, int (*each)(const char *dir, const char *key, FILE *f, struct sk_err *err),
                    FILE *f, struct sk_err *err)
{
    DIR *d = opendir(dir);
    int rc = 0;

    if (!d)
        return errno == ENOENT ? 0 : sk_err_errno(err, SK_EIO, "cache-dir", "cannot open %s", dir);
    for (struct dirent *e; !rc && (e = readdir(d));)
        if (strspn(e->d_name, "0123456789abcdef") == SK_CACHE_KEY - 1)
            rc = each(dir, e->d_name, f, err);
    closedir(d);
    return rc;
}

static int list_one(const char *dir, const char *key, FILE *f, struct sk_err *err)
{
    char path[1280], weights[1400], dtype[32] = "?", src[PATH_MAX] = "?";
    struct sk_dir d;
    struct stat st;

    snprintf(path, sizeof path, "%.900s/%.300s", dir, key);
    snprintf(weights, sizeof weights, "%s/weights.skw", path);
    if (strlen(key) != SK_CACHE_KEY - 1 || stat(weights, &st) || sk_dir_open(path, &d, NULL))
        return 0; /* a lock or leftovers: prune knows what to do with them */
    read_source(path, dtype, sizeof dtype, src, sizeof src);
    fprintf(f, "%s  %-4s %8.1f MB  %s  %s\n", key, dtype, (double)st.st_size / 1e6, d.name, src);
    sk_dir_close(&d);
    return 0;
}

int sk_cache_list(const char *dir, FILE *f, struct sk_err *err)
{
    return for_each(dir, list_one, f, err);
}

/* Would a build with that source and dtype look for this entry, and can it be opened? */
static bool is_current(const char *path, const char *key)
{
    char now[SK_CACHE_KEY], dtype[32], src[PATH_MAX];
    struct sk_dir d;

    if (!read_source(path, dtype, sizeof dtype, src, sizeof src) || sk_cache_key(src, dtype, now, NULL) ||
        strcmp(now, key) || sk_dir_open(path, &d, NULL))
        return false;
    sk_dir_close(&d);
    return true;
}

/* `name` is KEY, or KEY with .lock or .tmp.PID: the entry is looked after as a whole, under its lock. */
static int prune_one(const char *dir, const char *name, FILE *f, struct sk_err *err)
{
    char path[SK_DIR_MAX_CACHE + SK_CACHE_KEY + 1], key[SK_CACHE_KEY];
    struct sk_outdir o;
    int rc;

    snprintf(key, sizeof key, "%.32s", name);
    snprintf(path, sizeof path, "%.900s/%s", dir, key);
    if ((rc = sk_outdir_lock(&o, path, err)))
        return rc;
    if (!access(path, F_OK) && !is_current(path, key) && !(rc = sk_outdir_remove(path, err)))
        fprintf(f, "removed %s\n", path);
    if (!rc)
        rc = sk_outdir_make(&o, err); /* clears leftovers away; its own directory goes with done */
    sk_outdir_done(&o);
    return rc;
}

int sk_cache_prune(const char *dir, FILE *f, struct sk_err *err)
{
    return for_each(dir, prune_one, f, err);
}
