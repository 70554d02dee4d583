"""Bad rows become rejects with their reasons; a source that cannot be read is one line."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as PillowImage

from diva_grpo.pipeline.ingest import IngestReport, ingest
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import ConfigError, SourceError
from diva_grpo.schemas.mapping import ColumnMapping
from diva_grpo.schemas.records import Problem, Reject
from tests.support.source_files import WITH_ID, parts, png, rejects, rows, write_jsonl

# --- bad rows


@pytest.fixture
def planted(folder: Path) -> tuple[str, dict[int, str]]:
    """100 good rows in JSON Lines, ten bad ones among them, two blank lines; the reason of each by its line."""
    (folder / "good.png").write_bytes(png())
    (folder / "torn.png").write_bytes(png(90, 90)[:120])
    (folder.parent / "outside.png").write_bytes(png())
    good = [{**row, "image": "good.png"} for row in rows(100)]
    bad: dict[int, tuple[bytes, str]] = {}

    def plant(line: int, content: dict[str, Any] | bytes, reason: str) -> None:
        encoded = content if isinstance(content, bytes) else json.dumps(content).encode()
        bad[line] = (encoded, reason)

    plant(1, {"id": "a", "problem": "x?", "answer": None}, "no answer: the column 'answer' is empty")
    plant(7, {"id": "b", "problem": "  ", "answer": "1"}, "empty problem: the column 'problem' is empty")
    plant(20, {"id": "c", "problem": "x?", "answer": "1", "image": "torn.png"}, "image 1 (torn.png): damaged")
    plant(
        21,
        {"id": "d", "problem": "x?", "answer": "1", "image": "../outside.png"},
        "out of the source's folder",
    )
    plant(22, {"id": "e", "problem": "x?", "answer": "1", "image": "none.png"}, "no such file")
    plant(40, {"id": "3", "problem": "x?", "answer": "1"}, "duplicate id '3': row 5 has it already")
    plant(
        41, b'{"id": "f", "problem": "caf\xe9?", "answer": "1"}', "not UTF-8: byte 0xe9 at byte 28 of the row"
    )
    plant(55, b'{"id": "g", "problem": "x?"', "invalid JSON")
    plant(
        56,
        {"id": "h", "problem": "x?", "answer": "?"},
        "the grader does not accept the problem's own answer '?'",
    )
    plant(
        112,
        {"id": "i", "problem": "<image> <image>", "answer": "1", "image": "good.png"},
        "2 <image> placeholders",
    )
    source = iter(json.dumps(row).encode() for row in good)
    blank = {30: b"", 90: b"  \t"}
    lines = [bad[n][0] if n in bad else blank[n] if n in blank else next(source) for n in range(1, 113)]
    assert next(source, None) is None
    (folder / "set.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return str(folder / "set.jsonl"), {line: reason for line, (_, reason) in bad.items()}


def test_ten_planted_rows_become_rejects(store: VariantStore, planted: tuple[str, dict[int, str]]) -> None:
    source, expected = planted
    mapping = ColumnMapping(id="id", images="image")
    assert ingest(store, source, mapping) == IngestReport(added=100, already_there=0, rejected=10)
    found = rejects(store)
    assert found.keys() == expected.keys()
    for line, reason in expected.items():
        assert reason in found[line]
    raw = {r.row_number: r.raw for r in store.read(Reject)}
    assert raw[41] == '{"id": "f", "problem": "caf\\xe9?", "answer": "1"}'
    assert {r.source for r in store.read(Reject)} == {source}
    before = parts(store)
    assert ingest(store, source, mapping) == IngestReport(added=0, already_there=100, rejected=10)
    assert parts(store) == before
    assert len(list((store.root / "images").rglob("*.png"))) == 1


def test_csv_lines_are_physical_lines(store: VariantStore, folder: Path) -> None:
    content = (
        b"\xef\xbb\xbfid,problem,answer\r\n"
        b'1,"two\nlines, ""quoted""",3\r\n'  # lines 2 and 3
        b"\r\n"
        b"2,short\r\n"  # 5
        b'3,"a quote that is never closed,4\r\n'  # 6
        b'4,"good\nagain",5\r\n'  # 7 and 8
        b"5,caf\xe9,6\r\n"  # 9
        b"6,,7\r\n"  # 10
        b'7,"last'
    )
    (folder / "set.csv").write_bytes(content + b"\r\n")
    assert ingest(store, str(folder / "set.csv"), WITH_ID) == IngestReport(2, 0, 5)
    assert {p.problem_id: p.text for p in store.read(Problem)} == {
        "set/1": 'two\nlines, "quoted"',
        "set/4": "good\nagain",
    }
    found = rejects(store)
    assert list(found) == [5, 6, 9, 10, 11]
    assert found[5] == "2 cells where the header has 3"
    assert found[6].startswith("invalid CSV")
    assert found[9] == "not UTF-8: byte 0xe9 at byte 6 of the row"
    assert found[10] == "empty problem: the column 'problem' is empty"
    assert found[11].startswith("invalid CSV")


