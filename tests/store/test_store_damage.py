"""Damage inside of a part is one line that names the file, whatever reads it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diva_grpo.pipeline.store import VariantStore, run_select
from diva_grpo.schemas.exceptions import QueryError, StoreError
from diva_grpo.schemas.records import Variant
from tests.conftest import Diva
from tests.support.store_records import variant

ROWS = 2_000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = VariantStore(tmp_path_factory.mktemp("damage") / "store", create=True)
    draw = random.Random(1)
    store.append([variant(i, text=f"text {i} {draw.random()} " * 9) for i in range(ROWS)])
    return store.root


@pytest.fixture
def part(made: Path, tmp_path: Path) -> Path:
    """The part with rows of a copy of the store."""
    [part] = (shutil.copytree(made, tmp_path / "store") / "variants").glob("*-v2-*")
    return part


READERS: dict[str, Callable[[VariantStore], Any]] = {
    "query": lambda store: store.query("SELECT sum(hash(v)) FROM variants v"),
    "read": lambda store: store.read(Variant),
    "some parts": lambda store: store.query("FROM variants", variant_parts=store.variant_parts()),
    "of problems": lambda store: store.of_problems(["w/0"]).read(Variant),
    "snapshot": lambda store: store.snapshot(),
    "checksums": lambda store: store.checksums(),
    "select": lambda store: run_select(store, "FROM variants"),
}


def _error(read: Callable[[VariantStore], Any], root: Path) -> str | None:
    try:
        read(VariantStore(root))
    except StoreError as error:
        return str(error)
    return None


def test_every_reader_names_the_file(part: Path) -> None:
    content, draw = part.read_bytes(), random.Random(2)
    said: list[str] = []
    for _ in range(8):
        start = draw.randrange(len(content) - 60)
        part.write_bytes(content[:start] + bytes(60) + content[start + 60 :])
        said += [error for read in READERS.values() if (error := _error(read, part.parents[1]))]
    assert len(said) > 3 * len(READERS)
    for line in said:
        assert f"variants/{part.name} is damaged: `diva doctor" in line
        assert "\n" not in line


def test_every_command_names_the_file(part: Path, diva: Diva) -> None:
    content = part.read_bytes()
    part.write_bytes(content[:4000] + bytes(400) + content[4400:])
    root = part.parents[1]
    for arguments in (
        ["status"],
        ["sql", "FROM variants"],
        ["report"],
        ["export", root / "out"],
    ):
        outcome = diva(*arguments, "--store", root)
        assert outcome.code == 1, arguments
        assert f"variants/{part.name} is damaged" in outcome.err.splitlines()[-1], arguments
        assert "Traceback" not in outcome.err


def test_an_error_of_the_query_is_not_taken_for_damage(part: Path) -> None:
    store = VariantStore(part.parents[1])
    for query in (
        "SELECT error('Invalid Input Error: mine')",
        "SELECT regexp_matches(text, '(') FROM variants",
    ):
        with pytest.raises(QueryError):
            run_select(store, query)
        with pytest.raises(QueryError) as caught:
            store.query(query)
        assert caught.value.__cause__ is not caught.value, "who follows the chain comes to its end"


def test_a_part_that_goes_away_is_named(part: Path) -> None:
    store = VariantStore(part.parents[1])
    with store.connect(query="variants") as connection:
        part.unlink()
        with pytest.raises(StoreError) as caught, store.naming_damage("FROM variants"):
            connection.execute("FROM variants")
    assert part.name in str(caught.value)
    assert "\n" not in str(caught.value)
