#!/bin/sh
# The daemon alone: tests/bench/front.sh BUILD_DIR [MODEL]. Starts skeind with mock_engine behind it on CPU 0, the load generator
# and the engine on CPU 1, and prints the figures of open streams and of POST /tokenize. Environment: STREAMS (64 and 10000),
# SECONDS_EACH (10), CPU_SERVER (0), CPU_CLIENT (1), STEP_MS (100).
set -eu
build=$(cd "$1" && pwd)
model=${2:-$(cd "$(dirname "$0")/../.." && pwd)/tests/golden/tiny/llama}
streams=${STREAMS:-64 10000}
seconds=${SECONDS_EACH:-10}
tmp=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || :; rm -rf "$tmp"' EXIT
ulimit -n "$(ulimit -H -n)"
mkdir "$tmp/bin"
cp "$build/skeind" "$build/skein-build" "$tmp/bin"
cp "$build/tests/tools/mock_engine" "$tmp/bin/skein-engine"
key=bench-key
printf 'bench sha256:%s\n' "$(printf %s "$key" | sha256sum | cut -d ' ' -f 1)" >"$tmp/keys"

serve() { # options of skeind
    rm -f "$tmp/times"
    SKEIN_MOCK_TIMES=$tmp/times SKEIN_MOCK_CPU=${CPU_CLIENT:-1} SKEIN_MOCK_STEP_MS=${STEP_MS:-100} \
        taskset -c "${CPU_SERVER:-0}" "$tmp/bin/skeind" --model "$model" --listen 127.0.0.1:0 --cache-dir "$tmp/cache" \
        --max-connections 20000 --max-queue 20000 --access-log off --log-level warn "$@" >"$tmp/out" 2>"$tmp/log" &
    pid=$!
    port=
    until [ -n "$port" ]; do
        kill -0 "$pid"
        sleep 0.05
        port=$(sed -n 's/.*127\.0\.0\.1:\([0-9]*\).*/\1/p' "$tmp/out")
    done
    until curl -sf -o "$tmp/ready" "http://127.0.0.1:$port/ready"; do
        kill -0 "$pid"
        sleep 0.05
    done
}
stop() {
    kill "$pid"
    wait "$pid" || cat "$tmp/log"
    pid=
}
load() { # mode, connections
    taskset -c "${CPU_CLIENT:-1}" "$build/tests/bench/bench_front" "$1" --port "$port" --pid "$pid" --count "$2" \
        --seconds "$seconds" --times "$tmp/times" --key "$key"
}

for n in $streams; do
    serve --api-key-file "$tmp/keys" --drain-timeout 100
    load streams "$n"
    stop
done
serve --api-key-file "$tmp/keys" --drain-timeout 100
load tokenize 64
stop
