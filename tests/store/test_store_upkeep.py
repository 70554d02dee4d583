"""The commands that keep a store in order: compact, doctor."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from diva_grpo.flows.cli import cli
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import DivaError


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def _settings(store: VariantStore, number: int) -> list[Path]:
    for value in range(number):
        store.put_setting("x", str(value))
    return sorted(path for path in (store.root / "settings").iterdir() if "empty" not in path.name)


def test_compact_says_what_it_did_and_what_waits(store: VariantStore) -> None:
    _settings(store, 3)
    assert _run("compact", "--store", store.root).output == (
        "3 parts merged into 1, 0 removed that were merged before\n"
        "3 merged parts stay for those that read them now: a later compaction removes them\n"
    )
    second = _run("compact", "--store", store.root, "--grace", "0")
    assert second.output == "0 parts merged into 0, 3 removed that were merged before\n"
    assert store.setting("x") == "2"


def test_doctor_finds_repairs_and_is_content(store: VariantStore) -> None:
    assert _run("doctor", "--store", store.root).output == "all is well\n"
    _, path, _ = _settings(store, 3)
    path.write_bytes(path.read_bytes()[:-9])
    found = _run("doctor", "--store", store.root)
    assert isinstance(found.exception, DivaError)
    assert f"--store {store.root} --repair` moves them" in str(found.exception)
    assert f"damaged: settings/{path.name}: settings, 1 rows written 20" in found.output
    assert isinstance(_run("compact", "--store", store.root).exception, DivaError)
    repaired = _run("doctor", "--store", store.root, "--repair")
    assert repaired.exit_code == 0
    assert "(moved to quarantine/" in repaired.output
    assert _run("doctor", "--store", store.root).output == "all is well\n"
    assert store.setting("x") == "2"
