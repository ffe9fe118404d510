// The batch as it is now, and as it was in the last minute: GET /stats several times a second, GET /metrics now and
// then. Nothing is asked while the view is not seen.

import {call} from "./api.js";
import {h} from "./dom.js";
import {Lanes} from "./lanes.js";
import {notice} from "./notice.js";
import {Plot} from "./plot.js";
import {parse, quantile, sum} from "./prom.js";

const STATS_MS = 250, METRICS_MS = 2000, SPAN_MS = 60000, AFTER_ERROR_MS = 2000;
const RATE_MS = 1000, HITS_MS = 5000; // over which rates, and the share of hits, are taken
const MAX_ROWS = 64; // of the table
const SHADES = 4; // of the owners of blocks

const whole = (x) => Math.round(x).toLocaleString("en");
const seconds = (x) => (x < 1 ? `${Math.round(1000 * x)} ms` : `${x.toFixed(1)} s`);
const share = (x) => `${Math.round(100 * x)} %`;

// --- samples: what an answer of the server comes to ---

function phase(sequence) {
    return !sequence.running ? "waits" : sequence.computed < sequence.prompt_tokens ? "prefill" : "decode";
}

// Each sequence of an engine's, with what the daemon knows of its job.
function joined(engine) {
    const jobs = new Map(engine.jobs.map((job) => [`${job.job}/${job.choice}`, job]));
    const held = engine.sequences.map((sequence) => {
        const job = jobs.get(`${sequence.job}/${sequence.choice}`);
        return {...sequence, id: `${sequence.job}/${sequence.choice}`, phase: phase(sequence), key: job?.key ?? "",
            answer: job?.answer_tokens ?? Math.max(0, sequence.tokens - sequence.prompt_tokens), age: job?.age_s ?? null};
    });
    const queued = engine.jobs.filter((job) => job.job === "0").map((job) => ({...job, id: null, phase: "queued", computed: 0, cached: 0,
        blocks: 0, answer: job.answer_tokens, age: job.age_s}));
    return [...held, ...queued];
}

const total = (stats, f) => stats.engines.reduce((all, engine) => all + f(engine), 0);

// The newest of these that is at least `ms` old, else the oldest; of none, `now` itself.
function before(samples, now, ms) {
    return samples.findLast((sample) => now.time - sample.time >= ms) ?? samples[0] ?? now;
}

function sampleOf(stats, samples, time) {
    const now = {
        time,
        steps: total(stats, (e) => e.steps), busy_us: total(stats, (e) => e.busy_us),
        prompt: total(stats, (e) => e.prompt_tokens), answer: total(stats, (e) => e.answer_tokens),
        queries: total(stats, (e) => e.prefix_cache.queries), hits: total(stats, (e) => e.prefix_cache.hits),
        running: total(stats, (e) => e.running), waiting: total(stats, (e) => e.waiting),
        held: total(stats, (e) => e.blocks.held), cached: total(stats, (e) => e.blocks.cached), free: total(stats, (e) => e.blocks.free),
        preemptions: total(stats, (e) => e.preemptions),
        sequences: stats.engines.flatMap(joined),
    };
    const last = before(samples, now, RATE_MS), older = before(samples, now, HITS_MS);
    const s = (now.time - last.time) / 1000, steps = now.steps - last.steps;
    now.inRate = s > 0 ? Math.max(0, now.prompt - last.prompt) / s : 0;
    now.outRate = s > 0 ? Math.max(0, now.answer - last.answer) / s : 0;
    now.stepMs = steps > 0 ? (now.busy_us - last.busy_us) / steps / 1000 : null;
    now.stepPrompt = steps > 0 ? (now.prompt - last.prompt) / steps : 0;
    now.stepAnswer = steps > 0 ? (now.answer - last.answer) / steps : 0;
    now.hitShare = now.queries > older.queries ? (now.hits - older.hits) / (now.queries - older.queries) : null;
    return now;
}

function latencyOf(before, after, time) {
    const figures = {time};
    for (const [name, metric] of [["first", "vllm:time_to_first_token_seconds"], ["between", "vllm:inter_token_latency_seconds"]])
        for (const q of [0.5, 0.95])
            figures[`${name}${q * 100}`] = quantile(before, after, metric, q);
    const ends = (all, bad) => sum(all, "skein_requests_total", ({end}) => (end !== "done") === bad);
    const s = (time - before.time) / 1000;
    figures.done = Math.max(0, ends(after, false) - ends(before, false)) / s;
    figures.failed = Math.max(0, ends(after, true) - ends(before, true)) / s;
    return figures;
}

