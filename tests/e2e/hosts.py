"""Several "hosts" on one machine: network and host-name namespaces, joined by a switch that lives in a namespace of its own. Works as root
and, where user namespaces are allowed, as an ordinary user. Nothing has a name outside: what is left when a test dies goes with it.

    with Hosts(2) as h:
        h.write_hostfile(path, slots=1)
        p = h.popen(0, [skeind, "--hostfile", path, ...], env={**os.environ, **h.env()})
        sock = h.connect(0, port)      # to 127.0.0.1:port as host 0 sees it
        h.cut(1); h.mend(1)            # no packet comes through, and nobody is told
        h.processes(), h.processes(1)  # pids of what runs on the hosts, on host 1

All see the same files. An agent script stands in for ssh: like it, it gives commands a bare environment.
"""

import contextlib
import functools
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

NETWORK = "10.77.0"
READY = "echo ready && exec cat"  # until its standard input ends
# Makes connections for those who are not in its namespace: a port's number in, a descriptor out.
CONNECTOR = """
import array, socket, sys
s = socket.socket(fileno=int(sys.argv[1]))
while port := s.recv(8):
    try:
        c = socket.create_connection(("127.0.0.1", int(port)), timeout=10)
        c.settimeout(None)
        socket.send_fds(s, [b"1"], [c.fileno()])
        c.close()
    except OSError as e:
        s.send(str(e).encode() or b"?")
"""


