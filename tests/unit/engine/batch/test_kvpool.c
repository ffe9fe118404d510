/* Blocks and the prefix tree alone; the pool's invariants after each move. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "comm/base/err.h"
#include "engine/batch/kvpool.h"
#include "tests/unit/engine/batch/invariants.h"

enum { BT = 4, MAX_TEXT = 256 };

static struct sk_kvpool *open_pool(uint32_t n_blk, bool classes_equal)
{
    struct sk_kvpool *p;
    struct sk_kvpool_conf c = {
        .n_group = 1, .block_tok = BT, .n_blk = {n_blk}, .keep = true, .classes_equal = classes_equal};
    assert_int_equal(sk_kvpool_open(&c, &p), 0);
    return p;
}

/* A sequence that holds blocks, as a test sees it. */
struct holder {
    int32_t tok[MAX_TEXT], blk[SK_MAX_GROUPS][MAX_TEXT], node;
    struct sk_kv_text text;
    uint32_t n_blk, first[SK_MAX_GROUPS];
};

static void text_of(struct holder *h, uint32_t n, int32_t first, uint32_t n_prompt, uint64_t salt)
{
    *h = (struct holder){.node = SK_KV_NONE};
    for (uint32_t i = 0; i < n; i++)
        h->tok[i] = first + (int32_t)i;
    h->text = (struct sk_kv_text){.salt = salt, .tok = h->tok, .n_prompt = n_prompt};
}

/* Shares what is there, takes the rest up to n blocks and enters all of them. Returns the hit. */
static uint32_t hold(struct sk_kvpool *p, struct holder *h, uint32_t n)
{
    int32_t *table[SK_MAX_GROUPS] = {h->blk[0], h->blk[1], h->blk[2], h->blk[3]};
    struct sk_kv_hit hit = sk_kvpool_find(p, &h->text, n);
    sk_kvpool_share(p, &hit, table);
    h->node = hit.node;
    memcpy(h->first, hit.first, sizeof h->first);
    for (uint32_t g = 0; g < p->conf.n_group; g++)
        assert_int_equal(sk_kvpool_take(p, g, n - hit.n_blk, h->blk[g] + hit.n_blk), 0);
    for (uint32_t i = hit.n_blk; i < n; i++) {
        int32_t blk[SK_MAX_GROUPS];
        for (uint32_t g = 0; g < p->conf.n_group; g++)
            blk[g] = h->blk[g][i];
        assert_int_equal(sk_kvpool_enter(p, h->node, &h->text, i, blk, &h->node), 0);
    }
    h->n_blk = n;
    invariants_pool(p);
    return hit.n_blk;
}

static void let_go(struct sk_kvpool *p, struct holder *h)
{
    for (uint32_t g = 0; g < p->conf.n_group; g++)
        for (uint32_t i = h->n_blk; i-- > h->first[g];)
            sk_kvpool_put(p, g, h->blk[g][i]);
    sk_kvpool_unpin(p, h->node);
    invariants_pool(p);
}

static void test_take_and_put(void **state)
{
    struct sk_kvpool *p = open_pool(5, true);
    int32_t b[6];
    assert_int_equal(sk_kvpool_take(p, 0, 6, b), -SK_ENOBLK);
    assert_int_equal(sk_kvpool_avail(p, 0), 5); /* nothing changed */
    assert_int_equal(sk_kvpool_take(p, 0, 5, b), 0);
    for (int i = 0; i < 5; i++)
        for (int k = 0; k < i; k++)
            assert_int_not_equal(b[i], b[k]);
    assert_int_equal(sk_kvpool_take(p, 0, 1, b + 5), -SK_ENOBLK);
    sk_kvpool_put(p, 0, b[2]);
    invariants_pool(p);
    assert_int_equal(sk_kvpool_take(p, 0, 1, b + 5), 0);
    assert_int_equal(b[5], b[2]);
    sk_kvpool_close(p);
}

