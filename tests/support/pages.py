"""Reading our pages: the data that they hold, and what a browser makes of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from diva_grpo.flows.pages.page import unpacked
from tests.support.chromium import Browser


def data_of(page: Path, name: str) -> Any:
    """What a page holds by a name, such as `index`, or `pack-0` with the details of its first problems."""
    found = re.search(rf'id="{name}">([^<]*)<', page.read_text("utf-8"))
    assert found, name
    return unpacked(found[1])


def shown(tab: Browser, selector: str) -> str:
    """The text of the first element that a selector finds, as it is seen."""
    return str(tab.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))


def settle(tab: Browser, condition: str) -> None:
    """Wait until a condition in JavaScript holds in the page."""
    poll = "new Promise((done) => { const look = () => (%s) ? done(true) : setTimeout(look, 20); look(); })"
    assert tab.evaluate(poll % condition)


def open_anew(tab: Browser, url: str, waits_for: str) -> None:
    """Load a page that may be open already, so that another part of its address alone would not load it."""
    tab.open("about:blank", "")
    tab.open(url, waits_for)
