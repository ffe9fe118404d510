"""A service manager as skeind sees one: a socket for notifications, a store of descriptors, sockets passed on."""

import array
import os
import re
import socket
import subprocess
import sys
import time

from conftest import BUILD, MODEL, START_S, Daemon

# Descriptors 3 and up in the order of the arguments, then skeind in the same process: LISTEN_PID is its own.
LAUNCH = """
import fcntl, os, sys
n = int(sys.argv[1])
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[2 : 2 + n]]
os.closerange(3, 100)
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2 + n], sys.argv[2 + n :])
"""


class Managed(Daemon):
    """Without --listen unless `args` have it; `sockets`: (socket, name) of each descriptor that is passed; `command`
    instead of all else that would be on the command line."""

    def __init__(self, manager, cache, *args, sockets=(), env=None, bin=BUILD, command=None, wait=True):
        command = command or [str(bin / "skeind"), "--model", MODEL, "--cache-dir", str(cache), "--threads", "1", *args]
        fds = [s.fileno() for s, _ in sockets]
        passed = {}
        if sockets:
            command = [sys.executable, "-c", LAUNCH, str(len(fds)), *map(str, fds), *command]
            passed = {"LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": ":".join(name for _, name in sockets)}
        self.process = subprocess.Popen(
            command,
            pass_fds=fds,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **passed, "NOTIFY_SOCKET": manager.address, **(env or {})},
        )
        manager.processes.append(self.process)
        self.log = []
        self.port = self._find_port()
        os.set_blocking(self.process.stdout.fileno(), False)
        if wait:
            self.wait_ready()

    def listening(self):
        return re.findall(r"skeind: listening on (\S+(?: \(admin\))?)", self.drain_log())


class Manager:
    def __init__(self, path):
        self.address = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.address)
        self.heard = []  # every message, as a list of lines
        self.store = {}  # FDNAME -> socket
        self.processes = []

    def receive(self, timeout):
        self.socket.settimeout(timeout)
        try:
            data, control, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(4))
        except TimeoutError:
            return None
        lines = data.decode().split("\n")
        self.heard.append(lines)
        names = [line[len("FDNAME=") :] for line in lines if line.startswith("FDNAME=")]
        for level, kind, raw in control:
            assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS) and lines[0] == "FDSTORE=1"
            fd = array.array("i", raw)[0]
            self.store[names[0]] = socket.socket(fileno=fd)
        if "FDSTOREREMOVE=1" in lines:
            self.store.pop(names[0]).close()
        return lines

    def wait(self, pattern, timeout=START_S):
        """The first message from now on with a line that matches."""
        until = time.monotonic() + timeout
        while (left := until - time.monotonic()) > 0:
            lines = self.receive(left)
            if lines and any(re.fullmatch(pattern, line) for line in lines):
                return lines
        raise AssertionError(f"{pattern} did not come; heard {self.heard}")

    def drain(self):
        while self.receive(0.05):
            pass
        return self.heard

    def kept(self):
        return [(s, name) for name, s in self.store.items()]

    def close(self):
        for process in self.processes:  # those of a test that failed
            if process.poll() is None:
                process.kill()
                process.wait()
        for s in [self.socket, *self.store.values()]:
            s.close()
