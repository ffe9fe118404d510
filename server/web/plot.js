// Small plots over time on a canvas, in the colours of the style sheet.

import {h} from "./dom.js";

const HEIGHT = 96, TOP = 14, BOTTOM = 4;

// A canvas as sharp as the screen; returns its context and size in CSS pixels. Not visible: null.
export function sized(canvas, height) {
    const width = canvas.clientWidth, scale = devicePixelRatio || 1;
    if (width === 0)
        return null;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const g = canvas.getContext("2d");
    g.scale(scale, scale);
    g.font = `11px ${getComputedStyle(canvas).fontFamily}`;
    const colour = (name) => { // a variable's own value may still be light-dark(...): a colour is what it computes to
        canvas.style.color = `var(${name})`;
        return getComputedStyle(canvas).color;
    };
    return {g, width, height, colour};
}

// 1, 2 or 5 times a power of ten, at least x.
function roundUp(x) {
    const power = 10 ** Math.floor(Math.log10(x));
    return [1, 2, 5, 10].map((m) => m * power).find((m) => m >= x * 0.999);
}

export class Plot {
    // series: [{name, colour, of}], of(sample) = a number, or null where there is none. `stacked`: areas on each other.
    constructor(title, series, {format = (x) => String(Math.round(x)), stacked = false, least = 1} = {}) {
        Object.assign(this, {title, series, format, stacked, least});
        this.canvas = h("canvas", {role: "img"});
        this.values = h("span", {class: "values"});
        this.element = h("figure", {class: "plot"}, h("figcaption", {}, h("span", {}, title), this.values), this.canvas);
    }

    // The samples of the last `span_ms` before `now`, oldest first; each has a `time`.
    draw(samples, now, span_ms) {
        const last = samples[samples.length - 1];
        const texts = this.series.map((s) => {
            const value = last ? s.of(last) : null;
            return [s, value === null ? "–" : this.format(value)];
        });
        this.values.replaceChildren(...texts.map(([s, text]) => h("span", {class: `of ${s.colour}`}, `${s.name} ${text}`)));
        this.canvas.setAttribute("aria-label", `${this.title} over the last ${Math.round(span_ms / 1000)} seconds; now ${texts.map(([s, text]) => `${s.name} ${text}`).join(", ")}`);
        const area = sized(this.canvas, HEIGHT);
        if (area)
            this.#paint(area, samples, (time) => area.width * (1 - (now - time) / span_ms));
    }

    // What a series' line is at: with stacks, on those before it.
    #height(sample, i) {
        if (!this.stacked)
            return this.series[i].of(sample);
        return this.series.slice(0, i + 1).reduce((sum, s) => sum + (s.of(sample) ?? 0), 0);
    }

    #paint({g, width, height, colour}, samples, x) {
        const all = samples.flatMap((sample) => this.series.map((_, i) => this.#height(sample, i) ?? 0));
        const max = roundUp(Math.max(this.least, ...all));
        const y = (value) => height - BOTTOM - (height - TOP - BOTTOM) * value / max;
        g.strokeStyle = colour("--line");
        g.fillStyle = colour("--muted");
        g.lineWidth = 1;
        for (const value of [0, max]) {
            g.beginPath();
            g.moveTo(0, Math.round(y(value)) + 0.5);
            g.lineTo(width, Math.round(y(value)) + 0.5);
            g.stroke();
        }
        g.fillText(this.format(max), 0, TOP - 4);
        for (let i = this.series.length - 1; i >= 0; i--)
            this.#line(g, samples, x, y, i, colour(`--${this.series[i].colour}`));
    }

    #line(g, samples, x, y, i, colour) {
        let run = []; // of samples that have a value
        const paint = () => {
            if (run.length === 0)
                return;
            g.beginPath();
            run.forEach(([px, py]) => g.lineTo(px, py));
            g.strokeStyle = g.fillStyle = colour;
            g.lineWidth = 1.5;
            g.lineJoin = "round";
            g.stroke();
            if (this.stacked) {
                g.lineTo(run[run.length - 1][0], y(0));
                g.lineTo(run[0][0], y(0));
                g.globalAlpha = 0.25;
                g.fill();
                g.globalAlpha = 1;
            } else if (run.length === 1) {
                g.fillRect(run[0][0] - 1.5, run[0][1] - 1.5, 3, 3);
            }
            run = [];
        };
        for (const sample of samples) {
            const value = this.#height(sample, i);
            if (value === null)
                paint();
            else
                run.push([x(sample.time), y(value)]);
        }
        paint();
    }
}
