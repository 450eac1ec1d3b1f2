"""A real server and a real browser for the tests of the page."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import shutil
import subprocess
import tarfile
import time

import pytest
from command import COMMAND

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
AXE = "axe-core@4.10.3"


@contextlib.contextmanager
def serving(*arguments, **environment):
    """`rave-mlx serve` on a free port of this machine; gives its address."""
    process = subprocess.Popen(
        [*COMMAND, "serve", "--port", "0", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "100"} | environment,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if found := re.search(r"at (http://\S+)", line):
                yield found[1]
                break
        else:
            raise AssertionError(f"the server did not start: {said}")
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def browsing():
    """A Chromium that Playwright drives."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """A person's visit to the page; what goes wrong in the browser is written down and must be nothing."""

    def __init__(self, browser, address, *, width=1280, height=860, **options):
        self.context = browser.new_context(viewport={"width": width, "height": height}, **options)
        self.context.set_default_timeout(90_000)  # a busy machine is no failure
        self.page = self.context.new_page()
        self.wrong = []
        self.page.on("console", lambda m: self.wrong.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.address = address

    def open(self, address=None):
        self.page.goto(address or self.address)
        self.until("document.querySelector('#model').options.length > 0")

    def until(self, condition, argument=None, seconds=90):
        """Wait for a condition in the page. Playwright's own way would evaluate texts there, which the page forbids."""
        end = time.monotonic() + seconds
        while not self.page.evaluate(condition, argument):
            assert time.monotonic() < end, f"never true: {condition}"
            self.page.wait_for_timeout(50)

    def sample(self):
        self.page.click("#sample")
        self.page.wait_for_selector("#stage img")

    def drop(self, name, kind, data, *, paste=False):
        """Drop a file on the page as a file manager does, or paste it."""
        self.page.evaluate(
            """([name, type, data, paste]) => {
              const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0)), carried = new DataTransfer();
              carried.items.add(new File([bytes], name, { type }));
              const options = { dataTransfer: carried, bubbles: true, cancelable: true };
              const pasted = new ClipboardEvent("paste", { clipboardData: carried, bubbles: true, cancelable: true });
              if (paste) document.body.dispatchEvent(pasted);
              else for (const kind of ["dragenter", "dragover", "drop"])
                document.body.dispatchEvent(new DragEvent(kind, options));
            }""",
            [name, kind, base64.b64encode(data).decode(), paste],
        )

    def ask(self, question, answers=1):
        """Ask, and wait for the end of every answer; gives their texts."""
        self.page.fill("#question", question)
        self.page.press("#question", "Enter")
        self.until(
            "(n) => document.querySelectorAll('.turn:last-child .answer[aria-busy=false]').length === n", answers
        )
        return self.page.locator(".turn:last-child .tokens").all_inner_texts()

    def looked(self, before=0):
        """Wait until a map was drawn after `before` others; gives how many there were now."""
        self.until("(n) => Number(document.querySelector('#stage').dataset.shown ?? 0) > n", before)
        return int(self.page.get_attribute("#stage", "data-shown"))

    def strongest(self, view=0):
        """Where the strongest colour of a map lies: the middle of it as shares of the page's width and height."""
        return self.page.evaluate(
            """(view) => {
              const canvas = document.querySelectorAll("#stage canvas")[view], { width, height } = canvas;
              const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
              let best = 0;
              for (let i = 0; i < width * height; i++) if (pixels[4 * i + 1] < pixels[4 * best + 1]) best = i;
              return [((best % width) + 0.5) / width, (Math.floor(best / width) + 0.5) / height];
            }""",
            view,
        )

    def box(self, kind, view=0):
        """A box on the page as shares of its width and height: left, top, right, bottom."""
        return self.page.evaluate(
            """([kind, view]) => {
              const sheet = document.querySelectorAll(".sheet")[view];
              const page = sheet.querySelector("img").getBoundingClientRect();
              const box = sheet.querySelector(`.box.${kind}`).getBoundingClientRect();
              return [(box.left - page.left) / page.width, (box.top - page.top) / page.height,
                      (box.right - page.left) / page.width, (box.bottom - page.top) / page.height];
            }""",
            [kind, view],
        )

    def end(self):
        """The console has said nothing."""
        wrong, self.wrong = self.wrong, []
        assert wrong == []

    def close(self):
        self.context.close()
        self.end()


def axe_source(folder):
    """The text of axe-core; skips where npm cannot fetch it."""
    kept = folder / "axe.min.js"
    if not kept.exists():
        npm = shutil.which("npm") or pytest.skip("npm is needed to fetch axe-core")
        done = subprocess.run([npm, "pack", AXE], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{AXE} cannot be fetched: {done.stderr.strip()[-200:]}")
        archive = folder / f"{AXE.replace('@', '-')}.tgz"
        with tarfile.open(archive) as tar:
            member = tar.extractfile("package/axe.min.js")
            assert member is not None
            kept.write_bytes(member.read())
        archive.unlink()
    return kept.read_text("utf-8")
