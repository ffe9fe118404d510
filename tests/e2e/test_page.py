"""The built-in page in a real browser, and what is served for it."""

import contextlib
import json
import os
import re
import signal
import threading

import pytest

import browser as chromium

CTRL_ENTER = {"key": "Enter", "ctrl": True}
EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
VIEWS = ("chat", "tokens", "live")


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    if chromium.program() is None:
        pytest.skip("there is no chromium here; SK_CHROMIUM may name one")
    it = chromium.Browser(tmp_path_factory.mktemp("browser"))
    yield it
    it.close()


@pytest.fixture
def tab(browser):
    """tab(daemon, view, **options of Page): a new tab on that view. None may leave a complaint."""
    tabs = []

    def show(daemon, view="chat", **kw):
        page = browser.page(**kw)
        tabs.append(page)
        page.open(f"http://127.0.0.1:{daemon.port}/#{view}")
        page.wait("document.querySelector('nav [aria-current]')")
        return page

    yield show
    for page in tabs:
        assert page.complaints() == []
        page.close()


@contextlib.contextmanager
def engine_held(daemon):
    """Its engine does nothing meanwhile."""
    pid = daemon.engine_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def fill(page, selector, text):
    page.run(f"document.querySelector('{selector}').focus(), document.querySelector('{selector}').select()")
    page.type(text)


def click(page, text):
    """The button with this text, or whose text begins with it."""
    find = f"[...document.querySelectorAll('button')].find(b => b.checkVisibility() && b.textContent.startsWith('{text}'))"
    page.wait(find)
    page.run(f"{find}.click()")


def texts(page, selector):
    return page.run(f"[...document.querySelectorAll('{selector}')].map(e => e.textContent)")


def say(page, text):
    page.run("document.querySelector('#chat-input').focus()")
    page.type(text)
    page.press(**CTRL_ENTER)


def wait_answer(page, n_article):
    page.wait(f"document.querySelectorAll('article').length === {n_article} && document.querySelector('.log[aria-busy=false]')")


# --- what is served ---


def test_policy(server):
    page = server.get("/")
    assert page.status == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert not re.search(rb"<style|style=|<script>|\son\w+=|https?://(?!www\.w3\.org/2000/svg)", page.body)


def test_files(server):
    names = re.findall(r'(?:src|href)="(web/[^"]+)"', server.get("/").body.decode())
    assert len(names) >= 3
    for path in ["/", *(f"/{name}" for name in names)]:
        whole = server.get(path)
        assert whole.status == 200
        assert whole.headers["cache-control"] == "no-cache"
        tag = whole.headers["etag"]
        again = server.get(path, headers={"If-None-Match": f'"other", W/{tag}'})
        assert (again.status, again.body) == (304, b"")
        assert server.get(path, headers={"If-None-Match": '"other"'}).body == whole.body
        head = server.request("HEAD", path)
        assert (head.status, head.body, head.headers["etag"]) == (200, b"", tag)
    assert server.get("/web/none.js").status == 404
    assert server.get("/web/").status == 404
    assert server.post("/", {}).status == 405
    assert server.get("/elsewhere").status == 404


def test_stats(server):
    server.ok("/v1/completions", {"prompt": "a b c", "max_tokens": 4, "ignore_eos": True})
    stats = server.get("/stats").json
    (engine,) = stats["engines"]
    assert engine["ready"] and engine["running"] == 0 and engine["sequences"] == [] and engine["jobs"] == []
    blocks = engine["blocks"]
    assert blocks["held"] == 0 and blocks["total"] == blocks["cached"] + blocks["free"] > 0


