"""A headless Chromium, driven by its DevTools protocol over a pipe (--remote-debugging-pipe): JSON, ended by a zero byte.

SK_CHROMIUM  the program (default: chromium, chromium-browser or google-chrome of $PATH)
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time

WAIT_S = 60


def program():
    """Its path; None = there is none."""
    names = [os.environ["SK_CHROMIUM"]] if "SK_CHROMIUM" in os.environ else ["chromium", "chromium-browser", "google-chrome"]
    return next((path for path in map(shutil.which, names) if path), None)


class Browser:
    def __init__(self, profile):
        """`profile`: a folder of its own."""
        to_it, self._out = os.pipe()
        self._in, from_it = os.pipe()
        options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars"]

        def give():  # the protocol's descriptors are 3 and 4, which may be other things here
            ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (to_it, from_it)]
            for fd, number in zip(ends, (3, 4)):
                os.dup2(fd, number)

        self._process = subprocess.Popen(
            [program(), "--headless=new", "--remote-debugging-pipe", *options, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=give, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_it)
        os.close(from_it)
        self._rest = b""
        self._number = 0
        self.events = []

    def _read(self, until):
        """The next message."""
        while b"\0" not in self._rest:
            if not select.select([self._in], [], [], max(0, until - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            piece = os.read(self._in, 1 << 16)
            if not piece:
                raise RuntimeError("the browser ended")
            self._rest += piece
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, session=None, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + WAIT_S
        while True:
            answer = self._read(until)
            if answer.get("id") != self._number:
                self.events.append(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']['message']}")
            else:
                return answer["result"]

    def page(self, **kw):
        return Page(self, **kw)

    def close(self):
        try:
            self.call("Browser.close")
        except (RuntimeError, BrokenPipeError):
            pass
        self._process.wait(WAIT_S)
        os.close(self._out)
        os.close(self._in)


class Page:
    """A tab with storage of its own."""

    def __init__(self, browser, width=1280, height=800, dark=False, touch=False):
        self._browser = browser
        self._context = browser.call("Target.createBrowserContext")["browserContextId"]
        target = browser.call("Target.createTarget", url="about:blank", browserContextId=self._context)["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def call(self, method, **params):
        return self._browser.call(method, self._session, **params)

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script):
        """The value of an expression; a promise is awaited."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def wait(self, script, within_s=WAIT_S):
        """Until the expression is true, as JavaScript has it."""
        until = time.monotonic() + within_s
        while not self.run(f"!!({script})"):
            if time.monotonic() > until:
                raise TimeoutError(f"{script} is not true; the page says: {self.run('document.body.innerText')}")
            time.sleep(0.02)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def press(self, key, ctrl=False):
        codes = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowRight": 39, "ArrowLeft": 37, "End": 35}
        event = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key], "modifiers": 2 if ctrl else 0}
        text = {"text": "\r"} if key == "Enter" and not ctrl else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **event, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def picture(self):
        """PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def complaints(self):
        """Errors and warnings of the console, the policy's violations, uncaught exceptions; what the network says of a
        status is none."""
        found = []
        for event in self._browser.events:
            if event.get("sessionId") != self._session:
                continue
            params = event["params"]
            if event["method"] == "Log.entryAdded" and params["entry"]["source"] != "network":
                found.append(params["entry"]["text"])
            elif event["method"] == "Runtime.exceptionThrown":
                found.append(params["exceptionDetails"].get("exception", {}).get("description", "exception"))
            elif event["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
                found.append(str(params["args"]))
        return found

    def requests(self):
        """The addresses that were asked."""
        return [e["params"]["request"]["url"] for e in self._browser.events
                if e.get("sessionId") == self._session and e["method"] == "Network.requestWillBeSent"]

    def close(self):
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)
