"""What skeind says of its options, and where it takes them from."""

import re
import subprocess

import pytest

from conftest import BUILD, SRC

ROW = re.compile(r'^SK_OPT_(\w+)\((\w+), "([^"]+)", ([DEBLCFR| ]+), (.*)\)$', re.M)


class Row:
    def __init__(self, kind, field, name, prog, rest):
        self.kind, self.name = kind, name
        self.prog = prog.split(" | ")
        self.default = rest.split(", ")[0].strip('"')
        self.rest = rest

    def another(self):
        """A value that is not the default."""
        if self.kind == "INT":
            _, low, high, *_ = self.rest.split(", ")
            return (low if self.default != low else high).replace("INT64_MAX", str(2**63 - 1))
        if self.kind == "BOOL":
            return "false" if self.default == "true" else "true"
        if self.kind == "ENUM":
            choices = self.rest.split(", ")[1].strip('"').split("|")
            return next(c for c in choices if c != self.default)
        return f"x {self.name}=#"


ROWS = [Row(*m) for m in ROW.findall((SRC / "conf/options.def").read_text())]
DAEMON_ROWS = [r for r in ROWS if "D" in r.prog]
FILE_ROWS = [r for r in DAEMON_ROWS if r.name != "config"]


def skeind(*args):
    return subprocess.run([BUILD / "skeind", *args], capture_output=True, text=True, timeout=30)


def printed(*args):
    done = skeind(*args, "--print-config")
    assert done.returncode == 0, done.stderr
    return done.stdout


def values(text):
    """What a printed configuration sets, without what it only shows."""
    return dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line and not line.startswith("#"))


def complaint(*args):
    done = skeind(*args)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.strip()


def write(folder, **files):
    """conf: the file itself, others: drop-ins. Returns the file's path."""
    (folder / "conf.d").mkdir()
    for name, text in files.items():
        path = folder / "skein.conf" if name == "conf" else folder / "conf.d" / name.replace("_", ".")
        path.write_text(text)
    return str(folder / "skein.conf")


def test_table_is_read():
    assert len(ROWS) == (SRC / "conf/options.def").read_text().count("\nSK_OPT_")
    assert len(FILE_ROWS) > 40


def test_help_names_every_option():
    done = skeind("--help")
    assert done.returncode == 0 and done.stderr == ""
    for row in DAEMON_ROWS:
        flag = rf"--\[no-\]{row.name}" if row.kind == "BOOL" else f"--{row.name} "
        assert re.search(rf"^  {flag}", done.stdout, re.M), row.name
    for name in {r.name for r in ROWS} - {r.name for r in DAEMON_ROWS}:
        assert f"--{name} " not in done.stdout, name
    for flag in ("--check-config", "--print-config", "--help", "--version"):
        assert flag in done.stdout


def test_sample_sets_nothing_and_shows_all():
    sample = printed()
    assert values(sample) == {}
    shown = re.findall(r"^#([a-z-]+) =", sample, re.M)
    assert shown == [r.name for r in FILE_ROWS]


def test_sample_marks_what_a_reload_changes():
    blocks = printed().split("\n\n")
    for row in FILE_ROWS:
        (block,) = [b for b in blocks if re.search(rf"^#{row.name} =", b, re.M)]
        assert ("reload]" in block.replace("\n# ", " ")) == ("R" in row.prog), block


def test_every_option_reads_back(tmp_path):
    path = tmp_path / "all.conf"
    path.write_text("".join(f"{r.name} = {r.another()}\n" for r in FILE_ROWS))
    text = printed("--config", str(path))
    assert list(values(text)) == [r.name for r in FILE_ROWS]
    path.write_text(text)
    assert printed("--config", str(path)) == text
    by_words = [f"--{r.name}={r.another()}" for r in FILE_ROWS]
    assert printed(*by_words) == text


def test_dropins_in_order(tmp_path):
    path = write(
        tmp_path,
        **{
            "conf": "max-seqs = 1\nmax-queue = 1\nthreads = 1\nlog-level = warn\n",
            "20-b_conf": "max-seqs = 20\n",
            "10-a_conf": "max-seqs = 10\nmax-queue = 10\n",
            "_conf": "max-seqs = 99\n",
            "30-c_conf~": "max-seqs = 99\n",
            "README": "not for us\n",
        },
    )
    got = values(printed("--threads", "7", "--config", path))
    assert got == {"max-seqs": "20", "max-queue": "10", "threads": "7", "log-level": "warn"}


def test_dropin_errors_name_file_and_line(tmp_path):
    path = write(tmp_path, **{"conf": "", "a_conf": "max-seqs = 2\n", "b_conf": "# words\n\nmax-sqes = 3\n"})
    assert complaint("--config", path) == f"skeind: {tmp_path}/conf.d/b.conf:3: unknown option 'max-sqes'; did you mean 'max-seqs'?"


@pytest.mark.parametrize(
    "line, words",
    [
        ("frobnicate = 1", ":2: unknown option 'frobnicate'"),
        ("log_level = warn", ":2: unknown option 'log_level'; did you mean 'log-level'?"),
        ("drain-timeout = 30s", ":2: drain-timeout must be an integer from 0 to 86400000 ms, not '30s'"),
        ("log-format = xml", ":2: log-format must be one of text|json, not 'xml'"),
        ("config = other.conf", ":2: a configuration file cannot name another one"),
        ("[server]", ":2: expected 'name = value', not '[server]'"),
    ],
)
def test_file_errors_name_the_line(tmp_path, line, words):
    path = tmp_path / "skein.conf"
    path.write_text(f"max-seqs = 2\n{line}\nmax-seqs = 0\n")
    for more in ([], ["--check-config"], ["--print-config"]):
        assert complaint("--config", str(path), *more) == f"skeind: {path}{words}"


@pytest.mark.parametrize("listen", ["", ","])
def test_somewhere_it_has_to_listen(tmp_path, listen):
    model = tmp_path / "model.gguf"
    model.write_bytes(b"")
    said = complaint("--model", model, f"--listen={listen}")
    assert said == "skeind: there is no address to listen on: --listen names none"
