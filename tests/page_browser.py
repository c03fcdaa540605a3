"""A real browser for the tests of drawings, and what those of the HTML page ask of it. A test file imports the fixtures."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import traced
from unetinspect import Trace
from unetinspect.drawing.outline import outline_of
from unetinspect.drawing.page import page

ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def missing(what: str) -> None:
    """Skip where a browser cannot be driven; in CI that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI tests drawings in a browser")
    pytest.skip(f"{what} is missing")


@pytest.fixture(scope="module", name="browser")
def start_browser() -> Iterator[Any]:
    """A browser, started once: one file has all of these tests."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        playwright = import_module("playwright.sync_api")
    except ImportError:
        missing("the Python package playwright")
    if program is None:
        missing("Chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        yield started
        started.close()


class Visitor:
    """Opens pages in a browser, keeps what they asked for and complained of, and one window for all that need no window of their own."""

    def __init__(self, browser: Any, folder: Path) -> None:
        self.browser, self.folder = browser, folder
        self.written: dict[tuple[int, str], str] = {}
        self.contexts: list[Any] = []
        self.visited: list[str] = []
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.common = self.window()

    def window(self, **options: Any) -> Any:
        """Open a window; what moves in it moves at once."""
        context = self.browser.new_context(**{"reduced_motion": "reduce", **options})
        self.contexts.append(context)
        opened = context.new_page()
        opened.set_default_timeout(20_000)
        opened.on("request", lambda request: self.asked.append(request.url.partition("#")[0]))
        opened.on("console", lambda message: self.complaints.append(message.text))
        opened.on("pageerror", lambda error: self.complaints.append(str(error)))
        return opened

    def __call__(self, model: str | Trace = "conditioned", place: str = "", *, level: Any = "stage", **options: Any) -> Any:
        """Open the page of a model, at a place in it; with options, in a window of its own, where a test may change what it likes."""
        trace = traced(model) if isinstance(model, str) else model
        key = id(trace), level
        if key not in self.written:
            path = self.folder / f"{len(self.written)}.html"
            path.write_text(page(outline_of(trace), level=level), encoding="utf-8")
            self.written[key] = path.as_uri()
        self.visited.append(self.written[key])
        opened = self.window(**options) if options else self.common
        if not options:
            opened.goto("about:blank")
            opened.mouse.move(0, 0)
        opened.goto(self.written[key] + place)
        return opened

    def leave(self) -> None:
        """Make sure that nothing but the pages themselves was asked for, and that nothing was complained of."""
        for context in self.contexts[1:]:
            context.close()
        asked, complaints = {address for address in self.asked if not address.startswith(("data:", "about:"))}, list(self.complaints)
        visited = set(self.visited)
        for seen in (self.asked, self.complaints, self.visited):
            seen.clear()
        del self.contexts[1:]
        assert asked == visited
        assert complaints == []


@pytest.fixture(scope="module", name="visitor")
def one_visitor(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Visitor:
    """One visitor for all."""
    return Visitor(browser, tmp_path_factory.mktemp("pages"))


@pytest.fixture(name="visit")
def visiting(visitor: Visitor) -> Iterator[Visitor]:
    """Open pages; at the end, nothing was loaded from elsewhere and nothing went wrong."""
    yield visitor
    visitor.leave()


def all_of(opened: Any, selector: str, what: str) -> list[Any]:
    """Return an expression in `e` of each element that a selector finds."""
    return opened.evaluate(f"[...document.querySelectorAll({selector!r})].map(e => {what})")


def details(opened: Any) -> dict[str, str]:
    """Return what the panel lists: each term and its value."""
    return dict(all_of(opened, "#details dl dt", "[e.textContent, e.nextSibling.textContent]"))


def title(opened: Any) -> str:
    """Return the heading of the panel."""
    return opened.text_content("#details-title")


def lit(opened: Any, name: str = "picked") -> set[str]:
    """Return the boxes that are highlighted."""
    return set(all_of(opened, f".ui-stage.{name}", "e.dataset.box"))


def shown_rows(opened: Any, table: str) -> list[str]:
    """Return the names of the rows that are not hidden, in their order."""
    return all_of(opened, f"#{table} tbody tr:not([hidden])", "e.cells[0].textContent")


def address(opened: Any) -> str:
    """Return what the address says is picked."""
    return opened.evaluate("decodeURIComponent(location.hash)")


def click(opened: Any, selector: str) -> None:
    """Click where a person would: the browser makes sure that the element itself gets the click."""
    opened.locator(selector).first.click()
