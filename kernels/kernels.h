/* The backend: all that engine/model may see of a device. Ops are enqueued on the backend's one stream and run in
 * order; nothing that they compute can be read by the host except the result rows of a step. kernels/ref, in plain C,
 * is the definition of every op.
 *
 * Arithmetic: what a row gets depends on that row's own inputs and its class (prompt or decode) only, not on the other
 * rows, their number, the thread count or the tile shape. A backend that says classes_equal makes no difference between
 * the classes either. Backends may differ from one another in rounding.
 *
 * Activations are f32, row-major, row strides ("ld", in floats) multiples of 16; columns from the true width up to the
 * next multiple of 16 hold zeros and ops keep it so. The caller (engine/model) checks sizes and indices; an op checks
 * no values. */
#ifndef SK_KERNELS_H
#define SK_KERNELS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "comm/base/err.h"
#include "comm/dir/dtype.h"
#include "comm/dir/pack.h"

/* An address in the backend's memory. The host must not use it as a pointer; a == 0 is "none". */
struct sk_dev {
    uint64_t a;
};
static inline struct sk_dev sk_dev_at(struct sk_dev d, uint64_t bytes)
{
    return (struct sk_dev){d.a + bytes};
}

enum {
    SK_KV_BLOCK = 32, /* tokens of a block of the KV cache */
    SK_MAX_TOP = 20   /* alternatives of a result row */
};

/* Blocks that hold positions 0 .. n_tok - 1. */
static inline uint32_t sk_kv_blocks(uint64_t n_tok)
{
    return (uint32_t)((n_tok + SK_KV_BLOCK - 1) / SK_KV_BLOCK);
}

/* A packed matrix in backend memory: a whole tensor or a rank's shard of it. Its strides may be any multiples of 64.
 * Short slabs are read fast where those of a panel are neighbours (slab_stride the bytes of a panel in a slab,
 * panel_stride n_slab of them); as in the file, with the panels of a slab side by side, they take up to twice as long.
 */
struct sk_mat {
    struct sk_pack pack;
    struct sk_dev data;
};

/* One layer's KV cache. Its inner layout is the backend's own; block b is at data + b * block_bytes (blocks of other
 * layers may lie between). Stores saturate at the largest finite value. dtype: SK_F32; SK_BF16; SK_Q8: int8 with an f32
 * scale, largest |x| / 127, for each 32 neighbours of a head (the last may be fewer). */
struct sk_kv_layer {
    struct sk_dev data;
    uint64_t block_bytes;
    enum sk_dtype dtype;
    uint32_t n_blk, n_kv_head, head_dim, head_stride;
};

/* The rows (tokens) of one step. A run is a stretch of consecutive positions of one slot in consecutive rows, all of
 * one class; prompt-class runs come first. Arrays are int32 in backend memory; the scalars are what a host needs to
 * size a launch. */
struct sk_rows {
    uint32_t n_row, n_prompt_row;
    uint32_t max_run_row, max_pos; /* longest run, highest position in the step */
    struct sk_dev slot, pos;       /* [n_row] */
    struct sk_dev token;           /* [max_slot][max_len] token ids: prompts and sampled tokens, by slot and position */
    uint32_t max_len;              /* stride of token */
};

/* out[r] = table[token[slot[r]][pos[r]] - first] (+ pos_table[pos[r]]); zeros for the table's part where it has no such
 * row */
