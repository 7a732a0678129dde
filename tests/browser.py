"""Open files in a real browser and record scripts that ran, requests and error messages."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog, Page

NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
# No display, no sandbox (root in a container has none), and no network requests of its own.
OPTIONS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class NoBrowser(Exception):
    """The browser cannot be started; the message names what is missing."""


@contextmanager
def chromium() -> Iterator["Browser"]:
    """Start a browser. Raises NoBrowser."""
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        raise NoBrowser(f"none of {', '.join(NAMES)} is installed")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise NoBrowser("playwright is not installed") from error
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield browser
        browser.close()


class Opened:
    """One file in the browser, with all events since it was opened."""

    def __init__(self, page: "Page", file: Path) -> None:
        self.page = page
        self.troubles: list[str] = []  # errors, blocked content, requests, dialogs
        page.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        page.on("console", lambda message: self._note(message.type, message.text))
        page.on("dialog", self._dismiss)
        own = file.resolve().as_uri()
        page.on(
            "request",
            lambda request: self._note_request(request.url) if request.url != own else None,
        )
        page.goto(own, wait_until="load")

    @property
    def ran(self) -> int:
        """The number of times that hostile content ran."""
        return int(self.page.evaluate("window.ran || 0"))

    @property
    def text(self) -> str:
        return str(self.page.inner_text("body"))

    def attributes(self) -> list[str]:
        """Event handlers and links, which could run code or leave the page, as `name=value`."""
        found: list[str] = self.page.evaluate(
            """() => [...document.querySelectorAll('*')].flatMap(e => [...e.attributes]
                 .filter(a => /^on|href$|^src$|^srcdoc$|^action$/i.test(a.name))
                 .map(a => a.name + '=' + a.value))"""
        )
        return found

    def _dismiss(self, dialog: "Dialog") -> None:
        self.troubles.append("dialog")
        dialog.dismiss()

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.troubles.append(f"{kind}: {text}")

    def _note_request(self, url: str) -> None:
        if not url.startswith(("data:", "blob:")):
            self.troubles.append(f"request: {url}")
