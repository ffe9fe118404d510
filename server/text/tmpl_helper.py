"""Renders chat templates for skeind, in a process of its own that may die at any time.

stdin and stdout carry frames: a little-endian uint32 of the length, then so many bytes.
First in: {"template", "bos_token", "eos_token", "guarded", "max_out_bytes", "memory_bytes", "cpu_s"}; first out: "R" (ready),
or "T" and why not. Then for each request one answer: a letter ("O" prompt, "T" error of the template or the request, "B" too big), then UTF-8.

The environment is what transformers gives its templates (utils/chat_template_utils.py): ImmutableSandboxedEnvironment, trim_blocks,
lstrip_blocks, loop controls, tojson without HTML escapes, raise_exception, strftime_now, and the generation block.
"""
import datetime
import json
import os
import re
import resource
import struct
import sys

GUARD = "\ufdd0"  # keeps user-written spellings of control tokens from being control tokens: removed by the tokenizer
TAG = "\ufdd1 "   # marks the end of the final message where it is to be continued; the space shows whether it was trimmed
RESERVED = ("messages", "tools", "add_generation_prompt", "bos_token", "eos_token")
CACHED_TEMPLATES = 8
COMPILE_CPU_S = 2


class Refused(Exception):
    pass


class TooBig(Exception):
    pass


def read_exactly(n):
    parts = []
    while n > 0:
        part = os.read(0, min(n, 1 << 20))
        if not part:
            os._exit(0)  # the daemon has gone
        parts.append(part)
        n -= len(part)
    return b"".join(parts)


def read_frame():
    return json.loads(read_exactly(struct.unpack("<I", read_exactly(4))[0]))


def write_frame(letter, text):
    data = letter.encode() + text.encode("utf-8", "replace")
    view = memoryview(struct.pack("<I", len(data)) + data)
    while view:
        view = view[os.write(1, view):]


def limit_process(memory_bytes):
    """After all imports: no more memory than that, no new files, no core."""
    for what, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 16),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def limit_cpu(seconds):
    """From here on; SIGXCPU ends the process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def make_environment():
    import jinja2
    import jinja2.ext
    import jinja2.nodes
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """{% generation %} marks the assistant's tokens for training; here its body is just rendered."""

        tags = {"generation"}

        def parse(self, parser):
            lineno = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=lineno)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda fmt: datetime.datetime.now().strftime(fmt)
    return env


def join_parts(parts):
    texts = []
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        text = part if isinstance(part, str) else part.get("text" if kind == "text" else kind)
        if kind not in ("text", "refusal") or not isinstance(text, str):
            raise Refused(f"a content part of type {kind!r} is not supported: this model reads text only")
        texts.append(text)
    return "\n".join(texts)


def normalised_call(call):
    """Arguments come as JSON text in the API; templates want the object."""
    function = call.get("function") if isinstance(call, dict) else None
    arguments = function.get("arguments") if isinstance(function, dict) else None
    if not isinstance(arguments, str):
        return call
    try:
        value = json.loads(arguments)
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": value}} if isinstance(value, dict) else call


def normalised(message):
    """What clients of the API may write, in the form that templates are written for."""
    message = dict(message)
    content = message.get("content")
    if isinstance(content, list):
        message["content"] = join_parts(content)
    elif content is None and ("content" in message or message.get("tool_calls")):
        message["content"] = ""
    if isinstance(message.get("tool_calls"), list):
        message["tool_calls"] = [normalised_call(call) for call in message["tool_calls"]]
    return message


class Guard:
    """Puts GUARD after the first character of each guarded spelling, overlapping ones too."""

    def __init__(self, spellings):
        ordered = sorted((s for s in spellings if s), key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def text(self, s):
        if GUARD in s or TAG[0] in s:
            raise Refused("the characters U+FDD0 and U+FDD1 are not allowed")
        if not self.pattern:
            return s
        out, done, match = [], 0, self.pattern.search(s)
        while match:
            out += (s[done : match.start() + 1], GUARD)
            done = match.start() + 1
            match = self.pattern.search(s, done)
        return "".join(out) + s[done:] if out else s

    def value(self, v):
        if isinstance(v, str):
            return self.text(v)
        if isinstance(v, list):
            return [self.value(x) for x in v]
        if isinstance(v, dict):
            return {self.text(k): self.value(x) for k, x in v.items()}
        return v


class Renderer:
    def __init__(self, env, conf):
        self.env = env
        self.tokens = {k: conf[k] for k in ("bos_token", "eos_token") if conf[k]}
        self.guard = Guard(conf["guarded"])
        self.max_out_bytes = conf["max_out_bytes"]
        self.compiled = {}
        self.own = conf["template"]
        self.template(self.own)

    def template(self, source):
        found = self.compiled.pop(source, None) or self.env.from_string(source)
        self.compiled[source] = found  # the youngest is the last
        if len(self.compiled) > CACHED_TEMPLATES:
            del self.compiled[next(k for k in self.compiled if k != self.own)]
        return found

    def run(self, source, variables):
        out, n = [], 0
        for piece in self.template(source).generate(**variables):
            n += len(piece)
            if n > self.max_out_bytes:
                raise TooBig()
            out.append(piece)
        return "".join(out)

    def render(self, job):
        messages = [normalised(m) for m in job["messages"]]
        kwargs = job.get("kwargs") or {}
        if not messages:
            raise Refused("there are no messages")
        for name in RESERVED:
            if name in kwargs:
                raise Refused(f"chat_template_kwargs may not set {name!r}")
        messages, tools, kwargs = (self.guard.value(v) for v in (messages, job.get("tools") or None, kwargs))
        to_continue = job.get("continue_final_message")
        if to_continue:
            if not isinstance(messages[-1].get("content"), str):
                raise Refused("continue_final_message: the last message has no text")
            messages[-1]["content"] += TAG
        variables = {"documents": None, **self.tokens, **kwargs, "messages": messages, "tools": tools}
        variables["add_generation_prompt"] = bool(job.get("add_generation_prompt"))
        text = self.run(job.get("chat_template") or self.own, variables)
        return self.until_tag(text) if to_continue else text

    @staticmethod
    def until_tag(text):
        at = text.rfind(TAG[0])
        if at < 0:
            raise Refused("continue_final_message: the template does not print the last message")
        return text[:at] if text.startswith(TAG, at) else text[:at].rstrip()


def answer(renderer, job):
    try:
        return "O", renderer.render(job)
    except TooBig:
        return "B", "the rendered prompt is too long"
    except MemoryError:
        return "T", "the template needs too much memory"
    except RecursionError:
        return "T", "the template recurses too deeply"
    except Exception as e:  # the template is not ours: whatever it raises is its error
        return "T", str(e) or type(e).__name__


def main():
    conf = read_frame()
    try:
        env = make_environment()
        limit_process(conf["memory_bytes"])  # the compiler computes constants: it needs limits too
        limit_cpu(conf["cpu_s"] + COMPILE_CPU_S)
        renderer = Renderer(env, conf)
    except ImportError as e:
        write_frame("T", f"Jinja2 is not installed for {sys.executable} (package python3-jinja2): {e}")
        return
    except Exception as e:
        write_frame("T", f"the chat template does not compile: {str(e) or type(e).__name__}")
        return
    write_frame("R", "")
    while True:
        job = read_frame()
        limit_cpu(conf["cpu_s"])
        letter, text = answer(renderer, job)
        if len(text.encode("utf-8", "replace")) > conf["max_out_bytes"]:
            letter, text = "B", "the rendered prompt is too long"
        write_frame(letter, text)


main()
