// The playground: a text goes on, and each token shows how sure the model was and what else it might have said.

import {stream} from "./api.js";
import {button, h} from "./dom.js";
import {notice} from "./notice.js";
import {Params, SAMPLING} from "./params.js";

const OPTIONS = [
    ...SAMPLING.map((field) => (field.name === "max_tokens" ? {...field, start: "64"} : field)),
    {name: "logprobs", label: "Alternatives", min: 0, max: 20, step: 1, whole: true, start: "5"},
    {name: "echo", label: "Prompt tokens too", check: true},
];
const LEVELS = [0.9, 0.5, 0.2, 0.05, 0]; // the least probability of each colour, p0 to p4

const level = (logprob) => LEVELS.findIndex((least) => Math.exp(logprob) >= least);
const percent = (logprob) => {
    const p = 100 * Math.exp(logprob);
    return p >= 99.95 ? "100 %" : p >= 10 ? `${p.toFixed(1)} %` : p >= 0.01 ? `${p.toFixed(2)} %` : "< 0.01 %";
};
// Spaces and line ends that can be seen.
const visible = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll("\r", "␍") || "(nothing)";

// [{text, logprob, tops: [[text, logprob], ...]}] of a chunk's `logprobs`.
export function tokensOf(logprobs) {
    return logprobs.tokens.map((text, i) => ({
        text,
        logprob: logprobs.token_logprobs[i],
        tops: Object.entries(logprobs.top_logprobs?.[i] ?? {}).sort((a, b) => b[1] - a[1]),
    }));
}

function legend() {
    const names = ["≥ 90 %", "≥ 50 %", "≥ 20 %", "≥ 5 %", "less"];
    return h("p", {class: "legend"}, "Probability ", ...names.map((name, i) => h("span", {class: `token p${i}`}, name)));
}

export class Tokens {
    #abort = null;
    #tokens = [];
    #prompt = ""; // that the tokens go on from; empty where they begin with it
    #at = -1; // the token that is shown in detail

    constructor() {
        this.params = new Params("tokens", OPTIONS);
        this.input = h("textarea", {
            id: "tokens-input", rows: 4, placeholder: "A text to go on from",
            onkeydown: (event) => {
                if (event.key === "Enter" && (event.ctrlKey || event.metaKey))
                    event.target.form.requestSubmit();
            },
        });
        this.input.value = "The capital of France is";
        this.go = h("button", {type: "submit", class: "main"}, "Complete");
        this.stop = button("Stop", () => this.#abort?.abort(), {class: "main", hidden: true});
        this.text = h("div", {
            class: "tokens", role: "group", "aria-label": "Tokens; arrow keys move between them", tabindex: "-1",
            onkeydown: (event) => this.#onKey(event),
            onmouseover: (event) => this.#show(this.#index(event.target)),
            onfocusin: (event) => this.#show(this.#index(event.target)),
            onclick: (event) => this.#show(this.#index(event.target)),
        });
        this.failed = h("div");
        this.figures = h("p", {class: "figures", role: "status"});
        this.detail = h("div", {class: "detail", role: "status", "aria-label": "The token"});
        const form = h("form", {class: "composer", onsubmit: (event) => this.#submit(event)},
            h("label", {for: "tokens-input"}, "Prompt"), this.input,
            h("div", {class: "row"}, h("span", {class: "hint keys"}, "Ctrl+Enter completes, Esc stops"), this.stop, this.go));
        this.element = h("section", {class: "playground split", "aria-label": "Tokens"},
            h("h1", {class: "unseen"}, "Completion playground"),
            h("div", {class: "work"}, form, this.failed, legend(), this.text, this.figures),
            h("div", {class: "side"}, this.params.element, this.detail));
        document.addEventListener("keydown", (event) => {
            if (event.key === "Escape" && this.element.isConnected)
                this.#abort?.abort();
        });
        this.#show(-1);
    }

    shown() {
        this.input.focus();
    }

    hidden() {}

    // --- the completion ---

    #submit(event) {
        event.preventDefault();
        if (!this.#abort && this.input.value !== "")
            this.#complete(this.input.value);
    }

    async #complete(prompt) {
        const {echo, ...params} = this.params.values();
        this.#tokens = [];
        this.#prompt = echo ? "" : prompt;
        this.text.replaceChildren();
        this.failed.replaceChildren();
        this.#show(-1);
        const abort = new AbortController();
        this.#busy(abort);
        let usage = null, finish = null;
        try {
            const body = {prompt, echo, logprobs: 0, ...params};
            for await (const chunk of stream("v1/completions", body, abort.signal)) {
                const choice = chunk.choices[0];
                if (choice?.logprobs)
                    this.#add(tokensOf(choice.logprobs));
                finish = choice?.finish_reason ?? finish;
                usage = chunk.usage ?? usage;
            }
        } catch (error) {
            if (abort.signal.aborted) {
                finish = "stopped";
            } else {
                this.failed.replaceChildren(notice(error, () => this.#complete(prompt)));
                this.params.mark(error.param);
            }
        }
        this.#busy(null);
        this.#sum(usage, finish);
    }

    #busy(abort) {
        this.#abort = abort;
        this.go.hidden = abort !== null;
        this.stop.hidden = abort === null;
        this.text.setAttribute("aria-busy", String(abort !== null));
        this.figures.textContent = "";
    }

    #sum(usage, finish) {
        const known = this.#tokens.filter((token) => token.logprob !== null);
        const parts = [];
        if (usage)
            parts.push(`${usage.prompt_tokens} tokens in, ${usage.completion_tokens} out`);
        if (known.length > 0) {
            const mean = known.reduce((sum, token) => sum + token.logprob, 0) / known.length;
            parts.push(`perplexity ${Math.exp(-mean).toFixed(2)}`);
        }
        if (finish)
            parts.push(finish === "length" ? "cut at max tokens" : finish === "stop" ? "the model ended it" : finish);
        this.figures.textContent = parts.join(" · ");
    }

    #add(tokens) {
        for (const token of tokens) {
            const name = token.logprob === null ? "none" : `p${level(token.logprob)}`;
            const label = `${visible(token.text)}${token.logprob === null ? "" : `, ${percent(token.logprob)}`}`;
            const element = h("span", {
                class: `token ${name}`, role: "button", "aria-label": label, tabindex: this.#tokens.length === 0 ? "0" : "-1",
                "data-at": this.#tokens.length,
            });
            element.textContent = token.text;
            this.text.append(element);
            this.#tokens.push(token);
        }
    }

