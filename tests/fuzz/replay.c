/* main() of the fuzz targets where they are run as tests: every file of the files and folders named on the command line
 * goes through LLVMFuzzerTestOneInput, and so do MUTATIONS variants of each (or $SK_FUZZ_MUTATIONS), the same ones at
 * every run. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MUTATIONS      64
#define MAX_FILE_BYTES (1 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static size_t n_inputs;
static long n_mutations = MUTATIONS;

/* xorshift64* (Vigna 2016); the seed is the file's content, so that new files do not change the variants of others. */
static uint64_t next_random(uint64_t *x)
{
    *x ^= *x >> 12;
    *x ^= *x << 25;
    *x ^= *x >> 27;
    return *x * UINT64_C(0x2545F4914F6CDD1D);
}

/* Each input is an allocation of its exact size: the sanitizer sees a read past its end. */
static void run_one(const uint8_t *data, size_t n)
{
    uint8_t *copy = malloc(n ? n : 1);
    if (!copy)
        abort();
    memcpy(copy, data, n);
    LLVMFuzzerTestOneInput(copy, n);
    free(copy);
    n_inputs++;
}

static void run_mutations(uint8_t *data, size_t n)
{
    uint64_t x = UINT64_C(0xCBF29CE484222325);
    for (size_t i = 0; i < n; i++)
        x = (x ^ data[i]) * UINT64_C(0x100000001B3);
    x |= 1;
    for (long k = 0; k < n_mutations && n; k++) {
        if (k % 4 == 0) {
            run_one(data, next_random(&x) % n);
            continue;
        }
        size_t at[4];
        uint8_t old[4];
        int n_flips = (int)(k % 4);
        for (int i = 0; i < n_flips; i++) {
            uint64_t r = next_random(&x);
            at[i] = (r >> 16) % n;
            old[i] = data[at[i]];
            data[at[i]] ^= (uint8_t)(r & 1 ? 1u << (r >> 1 & 7) : r >> 8);
        }
        run_one(data, n);
        while (n_flips-- > 0)
            data[at[n_flips]] = old[n_flips];
    }
}

static void run_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    uint8_t *data = malloc(MAX_FILE_BYTES);
    if (!f || !data) {
        perror(path);
        exit(1);
    }
    size_t n = fread(data, 1, MAX_FILE_BYTES, f);
    fclose(f);
    run_one(data, n);
    run_mutations(data, n);
    free(data);
}

static void run_path(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0) {
        perror(path);
        exit(1);
    }
    if (!S_ISDIR(st.st_mode)) {
        run_file(path);
        return;
    }
    struct dirent **entries;
    int n = scandir(path, &entries, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        char sub[4096];
        if (entries[i]->d_name[0] != '.' &&
            snprintf(sub, sizeof sub, "%s/%s", path, entries[i]->d_name) < (int)sizeof sub)
            run_path(sub);
        free(entries[i]);
    }
    if (n >= 0)
        free(entries);
}

int main(int argc, char **argv)
{
    const char *mutations = getenv("SK_FUZZ_MUTATIONS");
    if (mutations)
        n_mutations = atol(mutations);
    for (int i = 1; i < argc; i++)
        run_path(argv[i]);
    printf("%zu inputs\n", n_inputs);
    if (n_inputs == 0)
        fprintf(stderr, "usage: %s FILE|FOLDER...\n", argv[0]);
    return n_inputs == 0;
}