struct sk_op_embed {
    struct sk_dev out;
    uint32_t ld, first;                     /* first: the token of the table's first row */
    const struct sk_mat *table, *pos_table; /* pos_table may be NULL */
    const struct sk_rows *rows;
};
enum sk_op_act_kind { SK_OP_SILU, SK_OP_GELU_TANH, SK_OP_GELU_ERF, SK_OP_RELU };
/* What is done to each row on its way into a linear, n_in being the width of the matrix. */
enum sk_op_pre_kind {
    SK_PRE_NONE,
    SK_PRE_RMS_NORM,   /* x / sqrt(mean(x^2) + eps) * weight (+ bias) */
    SK_PRE_LAYER_NORM, /* the same of x - mean(x) */
    SK_PRE_ACT,        /* act(x[i]) */
    SK_PRE_GATED_ACT   /* act(x[i]) * x[n_in + i] */
};
struct sk_op_pre {
    enum sk_op_pre_kind kind;
    enum sk_op_act_kind act;
    struct sk_dev weight, bias; /* of a norm, [n_in]; bias.a == 0: none */
    float eps;
};
/* out[r][o] = (add ? out[r][o] : 0) + sum_i mat[o][i] * pre(x[r])[i] + bias[o]; out and x are apart */
struct sk_op_linear {
    struct sk_dev out, x, bias; /* bias.a == 0: none; [n_out] padded to 16 */
    uint32_t ld_out, ld_x;
    struct sk_op_pre pre;
    const struct sk_mat *mat;
    uint32_t n_row, n_prompt_row; /* rows below n_prompt_row are prompt class */
    bool add;
};
enum { SK_SPLIT_TOK = 256 };
/* For each row: RMS norm of each q and k head (where there are weights), rope on q and k, then k and v into the cache
 * at block table[slot][pos / 32], entry pos % 32. When all rows are stored:
 * out[r][h] = softmax(scale * q[r][h] . K[0..pos]) V[0..pos], only positions > pos - window if window > 0. Positions
 * are cut into splits of SK_SPLIT_TOK from 0; per split a partial (max, sum, out), positions in order; the splits are
 * merged in order. K and V come from the cache, those of this step too. Blocks wholly behind the window are not touched
 * (their table entries may be stale). A block that a row is stored to is in no other slot's table. */
struct sk_op_attention {
    struct sk_dev out, qkv; /* [n_row][ld_out]: heads; [n_row][ld_qkv]: q heads, k heads, v heads; a head is head_stride
                               wide. qkv stays as it is */
    uint32_t ld_out, ld_qkv, n_head, window;
    uint32_t head_ratio, head_at; /* query head h reads KV head (head_at + h) / head_ratio of those that are here: a
                                     rank's first and last KV head may serve fewer query heads than the others */
    float scale, eps;
    struct sk_dev q_norm, k_norm; /* [head_dim]; a == 0: none */
    struct sk_dev cos_sin;        /* [max_len][rope_dim / 2] pairs (cos, sin) f32; a == 0: no rope */
    uint32_t rope_dim;
    bool interleaved; /* pairs (2i, 2i + 1) instead of (i, i + rope_dim / 2) */
    const struct sk_rows *rows;
    struct sk_dev table; /* int32 [max_slot][ld_table] block numbers of this layer's group */
    uint32_t ld_table;
    const struct sk_kv_layer *kv;
};

/* out[i] = in[index[i]], rows of ld floats */
struct sk_op_gather {
    struct sk_dev out, in, index;
    uint32_t n_row, ld;
};

/* What one row of logits is for. */
enum {
    SK_SAMP_PROCESS = 1, /* something below changes the logits: logits_process writes this row of `work` */
    SK_SAMP_TARGET = 2,  /* prompt log-prob: id = token[slot][pos], nothing is drawn */
    SK_SAMP_GREEDY = 4,  /* argmax, ties to the lowest id; temperature and filters are off */
    SK_SAMP_LOGPROB = 8  /* top_n fills this row; without it all of the result but the id is 0 */
};
struct sk_samp {
    uint32_t flags, slot;
    uint32_t pos;      /* of the token drawn or asked about: token[slot][0..pos) is read, token[slot][pos] written */
    uint32_t n_prompt; /* presence and frequency count positions n_prompt..pos-1, the others 0..pos-1 */
    uint32_t choice, n_top;
    uint64_t seed;
    float temperature, top_p, min_p, typical_p, eta_cutoff, epsilon_cutoff; /* 1, 1, 0, 1, 0, 0 are off */
    float repetition_penalty, presence_penalty, frequency_penalty;          /* 1, 0, 0 are off */
    int32_t top_k, no_repeat_ngram;                                         /* 0 is off */
    /* Lists, int32 words from word `list` of sk_op_logits.list, one after the other:
     *   suppress ids        barred; the leader says until when (min_tokens)
     *   bias ids, then bias values (float bits)
     *   allowed ids         if there are any, only these may be drawn
     *   bad words           {n, ids[n]} each: the last id is barred where the ids before it are the last tokens */
    uint32_t list, n_suppress, n_bias, n_allowed;
    uint32_t n_bad_word; /* entries, not words of the list */
    uint32_t zero;
};