    // --- one token ---

    #index(element) {
        return element.dataset?.at === undefined ? this.#at : Number(element.dataset.at);
    }

    // One stop of the Tab key for all tokens; arrows move inside.
    #onKey(event) {
        const moves = {ArrowLeft: this.#at - 1, ArrowRight: this.#at + 1, Home: 0, End: this.#tokens.length - 1};
        const to = moves[event.key];
        if (to === undefined || !this.#tokens[to])
            return;
        event.preventDefault();
        this.text.children[to].focus();
    }

    #show(at) {
        const token = this.#tokens[at];
        if (at === this.#at && token)
            return;
        for (const old of this.text.querySelectorAll(".chosen"))
            old.classList.remove("chosen");
        this.#at = token ? at : -1;
        if (!token) {
            this.detail.replaceChildren(h("p", {class: "hint"}, "Point at a token, or move with the arrow keys, to see what else it might have been."));
            return;
        }
        const element = this.text.children[at];
        element.classList.add("chosen");
        for (const other of this.text.querySelectorAll("[tabindex='0']"))
            other.tabIndex = -1;
        element.tabIndex = 0;
        this.detail.replaceChildren(
            h("p", {class: "which"}, h("code", {}, visible(token.text)),
                token.logprob === null ? " begins the text" : ` ${percent(token.logprob)}`),
            token.logprob === null ? "" : h("p", {class: "hint"}, `log-prob ${token.logprob.toFixed(4)}, token ${at + 1} of ${this.#tokens.length}`),
            this.#table(token));
    }

    // The text up to the shown token, then `text` in its place, is the prompt now.
    #branch(text) {
        if (this.#abort)
            return;
        this.input.value = this.#prompt + this.#tokens.slice(0, this.#at).map((token) => token.text).join("") + text;
        this.#complete(this.input.value);
    }

    #table(token) {
        if (token.tops.length === 0)
            return h("p", {class: "hint"}, "No alternatives were asked for.");
        const rows = token.tops.map(([text, logprob]) => {
            const bar = h("span", {class: "bar"});
            bar.style.width = `${100 * Math.exp(logprob)}%`;
            const name = button(visible(text), () => this.#branch(text), {title: "Go on from this one"});
            return h("tr", {class: text === token.text ? "taken" : null},
                h("th", {scope: "row"}, name), h("td", {class: "number"}, percent(logprob)), h("td", {class: "bars"}, bar));
        });
        return h("table", {class: "tops"}, h("caption", {}, "Choose one to go on from there"), h("tbody", {}, ...rows));
    }
}
