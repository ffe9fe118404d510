/* config.json and, behind a NUL, generation_config.json -> description. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "comm/base/json.h"
#include "engine/build/arch.h"
#include "engine/build/hf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const char *text = (const char *)data, *nul = n ? memchr(text, 0, n) : NULL;
    size_t n_config = nul ? (size_t)(nul - text) : n;
    struct cJSON *config = NULL, *generation = NULL;
    struct sk_hparams hp;
    struct sk_recipes recipes;
    struct sk_src none;
    struct sk_err err;

    if (sk_json_parse(text, n_config, 1 << 20, &config, &err))
        return 0;
    if (nul)
        sk_json_parse(nul + 1, n - n_config - 1, 1 << 20, &generation, &err);
    sk_src_init(&none);
    if (!sk_hf_parse(config, generation, &hp, &err) && !sk_arch_finish(&hp, &none, &recipes, &err))
        sk_recipes_done(&recipes);
    sk_src_done(&none);
    sk_json_free(generation);
    sk_json_free(config);
    return 0;
}