/* All that leaves a backend. */
struct sk_result_row {
    int32_t id;
    /* Zeros where nobody asked (SK_SAMP_LOGPROB): */
    float logprob;  /* of id under the raw logits */
    int32_t rank;   /* 1 + number of tokens with a strictly greater raw logit */
    uint32_t n_top; /* that of sk_samp, or the vocabulary's size where it is smaller */
    struct {
        int32_t id;
        float logprob;
    } top[SK_MAX_TOP]; /* most probable first, ties to the lowest id */
};

struct sk_op_logits {
    struct sk_dev logits; /* raw, [n_row][ld] */
    struct sk_dev work;   /* processed, [n_row][ld]; rows without SK_SAMP_PROCESS are not read */
    struct sk_dev samp;   /* struct sk_samp [n_row] */
    struct sk_dev list;   /* int32 words */
    struct sk_dev token;  /* as in sk_rows */
    struct sk_dev result; /* struct sk_result_row [n_row] */
    uint32_t n_row, n_vocab, ld, max_len;
    uint32_t first; /* id of column 0: ids first .. first + n_vocab - 1 are here, a whole vocabulary or a rank's span of
                       it. Lists and tokens are ids of the whole; those outside the span are passed over */
};

/* Sampling where each rank has a span of the vocabulary, rank order being id order. In a round each rank says a few
 * words about each row, all hear what all have said, and the next call draws the conclusions and says the next round's.
 * A row takes part in the rounds that its struct sk_samp asks for, all rows of an op together, in this order:
 *
 *   round           who takes part    what is said                           what follows
 *   MAX             any filter        largest z = logit / temperature        weights e^(z - max), whole numbers
 *   TOP_K + 0..4    top_k             weight (of top_k: number) of the       the threshold's next digit; at the last
 *   TOP_P + 0..4    top_p             candidates by a digit of the key, z    one the key, and how many of that very key
 *   TYPICAL_SUM     typical_p         sums of weights, of weights times      the typical surprise, max - z
 *                                     surprise; the largest weight
 *   TYPICAL + 0..4  typical_p         as TOP_P; the key: how near to it      as TOP_P
 *   EPSILON_SUM     epsilon_cutoff    as TYPICAL_SUM                         the least weight that is kept
 *   ETA_SUM         eta_cutoff        the same                               the same
 *   DRAW            all               id of the largest z + noise, its raw   the token
 *                                     logit; TARGET: who has the id says so
 *   RANK            SK_SAMP_LOGPROB   raw logits: how many are greater,      log-prob, rank, top_n
 *                                     largest, sum of exp, top_n
 *
 * (min_p needs no round: the largest weight is known.) Digit 0 of a threshold is coarse and made to leave few; digits 1
 * to 4 are the bytes of the key: a radix select. Weights are whole numbers, so sums are exact in any order: tokens,
 * ranks and top_n are those that sample and top_n find with all logits in one place. */
