"""A headless Chromium that a test looks through and clicks in. Not a test.

It speaks the DevTools protocol (https://chromedevtools.github.io/devtools-protocol/)
by `websockets`, which viser depends on.
"""

import base64
import contextlib
import io
import json
import shutil
import subprocess
import time
import urllib.request

import numpy as np
from PIL import Image

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
PATIENCE = 120  # seconds; a page needs about five


def wait_for(question, seconds=PATIENCE):
    """The first true answer."""
    last = time.monotonic() + seconds
    while time.monotonic() < last:
        answer = question()
        if answer:
            return answer
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds} s: {question}")


class Page:
    """A page: what it shows, and what happens in it."""

    def __init__(self, socket):
        self._socket, self._number = socket, 0

    def ask(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv(timeout=PATIENCE))
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def evaluate(self, script):
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def picture(self):
        """What is seen, [h w 3] in 0..255."""
        data = self.ask("Page.captureScreenshot", format="png")["data"]
        shown = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
        return np.asarray(shown, float)

    def text(self):
        return self.evaluate("document.body ? document.body.innerText : ''")

    def says(self, text):
        return text in self.text()

    def click(self, label):
        """Presses the mouse on the button or the tab of that label."""
        script = f"""(() => {{
            const all = [...document.querySelectorAll("button, [role=tab]")];
            const one = all.find((b) => b.innerText.trim() === {json.dumps(label)});
            if (!one) return null;
            one.scrollIntoView({{block: "center"}});
            const box = one.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }})()"""
        x, y = wait_for(lambda: self.evaluate(script))
        for kind in ("mousePressed", "mouseReleased"):
            how = {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}
            self.ask("Input.dispatchMouseEvent", **how)


@contextlib.contextmanager
def opened(address, folder, size=(900, 600)):
    """A page of an address; profile and downloads lie in `folder`."""
    from websockets.sync.client import connect

    profile = folder / "profile"
    browser = subprocess.Popen(
        [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-dev-shm-usage",
            "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
            "--remote-debugging-port=0", f"--window-size={size[0]},{size[1]}",
            f"--user-data-dir={profile}", address,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        told = profile / "DevToolsActivePort"
        wait_for(lambda: told.is_file() and told.read_text().strip())
        port = told.read_text().split()[0]

        def target():
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as found:
                pages = json.load(found)
            pages = [page for page in pages if page["url"].startswith(address)]
            return pages and pages[0]["webSocketDebuggerUrl"]

        with connect(wait_for(target), max_size=None, compression=None) as socket:
            page = Page(socket)
            page.ask(
                "Browser.setDownloadBehavior",
                behavior="allow",
                downloadPath=str(folder / "downloads"),
            )
            yield page
    finally:
        browser.terminate()
        browser.wait(30)


def saturated(picture):
    """How many pixels have a colour of their own: neither ground nor text."""
    return int(((picture.max(axis=2) - picture.min(axis=2)) > 60).sum())