// --- the view ---

function makePlots() {
    const rate = {format: (x) => `${whole(x)}/s`, least: 10};
    return {
        batch: [
            new Plot("Sequences", [{name: "running", colour: "out", of: (x) => x.running}, {name: "waiting", colour: "wait", of: (x) => x.waiting}], {least: 4}),
            new Plot("Tokens", [{name: "out", colour: "out", of: (x) => x.outRate}, {name: "prefill", colour: "in", of: (x) => x.inRate}], rate),
            new Plot("Tokens of a step", [{name: "decode", colour: "out", of: (x) => x.stepAnswer}, {name: "prefill", colour: "in", of: (x) => x.stepPrompt}],
                {stacked: true, least: 4, format: (x) => (x < 10 ? x.toFixed(1) : whole(x))}),
            new Plot("Time of a step", [{name: "mean", colour: "out", of: (x) => x.stepMs}], {format: (x) => (x < 10 ? `${x.toFixed(1)} ms` : seconds(x / 1000))}),
            new Plot("KV blocks", [{name: "held", colour: "out", of: (x) => x.held}, {name: "cached", colour: "hit", of: (x) => x.cached}], {stacked: true, least: 10, format: whole}),
            new Plot("Prefix-cache hits", [{name: "of prompt tokens", colour: "hit", of: (x) => x.hitShare}], {format: share}),
        ],
        latency: [
            new Plot("First token", [{name: "median", colour: "out", of: (x) => x.first50}, {name: "p95", colour: "wait", of: (x) => x.first95}], {format: seconds, least: 0.1}),
            new Plot("Between tokens", [{name: "median", colour: "out", of: (x) => x.between50}, {name: "p95", colour: "wait", of: (x) => x.between95}], {format: seconds, least: 0.01}),
            new Plot("Requests", [{name: "done", colour: "out", of: (x) => x.done}, {name: "not done", colour: "wait", of: (x) => x.failed}], {format: (x) => `${x.toFixed(1)}/s`}),
        ],
    };
}

export class Live {
    #samples = [];
    #latency = [];
    #scrape = null; // the metrics as they were last
    #timer = null;
    #abort = null;
    #seen = false;

