// What went wrong, for the user to read.

import {button, h} from "./dom.js";

export function notice(error, again = null) {
    const wait = error.retryS ? ` The server asks to come again in ${error.retryS} s.` : "";
    return h("div", {class: "notice", role: "alert"},
        h("p", {}, `${error.message}${wait}`), again && button("Try again", again));
}