/* Exact keys: another token, parent, salt or class is another block. */
static void test_keys(void **state)
{
    struct sk_kvpool *p = open_pool(64, false);
    struct holder a, b;
    text_of(&a, 16, 0, 16, 0);
    assert_int_equal(hold(p, &a, 4), 0);
    text_of(&b, 16, 0, 16, 0);
    assert_int_equal(hold(p, &b, 4), 4);
    assert_memory_equal(a.blk[0], b.blk[0], 4 * sizeof(int32_t));
    assert_int_equal(sk_kvpool_refs(p, 0, a.blk[0][0]), 2);
    let_go(p, &b);
    text_of(&b, 16, 0, 16, 1); /* salt */
    assert_int_equal(hold(p, &b, 4), 0);
    let_go(p, &b);
    text_of(&b, 16, 0, 16, 0);
    b.tok[9] = 99; /* a token of block 2 */
    assert_int_equal(hold(p, &b, 4), 2);
    let_go(p, &b);
    text_of(&b, 12, 4, 12, 0); /* the same tokens, not from the beginning */
    assert_int_equal(hold(p, &b, 3), 0);
    let_go(p, &b);
    text_of(&b, 16, 0, 9, 0); /* the prompt ends in block 2: from there on another class */
    assert_int_equal(hold(p, &b, 4), 2);
    let_go(p, &b);
    text_of(&b, 16, 0, 9, 0);
    assert_int_equal(hold(p, &b, 4), 4); /* which is found by its like */
    let_go(p, &b);
    let_go(p, &a);
    sk_kvpool_close(p);
}

static void test_classes_equal(void **state)
{
    struct sk_kvpool *p = open_pool(64, true);
    struct holder a, b;
    text_of(&a, 16, 0, 5, 0);
    hold(p, &a, 4);
    text_of(&b, 16, 0, 16, 0);
    assert_int_equal(hold(p, &b, 4), 4);
    let_go(p, &a);
    let_go(p, &b);
    sk_kvpool_close(p);
}

/* The least recently held goes first, and of one text its end before its beginning. */
static void test_eviction(void **state)
{
    struct sk_kvpool *p = open_pool(8, true);
    struct holder a, b, c;
    text_of(&a, 16, 0, 16, 0);
    text_of(&b, 16, 100, 16, 0);
    hold(p, &a, 4);
    hold(p, &b, 4);
    let_go(p, &a);
    let_go(p, &b);
    assert_int_equal(sk_kvpool_avail(p, 0), 8);
    text_of(&c, 8, 200, 8, 0);
    assert_int_equal(hold(p, &c, 2), 0); /* takes two of a */
    assert_int_equal(sk_kvpool_find(p, &a.text, 4).n_blk, 2);
    assert_int_equal(sk_kvpool_find(p, &b.text, 4).n_blk, 4);
    assert_int_equal(hold(p, &a, 3), 2); /* a is used again; its third takes the last of a's or b's idle ones */
    assert_int_equal(sk_kvpool_find(p, &a.text, 4).n_blk, 3);
    assert_int_equal(sk_kvpool_find(p, &b.text, 4).n_blk, 3);
    let_go(p, &a);
    let_go(p, &c);
    sk_kvpool_close(p);
}

/* Two compute the same text at once: the tree has one of them, both keep their own blocks, and all come back. */
static void test_twins(void **state)
{
    struct sk_kvpool *p = open_pool(8, true);
    struct holder h[2];
    for (int i = 0; i < 2; i++) {
        text_of(&h[i], 16, 0, 16, 0);
        assert_int_equal(sk_kvpool_take(p, 0, 3, h[i].blk[0]), 0);
        h[i].n_blk = 3;
    }
    for (uint32_t b = 0; b < 3; b++)
        for (int i = 0; i < 2; i++) {
            int32_t blk[SK_MAX_GROUPS] = {h[i].blk[0][b]};
            assert_int_equal(sk_kvpool_enter(p, h[i].node, &h[i].text, b, blk, &h[i].node), 0);
        }
    assert_int_equal(p->n_node, 3);
    assert_int_equal(h[0].node, h[1].node);
    invariants_pool(p);
    let_go(p, &h[0]);
    assert_int_equal(p->groups[0].n_idle, 3);
    let_go(p, &h[1]);
    assert_int_equal(p->groups[0].n_free, 5);
    sk_kvpool_close(p);
}