    constructor() {
        this.lanes = new Lanes();
        this.plots = makePlots();
        this.figures = h("dl", {class: "levels"});
        this.failed = h("div");
        this.bar = h("div", {class: "blocks", role: "img"});
        this.owners = h("ul", {class: "owners"});
        this.rows = h("tbody");
        this.more = h("p", {class: "hint"});
        const heads = ["Key", "Phase", "Prompt", "Cached", "Answer", "Blocks", "Age"];
        const table = h("table", {class: "sequences"}, h("caption", {class: "unseen"}, "Sequences"),
            h("thead", {}, h("tr", {}, ...heads.map((text, i) => h("th", {scope: "col", class: i > 1 ? "number" : null}, text)))), this.rows);
        this.element = h("section", {class: "live", "aria-label": "Live"},
            h("h1", {class: "unseen"}, "Live view of the batch"), this.failed, this.figures,
            h("h2", {}, "KV blocks by owner"), this.bar, this.owners,
            h("h2", {}, "Timeline of the sequences, last minute"), this.lanes.element,
            h("h2", {}, "Sequences now"), h("div", {class: "scrolls", tabindex: "0", role: "region", "aria-label": "Sequences now"}, table), this.more,
            h("h2", {}, "Last minute"),
            h("div", {class: "plots"}, ...[...this.plots.batch, ...this.plots.latency].map((plot) => plot.element)));
        document.addEventListener("visibilitychange", () => (this.#seen && !document.hidden ? this.#run() : this.#pause()));
    }

    shown() {
        this.#seen = true;
        this.#run();
    }

    hidden() {
        this.#seen = false;
        this.#pause();
    }

    #pause() {
        clearTimeout(this.#timer);
        this.#abort?.abort();
        this.#abort = null;
    }

    async #run() {
        this.#pause();
        const abort = (this.#abort = new AbortController());
        let wait = STATS_MS;
        try {
            await this.#look(abort.signal);
            this.failed.replaceChildren();
        } catch (error) {
            if (abort.signal.aborted)
                return;
            if (this.failed.textContent === "") // once, lest it is read out again and again
                this.failed.replaceChildren(notice(error, error.status === 401 ? () => this.#askKey() : null));
            wait = AFTER_ERROR_MS;
        }
        if (!abort.signal.aborted)
            this.#timer = setTimeout(() => this.#run(), wait);
    }

    async #askKey() {
        await call("stats").catch(() => null);
        this.failed.replaceChildren();
        this.#run();
    }

    async #look(signal) {
        const stats = await (await call("stats", {signal, ask: this.#samples.length === 0 && this.failed.textContent === ""})).json();
        const time = performance.now();
        this.#samples.push(sampleOf(stats, this.#samples, time));
        if (!this.#scrape || time - this.#scrape.time >= METRICS_MS) {
            const scrape = parse(await (await call("metrics", {signal, ask: false})).text());
            scrape.time = performance.now();
            if (this.#scrape)
                this.#latency.push(latencyOf(this.#scrape, scrape, scrape.time));
            this.#scrape = scrape;
        }
        for (const list of [this.#samples, this.#latency])
            while (time - list[0]?.time > SPAN_MS)
                list.shift();
        this.#draw(stats, time);
    }

    #draw(stats, now) {
        const sample = this.#samples[this.#samples.length - 1];
        this.#drawLevels(stats, sample);
        this.#drawBlocks(sample);
        this.#drawTable(sample);
        this.lanes.draw(this.#samples, now, SPAN_MS);
        for (const plot of this.plots.batch)
            plot.draw(this.#samples, now, SPAN_MS);
        for (const plot of this.plots.latency)
            plot.draw(this.#latency, now, SPAN_MS);
    }

    #drawLevels(stats, sample) {
        const engine = stats.engines[0];
        const blocks = sample.held + sample.cached + sample.free;
        const pairs = [
            ["Engine", engine?.ready ? engine.isa : (engine?.text ?? "none")],
            ["Running", whole(sample.running)],
            ["Waiting", whole(sample.waiting)],
            ["Prefill", `${whole(sample.inRate)} tok/s`],
            ["Decode", `${whole(sample.outRate)} tok/s`],
            ["KV held", blocks ? share(sample.held / blocks) : "–"],
            ["Prefix hits", sample.queries ? share(sample.hits / sample.queries) : "–"],
            ["Preempted", whole(sample.preemptions)],
        ];
        this.figures.replaceChildren(...pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
    }

    // Sequences that share a prefix hold the same blocks: their parts of the bar are scaled to what is held.
    #drawBlocks(sample) {
        const blocks = sample.held + sample.cached + sample.free || 1;
        const named = sample.sequences.reduce((all, sequence) => all + sequence.blocks, 0) || 1;
        const holders = sample.sequences.filter(({blocks: n}) => n > 0).sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0));
        const byKey = new Map();
        for (const {key, blocks: n} of holders)
            byKey.set(key, (byKey.get(key) ?? 0) + n);
        const keys = [...byKey.keys()];
        const kind = (key) => `held shade-${keys.indexOf(key) % SHADES}`;
        const parts = [...holders.map(({key, blocks: n}) => [kind(key), n / named * sample.held / blocks]), ["cached", sample.cached / blocks]];
        this.bar.replaceChildren(...parts.filter(([, part]) => part > 0).map(([name, part]) => {
            const element = h("span", {class: name});
            element.style.width = `${100 * part}%`;
            return element;
        }));
        const texts = [...[...byKey].map(([key, n]) => [kind(key), `${key || "no key"}: ${whole(n)}`]), ["cached", `cached, can be evicted: ${whole(sample.cached)}`],
            ["free", `free: ${whole(sample.free)}`]];
        this.bar.setAttribute("aria-label", `KV blocks: ${texts.map(([, text]) => text).join(", ")}`);
        this.owners.replaceChildren(...texts.map(([name, text]) => h("li", {class: name}, text)));
    }

    #drawTable(sample) {
        const text = {waits: "waits", queued: "queued", decode: "decode"};
        this.rows.replaceChildren(...sample.sequences.slice(0, MAX_ROWS).map((q) => h("tr", {},
            h("td", {}, q.key || "–"),
            h("td", {class: `phase ${q.phase}`}, text[q.phase] ?? `prefill ${whole(q.computed)} of ${whole(q.prompt_tokens)}`),
            ...[whole(q.prompt_tokens), whole(q.cached), whole(q.answer), whole(q.blocks), q.age === null ? "–" : seconds(q.age)]
                .map((value) => h("td", {class: "number"}, value)))));
        const n = sample.sequences.length;
        this.more.textContent = n === 0 ? "Nothing runs." : n > MAX_ROWS ? `and ${whole(n - MAX_ROWS)} more` : "";
    }
}
