"""The doctor: whatever is cut off or altered is found and moved away, and no wrong row is ever shown."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.doctor import Fault
from diva_grpo.pipeline.store.files.parts import Part, is_whole
from diva_grpo.pipeline.teacher.journal import Entry, Journal, now_text
from diva_grpo.schemas.exceptions import StoreError
from diva_grpo.schemas.records import RECORDS, Call, Image, Problem, Run
from tests.support.store_records import fill, rollout, variant

OFFSETS = 64


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with rows in every table, an image, and a journal."""
    store = VariantStore(tmp_path_factory.mktemp("doctor") / "store", create=True)
    fill(store)
    with Journal.of_store(store) as journal:
        for number in range(20):
            journal.commit(_entry(f"{number:064x}"))
        journal.to_ledger(store)
    store.query("SELECT 1")
    return store.root


def _entry(key: str) -> Entry:
    return Entry(key, "solve", "e", "m", "w/0", "x" * 900, "ok", None, 1, 1, None, 0.5, 1, "text", now_text())


def _rows(root: Path) -> dict[str, list[tuple[object, ...]]]:
    store = VariantStore(root)
    return {record.table: store.query(f"SELECT * FROM {record.table} ORDER BY ALL") for record in RECORDS}


def _cuts(size: int) -> list[int]:
    return sorted({size * i // OFFSETS for i in range(OFFSETS)})


def test_store_in_order_has_no_findings(filled: Path) -> None:
    # `fill` names a call that no journal has.
    assert [(f.fault, f.path) for f in VariantStore(filled).examine()] == [(Fault.MISSING, "journal.sqlite")]


def _check_every_cut(root: Path, path: Path, whole: dict[str, list[tuple[object, ...]]]) -> None:
    """Cut a part at 64 places: no reader sees a wrong row, the doctor finds it, and then the store opens."""
    name, table = path.relative_to(root).as_posix(), path.parent.name
    content = path.read_bytes()
    for cut in _cuts(len(content)):
        path.write_bytes(content[:cut])
        store = VariantStore(root)
        with pytest.raises(StoreError) as caught:
            store.query(f"SELECT count(*) FROM {table}")
        assert "\n" not in str(caught.value)
        assert "diva doctor" in str(caught.value)
        assert name in [f.path for f in store.examine() if f.fault == Fault.DAMAGED], (name, cut)
        if cut in (0, len(content) // OFFSETS * 32):
            [found] = [f for f in store.examine(repair=True) if f.fault == Fault.DAMAGED]
            assert found.moved_to is not None
            assert (root / found.moved_to).read_bytes() == content[:cut]
            for row in VariantStore(root).query(f"SELECT * FROM {table}"):
                assert row in whole[table] or table in ("variants", "runs"), "a row that was never written"
            shutil.rmtree(root / "quarantine")
    path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v1", "v2", "merged"])
@pytest.mark.parametrize("table", ["settings", "variants"])
def test_part_cut_off_anywhere_is_found(version: str, table: str, filled: Path, tmp_path: Path) -> None:
    source = Path(__file__).parents[1] / "stores" / "v1" if version == "v1" else filled
    root = shutil.copytree(source, tmp_path / "store")
    if version == "merged":
        VariantStore(root).append([variant(9)])
        VariantStore(root).put_setting("x", "y")
        VariantStore(root).compact(grace_s=0)
        VariantStore(root).compact(grace_s=0)
    whole = _rows(root)
    [*_, path] = sorted(p for p in (root / table).glob("*.parquet") if "empty" not in p.name)
    _check_every_cut(root, path, whole)
    assert _rows(root) == whole


@pytest.mark.slow
def test_every_file_cut_off_anywhere_is_found(filled: Path, tmp_path: Path) -> None:
    """All files of a store, each part at 64 places by the doctor's own check, and every file by the doctor."""
    root = shutil.copytree(filled, tmp_path / "store")
    store = VariantStore(root)
    files = [
        p for p in sorted(root.rglob("*")) if p.suffix in (".parquet", ".png") or p.name == "journal.sqlite"
    ]
    assert len(files) > 30
    for path in files:
        content, name = path.read_bytes(), path.relative_to(root).as_posix()
        for cut in _cuts(len(content)) if path.suffix == ".parquet" else []:
            path.write_bytes(content[:cut])
            assert not is_whole(store.place, path.parent.name, Part.named(path.name)), (name, cut)
        path.write_bytes(content[:-7])
        assert [f for f in store.examine() if f.path == name and f.fault == Fault.DAMAGED], name
        path.write_bytes(content)


def test_every_altered_byte_of_a_part_and_an_image_is_found(store: VariantStore) -> None:
    digest = store.put_image(b"no picture, but bytes", "PNG")
    [part] = (store.root / "problems").glob("*-v2-5-*.parquet")
    for path in (part, store.image_path(digest)):
        content = path.read_bytes()
        for offset in _cuts(len(content)):
            altered = bytearray(content)
            altered[offset] ^= 1 << (offset % 8)
            path.write_bytes(altered)
            damaged = [f.path for f in store.examine() if f.fault == Fault.DAMAGED]
            assert damaged == [path.relative_to(store.root).as_posix()]
        path.write_bytes(content)


def test_journal_cut_off_anywhere_is_found_and_the_store_goes_on(store: VariantStore) -> None:
    with Journal.of_store(store) as journal:
        for number in range(20):
            journal.commit(_entry(f"{number:064x}"))
        journal.to_ledger(store)
    path = store.root / "journal.sqlite"
    content = path.read_bytes()
    for cut in _cuts(len(content)):
        path.write_bytes(content[:cut])
        found = {f.fault: f for f in store.examine(repair=True) if f.path == "journal.sqlite"}
        assert found[Fault.DAMAGED].moved_to is not None, cut
        assert "20 answers" in found[Fault.MISSING].held
        with Journal.of_store(store) as journal:
            assert journal.answer("0" * 64) is None
            journal.commit(_entry("0" * 64))
    assert len(list((store.root / "quarantine").glob("*/journal.sqlite"))) == OFFSETS


def test_emptied_journal_that_is_a_valid_database_is_missed_by_the_ledger(store: VariantStore) -> None:
    store.append([_call("1" * 64), _call("2" * 64)])
    with Journal.of_store(store) as journal:
        journal.commit(_entry("1" * 64))
    [finding] = store.examine()
    assert (finding.fault, finding.path) == (Fault.MISSING, "journal.sqlite")
    assert finding.held.startswith("1 answers that `calls` names")


def _call(key: str) -> Call:
    return Call(
        request_hash=key, purpose="solve", endpoint="e", model="m", problem_id="w/0", latency_s=0.1,
        attempts=1, outcome="ok", output_mode="text",
    )  # fmt: skip


def test_report_says_what_a_part_held_and_which_run_wrote_it(store: VariantStore) -> None:
    with store.run("generate", "{}") as run_id:
        store.append([variant(1), variant(2), variant(3)])
    [path] = [p for p in (store.root / "variants").glob("*.parquet") if "empty" not in p.name]
    path.write_bytes(path.read_bytes()[:-1])
    [finding] = store.examine(repair=True)
    assert finding.held.startswith("variants, 3 rows written 20")
    assert finding.held.endswith(f"by {run_id}: run that again")
    [report] = (store.root / "quarantine").glob("*/report.json")
    [entry] = json.loads(report.read_text())
    assert (entry["path"], entry["moved_to"]) == (f"variants/{path.name}", finding.moved_to)
    assert store.query("SELECT count(*) FROM variants") == [(0,)]
    assert store.examine() == []


def test_missing_image_and_leftover_are_named(store: VariantStore) -> None:
    image = Image(hash="ab" * 32, width=1, height=1)
    problem = Problem(problem_id="p", source="s", split="train", text="?", answer="1", images=[image])
    store.append([problem, problem.model_copy(update={"problem_id": "q"})])
    (store.root / "labels" / ".half.tmp").write_bytes(b"half")
    missing, leftover = store.examine()
    assert (missing.fault, missing.path) == (Fault.MISSING, f"images/ab/{'ab' * 32}")
    assert missing.held == "image of p and 1 more: ingest its source again"
    assert (leftover.fault, leftover.path) == (Fault.LEFTOVER, "labels/.half.tmp")
    assert leftover.held.startswith("4 bytes")


def test_file_that_is_no_part_of_its_table_is_damaged(store: VariantStore) -> None:
    source = next((store.root / "problems").glob("*-v2-5-*.parquet"))
    shutil.copy(source, store.root / "labels" / "copied.parquet")
    [finding] = store.examine(repair=True)
    assert (finding.path, finding.held) == ("labels/copied.parquet", "labels, 5 rows")


def test_damaged_part_without_rows_is_written_again(store: VariantStore) -> None:
    for record in RECORDS:
        for path in (store.root / record.table).glob("*empty*"):
            path.write_bytes(b"")
    before = len(RECORDS)
    assert len(VariantStore(store.root).examine(repair=True)) == before
    assert VariantStore(store.root).examine() == []
    assert store.query("SELECT count(*) FROM problems") == [(5,)]


def test_journal_in_use_is_no_damage(store: VariantStore) -> None:
    with Journal.of_store(store) as journal:
        journal.commit(_entry("3" * 64))
        assert (store.root / "journal.sqlite-wal").exists()
        assert store.examine() == []
    with sqlite3.connect(store.root / "journal.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM entries").fetchall() == [(1,)]


def test_damaged_image_comes_back_with_its_source(store: VariantStore) -> None:
    content = b"no picture, but bytes"
    path = store.image_path(store.put_image(content, "PNG"))
    path.write_bytes(content[:-1])
    assert [finding.fault for finding in store.examine()] == ["damaged"]
    store.put_image(content, "PNG")
    assert path.read_bytes() == content
    assert store.examine() == []


def test_texts_that_lost_their_latex_are_restored_as_candidates(store: VariantStore) -> None:
    """As an older version read `\\times` and `\\beta` in a JSON string."""
    whole = variant(0, text="Find $3 \\times 4$.\nNow.", status="accepted")
    broken = variant(1, text="Find $3 \times 4$ and $\beta$.", status="accepted")
    broken_step = variant(
        2, kind="think_step", text="Find.", hint=["One.", "$\frac{1}{2}$"], status="accepted"
    )
    store.append([whole, broken, broken_step])
    [finding] = store.examine()
    assert (finding.path, finding.fault) == ("variants", Fault.GARBLED)
    assert finding.held.startswith("2 with control characters where LaTeX was, such as w/0:reword:01 (")
    assert finding.held.endswith("--repair` restores them, then run `diva verify`")
    [repaired] = store.examine(repair=True)
    assert repaired.moved_to == "new candidates: run `diva verify`"
    assert store.examine() == []
    rows = store.query("SELECT variant_id, status, text, hint FROM variants ORDER BY variant_id")
    made = {variant_id: (status, text, hint) for variant_id, status, text, hint in rows}
    assert made[whole.variant_id][0] == "accepted"
    assert made[broken.variant_id][0] == made[broken_step.variant_id][0] == "rejected"
    assert made[f"{broken.variant_id}:restored"] == ("candidate", "Find $3 \\times 4$ and $\\beta$.", [])
    restored = made[f"{broken_step.variant_id}:restored"]
    assert restored == ("candidate", "Find.", ["One.", "$\\frac{1}{2}$"])


# --- what the records say


def test_control_characters_and_rollouts_without_a_run_are_suspect(store: VariantStore) -> None:
    store.append([Run(run_id="q", kind="train")])
    store.append([rollout(1, 0, "q"), rollout(1, 0, "lost"), rollout(2, 0, "lost")])
    odd = ["a\tb\nc\r\n", "a\x08b", "x\x1b[0m"]
    store.append(
        [
            Problem(problem_id=f"w/{i}", source="w", split="t", text=text, answer="1")
            for i, text in enumerate(odd, 90)
        ]
    )
    found = store.examine()
    assert [(f.fault, f.path, f.held) for f in found] == [
        (Fault.SUSPECT, "problems", "control characters in the texts of w/91 and 1 more: mend the source"),
        (Fault.SUSPECT, "rollouts", "2 rollouts of run lost, which `runs` does not have"),
    ]
