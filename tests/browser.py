"""A real Chromium, Debian's package, for the tests of pages; what it complains of and whom it asks is kept."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needed = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: `apt install chromium`")

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


class Tab:
    """A page in the browser.

    Attributes:
        complaints: errors and warnings of its console, exceptions, requests that failed.
        asked: addresses that it asked for.
    """

    def __init__(self, page: Any) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda said: said.type in ("error", "warning") and self.complaints.append(said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("requestfailed", lambda request: self.complaints.append(f"failed: {request.url:.100}"))
        page.on("request", lambda request: self.asked.append(request.url))

    def open(self, address: str) -> None:
        self.page.goto(address)
        self.page.wait_for_selector("html[data-ready=true]", timeout=60_000)

    def choose(self, group: str, label: str) -> None:
        self.page.locator(f"#{group} label", has_text=label).click()

    def plot(self, game: str, chart: str) -> Any:
        """A chart of a game, drawn; `chart` is the series' name."""
        plot = self.page.locator(f'section[aria-label="{game}"] figure[data-chart="{chart}"] .plot')
        plot.scroll_into_view_if_needed()
        plot.locator(".main-svg").first.wait_for()
        return plot

    def curve(self, game: str, chart: str, name: str) -> tuple[list[float], list[float]]:
        """x and y of the line with this name that is drawn in a chart, or will be soon."""
        for _ in range(50):
            lines = self.plot(game, chart).evaluate("plot => plot.data.map(line => [line.name, line.x, line.y])")
            found = [(x, y) for line, x, y in lines if line == name]
            if found:
                return found[0]
            self.page.wait_for_timeout(200)
        raise AssertionError(f"{chart} has no line {name} but {[line[0] for line in lines]}")


@contextmanager
def tab(size: dict[str, int] = WIDE, scheme: str = "light") -> Iterator[Tab]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        # (Its sandbox wants a user other than root; the pages are our own.)
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield Tab(browser.new_page(viewport=size, color_scheme=scheme))
        browser.close()
