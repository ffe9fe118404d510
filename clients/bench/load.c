#include "clients/bench/load.h"

#include <string.h>

#include "comm/base/json.h"

/* Common words, each one token of most vocabularies; 256, so that a byte of randomness picks one. */
static const char *const words[256] = {
    "time",      "year",       "people",      "way",       "day",    "man",       "thing",  "woman",   "life",
    "child",     "world",      "school",      "state",     "family", "student",   "group",  "country", "problem",
    "hand",      "part",       "place",       "case",      "week",   "company",   "system", "program", "question",
    "work",      "government", "number",      "night",     "point",  "home",      "water",  "room",    "mother",
    "area",      "money",      "story",       "fact",      "month",  "lot",       "right",  "study",   "book",
    "eye",       "job",        "word",        "business",  "issue",  "side",      "kind",   "head",    "house",
    "service",   "friend",     "father",      "power",     "hour",   "game",      "line",   "end",     "member",
    "law",       "car",        "city",        "community", "name",   "president", "team",   "minute",  "idea",
    "kid",       "body",       "information", "back",      "parent", "face",      "others", "level",   "office",
    "door",      "health",     "person",      "art",       "war",    "history",   "party",  "result",  "change",
    "morning",   "reason",     "research",    "girl",      "guy",    "moment",    "air",    "teacher", "force",
    "education", "foot",       "boy",         "age",       "policy", "music",     "mind",   "food",    "paper",
    "space",     "field",      "river",       "stone",     "light",  "street",    "window", "garden",  "table",
    "market",    "road",       "north",       "south",     "east",   "west",      "winter", "summer",  "spring",
    "color",     "green",      "blue",        "black",     "white",  "brown",     "small",  "large",   "great",
    "young",     "early",      "long",        "high",      "low",    "little",    "good",   "better",  "best",
    "different", "important",  "able",        "free",      "full",   "open",      "clear",  "close",   "strong",
    "easy",      "hard",       "simple",      "true",      "false",  "whole",     "single", "main",    "common",
    "public",    "private",    "past",        "present",   "future", "second",    "third",  "last",    "first",
    "next",      "few",        "many",        "much",      "more",   "less",      "most",   "other",   "same",
    "own",       "every",      "each",        "both",      "some",   "any",       "before", "after",   "under",
    "over",      "again",      "once",        "here",      "there",  "where",     "when",   "how",     "why",
    "what",      "which",      "while",       "since",     "until",  "during",    "about",  "against", "among",
    "around",    "behind",     "below",       "between",   "beyond", "down",      "inside", "near",    "off",
    "outside",   "through",    "toward",      "upon",      "within", "without",   "also",   "always",  "never",
    "often",     "sometimes",  "still",       "already",   "just",   "only",      "even",   "quite",   "rather",
    "very",      "well",       "almost",      "perhaps",   "maybe",  "find",      "give",   "take",    "make",
    "come",      "see",        "know",        "think",     "look",   "want",      "use",    "tell",    "ask",
    "seem",      "feel",       "try",         "leave"};

void sk_load_talk(const struct sk_load *l, uint64_t index, struct sk_talk *ret)
{
    *ret = (struct sk_talk){.index = index};
    sk_draw_init(&ret->draw, l->seed, SK_DRAW_ASK, index);
    sk_buf_init(&ret->past, SK_LOAD_MAX_BODY);
    if (l->trace)
        ret->item = &l->trace->items[index % l->trace->n];
    ret->n_turn = ret->item ? ret->item->n_turn : (int)sk_dist_draw(&l->turns, &ret->draw, 1);
}

void sk_load_talk_done(struct sk_talk *t)
{
    sk_buf_done(&t->past);
}

static void put_words(struct sk_buf *b, struct sk_draw *draw, int64_t n)
{
    uint64_t bits = 0;
    for (int64_t i = 0; i < n; i++, bits >>= 8) {
        if (i % 8 == 0)
            bits = sk_draw_bits(draw);
        sk_buf_char(b, ' ');
        sk_buf_str(b, words[bits & 0xFF]);
    }
}

static void put_ids(struct sk_buf *b, struct sk_draw *draw, int64_t n, int64_t vocabulary)
{
    for (int64_t i = 0; i < n; i++)
        sk_buf_fmt(b, "%s%lld", b->p[b->n - 1] == '[' ? "" : ",", (long long)sk_draw_below(draw, (uint64_t)vocabulary));
}

static void put_random(const struct sk_load *l, struct sk_buf *b, struct sk_draw *draw, int64_t n)
{
    if (l->token_ids)
        put_ids(b, draw, n, l->token_ids);
    else
        put_words(b, draw, n);
}

