import csv
import io
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage

from pipeline.ingest import IngestReport, RowError, content_id, ingest, split_gsm8k
from pipeline.sources import Row, open_source
from pipeline.store import VariantStore
from schemas.exceptions import ConfigError, SourceError
from schemas.mapping import PRESETS, ColumnMapping
from schemas.records import Problem, Reject

WITH_ID = ColumnMapping(id="id")
FULL = ColumnMapping(
    id="id", images="image", options="options", solution="solution", level="level", split="part"
)


@pytest.fixture
def store(tmp_path: Path) -> VariantStore:
    return VariantStore(tmp_path / "store", create=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def png(width: int = 6, height: int = 4, colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    PillowImage.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": str(i), "problem": f"What is {i} + 1?\nSay “it”.", "answer": str(i + 1)}
        for i in range(start, start + count)
    ]


def write_jsonl(path: Path, content: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content), encoding="utf-8")
    return str(path)


def write_json(path: Path, content: list[dict[str, Any]]) -> str:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return str(path)


def write_csv(path: Path, content: list[dict[str, Any]]) -> str:
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(content[0]))
        writer.writeheader()
        writer.writerows(content)
    return str(path)


def write_parquet(path: Path, content: list[dict[str, Any]]) -> str:
    pq.write_table(pa.Table.from_pylist(content), path, row_group_size=3)
    return str(path)


def write_saved(path: Path, content: list[dict[str, Any]]) -> str:
    datasets.Dataset.from_list(content).save_to_disk(str(path))
    return str(path)


def rejects(store: VariantStore) -> dict[int, str]:
    return {reject.row_number: reject.reason for reject in store.read(Reject)}


def parts(store: VariantStore) -> set[Path]:
    return set(store.root.rglob("*.parquet"))


# --- formats


@pytest.mark.parametrize(
    ("file", "write"),
    [
        ("set.jsonl", write_jsonl),
        ("set.json", write_json),
        ("set.csv", write_csv),
        ("set.parquet", write_parquet),
        ("set", write_saved),
    ],
)
def test_every_format_gives_the_same_problems(
    store: VariantStore, folder: Path, file: str, write: Callable[[Path, list[dict[str, Any]]], str]
) -> None:
    source = write(folder / file, rows(10))
    assert ingest(store, source, WITH_ID) == IngestReport(added=10, already_there=0, rejected=0)
    found = {p.problem_id: p for p in store.read(Problem)}
    assert set(found) == {f"set/{i}" for i in range(10)}
    assert found["set/3"].text == "What is 3 + 1?\nSay “it”."
    assert (found["set/3"].answer, found["set/3"].source, found["set/3"].split) == ("4", "set", "train")
    before = parts(store)
    assert ingest(store, source, WITH_ID) == IngestReport(added=0, already_there=10, rejected=0)
    assert parts(store) == before


def test_all_columns_are_read(store: VariantStore, folder: Path) -> None:
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.png").write_bytes(png(6, 4))
    (folder / "pictures" / "b.png").write_bytes(png(3, 2))
    row = {
        "id": 7,
        "problem": "Which of <image1> and <image2> is larger?",
        "answer": "B",
        "image": ["pictures/b.png", "pictures/a.png"],
        "options": ["the first", "the second"],
        "solution": "Count.\n\n  Compare. \n",
        "level": "Level 4",
        "part": "dev",
    }
    source = write_jsonl(folder / "set.jsonl", [row])
    assert ingest(store, source, FULL, source_name="mine").added == 1
    problem = store.read(Problem)[0]
    assert problem.problem_id == "mine/7"
    assert problem.options == ["the first", "the second"]
    assert problem.answer == "B"
    assert problem.solution_steps == ["Count.", "Compare."]
    assert problem.human_level == 4.0
    assert problem.split == "dev"
    assert [(image.width, image.height) for image in problem.images] == [(3, 2), (6, 4)]
    assert store.image_path(problem.images[1].hash).read_bytes() == png(6, 4)


