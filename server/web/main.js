// The page's frame: which view is seen, the server's state, the key, the theme.

import {call, key, onKeyNeeded, setKey} from "./api.js";
import {Chat} from "./chat.js";
import {h} from "./dom.js";
import {Live} from "./live.js";
import {Tokens} from "./tokens.js";

const LOOK_MS = 1000; // at /ready, while the server is not

const $ = (id) => document.getElementById(id);

// --- views ---

const views = {chat: new Chat(), tokens: new Tokens(), live: new Live()};
let view = null;

function go() {
    const name = Object.hasOwn(views, location.hash.slice(1)) ? location.hash.slice(1) : "chat";
    if (view === views[name])
        return;
    view?.hidden();
    view = views[name];
    $("view").replaceChildren(view.element);
    for (const link of document.querySelectorAll("nav a")) {
        if (link.hash === `#${name}`)
            link.setAttribute("aria-current", "page");
        else
            link.removeAttribute("aria-current");
    }
    document.title = `skein · ${name}`;
    view.shown();
}

document.querySelector(".skip").addEventListener("click", (event) => { // its address is no view's
    event.preventDefault();
    $("view").focus();
});

// --- the key ---

// Opens the dialog; true = the user gave a key.
function askKey(why) {
    const dialog = $("ask"), input = $("ask-key");
    $("ask-why").textContent = why;
    $("ask-wrong").textContent = "";
    $("ask-forget").hidden = key() === "";
    input.value = "";
    dialog.returnValue = "";
    dialog.showModal();
    input.focus();
    return new Promise((resolve) => {
        dialog.onclose = () => {
            $("key").textContent = key() ? "Key is set" : "Key";
            resolve(dialog.returnValue === "given");
        };
    });
}

$("ask").querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("ask-key").value.trim();
    if (!/^[\x21-\x7e]+$/.test(text)) {
        $("ask-wrong").textContent = text ? "A key has letters, digits and signs only." : "Type or paste a key.";
        $("ask-key").focus();
        return;
    }
    setKey(text);
    $("ask").close("given");
});
$("ask-cancel").addEventListener("click", () => $("ask").close(""));
$("ask-forget").addEventListener("click", () => {
    setKey("");
    $("ask").close("");
});
$("key").addEventListener("click", async () => {
    if (await askKey(key() ? "A key is set for this tab." : "No key is set. Servers without keys need none."))
        look();
});
$("key").textContent = key() ? "Key is set" : "Key";
onKeyNeeded(askKey);

// --- the theme ---

const THEMES = {"": "auto", light: "light", dark: "dark"};

function showTheme() {
    const theme = document.documentElement.dataset.theme ?? "";
    $("theme").replaceChildren(h("span", {class: "wide"}, "Theme: "), THEMES[theme]);
    $("theme").setAttribute("aria-label", `Theme: ${THEMES[theme]}`);
}

$("theme").addEventListener("click", () => {
    const names = Object.keys(THEMES);
    const next = names[(names.indexOf(document.documentElement.dataset.theme ?? "") + 1) % names.length];
    if (next) {
        document.documentElement.dataset.theme = next;
        localStorage.setItem("skein-theme", next);
    } else {
        delete document.documentElement.dataset.theme;
        localStorage.removeItem("skein-theme");
    }
    showTheme();
});
showTheme();

// --- the server ---

// Says which model is served, or why none is, until one is.
async function look() {
    try {
        await call("ready", {ask: false});
        const {data} = await (await call("v1/models")).json();
        $("status").textContent = data.map(({id}) => id).join(", ");
        $("status").title = data.map((model) => `${model.id}: ${model.max_model_len} tokens`).join("\n");
    } catch (error) {
        $("status").textContent = error.message;
        if (error.status === 0 || error.status === 503)
            setTimeout(look, LOOK_MS);
    }
}

addEventListener("hashchange", go);
go();
look();