def test_table_rows_that_are_not_utf8(store: VariantStore, folder: Path) -> None:
    texts = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\3\0\0\0\6\0\0\0"), pa.py_buffer(b"1+2b\xff?")]
    )
    table = pa.table({"problem": texts, "answer": ["3", "4"]})
    pq.write_table(table, folder / "set.parquet")
    assert ingest(store, str(folder / "set.parquet"), ColumnMapping()) == IngestReport(1, 0, 1)
    reject = store.read(Reject)[0]
    assert (reject.row_number, reject.raw) == (2, "b\\xff?")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"answer": "1"}, "empty problem: the row has no column 'problem'"),
        ({"problem": "x?", "answer": float("nan")}, "no answer: the column 'answer' is empty"),
        ({"problem": ["x?"], "answer": "1"}, "the column 'problem' holds a list, not text"),
        ({"problem": "\ud800", "answer": "1"}, "contains half of a surrogate pair"),
        ({"problem": "<image>", "answer": "1"}, "1 <image> placeholders, but no images"),
        (
            {"problem": "<image2>", "answer": "1", "image": "a.png"},
            "<image2> is not one of the problem's images",
        ),
        ({"problem": "x?", "answer": "C", "options": ["1", "2"]}, "the answer 'C' is none of the 2 options"),
        ({"problem": "x?", "answer": "1", "options": "1 or 2"}, "is not a list"),
        ({"problem": "x?", "answer": "1", "image": "/etc/hostname"}, "out of the source's folder"),
        (
            {"problem": "x?", "answer": "1", "image": "a.png/../../../etc/passwd"},
            "out of the source's folder",
        ),
        ({"problem": "x?", "answer": "1", "image": {"url": "a.png"}}, "neither a path nor the bytes"),
        ({"problem": "x?", "answer": "1", "image": ["a.png", None]}, "image 2: neither a path nor the bytes"),
        ({"problem": "x?", "answer": "1", "image": "bomb.bmp"}, "more than 89,478,485 pixels"),
        ({"problem": "x?", "answer": "1", "image": "page.eps"}, "not a readable PNG"),
        ({"problem": "x?", "answer": "1", "image": "\ud800.png"}, "(\\ud800.png): no such file"),
        ({"problem": "x?", "answer": "1", "image": "x" * 5_000}, "the file cannot be read"),
        ([1, 2], "not a JSON object"),
    ],
)
def test_reasons(store: VariantStore, folder: Path, row: Any, reason: str) -> None:
    (folder / "a.png").write_bytes(png())
    header = io.BytesIO()
    PillowImage.new("L", (1, 1)).save(header, "BMP")
    bomb = bytearray(header.getvalue())
    bomb[18:26] = (20_000).to_bytes(4, "little") * 2
    (folder / "bomb.bmp").write_bytes(bomb)
    PillowImage.new("RGB", (2, 2)).save(folder / "page.eps")
    if isinstance(row, dict):
        row["id"] = "bad"
    lines = [json.dumps(r) for r in (rows(1)[0], row)]
    (folder / "set.jsonl").write_text("\n".join(lines))
    mapping = ColumnMapping(id="id", images="image", options="options", level="level")
    report = ingest(store, str(folder / "set.jsonl"), mapping)
    assert (report.added, report.already_there, report.rejected) == (1, 0, 1)
    assert reason in rejects(store)[2]


def test_what_was_rejected_for_its_place_among_others(store: VariantStore, folder: Path) -> None:
    """A reject does not take its id: the next row of that id may be good."""
    bad = {**rows(1)[0], "answer": ""}
    source = write_jsonl(folder / "set.jsonl", [bad, rows(1)[0], rows(1)[0]])
    assert ingest(store, source, WITH_ID) == IngestReport(1, 0, 2)
    assert rejects(store)[3] == "duplicate id '0': row 2 has it already"


def test_long_rows_are_cut_in_rejects(store: VariantStore, folder: Path) -> None:
    source = write_jsonl(
        folder / "set.jsonl", [{"id": 1, "problem": "x" * 9_000, "answer": ""}, rows(1, start=9)[0]]
    )
    ingest(store, source, WITH_ID)
    assert len(store.read(Reject)[0].raw) == 2_000


# --- sources that cannot be read


def test_sources_that_cannot_be_read(store: VariantStore, folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("x")
    (folder / "torn.json").write_text('[{"problem": "1 + 1?", "answer": "2"}, {"pro')
    (folder / "object.json").write_text('{"rows": []} ]')
    (folder / "torn.parquet").write_bytes(b"PAR1 and no more")
    (folder / "twice.csv").write_text("problem,problem\n1,2\n")
    cases = {
        "nowhere.jsonl": "no file or folder .*: check the path",
        "no/such/place": "no file or folder .*: check the path",
        "gsm8k": "no file or folder gsm8k: check the path",
        f"{folder}/empty": "contains no file of a known format: .jsonl, ",
        f"{folder}/notes.txt": "cannot tell the format of",
        f"{folder}/torn.json": "not valid JSON in row 2",
        f"{folder}/object.json": "not one JSON array",
        f"{folder}/torn.parquet": "could not be read",
        f"{folder}/twice.csv": "has a column twice",
    }
    for source, message in cases.items():
        with pytest.raises(SourceError, match=message) as error:
            ingest(store, source, WITH_ID.model_copy(update={"id": None}))
        assert "\n" not in str(error.value)
    assert store.read(Problem) == []


def test_a_wrong_column_name_is_one_error(store: VariantStore, folder: Path) -> None:
    before = parts(store)
    source = write_jsonl(folder / "set.jsonl", [{"question": "1 + 1?", "answer": "2"}] * 3)
    with pytest.raises(
        SourceError, match=r"no column 'problem', it has answer, question: .* --problem-column"
    ):
        ingest(store, source, ColumnMapping())
    assert parts(store) == before


@pytest.mark.parametrize("name", ["", "a/b"])
def test_a_name_that_would_blur_ids_is_refused(store: VariantStore, folder: Path, name: str) -> None:
    source = write_jsonl(folder / "set.jsonl", rows(1))
    with pytest.raises(ConfigError):
        ingest(store, source, WITH_ID, source_name=name)
