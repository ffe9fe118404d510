"""The Debian package: built, installed into an empty root, run from there, removed, purged."""

import os
import pathlib
import re
import shutil
import signal
import subprocess

import pytest

from conftest import BUILD, MODEL, SRC
from manager import Managed, Manager

NEEDED = ["dpkg-deb", "dpkg", "objdump", "systemd-sysusers", "systemd-tmpfiles", "deb-systemd-helper"]
# What dpkg and the scripts leave by design: the database, the user, empty folders.
LEFT = re.compile(r"(var/lib/dpkg|var/lib/systemd|var/log|etc/(passwd|group|shadow|gshadow)-?$|etc/\.pwd\.lock$)")


def files(root):
    return {str(p.relative_to(root)) for p in root.rglob("*") if not p.is_dir() or p.is_symlink()}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    missing = [p for p in NEEDED if not shutil.which(p)]
    if missing:
        pytest.skip(f"no {', '.join(missing)} (Debian: dpkg, binutils, systemd, init-system-helpers)")
    if os.geteuid() != 0:
        pytest.skip("dpkg --root needs root")
    stage, out = tmp_path_factory.mktemp("stage"), tmp_path_factory.mktemp("out")
    if (BUILD / "Makefile").exists():
        subprocess.run(["make", "-s", "-C", BUILD, "install", f"DESTDIR={stage}", "prefix=/usr", "sysconfdir=/etc"], check=True, stdout=subprocess.DEVNULL)
    else:
        (stage / "usr/bin").mkdir(parents=True)
        for program in ("skeind", "skein-engine", "skein-build"):
            shutil.copy2(BUILD / program, stage / "usr/bin")
        subprocess.run(["sh", SRC / "systemd/install.sh", "install", stage, "/usr", "/usr/bin", "/etc", BUILD / "skeind"], check=True)
    subprocess.run(["sh", SRC / "systemd/deb/build.sh", stage, "1.2.3", out], check=True, stdout=subprocess.DEVNULL)
    return next(out.iterdir())


def dpkg(root, *args):
    command = ["dpkg", f"--root={root}", "--force-script-chrootless,depends", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "root"
    for folder in ("var/lib/dpkg/info", "var/lib/dpkg/updates", "var/log", "etc"):
        (root / folder).mkdir(parents=True)
    for name in ("status", "available"):
        (root / "var/lib/dpkg" / name).touch()
    return root


def field(package, name):
    return subprocess.run(["dpkg-deb", "--field", package, name], capture_output=True, text=True, check=True).stdout.strip()


def test_control(package):
    assert package.name == f"skein_1.2.3-1_{field(package, 'Architecture')}.deb"
    depends = field(package, "Depends")
    for library in ("libuv1", "libmicrohttpd12", "libgnutls30", "libpcre2-8-0", "libnettle8", "libcjson1", "libc6"):
        assert re.search(rf"\b{library} \(>= [\d.:~+a-z]+\)", depends), depends
    assert "python3-jinja2" in depends
    listing = subprocess.run(["dpkg-deb", "--contents", package], capture_output=True, text=True, check=True).stdout
    assert all(line.split()[1] == "root/root" for line in listing.splitlines())
    for path in ("usr/bin/skeind", "usr/bin/skein-engine", "usr/bin/skein-build", "usr/lib/systemd/system/skeind.service", "etc/skein/skein.conf"):
        assert f" ./{path}\n" in listing, listing


def exec_start(root):
    unit = (root / "usr/lib/systemd/system/skeind.service").read_text()
    return re.search(r"^ExecStart=(.*)$", unit, re.M).group(1).split()


@pytest.fixture
def manager(tmp_path):
    m = Manager(tmp_path / "notify")
    yield m
    m.close()


def test_life(package, root, manager):
    dpkg(root, "-i", package)
    assert re.search(r"^skein:[!x*]*:\d+:\d+:.*:/var/cache/skein:", (root / "etc/passwd").read_text(), re.M)
    assert (root / "etc/skein/credentials").stat().st_mode & 0o777 == 0o700
    assert (root / "etc/systemd/system/multi-user.target.wants/skeind.service").is_symlink()
    assert not (root / "etc/systemd/system/sockets.target.wants").exists()
    query = ["dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", "${Conffiles}", "skein"]
    assert " /etc/skein/skein.conf " in subprocess.run(query, capture_output=True, text=True, check=True).stdout

    program, *options = exec_start(root)
    assert (program, options) == ("/usr/bin/skeind", ["--config", "/etc/skein/skein.conf"])
    conf = root / "etc/skein/skein.conf"
    command = [str(root) + program, options[0], str(conf)]
    assert "--model is missing" in subprocess.run(command, capture_output=True, text=True, timeout=60).stderr
    conf.write_text(f"model = {MODEL}\nlisten = 127.0.0.1:0\nthreads = 1\n")
    daemon = Managed(manager, None, command=command, env={"PATH": "/usr/bin:/bin", "CACHE_DIRECTORY": f"{root}/var/cache/skein"})
    manager.wait("READY=1")
    assert daemon.ok("/v1/completions", {"prompt": "x", "max_tokens": 3})["usage"]["completion_tokens"] == 3
    assert pathlib.Path(f"/proc/{daemon.engine_pid()}/exe").resolve() == root / "usr/bin/skein-engine"
    daemon.process.send_signal(signal.SIGTERM)
    manager.wait("STOPPING=1")
    assert daemon.close() == 0

    dpkg(root, "-i", package)  # again: the configuration stays
    assert conf.read_text().startswith("model = ")
    dpkg(root, "--remove", "skein")
    assert conf.exists() and not (root / "usr/bin/skeind").exists()
    assert any((root / "var/cache/skein").iterdir())
    (root / "etc/skein/credentials/api-keys").write_text("key\n")
    dpkg(root, "--purge", "skein")
    assert {f for f in files(root) if not LEFT.match(f)} == set()
    assert not (root / "etc/skein").exists() and not (root / "var/cache/skein").exists()


def test_what_the_administrator_disabled_stays_disabled(package, root):
    dpkg(root, "-i", package)
    link = root / "etc/systemd/system/multi-user.target.wants/skeind.service"
    link.unlink()
    dpkg(root, "-i", package)
    assert not link.is_symlink()
    dpkg(root, "--purge", "skein")
    assert {f for f in files(root) if not LEFT.match(f)} == set()
