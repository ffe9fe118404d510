// The server's API: keys, errors, streams. Paths are relative, so that the page works behind a proxy's prefix too.

import {EventParser} from "./sse.js";

const KEY = "skein-key";

export class ApiError extends Error {
    constructor(status, message, {param = null, retryS = null} = {}) {
        super(message);
        this.status = status; // 0 = there was no answer
        this.param = param; // the field that is wrong
        this.retryS = retryS; // when to come again
    }
}

// --- keys ---

let askUser = async () => false;
let asking = null;

// f(why) lets the user give a key; true = there is another one now.
export function onKeyNeeded(f) {
    askUser = f;
}

export function key() {
    return sessionStorage.getItem(KEY) ?? "";
}

export function setKey(text) {
    if (text)
        sessionStorage.setItem(KEY, text);
    else
        sessionStorage.removeItem(KEY);
}

// However many requests were refused, the user is asked once.
function askOnce(why) {
    asking ??= askUser(why).finally(() => (asking = null));
    return asking;
}

// --- requests ---

async function errorOf(response) {
    const retryS = Number(response.headers.get("Retry-After")) || null;
    try {
        const {error} = await response.json();
        return new ApiError(response.status, error.message, {param: error.param, retryS});
    } catch {
        return new ApiError(response.status, `The server answered ${response.status} ${response.statusText}`, {retryS});
    }
}

async function send(path, {body, signal}) {
    const headers = {};
    if (key())
        headers.Authorization = `Bearer ${key()}`;
    if (body)
        headers["Content-Type"] = "application/json";
    try {
        return await fetch(path, {
            method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal, cache: "no-store",
        });
    } catch (error) {
        throw signal?.aborted ? error : new ApiError(0, "The server cannot be reached.");
    }
}

// A response that is ok; else an ApiError. With `ask`, the user may give a key where one is needed.
export async function call(path, {body = null, signal = null, ask = true} = {}) {
    for (;;) {
        const used = key();
        const response = await send(path, {body, signal});
        if (response.ok)
            return response;
        const error = await errorOf(response);
        if (response.status !== 401 || !ask)
            throw error;
        if (key() === used && !(await askOnce(used ? error.message : "This server answers to holders of a key only.")))
            throw error;
    }
}

// POSTs for a stream and yields its chunks. An error in the stream, or its end before [DONE], is thrown.
export async function* stream(path, body, signal) {
    const response = await call(path, {body: {...body, stream: true, stream_options: {include_usage: true}}, signal});
    const parser = new EventParser();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
        let piece;
        try {
            piece = await reader.read();
        } catch (error) {
            throw signal.aborted ? error : new ApiError(0, "The connection was lost before the answer was complete.");
        }
        if (piece.done)
            throw new ApiError(0, "The answer ended before it was complete.");
        for (const data of parser.push(piece.value)) {
            if (data === "[DONE]")
                return;
            const chunk = JSON.parse(data);
            if (chunk.error)
                throw new ApiError(200, chunk.error.message, {param: chunk.error.param});
            yield chunk;
        }
    }
}
