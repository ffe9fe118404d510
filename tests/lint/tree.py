#!/usr/bin/env python3
"""Holds the shape of the tree: who may include whom, where third-party headers live, how long files and functions get.

Includes are written from the root, so `grep '#include "'` is the graph; this test is that grep with the rules of README's map."""
import os
import re
import sys

ROOT = os.path.abspath(os.environ.get("SK_SRCDIR", os.path.join(os.path.dirname(__file__), "../..")))
SOURCES = ("comm", "server", "engine", "kernels", "clients")
MAX_FILE, MAX_FUNCTION = 1000, 150

# folder -> folders (or files) that it may include; a longer prefix wins
MAY = {
    "comm/base": ["comm/base", "conf"],
    "comm/dir": ["comm/dir", "comm/base", "conf"],
    "comm/wire": ["comm/wire", "comm/base", "conf"],
    "comm/group": ["comm/group", "comm/base", "kernels/kernels.h"],
    "kernels": ["kernels", "comm/base", "comm/dir/dtype.h", "comm/dir/pack.h", "comm/group/group.h"],
    "server/http": ["server/http", "comm/base"],
    "server/text": ["server/text", "comm/base", "comm/dir"],
    "server/metrics": ["server/metrics", "comm/base", "conf"],
    "server/job": ["server/job", "server/metrics", "comm"],
    "server/api": ["server", "comm", "conf"],
    "server": ["server", "comm", "conf"],
    "engine/model": ["engine/model", "kernels/kernels.h", "comm"],
    "engine/batch": ["engine/batch", "engine/model/crew.h", "engine/model/step.h", "engine/model/timeline.h", "comm"],
    "engine/build": ["engine/build", "engine/model/step.h", "engine/model/tune.h", "kernels/kernels.h", "comm"],
    "engine": ["engine", "kernels/kernels.h", "comm", "conf"],
    "clients": ["clients", "comm", "conf"],
}
# third-party header -> the only files or folders that may include it
ONLY = {
    "microhttpd.h": ["server/http/mhd.h"],
    "uv.h": ["server"],
    "gnutls/gnutls.h": ["server/http/tls.c"],
    "gnutls/x509.h": ["server/http/tls.c"],
    "mpi.h": ["comm/group/group_mpi.c", "comm/group/group_mpi.h", "comm/group/world.c"],
    "cjson/cJSON.h": ["comm/base/json.c"],
    "pcre2.h": ["server/text"],
    "utf8proc.h": ["server/text"],
    "xxhash.h": ["comm/dir", "engine"],
    "immintrin.h": ["kernels/cpu"],
    "curl/curl.h": ["clients"],
    "histedit.h": ["clients/skein"],
}


def files():
    for top in SOURCES:
        for base, _, names in os.walk(os.path.join(ROOT, top)):
            for n in names:
                if n.endswith((".c", ".h")):
                    yield os.path.relpath(os.path.join(base, n), ROOT)


def under(path, prefix):
    return path == prefix or path.startswith(prefix + "/")


def check_includes(path, text, bad):
    rule = max((p for p in MAY if under(path, p)), key=len)
    for m in re.finditer(r'^#include\s+([<"])([^>"]+)[>"]', text, re.M):
        line = text.count("\n", 0, m.start()) + 1
        kind, name = m.groups()
        if kind == '"':
            if not os.path.exists(os.path.join(ROOT, name)) and not name.startswith("server/"):
                bad.append(f"{path}:{line}: \"{name}\" is not written from the root")
            elif not any(under(name, p) for p in MAY[rule]):
                bad.append(f"{path}:{line}: {rule} may not include {name}")
        elif name in ONLY and not any(under(path, p) for p in ONLY[name]):
            bad.append(f"{path}:{line}: <{name}> belongs to {', '.join(ONLY[name])}")


def check_sizes(path, text, bad):
    lines = text.split("\n")
    if len(lines) > MAX_FILE:
        bad.append(f"{path}: {len(lines)} lines; a file has at most {MAX_FILE}")
    start = None
    for i, line in enumerate(lines):
        if line == "{":
            start = i
        elif line == "}" and start is not None:
            if i - start > MAX_FUNCTION:
                bad.append(f"{path}:{start}: a function of {i - start} lines; at most {MAX_FUNCTION}")
            start = None


def main():
    bad, n = [], 0
    for path in files():
        n += 1
        with open(os.path.join(ROOT, path), encoding="utf-8") as f:
            text = f.read()
        check_includes(path, text, bad)
        check_sizes(path, text, bad)
    for b in bad:
        print(b)
    if n < 50:
        bad.append("too few files")
        print(f"only {n} files were found under {ROOT}")
    print(f"lint: {n} files, {len(bad)} complaints")
    return 1 if bad else 0


sys.exit(main())
