// The chat: messages that stream, and can be stopped, edited and sent again, or answered anew.

import {stream} from "./api.js";
import {button, copy, eachFrame, h} from "./dom.js";
import {show} from "./markdown.js";
import {notice} from "./notice.js";
import {Params, SAMPLING, SYSTEM} from "./params.js";

const KEPT = "skein-chat";
const NEAR_END_PX = 80;

// One answer on its way. `message` grows; `changed` is called for each piece.
async function answer(messages, message, values, signal, changed) {
    const {system, ...params} = values;
    const began = performance.now();
    const sent = messages.map(({role, content}) => ({role, content}));
    if (system)
        sent.unshift({role: "system", content: system});
    for await (const chunk of stream("v1/chat/completions", {messages: sent, ...params}, signal)) {
        const choice = chunk.choices[0];
        if (choice?.delta.content) {
            message.firstMs ??= performance.now() - began;
            message.lastMs = performance.now() - began;
            message.content += choice.delta.content;
            changed();
        }
        message.finish = choice?.finish_reason ?? message.finish;
        message.tokens = chunk.usage?.completion_tokens ?? message.tokens;
    }
}

const ENDS = {length: "cut at max tokens", stopped: "stopped"};

function figures(message) {
    const parts = [];
    if (message.tokens)
        parts.push(`${message.tokens} tokens`);
    if (message.tokens > 1 && message.lastMs > message.firstMs)
        parts.push(`${((message.tokens - 1) * 1000 / (message.lastMs - message.firstMs)).toFixed(1)} tokens/s`);
    if (message.firstMs)
        parts.push(`first after ${Math.round(message.firstMs)} ms`);
    if (ENDS[message.finish])
        parts.push(ENDS[message.finish]);
    return parts.join(" · ");
}

export class Chat {
    #messages = JSON.parse(sessionStorage.getItem(KEPT) ?? "[]");
    #abort = null; // of the answer on its way