def test_lists_in_csv_are_json(store: VariantStore, folder: Path) -> None:
    (folder / "a.png").write_bytes(png())
    row = {
        "id": "1",
        "problem": "Which?",
        "answer": "B",
        "image": '["a.png"]',
        "options": '["4, or so", "5"]',
        "solution": "",
        "level": "2.5",
        "part": "",
    }
    source = write_csv(folder / "set.csv", [row])
    assert ingest(store, source, FULL).added == 1
    problem = store.read(Problem)[0]
    assert problem.options == ["4, or so", "5"]
    assert len(problem.images) == 1
    assert (problem.human_level, problem.solution_steps, problem.split) == (2.5, [], "train")


def test_a_column_that_is_nowhere_is_reported(store: VariantStore, folder: Path) -> None:
    source = write_jsonl(folder / "set.jsonl", rows(3))
    report = ingest(store, source, WITH_ID.model_copy(update={"images": "pics", "level": "lvl"}))
    assert report == IngestReport(3, 0, 0, absent_columns=("pics", "lvl"))


def test_a_folder_of_files(store: VariantStore, folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "a.png").write_bytes(png())
    write_jsonl(folder / "train-0.jsonl", [*rows(3), {"id": "x", "problem": "", "answer": "1"}])
    write_parquet(
        folder / "deep" / "test.parquet", [{**row, "image": "../a.png"} for row in rows(3, start=10)]
    )
    mapping = WITH_ID.model_copy(update={"images": "image"})
    assert ingest(store, str(folder), mapping, split="test") == IngestReport(3, 0, 0)
    assert ingest(store, str(folder), mapping) == IngestReport(3, 3, 1)
    assert store.query("SELECT split, count(*) FROM problems GROUP BY 1 ORDER BY 1") == [
        ("test", 3),
        ("train", 3),
    ]
    assert [(r.source, r.row_number) for r in store.read(Reject)] == [(f"{folder}/train-0.jsonl", 4)]
    assert {p.source for p in store.read(Problem)} == {"data"}


def test_parquet_with_embedded_images(store: VariantStore, folder: Path) -> None:
    content = [
        {**row, "image": {"bytes": png(5, 5, colour), "path": "gone.png"}}
        for row, colour in zip(rows(3), ["red", "green", "blue"], strict=True)
    ]
    content.append({**rows(1, start=50)[0], "image": {"bytes": b"\x89PNG no more", "path": None}})
    source = write_parquet(folder / "set.parquet", content)
    assert ingest(store, source, ColumnMapping(id="id", images="image")) == IngestReport(3, 0, 1)
    for problem, colour in zip(store.read(Problem), ["red", "green", "blue"], strict=True):
        assert store.image_path(problem.images[0].hash).read_bytes() == png(5, 5, colour)
    assert rejects(store) == {4: "image 1: not a readable PNG, JPEG, WebP, GIF or BMP image"}
    assert "bytes>" in store.read(Reject)[0].raw


def test_parquet_with_plain_image_bytes(store: VariantStore, folder: Path) -> None:
    source = write_parquet(folder / "set.parquet", [{**rows(1)[0], "image": png()}])
    assert ingest(store, source, ColumnMapping(id="id", images="image")).added == 1
    assert store.read(Problem)[0].images[0].width == 6