class Hosts:
    def __init__(self, n):
        self.n = n
        self._holders, self._connectors = [], {}
        self._user = False

    def __enter__(self):
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    # ---- what a test uses ----

    def address(self, i):
        return f"{NETWORK}.{i + 1}"

    def name(self, i):
        return f"host{i}"

    def env(self):
        """For mpirun, or whoever starts it: how to come to the other hosts."""
        return {
            "OMPI_MCA_plm_rsh_agent": str(self.agent),
            "OMPI_MCA_btl_tcp_if_include": f"{NETWORK}.0/24",
            "OMPI_MCA_oob_tcp_if_include": f"{NETWORK}.0/24",
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        }

    def write_hostfile(self, path, slots=1, order=None):
        lines = [f"{self.address(i)} slots={slots}\n" for i in (range(self.n) if order is None else order)]
        pathlib.Path(path).write_text("".join(lines))
        return str(path)

    def popen(self, i, argv, env=None, **kw):
        """A command on host i; its pid is the command's own. `env` replaces the environment, as in subprocess."""
        return subprocess.Popen(self._enter(self._hosts[i], argv), env=env, **kw)

    def run(self, i, argv, timeout=60, **kw):
        """To its end: (status, stdout and stderr). Past the timeout it is killed, and that is an error."""
        p = self.popen(i, argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kw)
        try:
            out, _ = p.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            out, _ = p.communicate()
            raise AssertionError(f"{argv[0]} did not end within {timeout} s:\n{out}") from None
        return p.returncode, out

    def connect(self, i, port):
        """A connected socket to 127.0.0.1:port of host i."""
        if i not in self._connectors:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            argv = [sys.executable, "-c", CONNECTOR, str(theirs.fileno())]
            self._connectors[i] = ours, self.popen(i, argv, pass_fds=[theirs.fileno()], start_new_session=True)
            theirs.close()
        ours, _ = self._connectors[i]
        ours.send(str(port).encode())
        said, fds, _, _ = socket.recv_fds(ours, 256, 1)
        if not fds:
            raise ConnectionError(said.decode())
        return socket.socket(fileno=fds[0])

    def cut(self, i):
        self._ip(f"link set port{i} nomaster")

    def mend(self, i):
        self._ip(f"link set port{i} master switch")

    def processes(self, i=None, program=""):
        """Pids of what runs on the hosts, or on host i, and of one program if it is named; ours are not among them."""
        mine = {p.pid for p in self._holders} | {p.pid for _, p in self._connectors.values()}
        holders = self._hosts if i is None else [self._hosts[i]]
        places = {os.stat(f"/proc/{p.pid}/ns/net").st_ino for p in holders}
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{pid}/ns/net").st_ino not in places or int(pid) in mine or not is_running(pid):
                    continue
                if not program or os.path.basename(os.readlink(f"/proc/{pid}/exe")) == program:
                    found.append(int(pid))
        return found

    def kill(self):
        """Everything that runs on the hosts."""
        until = time.monotonic() + 10
        while (pids := self.processes()) and time.monotonic() < until:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    # ---- how it is made ----

    def _open(self):
        self.folder = tempfile.mkdtemp(prefix="skein-hosts-")
        self._user = not _allowed(["unshare", "-n", "-u"])
        self._holders.append(self._hold(["unshare", *(["-Ur"] if self._user else []), "-n", "-u"], READY))
        self._ip("link add switch type bridge")
        self._ip("link set switch up")
        for i in range(self.n):
            holder = self._hold(
                [*self._enter_user(), "unshare", "-n", "-u"], f"hostname {self.name(i)} && ip link set lo up && {READY}"
            )
            self._holders.append(holder)
            self._ip(f"link add port{i} type veth peer name eth0 netns {holder.pid}")
            self._ip(f"link set port{i} master switch up")
            for command in (f"addr add {self.address(i)}/24 dev eth0", "link set eth0 up"):
                subprocess.run(self._enter(holder, ["ip", *command.split()]), check=True)
        self._write_agent()

    @property
    def _hosts(self):
        return self._holders[1:]

    def _hold(self, enter, script):
        p = subprocess.Popen(
            [*enter, "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        if p.stdout.readline() != b"ready\n":
            raise RuntimeError("namespaces cannot be made here")
        return p

    def _enter_user(self):
        return ["nsenter", "-t", str(self._holders[0].pid), "-U", "--preserve-credentials"] if self._user else []

    def _enter(self, holder, argv):
        return [*self._enter_user(), "nsenter", "-t", str(holder.pid), "-n", "-u", *argv]

    def _ip(self, command):
        subprocess.run(self._enter(self._holders[0], ["ip", *command.split()]), check=True)

    def _write_agent(self):
        """agent HOST COMMAND...: as ssh, but by nsenter. mpirun runs it on a host, so within the user namespace."""
        cases = "".join(f"{self.address(i)}|{self.name(i)}) pid={p.pid} ;;\n" for i, p in enumerate(self._hosts))
        self.agent = pathlib.Path(self.folder, "agent")
        self.agent.write_text(
            f'#!/bin/sh\nhost=$1\nshift\ncase $host in\n{cases}*) echo "no host $host" >&2; exit 255 ;;\nesac\n'
            'exec nsenter -t $pid -n -u env -i PATH="$PATH" HOME="$HOME" sh -c "$*"\n'
        )
        self.agent.chmod(0o700)

    def close(self):
        if self._holders:
            self.kill()
        for ours, p in self._connectors.values():
            ours.close()
            p.wait()
        for p in reversed(self._holders):
            p.stdin.close()
            p.wait()
            p.stdout.close()
        self._holders, self._connectors = [], {}
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder, ignore_errors=True)


def is_running(pid):
    """Not one that has ended and waits for its parent."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _allowed(argv):
    return subprocess.run([*argv, "true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


@functools.cache
def why_not():
    """Why there can be no hosts here, for pytest.skip; None where they can."""
    for tool in ("ip", "unshare", "nsenter", "mpirun"):
        if not shutil.which(tool):
            return f"{tool} is not installed"
    if not _allowed(["unshare", "-n", "-u"]) and not _allowed(["unshare", "-Ur", "-n", "-u"]):
        return "network namespaces cannot be made: not root, and user namespaces are forbidden"
    try:
        with Hosts(1):
            return None
    except (subprocess.CalledProcessError, RuntimeError, OSError) as e:
        return f"network namespaces cannot be joined: {e}"
