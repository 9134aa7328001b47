"""Look at runs in TensorBoard with Chromium, and keep a picture:

python tests/screenshot.py --logdir=runs/fit --tab=custom_scalars --out=dashboard.png


else: the browser is driven through two pipes, by Chromium's own protocol of commands as JSON.
"""

import argparse
import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# all nodes of a page, also those inside of its components
NODES = """(() => {
  const nodes = [], visit = node => {
    if (/^(STYLE|SCRIPT|NOSCRIPT|TEMPLATE|DOM-MODULE)$/.test(node.nodeName) || node.hidden) return
    nodes.push(node)
    for (const child of [...(node.shadowRoot?.childNodes ?? []), ...node.childNodes]) visit(child)
  }
  visit(document.body)
  return nodes
})()"""
TEXT = NODES + """.filter(node => node.nodeType === 3).map(node => node.data).join(" ").replace(/\\s+/g, " ")"""
# of every picture, but icons, width / height as it was drawn, and as the page shows it
IMAGES = (
    NODES
    + """.filter(node => node.naturalWidth > 100)
  .map(image => [image.naturalWidth / image.naturalHeight, image.width / image.height])"""
)


class Page:
    """A page of a browser without a window."""

    def __init__(self, width: int = 1600, height: int = 1000):
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        options += [f"--user-data-dir={self._profile.name}", f"--window-size={width},{height}"]
        shell = f'exec "$@" 3<&{their_in} 4>&{their_out}'  # the descriptors on which Chromium expects its commands
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", CHROMIUM, *options], pass_fds=(their_in, their_out), stderr=subprocess.DEVNULL
        )
        os.close(their_in)
        os.close(their_out)
        self._requests, self._answers = os.fdopen(our_out, "wb", 0), os.fdopen(our_in, "rb", 0)
        self._received, self._count, self._session = b"", 0, None
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def _ask(self, method, **parameters):
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._requests.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(self._read())
            if answer.get("id") == self._count:
                return answer["result"]

    def _read(self):
        while b"\0" not in self._received:
            part = self._answers.read(2**20)
            if not part:
                raise EOFError("the browser has ended")
            self._received += part
        message, _, self._received = self._received.partition(b"\0")
        return message

    def wait_for(self, expression, seconds=60):
        """Return the value of an expression as soon as it is true, and no empty list."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            if time.monotonic() > end:
                raise TimeoutError(expression)
            time.sleep(0.2)
        return value

    def evaluate(self, expression):
        return self._ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def open(self, url, *patterns, seconds=60):
        """Open an address and return the text of the page, as soon as it matches all the patterns."""
        self._ask("Page.navigate", url="about:blank")  # else a new #tab would not load the page anew
        self._ask("Page.navigate", url=url)
        end = time.monotonic() + seconds
        while True:
            text = self.evaluate(TEXT) or ""
            missing = [pattern for pattern in patterns if not re.search(pattern, text)]
            if not missing:
                return text
            if time.monotonic() > end:
                raise TimeoutError(f"{url} does not show {missing}, but: {text}")
            time.sleep(0.2)

    def screenshot(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"])
        Image.open(io.BytesIO(picture)).convert("RGB").quantize(128).save(path, optimize=True)  # a third of the bytes

    def close(self):
        self._process.terminate()
        self._process.wait()
        self._requests.close()
        self._answers.close()
        self._profile.cleanup()


@contextmanager
def page(*size):
    opened = Page(*size)
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def tensorboard(logdir):
    """Serve a folder of runs; the context is the address, such as http://localhost:45123/."""
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={logdir}", "--port=0", "--host=localhost"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if found := re.search(r"http://localhost:\d+/", line):
                yield found[0]
                break
        else:
            raise RuntimeError("TensorBoard has ended")
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--logdir", required=True, help="Folder of runs.")
    parser.add_argument("--tab", default="custom_scalars&_smoothingWeight=0", help="Tab of TensorBoard.")
    parser.add_argument("--wait_for", default=".", help="Pattern of a text that the page shows when it is ready.")
    parser.add_argument("--size", type=int, nargs=2, default=(1600, 1000), help="Width and height in pixels.")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write.")
    arguments = parser.parse_args()
    if not CHROMIUM:
        sys.exit("error: there is no chromium on the path; on Debian: apt-get install chromium")
    with page(*arguments.size) as shown, tensorboard(arguments.logdir) as address:
        shown.open(f"{address}#{arguments.tab}", arguments.wait_for)
        time.sleep(3)  # until the lines are drawn
        shown.screenshot(arguments.out)


if __name__ == "__main__":
    main()