def test_saved_dataset_with_pillow_images(store: VariantStore, folder: Path) -> None:
    (folder / "file.png").write_bytes(png(9, 8))
    features = datasets.Features(
        id=datasets.Value("int64"),
        problem=datasets.Value("string"),
        answer=datasets.Value("string"),
        images=datasets.List(datasets.Image()),
    )
    content = {
        "id": [1, 2],
        "problem": ["How large?", "And these?"],
        "answer": ["4", "5"],
        "images": [[PillowImage.new("RGB", (7, 3))], [str(folder / "file.png"), png(2, 2)]],
    }
    data = datasets.Dataset.from_dict(content, features=features)
    saved = datasets.DatasetDict(train=data, test=data.select([1]))
    saved.save_to_disk(str(folder / "saved"))
    (folder / "file.png").unlink()
    mapping = ColumnMapping(id="id", images="images")
    assert ingest(store, str(folder / "saved"), mapping, split="train") == IngestReport(2, 0, 0)
    sizes = {p.problem_id: [(i.width, i.height) for i in p.images] for p in store.read(Problem)}
    assert sizes == {"saved/1": [(7, 3)], "saved/2": [(9, 8), (2, 2)]}
    with pytest.raises(SourceError, match="has no split dev: it has train, test"):
        ingest(store, str(folder / "saved"), mapping, split="dev")
    # Both splits: what the second has in common with the first is a duplicate of it.
    assert ingest(store, str(folder / "saved"), mapping) == IngestReport(0, 2, 1)
    reject = store.read(Reject)[0]
    assert (reject.source, reject.row_number) == (f"{folder}/saved/test", 1)
    assert reject.reason == f"duplicate id '2': row 2 of {folder}/saved/train has it already"


