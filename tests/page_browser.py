"""A real browser for the tests of drawings, and what those of the HTML page ask of it. A test file imports the fixtures that it takes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from importlib import import_module
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
    """Skip where a browser cannot be driven; where everything is tested, that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI tests drawings in a browser")
    pytest.skip(f"{what} is missing")


@pytest.fixture(scope="module", name="browser")
def start_browser() -> Iterator[Any]:
    """A browser, started once in each worker that takes one of these tests."""
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


@pytest.fixture(scope="module", name="pages")
def writing_pages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Trace, str], str]:
    """Return what writes the page of a record to a file, and returns its address."""
    folder = tmp_path_factory.mktemp("pages")
    known: dict[tuple[int, str], str] = {}

    def write(trace: Trace, level: Any) -> str:
        key = id(trace), level
        if key not in known:
            path = folder / f"{len(known)}.html"
            path.write_text(page(outline_of(trace), level=level), encoding="utf-8")
            known[key] = path.as_uri()
        return known[key]

    return write


class Visitor:
    """Opens pages in a browser, keeps what they asked for and complained of, and one window for all that need no window of their own."""

    def __init__(self, browser: Any, write: Callable[[Trace, str], str]) -> None:
        self.browser, self.write = browser, write
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

    def __call__(self, model: str | Trace = "conditioned", place: str = "", *, level: str = "stage", **options: Any) -> Any:
        """Open the page of a model, at a place in it; with options, in a window of its own, where a test may change what it likes."""
        address = self.write(traced(model) if isinstance(model, str) else model, level)
        self.visited.append(address)
        opened = self.window(**options) if options else self.common
        if not options:
            opened.goto("about:blank")
            opened.mouse.move(0, 0)
        opened.goto(address + place)
        return opened

    def leave(self) -> None:
        """Hold that nothing but the pages themselves was asked for, and that nothing was complained of."""
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
def one_visitor(browser: Any, pages: Callable[[Trace, str], str]) -> Visitor:
    """One visitor for all."""
    return Visitor(browser, pages)


@pytest.fixture(name="visit")
def visiting(visitor: Visitor) -> Iterator[Visitor]:
    """Open pages; at the end, nothing was loaded from elsewhere and nothing went wrong."""
    yield visitor
    visitor.leave()


def details(opened: Any) -> dict[str, str]:
    """Return what the panel lists: each term and what stands behind it."""
    return dict(opened.evaluate("[...document.querySelectorAll('#details dl dt')].map(t => [t.textContent, t.nextSibling.textContent])"))


def title(opened: Any) -> str:
    """Return the heading of the panel."""
    return opened.text_content("#details-title")


def lit(opened: Any, name: str = "picked") -> set[str]:
    """Return the boxes that are highlighted."""
    return set(opened.evaluate(f"[...document.querySelectorAll('.ui-stage.{name}')].map(box => box.dataset.box)"))


def shown_rows(opened: Any, table: str) -> list[str]:
    """Return the names of the rows that are not hidden, in the order in which they stand."""
    return opened.evaluate(f"[...document.querySelectorAll('#{table} tbody tr')].filter(r => !r.hidden).map(r => r.cells[0].textContent)")


def address(opened: Any) -> str:
    """Return what the address says is picked."""
    return opened.evaluate("decodeURIComponent(location.hash)")


def click(opened: Any, selector: str) -> None:
    """Click where a person would: the browser makes sure that the element itself gets the click."""
    opened.locator(selector).first.click()
