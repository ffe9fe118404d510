// Server-sent events (WHATWG HTML, section 9.2.6): text in, the data of events out. Other fields are not used.

const MAX_EVENT = 64 << 20; // characters; above what the server makes of one

export class EventParser {
    #line = "";
    #data = [];
    #size = 0;
    #afterCr = false;

    // Returns the data of the events that this piece of the stream completes.
    push(text) {
        const events = [];
        const lines = (this.#afterCr && text.startsWith("\n") ? text.slice(1) : text).split(/\r\n|\n|\r/);
        if (text)
            this.#afterCr = text.endsWith("\r");
        lines[0] = this.#line + lines[0];
        this.#line = lines.pop();
        for (const line of lines)
            this.#take(line, events);
        if (this.#line.length + this.#size > MAX_EVENT)
            throw new Error("The server sent an event that is too long.");
        return events;
    }

    #take(line, events) {
        if (line === "") {
            if (this.#data.length > 0)
                events.push(this.#data.join("\n"));
            this.#data = [];
            this.#size = 0;
        } else if (line === "data" || line.startsWith("data:")) {
            const value = line.slice(5);
            this.#data.push(value.startsWith(" ") ? value.slice(1) : value);
            this.#size += value.length;
        }
    }
}