static void put_prefix(const struct sk_load *l, struct sk_talk *t, struct sk_buf *b)
{
    struct sk_draw whose = t->draw, draw;
    sk_draw_init(&whose, l->seed, SK_DRAW_PREFIX, UINT64_MAX - t->index);
    sk_draw_init(&draw, l->seed, SK_DRAW_PREFIX, sk_draw_below(&whose, (uint64_t)l->prefixes));
    if (l->chat)
        sk_buf_str(b, "{\"role\":\"system\",\"content\":\"");
    put_random(l, b, &draw, l->prefix_words);
    if (l->chat)
        sk_buf_str(b, "\"},");
}

/* The inside of a JSON string of any text. */
static void put_text(struct sk_buf *b, const char *s)
{
    struct sk_buf quoted;
    sk_buf_init(&quoted, SK_LOAD_MAX_BODY);
    if (sk_json_quote(&quoted, s, strlen(s)) == 0)
        sk_buf_add(b, quoted.p + 1, quoted.n - 2);
    else
        b->failed = quoted.failed;
    sk_buf_done(&quoted);
}

static void put_turn(const struct sk_load *l, struct sk_talk *t, struct sk_buf *b)
{
    const struct sk_trace_turn *turn = t->item ? &t->item->turns[t->turn] : NULL;
    if (l->chat)
        sk_buf_str(b, "{\"role\":\"user\",\"content\":\"");
    if (turn && turn->text)
        put_text(b, turn->text);
    else
        put_random(l, b, &t->draw, turn && turn->n_in ? turn->n_in : sk_dist_draw(&l->input, &t->draw, 1));
    if (l->chat)
        sk_buf_str(b, "\"}");
}

static void put_prompt(const struct sk_load *l, struct sk_talk *t, struct sk_buf *b)
{
    const char *messages = t->item ? t->item->turns[0].messages : NULL;
    if (messages) {
        sk_buf_fmt(b, "\"messages\":%s", messages);
        return;
    }
    sk_buf_str(b, l->chat ? "\"messages\":[" : l->token_ids ? "\"prompt\":[" : "\"prompt\":\"");
    if (l->prefix_words)
        put_prefix(l, t, b);
    if (t->n_turn == 1) {
        put_turn(l, t, b);
    } else {
        put_turn(l, t, &t->past);
        sk_buf_add(b, t->past.p, t->past.n);
    }
    sk_buf_str(b, l->chat || l->token_ids ? "]" : "\"");
}

int sk_load_ask(const struct sk_load *l, struct sk_talk *t, struct sk_buf *body, struct sk_ask *ret)
{
    struct sk_ask ask = {0};
    int64_t given = t->item ? t->item->turns[t->turn].n_out : 0;
    sk_buf_clear(body);
    sk_buf_str(body, "{\"model\":");
    sk_json_quote(body, l->model, strlen(l->model));
    sk_buf_char(body, ',');
    put_prompt(l, t, body);
    ask.n_out = given ? given : sk_dist_draw(&l->output, &t->draw, 1);
    /* Drawn for each request, so that a share changes who leaves and not what is asked. */
    double leaves = sk_draw_uniform(&t->draw), hurries = sk_draw_uniform(&t->draw);
    int64_t after = sk_dist_draw(&l->cancel_after, &t->draw, 1);
    ask.cancel_after = leaves < l->cancel ? after : 0;
    ask.deadline_ms = hurries < l->deadlines ? l->deadline_ms : 0;
    sk_buf_fmt(body, ",\"%s\":%lld", l->chat ? "max_completion_tokens" : "max_tokens", (long long)ask.n_out);
    if (l->stream)
        sk_buf_str(body, ",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
    if (l->ignore_eos)
        sk_buf_str(body, ",\"ignore_eos\":true");
    if (ask.deadline_ms)
        sk_buf_fmt(body, ",\"deadline_ms\":%lld", (long long)ask.deadline_ms);
    if (*l->extra)
        sk_buf_fmt(body, ",%s", l->extra);
    sk_buf_char(body, '}');
    t->turn++;
    *ret = ask;
    return t->past.failed ? t->past.failed : body->failed;
}

int sk_load_answer(const struct sk_load *l, struct sk_talk *t, const char *s, size_t n)
{
    if (l->chat)
        sk_buf_str(&t->past, ",{\"role\":\"assistant\",\"content\":\"");
    sk_buf_add(&t->past, s, n);
    return sk_buf_str(&t->past, l->chat ? "\"}," : "\\n\\n");
}
