// The parameters of a request as a form. What is left empty is left out, so that the server's defaults hold.

import {h} from "./dom.js";

export const SAMPLING = [
    {name: "max_tokens", label: "Max tokens", min: 1, step: 1, whole: true},
    {name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.1},
    {name: "top_p", label: "Top-p", min: 0, max: 1, step: 0.05},
    {name: "seed", label: "Seed", step: 1, whole: true},
];
export const SYSTEM = {name: "system", label: "System prompt", text: true};

const WIDE = matchMedia("(min-width: 62rem)");

function control(field, id, value, onchange) {
    const common = {id, name: field.name, oninput: onchange, autocomplete: "off"};
    if (field.text) {
        const area = h("textarea", {...common, rows: 4, placeholder: "none"});
        area.value = value;
        return area;
    }
    if (field.check) {
        const box = h("input", {...common, type: "checkbox"});
        box.checked = value === "yes";
        return box;
    }
    const input = h("input", {
        ...common, type: "number", min: field.min, max: field.max, step: field.whole ? 1 : "any", placeholder: "default",
        inputmode: field.whole ? "numeric" : "decimal",
    });
    input.value = value;
    return input;
}

export class Params {
    // `name` is the form's own among those of the page; what was typed lasts as long as the tab.
    constructor(name, fields) {
        this.fields = fields;
        this.store = `skein-params-${name}`;
        const kept = JSON.parse(sessionStorage.getItem(this.store) ?? "{}");
        this.controls = new Map();
        const rows = fields.map((field) => {
            const id = `${name}-${field.name}`;
            const element = control(field, id, kept[field.name] ?? field.start ?? "", () => this.#changed(field.name));
            this.controls.set(field.name, element);
            return h("div", {class: field.check ? "field check" : field.text ? "field wide" : "field"},
                h("label", {for: id}, field.label), element);
        });
        this.element = h("details", {class: "params"}, h("summary", {}, "Parameters"), h("div", {class: "fields"}, ...rows));
        this.element.open = WIDE.matches;
        WIDE.addEventListener("change", () => (this.element.open = WIDE.matches));
    }

    #text(field) {
        const element = this.controls.get(field.name);
        return field.check ? (element.checked ? "yes" : "") : element.value;
    }

    #changed(name) {
        this.controls.get(name).removeAttribute("aria-invalid");
        const all = Object.fromEntries(this.fields.map((field) => [field.name, this.#text(field)]));
        sessionStorage.setItem(this.store, JSON.stringify(all));
    }

    // {name: value} of the fields that are filled in.
    values() {
        const all = {};
        for (const field of this.fields) {
            const text = this.#text(field);
            if (text.trim() !== "")
                all[field.name] = field.text ? text : field.check ? true : Number(text);
        }
        return all;
    }

    // The server says that this field is wrong.
    mark(name) {
        const element = this.controls.get(name);
        if (!element)
            return;
        this.element.open = true;
        element.setAttribute("aria-invalid", "true");
        element.focus();
    }
}