/* keep = false: shared while held, gone with the last holder. */
static void test_no_keep(void **state)
{
    struct sk_kvpool *p = open_pool(8, true);
    struct holder a, b;
    p->conf.keep = false;
    text_of(&a, 16, 0, 16, 0);
    text_of(&b, 16, 0, 16, 0);
    hold(p, &a, 4);
    assert_int_equal(hold(p, &b, 4), 4);
    let_go(p, &a);
    assert_int_equal(sk_kvpool_find(p, &a.text, 4).n_blk, 4);
    let_go(p, &b);
    assert_int_equal(sk_kvpool_find(p, &a.text, 4).n_blk, 0);
    assert_int_equal(p->groups[0].n_free, 8);
    assert_int_equal(p->n_node, 0);
    sk_kvpool_close(p);
}

static void test_first(void **state)
{
    struct sk_kvpool_conf c = {.n_group = 2, .block_tok = 4, .window = {0, 6}};
    assert_int_equal(sk_kvpool_first(&c, 0, 1000), 0);
    for (uint32_t pos = 0; pos < 40; pos++) /* attends to positions > pos - 6 */
        assert_int_equal(sk_kvpool_first(&c, 1, pos), pos < 6 ? 0 : (pos - 5) / 4);
}

/* A windowed group needs only what is inside its window: blocks that it dropped do not spoil the hit. */
static void test_window(void **state)
{
    struct sk_kvpool_conf c = {
        .n_group = 2, .block_tok = BT, .window = {0, 6}, .n_blk = {20, 20}, .keep = true, .classes_equal = true};
    struct sk_kvpool *p;
    struct holder a, b;
    int32_t taken[20];
    assert_int_equal(sk_kvpool_open(&c, &p), 0);
    text_of(&a, 40, 0, 40, 0);
    hold(p, &a, 10);
    for (; a.first[1] < 8; a.first[1]++) /* as a run at position 38 would */
        sk_kvpool_put(p, 1, a.blk[1][a.first[1]]);
    assert_int_equal(sk_kvpool_take(p, 1, 18, taken), 0); /* and those are evicted */
    text_of(&b, 40, 0, 40, 0);
    struct sk_kv_hit hit = sk_kvpool_find(p, &b.text, 10);
    assert_int_equal(hit.n_blk, 10);
    assert_int_equal(hit.first[0], 0);
    assert_int_equal(hit.first[1], (40 - 5) / 4);
    hit = sk_kvpool_find(p, &b.text, 9); /* its window needs block 7, which is gone */
    assert_int_equal(hit.n_blk, 0);
    assert_int_equal(hold(p, &b, 10), 10);
    let_go(p, &b);
    let_go(p, &a);
    sk_kvpool_close(p);
}

/* Nodes without blocks of their own use nodes up: then the longest idle texts make room, or entering waits. */
static void test_nodes_run_out(void **state)
{
    struct sk_kvpool_conf c = {
        .n_group = 1, .block_tok = BT, .window = {5}, .n_blk = {4}, .keep = true, .classes_equal = true};
    struct sk_kvpool *p;
    struct holder a;
    int rc = 0;
    uint32_t i;
    assert_int_equal(sk_kvpool_open(&c, &p), 0);
    text_of(&a, 64, 0, 64, 0);
    for (i = 0; i < 16 && rc == 0; i++) {
        int32_t blk[SK_MAX_GROUPS];
        assert_int_equal(sk_kvpool_take(p, 0, 1, blk), 0);
        rc = sk_kvpool_enter(p, a.node, &a.text, i, blk, &a.node);
        sk_kvpool_put(p, 0, blk[0]);
        invariants_pool(p);
    }
    assert_int_equal(i, 5);
    assert_int_equal(rc, -SK_ENOBLK);
    sk_kvpool_unpin(p, a.node);
    invariants_pool(p);
    assert_int_equal(sk_kvpool_avail(p, 0), 4);
    text_of(&a, 16, 100, 16, 0);
    hold(p, &a, 4); /* all of it again */
    let_go(p, &a);
    sk_kvpool_close(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_take_and_put), cmocka_unit_test(test_keys),   cmocka_unit_test(test_classes_equal),
        cmocka_unit_test(test_eviction),     cmocka_unit_test(test_twins),  cmocka_unit_test(test_no_keep),
        cmocka_unit_test(test_first),        cmocka_unit_test(test_window), cmocka_unit_test(test_nodes_run_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