enum { SK_VOTE_DIGITS = 5, SK_VOTE_BUCKETS = 256 };
enum sk_vote_round {
    SK_VOTE_MAX,
    SK_VOTE_TOP_K,
    SK_VOTE_TOP_P = SK_VOTE_TOP_K + SK_VOTE_DIGITS,
    SK_VOTE_TYPICAL_SUM = SK_VOTE_TOP_P + SK_VOTE_DIGITS,
    SK_VOTE_TYPICAL,
    SK_VOTE_EPSILON_SUM = SK_VOTE_TYPICAL + SK_VOTE_DIGITS,
    SK_VOTE_ETA_SUM,
    SK_VOTE_DRAW,
    SK_VOTE_RANK,
    SK_VOTE_NONE /* before the first round and after the last */
};
uint32_t sk_vote_rounds(const struct sk_samp *s); /* those that the row takes part in: bit 1 << round */
uint32_t sk_vote_words(enum sk_vote_round round); /* 4-byte words that a rank says of a row; an even number */
struct sk_op_vote {
    const struct sk_op_logits *logits; /* the same in all rounds; n_vocab may be 0 */
    uint32_t rank, n_rank;
    enum sk_vote_round heard_round, said_round;
    struct sk_dev heard; /* [n_rank][n_row][words of heard_round], 8-byte aligned */
    struct sk_dev said;  /* [n_row][words of said_round], the same; undefined in rows that do not take part */
    struct sk_dev room;  /* vote_bytes, kept from round to round */
};

struct sk_group;
struct sk_backend {
    const char *name;   /* "cpu", "ref" */
    const char *isa;    /* "avx512-bf16", "plain", ...: part of system_fingerprint */
    bool classes_equal; /* prompt and decode class give the same bits */
    uint32_t n_thread;  /* that compute */
    void *ctx;

    /* Memory. alloc: zeroed, 64-byte aligned, a == 0 when there is none. adopt: weights that the host mapped: a CPU
     * uses them in place, a GPU copies them; they stay mapped until release. */
    struct sk_dev (*alloc)(struct sk_backend *be, uint64_t bytes);
    void (*free)(struct sk_backend *be, struct sk_dev d, uint64_t bytes);
    struct sk_dev (*adopt)(struct sk_backend *be, const void *host, uint64_t bytes);
    void (*release)(struct sk_backend *be, struct sk_dev d, uint64_t bytes);
    /* Bytes of one block of one layer: keys and values of SK_KV_BLOCK tokens; a multiple of 64. */
    uint64_t (*kv_block_bytes)(const struct sk_backend *be, enum sk_dtype dtype, uint32_t n_kv_head,
                               uint32_t head_stride);

    void (*upload)(struct sk_backend *be, struct sk_dev dst, const void *src, uint64_t bytes); /* src may be reused */
    void (*copy)(struct sk_backend *be, struct sk_dev dst, struct sk_dev src, uint64_t bytes);

    void (*embed)(struct sk_backend *be, const struct sk_op_embed *op);
    void (*linear)(struct sk_backend *be, const struct sk_op_linear *op);
    /* out[r] += the sum over the ranks of mat * pre(x[r]) + bias, added up in their order before it meets out; op->add
     * is set. The same bits as linear into a buffer, all_reduce of it and add. 0 or -SK_EIO. For a group with a window
     * that has room for a row; NULL, or a group without: engine/model does the three in turn. */
    int (*linear_reduce)(struct sk_backend *be, const struct sk_op_linear *op, struct sk_group *group);
    void (*attention)(struct sk_backend *be, const struct sk_op_attention *op);
    void (*add)(struct sk_backend *be, struct sk_dev out, struct sk_dev x, uint64_t n); /* out[i] += x[i], n floats */
    void (*gather)(struct sk_backend *be, const struct sk_op_gather *op);
    /* n floats to bf16 (round to nearest even) and back: what goes from stage to stage. out and x are apart. */
    void (*narrow)(struct sk_backend *be, struct sk_dev out, struct sk_dev x, uint64_t n);
    void (*widen)(struct sk_backend *be, struct sk_dev out, struct sk_dev x, uint64_t n);
    /* *out (8 bytes) = a checksum of n floats' bits that depends on all of them and on their order; n is a multiple of
     * 16. The same on every thread count and ISA level. */
    void (*checksum)(struct sk_backend *be, struct sk_dev out, struct sk_dev x, uint64_t n);

