// Elements made by hand. Text is always a text node: there is no way from here to HTML.

// h("p", {class: "x", onclick: f}, "text", element, ...). An attribute that is false, null or undefined is left out.
export function h(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
        if (name.startsWith("on"))
            element.addEventListener(name.slice(2), value);
        else if (value === true)
            element.setAttribute(name, "");
        else if (value !== false && value !== null && value !== undefined)
            element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
}

export function button(text, onclick, attributes = {}) {
    return h("button", {type: "button", onclick, ...attributes}, text);
}

// Runs f at most once a frame.
export function eachFrame(f) {
    let waits = false;
    return () => {
        if (waits)
            return;
        waits = true;
        requestAnimationFrame(() => {
            waits = false;
            f();
        });
    };
}

export async function copy(text, from) {
    try {
        await navigator.clipboard.writeText(text);
        from.textContent = "Copied";
    } catch {
        from.textContent = "Not allowed";
    }
    setTimeout(() => (from.textContent = "Copy"), 1500);
}