def test_keys_are_for_what_is_shown(start, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("alice sha256:2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90\n")  # alice
    daemon = start("--threads", "1", "--api-key-file", str(keys))
    assert daemon.get("/").status == daemon.get("/web/main.js").status == 200
    assert daemon.get("/stats").status == 401
    refused = daemon.get("/stats", headers={"Authorization": "Bearer alice"})
    assert refused.status == 403 and "metrics" in refused.error["message"]


# --- the modules by themselves ---


def test_event_stream(server, tab):
    page = tab(server)
    pieces = ["data: a\r", "\n\r\n: no\ndata:b\ndata:  c\n", "\n", "", "event: x\rdata\r\r", "data: d\n", "\ndata: e\n"]
    script = "import('/web/sse.js').then(m => {{ const p = new m.EventParser(); return {}.map(t => p.push(t)); }})"
    assert page.run(script.format(json.dumps(pieces))) == [[], ["a"], ["b\n c"], [], [""], [], ["d"]]
    assert sum(page.run(script.format(json.dumps(list("".join(pieces))))), []) == ["a", "b\n c", "", "d"]


@pytest.mark.parametrize("text, html", [
    ("one\ntwo\n\nthree", "<p>one\ntwo</p><p>three</p>"),
    ("# H\ntext", "<h3>H</h3><p>text</p>"),
    ("- a\n- **b** `c`\n  more", "<ul><li>a</li><li><strong>b</strong> <code>c</code>\nmore</li></ul>"),
    ("3. x\n4. y", '<ol start="3"><li>x</li><li>y</li></ol>'),
    ("> q", "<blockquote>q</blockquote>"),
    ("```c\n<b> *x*\n\n# y\n```\nz", '<pre tabindex="0" aria-label="Code, c"><code>&lt;b&gt; *x*\n\n# y</code></pre><p>z</p>'),
    ("```\nopen", '<pre tabindex="0" aria-label="Code"><code>open</code></pre>'),
    ("2 * 3 * 4 and a_b_c", "<p>2 * 3 * 4 and a_b_c</p>"),
    ("*i* _j_ **open", "<p><em>i</em> <em>j</em> **open</p>"),
    ("<b>&amp;</b> [x](javascript:y)", "<p>&lt;b&gt;&amp;amp;&lt;/b&gt; [x](javascript:y)</p>"),
])
def test_markdown(server, tab, text, html):
    script = """import('/web/markdown.js').then(m => {
        const whole = document.createElement('div'), grown = document.createElement('div'), text = %s;
        m.show(whole, text);
        for (let i = 1; i <= text.length; i++)
            m.show(grown, text.slice(0, i));
        return [whole.innerHTML, grown.innerHTML];
    })"""
    assert tab(server).run(script % json.dumps(text)) == [html, html]


def test_metrics_text(server, tab):
    server.ok("/v1/completions", {"prompt": "a", "max_tokens": 2, "ignore_eos": True})
    text = server.get("/metrics").body.decode()
    script = f"import('/web/prom.js').then(m => {{ const all = m.parse({json.dumps(text)}), none = m.parse(''); return [%s]; }})"
    name = "vllm:time_to_first_token_seconds"
    n, median = tab(server).run(script % f"m.sum(all, '{name}_count'), m.quantile(none, all, '{name}', 0.5)")
    assert n >= 1 and 0 < median < 60
    made = 'x_bucket{le="1"} 2\nx_bucket{le="3"} 6\nx_bucket{le="+Inf"} 8\ny{a="q\\"}",b="2"} 5\n'
    script = f"import('/web/prom.js').then(m => {{ const all = m.parse({json.dumps(made)}), none = m.parse(''); return [%s]; }})"
    found = "m.quantile(none, all, 'x', 0.5), m.quantile(none, all, 'x', 0.99), m.quantile(all, all, 'x', 0.5), m.sum(all, 'y', l => l.b === '2')"
    assert tab(server).run(script % found) == [2, 3, None, 5]


# --- chat ---


def test_chat_streams(server, tab):
    page = tab(server)
    page.wait("document.activeElement.id === 'chat-input'")
    page.wait("document.querySelector('#status').textContent")
    fill(page, "#chat-max_tokens", "8")
    say(page, "Hello")
    wait_answer(page, 2)
    user, model = texts(page, "article .text")
    assert user == "Hello" and model != ""
    assert re.search(r"\d+ tokens", texts(page, ".assistant .figures")[0])
    say(page, "And more")
    wait_answer(page, 4)
    page.open(f"http://127.0.0.1:{server.port}/?again#chat")  # the tab keeps it
    page.wait("document.querySelectorAll('article').length === 4")
    click(page, "New chat")
    page.wait("document.querySelectorAll('article').length === 0")


def test_chat_stops(server, tab):
    page = tab(server)
    for stop in (lambda: page.press("Escape"), lambda: click(page, "Stop"), lambda: click(page, "New chat")):
        with engine_held(server):
            say(page, "Hello")
            page.wait("document.querySelector('.log[aria-busy=true]')")
            stop()
            page.wait("document.querySelector('.log[aria-busy=false]')")
        assert page.run("document.querySelectorAll('.notice').length") == 0
        assert page.run("document.querySelectorAll('.assistant').length") == 0
        page.wait("document.querySelector('.composer .main:not([hidden])').textContent === 'Send'")
        if texts(page, "article"):
            click(page, "New chat")


def test_chat_edits_and_regenerates(server, tab):
    page = tab(server)
    fill(page, "#chat-max_tokens", "4")
    fill(page, "#chat-seed", "5")
    say(page, "First")
    wait_answer(page, 2)
    first = texts(page, ".assistant .text")
    click(page, "Regenerate")
    wait_answer(page, 2)
    assert texts(page, ".assistant .text") == first  # the seed is the same
    say(page, "Second")
    wait_answer(page, 4)
    click(page, "Edit")
    page.wait("document.activeElement.closest('.edit')")
    page.run("document.activeElement.select()")
    page.type("Changed")
    page.press(**CTRL_ENTER)
    wait_answer(page, 2)
    assert texts(page, "article.user .text") == ["Changed"]


def test_errors_are_shown(server, tab):
    page = tab(server)
    fill(page, "#chat-temperature", "9")
    say(page, "Hello")
    page.wait("document.querySelector('.notice')")
    assert "temperature" in texts(page, ".notice")[0]
    assert page.run("document.activeElement.id + document.activeElement.getAttribute('aria-invalid')") == "chat-temperaturetrue"
    fill(page, "#chat-temperature", "0")
    fill(page, "#chat-max_tokens", "4")
    click(page, "Try again")
    wait_answer(page, 2)
    assert texts(page, ".notice") == []
    page.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    say(page, "Hello")
    page.wait("document.querySelector('.notice')")
    assert "cannot be reached" in texts(page, ".notice")[0]
    assert texts(page, "article.user .text") == ["Hello", "Hello"]


def test_text_is_never_html(server, tab):
    page = tab(server)
    fill(page, "#chat-max_tokens", "2")
    say(page, EVIL)
    wait_answer(page, 2)
    assert texts(page, "article.user .text") == [EVIL]
    page.run("location.hash = '#tokens'")
    page.wait("document.querySelector('#tokens-input')")
    fill(page, "#tokens-input", EVIL)
    page.run("document.querySelector('#tokens-echo').checked = true")
    click(page, "Complete")
    page.wait("document.querySelector('.playground .figures').textContent")
    assert "<script>" in page.run("document.querySelector('.tokens').textContent")
    assert page.run("document.querySelectorAll('main img, main script').length") == 0
    assert page.run("document.title") == "skein · tokens"


# --- keys ---


def test_key_is_asked_for_and_kept(start, tab, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("k1 sha256:2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90 scope=inference,metrics rpm=3\n")
    daemon = start("--threads", "1", "--api-key-file", str(keys))
    page = tab(daemon)
    page.wait("document.querySelector('dialog[open]') && document.activeElement.id === 'ask-key'")
    page.press("Enter")
    page.wait("document.querySelector('#ask-wrong').textContent")
    page.type("wrong")
    page.press("Enter")
    page.wait("document.querySelector('#ask-why').textContent.includes('key') && document.querySelector('#ask-key').value === ''")
    page.wait("document.querySelector('dialog[open]')")
    page.type("alice")
    page.press("Enter")
    page.wait("!document.querySelector('dialog[open]') && document.querySelector('#status').textContent === 'llama'")
    page.open(f"http://127.0.0.1:{daemon.port}/?again#chat")
    page.wait("document.querySelector('#status').textContent === 'llama'")
    assert page.run("Object.keys(localStorage).length") == 0
    fill(page, "#chat-max_tokens", "2")
    for _ in range(4):
        say(page, "Hello")
        page.wait("document.querySelector('.log[aria-busy=false]')")
    page.wait("document.querySelector('.notice')")  # beyond its requests a minute
    assert re.search(r"come again in \d+ s", texts(page, ".notice")[0])
    page.run("location.hash = '#live'")
    page.wait("document.querySelector('.levels dd')")
    click(page, "Key is set")
    click(page, "Forget")
    page.wait("document.querySelector('.notice')")
    assert page.run("sessionStorage.getItem('skein-key')") is None


# --- tokens ---


def test_tokens(server, tab):
    page = tab(server, "tokens")
    fill(page, "#tokens-input", "Hello there")
    fill(page, "#tokens-max_tokens", "6")
    fill(page, "#tokens-logprobs", "3")
    page.run("document.querySelector('#tokens-echo').click()")
    page.run("document.querySelector('#tokens-input').focus()")
    page.press(**CTRL_ENTER)
    page.wait("document.querySelector('.playground .figures').textContent")
    n = page.run("document.querySelectorAll('.tokens .token').length")
    assert n >= 3 and texts(page, ".tokens")[0].startswith("Hello there")
    assert page.run("document.querySelectorAll('.tokens [tabindex=\"0\"]').length") == 1
    page.run("document.querySelector('.tokens .token').focus()")
    assert "begins the text" in texts(page, ".detail")[0]
    page.press("End")
    assert page.run("document.activeElement === document.querySelector('.tokens').lastChild")
    assert 1 <= len(texts(page, ".tops tr")) <= 4  # parts of characters that look alike count once
    page.press("ArrowLeft")
    assert page.run("document.activeElement.dataset.at") == str(n - 2)
    box = page.run("(({x, y, width, height}) => [x + width / 2, y + height / 2])(document.querySelectorAll('.tokens .token')[1].getBoundingClientRect())")
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
    page.wait("document.querySelector('.token.chosen').dataset.at === '1'")
    colours = set(page.run("[...document.querySelectorAll('.legend .token')].map(e => getComputedStyle(e).backgroundColor)"))
    assert len(colours) == 5
    text = page.run("document.querySelector('.tokens .token').textContent")
    page.run("document.querySelector('.tops tr:last-child button').click()")
    page.wait("document.querySelector('.playground .figures').textContent")
    prompt = page.run("document.querySelector('#tokens-input').value")
    assert prompt.startswith(text) and prompt != "Hello there"
    fill(page, "#tokens-logprobs", "99")
    click(page, "Complete")
    page.wait("document.querySelector('.notice')")
    assert page.run("document.activeElement.id") == "tokens-logprobs"


# --- live ---


def test_live(server, tab):
    page = tab(server, "live")
    seen = threading.Event()

    def load():
        while not seen.is_set():
            server.post("/v1/completions", {"prompt": "a b c d", "max_tokens": 200, "n": 8, "ignore_eos": True})

    thread = threading.Thread(target=load)
    thread.start()
    try:
        page.wait("document.querySelectorAll('.sequences tbody tr').length === 8")
        page.wait("document.querySelectorAll('.blocks .held').length === 8")
        page.wait("/^[1-9]/.test([...document.querySelectorAll('.levels div')].find(d => d.textContent.startsWith('Decode')).lastChild.textContent)")
        page.wait("/running [1-8],/.test(document.querySelector('.plots canvas').getAttribute('aria-label'))")
    finally:
        seen.set()
        thread.join()
    page.wait("document.querySelectorAll('.sequences tbody tr').length === 0")
    ink = """(c => new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size)"""
    assert page.run(f"[...document.querySelectorAll('canvas')].every(c => {ink}(c) > 2)")
    page.run("location.hash = '#chat'")
    page.wait("document.querySelector('#chat-input')")
    before = len(page.requests())
    page.run("new Promise(done => setTimeout(done, 600))")  # longer than between two looks
    assert [r for r in page.requests()[before:] if r.endswith("/stats")] == []


# --- looks ---


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dark", (False, True))
def test_phone(server, tab, view, dark):
    page = tab(server, view, width=360, height=640, dark=dark, touch=True)
    if view == "live":
        page.wait("document.querySelector('.levels dd')")
    else:
        page.run("document.querySelector('details').open = true")
    assert page.run("document.documentElement.scrollWidth") <= 360
    out = "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scrolls, .unseen') && e.getBoundingClientRect().right > 361).map(e => e.outerHTML)"
    assert page.run(out) == []


# WCAG 2.2, contrast ratio
CONTRAST = """(selector => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const light = colour => {
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = e => !e ? 'white' : getComputedStyle(e).backgroundColor === 'rgba(0, 0, 0, 0)' ? ground(e.parentElement) : getComputedStyle(e).backgroundColor;
    return [...document.querySelectorAll(selector)].filter(e => e.checkVisibility()).map(e => {
        const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
        return [e.className || e.tagName, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
    });
})"""


@pytest.mark.parametrize("dark", (False, True))
def test_colours(server, tab, dark):
    page = tab(server, "tokens", dark=dark)
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    brightness = sum(map(int, re.findall(r"\d+", page.run(ground))))
    assert brightness < 120 if dark else brightness > 700
    ratios = page.run(f"{CONTRAST}('a, button, label, .hint, .legend .token, #status, summary')")
    assert len(ratios) > 10 and [r for r in ratios if r[1] < 4.5] == []
    first = page.run(ground)
    click(page, "Theme: auto")
    click(page, "Theme: light")
    assert page.run("document.documentElement.dataset.theme") == "dark"
    page.open(f"http://127.0.0.1:{server.port}/?again#tokens")
    assert (page.run(ground) == first) == dark
    click(page, "Theme: dark")
    assert page.run(ground) == first


@pytest.mark.parametrize("view", VIEWS)
def test_everything_has_a_name(server, tab, view):
    page = tab(server, view)
    if view == "live":
        page.wait("document.querySelector('.levels dd')")
    tree = page.call("Accessibility.getFullAXTree")["nodes"]
    names = {}
    for node in tree:
        if not node["ignored"]:
            names.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    for role in ("button", "textbox", "spinbutton", "checkbox", "link", "image", "navigation", "region"):
        assert all(names.get(role, [])), (role, names[role])
    assert len(names["main"]) == len(names["banner"]) == len(names["navigation"]) == 1
    assert "heading" in names


def test_tab_order_and_skip_link(server, tab):
    page = tab(server, "live")
    page.run("document.activeElement.blur()")
    order = []
    for _ in range(6):
        page.press("Tab")
        order.append(page.run("document.activeElement.textContent"))
        assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert order[:6] == ["Skip to the content", "Chat", "Tokens", "Live", "Key", "Theme: auto"]


def test_nothing_from_elsewhere(server, tab):
    page = tab(server)
    for view in VIEWS:
        page.run(f"location.hash = '#{view}'")
        page.wait(f"document.querySelector('nav [aria-current]').hash === '#{view}'")
    assert all(r.startswith((f"http://127.0.0.1:{server.port}/", "data:")) for r in page.requests())