@pytest.mark.parametrize(("source", "split"), [("gsm8k", None), ("openai/gsm8k", None), ("gsm8k", "test")])
def test_the_hub_is_asked_with_what_the_preset_knows(
    store: VariantStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, split: str | None
) -> None:
    asked = []

    def load_dataset(
        name: str, config: str | None, *, split: str | None, streaming: bool
    ) -> datasets.Dataset:
        asked.append((name, config, split, streaming))
        return datasets.Dataset.from_dict({"question": ["1 + 1?"], "answer": ["1 + 1 = <<1+1=2>>2\n#### 2"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.chdir(tmp_path)
    ingest(store, source, PRESETS["gsm8k"], split=split, limit=5)
    assert asked == [("openai/gsm8k", "main", split or "train", True)]
    problem = store.read(Problem)[0]
    assert (problem.source, problem.split, problem.solution_steps) == (
        "gsm8k",
        split or "train",
        ["1 + 1 = 2"],
    )


def test_a_hub_that_does_not_answer_is_one_line(store: VariantStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'someone/nothing' on the Hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(SourceError, match="neither a file or folder here") as error:
        ingest(store, "someone/nothing", WITH_ID)
    assert "\n" not in str(error.value)


# --- ids


def test_without_an_id_column_the_id_is_of_the_content(store: VariantStore, folder: Path) -> None:
    source = write_jsonl(folder / "set.jsonl", [{"problem": "1 + 1?", "answer": 2}])
    assert ingest(store, source, ColumnMapping()).added == 1
    expected = content_id("1 + 1?", "2", [], [])
    assert len(expected) == 12
    assert store.read(Problem)[0].problem_id == f"set/{expected}"
    others = [content_id("1 + 1?", "3", [], []), content_id("1 + 1?", "2", ["2"], [])]
    assert expected not in [*others, content_id("1 + 1?", "2", [], ["2"])]


def test_same_id_with_other_content_is_rejected(store: VariantStore, folder: Path) -> None:
    source = write_jsonl(folder / "set.jsonl", rows(3))
    ingest(store, source, WITH_ID)
    changed = rows(3)
    changed[1]["answer"] = "99"
    write_jsonl(folder / "set.jsonl", changed)
    assert ingest(store, source, WITH_ID) == IngestReport(0, 2, 1)
    assert rejects(store) == {2: "id already in the store with another content"}
    assert [p.answer for p in store.read(Problem)] == ["1", "2", "3"]


def test_a_lost_image_comes_back(store: VariantStore, folder: Path) -> None:
    (folder / "a.png").write_bytes(png())
    source = write_jsonl(folder / "set.jsonl", [{**rows(1)[0], "image": "a.png"}])
    mapping = ColumnMapping(id="id", images="image")
    ingest(store, source, mapping)
    image = store.image_path(store.read(Problem)[0].images[0].hash)
    image.unlink()
    assert ingest(store, source, mapping).already_there == 1
    assert image.read_bytes() == png()


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
        ({"problem": "\ud800", "answer": "1"}, "holds half of a surrogate pair"),
        ({"problem": "<image>", "answer": "1"}, "1 <image> placeholders, but no images"),
        (
            {"problem": "<image2>", "answer": "1", "image": "a.png"},
            "<image2> is none of the problem's images",
        ),
        ({"problem": "x?", "answer": "C", "options": ["1", "2"]}, "the answer 'C' is none of the 2 options"),
        ({"problem": "x?", "answer": "1", "options": "1 or 2"}, "is not a list"),
        ({"problem": "x?", "answer": "1", "level": "hard"}, "the level 'hard' is not a number"),
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
        f"{folder}/empty": "holds no .jsonl, .json, .csv or .parquet file",
        f"{folder}/notes.txt": "cannot tell the format of",
        f"{folder}/torn.json": "not valid JSON in row 2",
        f"{folder}/object.json": "not one JSON array",
        f"{folder}/torn.parquet": "could not be read",
        f"{folder}/twice.csv": "names a column twice",
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


# --- how it reads


def test_limit_and_progress(store: VariantStore, folder: Path) -> None:
    source = write_jsonl(folder / "set.jsonl", rows(130))
    told: list[int] = []
    assert ingest(store, source, WITH_ID, limit=120, progress=told.append).added == 120
    assert sum(told) == 120
    assert len(told) > 1
    assert ingest(store, source, WITH_ID) == IngestReport(added=10, already_there=120, rejected=0)


def test_problems_are_appended_in_chunks(
    store: VariantStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.ingest.CHUNK_SIZE", 40)
    source = write_jsonl(folder / "set.jsonl", rows(100))
    before = len(list((store.root / "problems").glob("*.parquet")))
    assert ingest(store, source, WITH_ID).added == 100
    assert len(list((store.root / "problems").glob("*.parquet"))) == before + 3


@pytest.mark.parametrize(("file", "write"), [("set.jsonl", write_jsonl), ("set.parquet", write_parquet)])
def test_memory_does_not_grow_with_the_source(
    folder: Path, file: str, write: Callable[[Path, list[dict[str, Any]]], str]
) -> None:
    long = [{"id": str(i), "problem": "x" * 10_000, "answer": "1"} for i in range(2_000)]
    source = write(folder / file, long)
    del long
    tracemalloc.start()
    numbers = [row.number for part in open_source(source, WITH_ID) for row in part.rows]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert numbers == list(range(1, 2_001))
    assert peak < 8_000_000  # bytes; the texts are 20,000,000


def test_raw_of_table_rows_is_text() -> None:
    row = Row(3, {"image": {"bytes": b"1234", "path": "é.png"}, "n": 1})
    assert row.raw == '{"image": {"bytes": "<4 bytes>", "path": "é.png"}, "n": 1}'


# --- presets


def test_gsm8k_row_without_a_marker_is_rejected(store: VariantStore, folder: Path) -> None:
    content = [
        {"question": "1 + 1?", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"},
        {"question": "2 + 2?", "answer": "2 + 2 = 4"},
        {"question": "3 + 3?", "answer": "3 + 3 = 6\n####"},
    ]
    source = write_jsonl(folder / "problems.jsonl", content)
    assert ingest(store, source, PRESETS["gsm8k"]) == IngestReport(1, 0, 2)
    assert rejects(store) == {
        2: "no answer: the solution has no '####'",
        3: "no answer: nothing stands behind '####'",
    }
    assert store.read(Problem)[0].source == "gsm8k"


def test_mathvision_as_the_hub_stores_it(store: VariantStore, folder: Path) -> None:
    row = {
        "id": "12",
        "question": "How do you get <image1> from <image2>?",
        "options": ["P", "T"],
        "image": "images/12.jpg",
        "decoded_image": {"bytes": png(), "path": "12.jpg"},
        "answer": "B",
        "solution": None,
        "level": 3,
        "subject": "topology",
    }
    plain = {**row, "id": "13", "question": "How many?\n<image1>", "options": [], "answer": "4"}
    source = write_parquet(folder / "test-00000-of-00001.parquet", [row, plain])
    assert ingest(store, source, PRESETS["mathvision"]) == IngestReport(2, 0, 0)
    first, second = store.read(Problem)
    assert (first.problem_id, first.split, first.human_level, first.answer) == (
        "mathvision/12",
        "test",
        3.0,
        "B",
    )
    # Its one picture shows both figures, each with its label.
    assert first.text == "<image>\nHow do you get [image1] from [image2]?"
    assert second.text == "How many?\n<image1>"
    assert len(first.images) == len(second.images) == 1


def test_sharevl_reads_its_columns(store: VariantStore, folder: Path) -> None:
    row = {"id": "a-1", "problem": "<image>What?", "answer": "4", "images": [{"bytes": png(), "path": None}]}
    source = write_parquet(folder / "r1.parquet", [row])
    assert ingest(store, source, PRESETS["sharevl"]) == IngestReport(1, 0, 0)
    assert store.read(Problem)[0].problem_id == "sharevl/a-1"


_STEP = st.text(
    st.characters(codec="utf-8", exclude_characters="<>#", exclude_categories=["C", "Z"]), min_size=1
)
_CALCULATION = st.from_regex(r"<<[0-9+*/=.-]{0,12}>>", fullmatch=True)


@st.composite
def solutions(draw: st.DrawFn) -> tuple[str, list[str], int]:
    """A GSM8K answer, its steps without annotations, and the number that it ends with."""
    steps = draw(st.lists(_STEP, max_size=6))
    lines = []
    for step in steps:
        cut = draw(st.integers(0, len(step)))
        lines.append(step[:cut] + draw(_CALCULATION) + step[cut:] + draw(st.sampled_from(["", " ", "\n"])))
    answer = draw(st.integers(-(10**12), 10**12))
    written = f"{answer:,}" if draw(st.booleans()) else str(answer)
    return "\n".join([*lines, f"#### {written}"]), steps, answer


@given(solutions())
def test_gsm8k_solutions_come_apart(solution: tuple[str, list[str], int]) -> None:
    text, steps, answer = solution
    assert split_gsm8k(text) == (steps, str(answer))


@given(st.text())
def test_gsm8k_parser_takes_any_text(text: str) -> None:
    try:
        steps, answer = split_gsm8k(text)
    except RowError:
        assert not text.rpartition("####")[1] or not text.rpartition("####")[2].strip()
    else:
        assert answer
        assert all(step and step == step.strip() for step in steps)


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("1,234,567", "1234567"),
        ("-2,000.5", "-2000.5"),
        ("$1,000", "$1000"),
        ("1,2,3", "1,2,3"),
        ("12,34", "12,34"),
    ],
)
def test_only_thousands_separators_go(written: str, answer: str) -> None:
    assert split_gsm8k(f"so\n#### {written}")[1] == answer


# --- real data


def test_real_gsm8k_all_in_with_steps(store: VariantStore, real_data: Path) -> None:
    source = str(real_data / "gsm8k" / "problems.jsonl")
    assert ingest(store, source, PRESETS["gsm8k"]) == IngestReport(added=500, already_there=0, rejected=0)
    problems = store.read(Problem)
    assert all(problem.solution_steps for problem in problems)
    assert not any("<<" in step for problem in problems for step in problem.solution_steps)
    assert all(float(problem.answer) == int(float(problem.answer)) for problem in problems)
    assert ingest(store, source, PRESETS["gsm8k"]) == IngestReport(added=0, already_there=500, rejected=0)


def test_real_mathvision_all_in_with_images(store: VariantStore, real_data: Path) -> None:
    source = str(real_data / "mathvision" / "problems.jsonl")
    assert ingest(store, source, PRESETS["mathvision"]) == IngestReport(200, 0, 0)
    problems = store.read(Problem)
    assert all(len(problem.images) == 1 for problem in problems)
    assert all(store.image_path(problem.images[0].hash).exists() for problem in problems)
    assert all(
        len(problem.answer) == 1 and problem.answer in "ABCDE" for problem in problems if problem.options
    )
    assert {problem.human_level for problem in problems} == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert sum(bool(problem.solution_steps) for problem in problems) == 36
