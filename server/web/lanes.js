// A lane for each sequence that is on board, coloured by what it does: the timeline of the batch.

import {h} from "./dom.js";
import {sized} from "./plot.js";

const LANE = 9, GAP = 2, LEAST_LANES = 8, MAX_LANES = 32;
const COLOURS = {prefill: "in", decode: "out", waits: "wait", queued: "wait"};

export class Lanes {
    #lanes = []; // id of the sequence in each lane; null = free

    constructor() {
        this.canvas = h("canvas", {role: "img"});
        const legend = h("p", {class: "legend"},
            ...[["in", "prefill"], ["out", "decode"], ["wait", "waits"]].map(([colour, name]) => h("span", {class: `of ${colour}`}, name)));
        this.element = h("figure", {class: "plot lanes"}, this.canvas, legend);
    }

    // Gives the sample's sequences their lanes; one that goes on keeps its own.
    #place(sample) {
        const ids = new Set(sample.sequences.map(({id}) => id));
        this.#lanes = this.#lanes.map((id) => (ids.has(id) ? id : null));
        const taken = new Set(this.#lanes);
        for (const {id} of sample.sequences) {
            if (id === null || taken.has(id))
                continue;
            const free = this.#lanes.indexOf(null);
            if (free >= 0)
                this.#lanes[free] = id;
            else if (this.#lanes.length < MAX_LANES)
                this.#lanes.push(id);
        }
        sample.lanes = sample.sequences.map(({id, phase}) => [id === null ? -1 : this.#lanes.indexOf(id), phase])
            .filter(([lane]) => lane >= 0);
    }

    draw(samples, now, span_ms) {
        const last = samples[samples.length - 1];
        this.#place(last);
        const n = Math.max(LEAST_LANES, ...samples.map((sample) => sample.lanes.length && Math.max(...sample.lanes.map(([lane]) => lane)) + 1));
        const height = n * (LANE + GAP) + GAP;
        this.canvas.style.height = `${height}px`;
        this.canvas.setAttribute("aria-label", `Timeline of ${last.lanes.length} sequences on board now`);
        const area = sized(this.canvas, height);
        if (!area)
            return;
        const {g, width, colour} = area;
        const x = (time) => width * (1 - (now - time) / span_ms);
        const colours = Object.fromEntries(Object.entries(COLOURS).map(([phase, name]) => [phase, colour(`--${name}`)]));
        g.fillStyle = colour("--line");
        for (let lane = 0; lane < n; lane++)
            g.fillRect(0, lane * (LANE + GAP) + GAP + LANE - 1, width, 1);
        for (let i = 1; i < samples.length; i++) {
            const from = Math.round(x(samples[i - 1].time)), to = Math.round(x(samples[i].time));
            for (const [lane, phase] of samples[i].lanes) {
                g.fillStyle = colours[phase];
                g.fillRect(from, lane * (LANE + GAP) + GAP, to - from, LANE);
            }
        }
    }
}