    constructor() {
        this.params = new Params("chat", [SYSTEM, ...SAMPLING]);
        this.log = h("div", {class: "log", role: "log", "aria-label": "Conversation", tabindex: "0"});
        this.input = h("textarea", {
            id: "chat-input", rows: 3, placeholder: "Write a message", "aria-label": "Message",
            "aria-describedby": "chat-hint", onkeydown: (event) => this.#onKey(event),
        });
        this.send = h("button", {type: "submit", class: "main"}, "Send");
        this.stop = button("Stop", () => this.#abort?.abort(), {class: "main", hidden: true});
        this.fresh = button("New chat", () => this.#startAnew(), {class: "quiet"});
        const composer = h("form", {class: "composer", onsubmit: (event) => this.#submit(event)}, this.input,
            h("div", {class: "row"}, h("span", {id: "chat-hint", class: "hint keys"}, "Ctrl+Enter sends, Esc stops"), this.fresh,
                this.stop, this.send));
        this.element = h("section", {class: "chat split", "aria-label": "Chat"},
            h("h1", {class: "unseen"}, "Chat"), h("div", {class: "talk"}, this.log, composer), this.params.element);
        document.addEventListener("keydown", (event) => {
            if (event.key === "Escape" && this.element.isConnected)
                this.#abort?.abort();
        });
        this.#draw();
    }

    shown() {
        this.log.scrollTop = this.log.scrollHeight;
        this.input.focus();
    }

    hidden() {}

    #onKey(event) {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.isComposing)
            event.target.form.requestSubmit();
    }

    #submit(event) {
        event.preventDefault();
        const text = this.input.value;
        if (this.#abort || text.trim() === "")
            return;
        this.input.value = "";
        this.#messages.push({role: "user", content: text});
        this.#answer();
    }

    #startAnew() {
        this.#abort?.abort();
        this.#messages = [];
        this.#keep();
        this.#draw();
        this.input.focus();
    }

    #keep() {
        try {
            sessionStorage.setItem(KEPT, JSON.stringify(this.#messages));
        } catch { // too long for the browser's store: the chat goes on, and a reload has what was kept before
        }
    }

    // The messages from `index` on are gone, and the last that is left is answered.
    #again(index) {
        if (this.#abort)
            return;
        this.#messages.length = index;
        this.#answer();
    }

    async #answer() {
        const messages = this.#messages;
        const asked = [...messages];
        const message = {role: "assistant", content: ""};
        messages.push(message);
        const {signal} = (this.#abort = new AbortController());
        this.#draw();
        this.log.scrollTop = this.log.scrollHeight;
        const body = this.log.lastElementChild.querySelector(".text");
        const draw = eachFrame(() => this.#follow(() => show(body, message.content)));
        let failed = null;
        try {
            await answer(asked, message, this.params.values(), signal, draw);
        } catch (error) {
            if (signal.aborted)
                message.finish = "stopped";
            else
                failed = error;
        }
        this.#abort = null;
        if (messages !== this.#messages) { // a new chat has begun
            this.#draw();
            return;
        }
        if (message.content === "" && message.finish !== "stop" && message.finish !== "length")
            messages.pop();
        this.#keep();
        this.#follow(() => this.#draw(failed));
        this.params.mark(failed?.param);
    }

    // Changes the log, and stays at its end if it was there.
    #follow(change) {
        const atEnd = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < NEAR_END_PX;
        change();
        if (atEnd)
            this.log.scrollTop = this.log.scrollHeight;
    }

    #draw(failed = null) {
        const busy = this.#abort !== null;
        this.send.hidden = busy;
        this.stop.hidden = !busy;
        this.fresh.hidden = this.#messages.length === 0;
        this.log.setAttribute("aria-busy", String(busy)); // what streams is read when it is whole
        this.log.replaceChildren(...this.#messages.map((message, i) => this.#article(message, i, busy)));
        if (this.#messages.length === 0)
            this.log.append(h("p", {class: "empty"}, "Ask something. What you write stays between this tab and this server."));
        const last = this.#messages.length - 1;
        if (failed)
            this.log.append(notice(failed, () => this.#again(this.#messages[last].role === "user" ? last + 1 : last)));
    }

    #article(message, i, busy) {
        const isUser = message.role === "user";
        const isLast = i === this.#messages.length - 1;
        const text = h("div", {class: "text"});
        if (isUser)
            text.textContent = message.content;
        else
            show(text, message.content);
        const article = h("article", {class: message.role},
            h("h2", {}, isUser ? "You" : "Model"), text);
        if (busy && isLast) {
            text.classList.add("growing");
            return article;
        }
        const actions = h("div", {class: "actions"}, button("Copy", (event) => copy(message.content, event.target)));
        if (isUser && !busy)
            actions.append(button("Edit", () => this.#edit(article, message, i)));
        if (isUser && isLast && !busy)
            actions.append(button("Send again", () => this.#again(i + 1)));
        if (!isUser && isLast && !busy)
            actions.append(button("Regenerate", () => this.#again(i)));
        if (!isUser)
            actions.append(h("span", {class: "figures"}, figures(message)));
        article.append(actions);
        return article;
    }

    #edit(article, message, i) {
        const area = h("textarea", {rows: 3, "aria-label": "Your message, edited"});
        const done = () => this.#draw();
        const form = h("form", {
            class: "edit",
            onsubmit: (event) => {
                event.preventDefault();
                if (area.value.trim() === "" || this.#abort)
                    return;
                message.content = area.value;
                this.#again(i + 1);
            },
        }, area, h("div", {class: "row"}, button("Cancel", done), h("button", {type: "submit", class: "main"}, "Send again")));
        area.value = message.content;
        area.addEventListener("keydown", (event) => {
            this.#onKey(event);
            if (event.key === "Escape")
                done();
        });
        article.replaceChildren(h("h2", {}, "You"), form);
        area.focus();
    }
}
