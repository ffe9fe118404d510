// A little Markdown as nodes: paragraphs, headings, lists, quotes, code, bold, italic. Links stay text: what a model
// writes is nothing to click on. It is made for text that grows: what is not closed yet is shown as it will look.

import {h} from "./dom.js";

const FENCE = /^ {0,3}(```+|~~~+)\s*([^\s`]*)/;
const HEADING = /^(#{1,6})\s+(.*)$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const QUOTE = /^>\s?(.*)$/;
const INLINE = /(`+)(.+?)\1|\*\*(?=\S)(.+?)\*\*|\*(?=[^\s*])([^*\n]+?)\*|(?<!\w)_(?=[^\s_])([^_\n]+?)_(?!\w)/s;
const MAX_DEPTH = 8;

function inline(text, depth = 0) {
    const nodes = [];
    for (let found; depth < MAX_DEPTH && (found = INLINE.exec(text)); text = text.slice(found.index + found[0].length)) {
        if (found.index > 0)
            nodes.push(text.slice(0, found.index));
        if (found[1])
            nodes.push(h("code", {}, found[2]));
        else if (found[3])
            nodes.push(h("strong", {}, ...inline(found[3], depth + 1)));
        else
            nodes.push(h("em", {}, ...inline(found[4] ?? found[5], depth + 1)));
    }
    return text ? [...nodes, text] : nodes;
}

// The lines of each block: a fence with all that is in it, a heading alone, else up to an empty line or another kind.
export function blocks(text) {
    const all = [];
    let block = null, fence = null;
    for (const line of text.split("\n")) {
        if (fence) {
            block.lines.push(line);
            if (line.trim().startsWith(fence) && line.trim().replaceAll(fence[0], "") === "")
                block = fence = null;
            continue;
        }
        const kind = kindOf(line);
        if (kind === "empty") {
            block = null;
            continue;
        }
        const goesOn = block && (block.kind === kind || (block.kind === "list" && kind === "text" && /^\s/.test(line)));
        if (!goesOn || kind === "heading" || kind === "fence")
            all.push((block = {kind, lines: []}));
        block.lines.push(line);
        if (kind === "fence")
            fence = FENCE.exec(line)[1];
    }
    return all;
}

function kindOf(line) {
    return line.trim() === "" ? "empty" : FENCE.test(line) ? "fence" : HEADING.test(line) ? "heading"
        : ITEM.test(line) ? "list" : QUOTE.test(line) ? "quote" : "text";
}

function list(lines) {
    const ordered = /\d/.test(ITEM.exec(lines[0])[2]);
    const items = [];
    for (const line of lines) {
        const found = ITEM.exec(line);
        if (found)
            items.push({depth: Math.min(3, Math.floor(found[1].length / 2)), text: found[3]});
        else
            items[items.length - 1].text += "\n" + line.trim();
    }
    const start = ordered ? Number.parseInt(ITEM.exec(lines[0])[2], 10) : null;
    return h(ordered ? "ol" : "ul", {start: start === 1 ? null : start},
        ...items.map((item) => h("li", {class: item.depth ? `in-${item.depth}` : null}, ...inline(item.text))));
}

function code(lines) {
    const fence = FENCE.exec(lines[0]);
    const closed = lines.length > 1 && lines[lines.length - 1].trim().startsWith(fence[1]);
    const text = lines.slice(1, closed ? -1 : undefined).join("\n");
    return h("pre", {tabindex: "0", "aria-label": fence[2] ? `Code, ${fence[2]}` : "Code"}, h("code", {}, text));
}

function node({kind, lines}) {
    if (kind === "fence")
        return code(lines);
    if (kind === "list")
        return list(lines);
    if (kind === "heading") {
        const [, marks, text] = HEADING.exec(lines[0]);
        return h(`h${Math.min(6, marks.length + 2)}`, {}, ...inline(text)); // the page has h1 and h2
    }
    if (kind === "quote")
        return h("blockquote", {}, ...inline(lines.map((line) => QUOTE.exec(line)[1]).join("\n")));
    return h("p", {}, ...inline(lines.join("\n")));
}

// Shows `text` in `element`, whose children are this function's. Blocks that are as they were keep their nodes.
export function show(element, text) {
    const now = blocks(text);
    const keys = now.map((block) => block.kind + "\n" + block.lines.join("\n"));
    const before = element.blockKeys ?? [];
    let same = 0;
    while (same < before.length && same < keys.length && before[same] === keys[same])
        same++;
    while (element.childNodes.length > same)
        element.lastChild.remove();
    element.append(...now.slice(same).map(node));
    element.blockKeys = keys;
}
