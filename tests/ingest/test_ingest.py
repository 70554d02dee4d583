"""Every format of a source gives the same problems, in bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image as PillowImage

from diva_grpo.pipeline.ingest import IngestReport, content_id, ingest
from diva_grpo.pipeline.ingest.readers import Row
from diva_grpo.pipeline.ingest.sources import open_source
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import SourceError
from diva_grpo.schemas.mapping import PRESETS, ColumnMapping
from diva_grpo.schemas.records import Problem, Reject
from tests.support.source_files import (
    FULL,
    WITH_ID,
    parts,
    png,
    rejects,
    rows,
    write_csv,
    write_json,
    write_jsonl,
    write_parquet,
    write_saved,
)

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
    assert list(rejects(store)) == [2]
    assert "id already in the store with another content" in rejects(store)[2]
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
    monkeypatch.setattr("diva_grpo.pipeline.ingest.intake.CHUNK_SIZE", 40)
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