    /* In this order: suppress, allowed and bad words bar ids (-Inf); bias is added; repetition, presence and frequency
     * penalties; no_repeat_ngram bars ids. Rows without SK_SAMP_PROCESS are passed over. */
    void (*logits_process)(struct sk_backend *be, const struct sk_op_logits *op);
    /* Sets result.id and zeros the rest of the result, and token[slot][pos] to the id. TARGET: the token that is there.
     * GREEDY: argmax. Else temperature, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff, each on what the
     * one before it kept; then the argmax of logit / temperature + Gumbel(seed, choice, pos, id), ties to the lowest
     * id. Id 0 where every id is barred. */
    void (*sample)(struct sk_backend *be, const struct sk_op_logits *op);
    /* Log-sum-exp of the raw logits; fills all of the result rows of SK_SAMP_LOGPROB but their ids, which are set. */
    void (*top_n)(struct sk_backend *be, const struct sk_op_logits *op);
    /* One call per round, and one to hear the last: sample and top_n of ranks that have a span of the vocabulary each.
     * vote_bytes: of the room for n_row rows over a span of n_vocab. */
    void (*vote)(struct sk_backend *be, const struct sk_op_vote *op);
    uint64_t (*vote_bytes)(const struct sk_backend *be, uint32_t n_row, uint32_t n_vocab);

    /* The only way out: copies result rows, and a checksum behind them, to the host; they are there after wait. */
    void (*fetch)(struct sk_backend *be, void *dst, struct sk_dev src, uint64_t bytes);
    /* Waits for all that was enqueued. 0, or -SK_EINTERNAL: the device failed and nothing after it can be trusted. */
    int (*wait)(struct sk_backend *be);
    void (*close)(struct sk_backend *be); /* frees `be` too */
};

/* How work is cut. Speed depends on it, results never do. */
struct sk_tune {
    uint32_t pass_bytes;       /* activations that meet all weights of a matrix at a time: 64 KiB to 16 MiB */
    uint32_t item_bytes;       /* weights of a work item, at most: 4 KiB to 64 MiB */
    uint32_t items_per_thread; /* of a matrix, if it has so many panels: 1 to 256 */
    uint32_t own_rows;         /* up to so many rows each thread prepares its own copy of the inputs: 0 to 16 */
};
extern const struct sk_tune sk_tune_default;
int sk_tune_check(const struct sk_tune *t, struct sk_err *err); /* bounds as above. -SK_EINVAL */
enum { SK_CPU_MODEL = 64 };
void sk_cpu_model(char ret[SK_CPU_MODEL]); /* the CPU's own name of itself; "unknown" */

int sk_cpu_quota(void); /* CPUs that this process's cgroup may use, rounded up; INT_MAX = no limit */

struct sk_backend_conf {
    int n_thread;               /* 0: CPUs of the affinity mask, limited by the cgroup's quota */
    bool pin;                   /* each thread stays on one CPU */
    const struct sk_tune *tune; /* NULL: the defaults */
};
/* kernels/ref: always there, one thread, whatever conf says. -SK_ENOMEM. */
int sk_ref_open(const struct sk_backend_conf *conf, struct sk_backend **ret, struct sk_err *err);
/* kernels/cpu. -SK_EUNSUP where the CPU has no AVX2, FMA and F16C (the caller then takes ref and says so), -SK_EINVAL
 * (too many threads, tuning out of bounds), -SK_EUNAVAIL (no thread, no pinning), -SK_ENOMEM. The highest level that
 * the CPU has is used; the environment's SKEIN_ISA lowers it to another one of the CPU's: avx2, avx2-vnni, avx512,
 * avx512-vnni, avx512-bf16, amx, or none (then -SK_EUNSUP); another name is -SK_EINVAL. */
int sk_cpu_open(const struct sk_backend_conf *conf, struct sk_backend **ret, struct sk_err *err);

#endif
