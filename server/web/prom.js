// Prometheus' text format 0.0.4, as far as the plots need it.

// Map of metric name -> [{labels, value}].
export function parse(text) {
    const all = new Map();
    for (const line of text.split("\n")) {
        const found = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
        if (!found)
            continue;
        const labels = Object.fromEntries([...(found[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map((m) => [m[1], m[2]]));
        if (!all.has(found[1]))
            all.set(found[1], []);
        all.get(found[1]).push({labels, value: Number(found[3])});
    }
    return all;
}

export function sum(all, name, takes = () => true) {
    return (all.get(name) ?? []).filter(({labels}) => takes(labels)).reduce((total, {value}) => total + value, 0);
}

// Counts by upper bound, of all series of a histogram together.
function buckets(all, name) {
    const counts = new Map();
    for (const {labels, value} of all.get(`${name}_bucket`) ?? []) {
        const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
        counts.set(bound, (counts.get(bound) ?? 0) + value);
    }
    return counts;
}

// The q-quantile of what a histogram got between two scrapes, in its unit; null where that is nothing. Inside a bucket
// values are taken to be spread evenly, as in histogram_quantile.
export function quantile(before, after, name, q) {
    const old = buckets(before, name);
    const now = [...buckets(after, name)].sort((a, b) => a[0] - b[0]).map(([bound, n]) => [bound, n - (old.get(bound) ?? 0)]);
    const total = now.length > 0 ? now[now.length - 1][1] : 0;
    if (total <= 0)
        return null;
    let low = 0, below = 0;
    for (const [bound, n] of now) {
        if (n >= q * total)
            return bound === Infinity ? low : low + (bound - low) * (q * total - below) / (n - below);
        low = bound;
        below = n;
    }
    return low;
}
