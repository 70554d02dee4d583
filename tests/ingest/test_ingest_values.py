"""Values that no author meant: infinities, keys that stand twice, texts of hundreds of megabytes, links."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from diva_grpo.pipeline.images.sources import ImageError, Place, read_pictures
from diva_grpo.pipeline.ingest.readers import READERS, Row, Unreadable
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import Problem, Reject
from tests.conftest import Diva


def _ingested(diva: Diva, file: Path) -> tuple[list[str], list[str]]:
    """Answers of the problems, and reasons of the rejects."""
    root = file.parent / "store"
    diva("ingest", file, "--problem-column", "q", "--answer-column", "a", "--store", root)
    store = VariantStore(root)
    return [p.answer for p in store.read(Problem)], [r.reason for r in store.read(Reject)]


@pytest.mark.parametrize("value", ["1e400", "-1e400", "Infinity", "-Infinity"])
def test_an_infinite_answer_is_a_reject(value: str, tmp_path: Path, diva: Diva) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f'{{"q": "What is 1 + 1?", "a": 2}}\n{{"q": "And then?", "a": {value}}}\n')
    answers, reasons = _ingested(diva, file)
    assert answers == ["2"]
    assert ["too large" in reason for reason in reasons] == [True]


def test_an_infinite_answer_of_a_table_is_a_reject(tmp_path: Path, diva: Diva) -> None:
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"q": ["What is 1 + 1?", "And then?"], "a": [2.0, float("inf")]}), file)
    answers, reasons = _ingested(diva, file)
    assert answers == ["2"]
    assert len(reasons) == 1


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_a_key_that_stands_twice_is_a_reject(name: str, tmp_path: Path, diva: Diva) -> None:
    rows = ['{"q": "What is 1 + 1?", "a": 2}', '{"q": "What is 2 + 1?", "a": 3, "a": 4}']
    file = tmp_path / name
    file.write_text("\n".join(rows) if name.endswith("l") else f"[{', '.join(rows)}]")
    answers, reasons = _ingested(diva, file)
    assert answers == ["2"]
    assert reasons == ["it has the key 'a' twice"]


@pytest.mark.parametrize(
    ("answer", "key"),
    [
        ('{"b": "3", "b": "4"}', "a.b"),
        ('[{"b": {"c": 1, "c": 2}}]', "a.b.c"),
        ('"3", "other": [[1], [{"x": 1, "x": 1}]]', "other.x"),
    ],
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "tables.json"])
def test_a_key_that_stands_twice_inside_is_a_reject(
    name: str, answer: str, key: str, tmp_path: Path, diva: Diva
) -> None:
    rows = ['{"q": "What is 1 + 1?", "a": 2}', f'{{"q": "What is 2 + 1?", "a": {answer}}}']
    file, joined = tmp_path / name, ", ".join(rows)
    contents = {"rows.jsonl": "\n".join(rows), "rows.json": f"[{joined}]"}
    file.write_text(contents.get(name, f'{{"data": [{joined}]}}'))
    answers, reasons = _ingested(diva, file)
    assert answers == ["2"]
    assert reasons == [f"it has the key '{key}' twice"]


_READ = """
import sys
from pathlib import Path
import pyarrow as pa
from diva_grpo.pipeline.ingest.readers import READERS
for row in READERS[".parquet"](Path(sys.argv[1])):
    print(getattr(row, "reason", "read"))
print(pa.default_memory_pool().max_memory())
"""


@pytest.mark.slow
@pytest.mark.parametrize("repeated", [1, 40])
def test_a_huge_text_is_a_reject_in_bounded_memory(repeated: int, tmp_path: Path) -> None:
    huge = pa.DictionaryArray.from_arrays(
        pa.array([1] + [0] * repeated), pa.array(["x" * 300_000_000, "small"])
    )
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"q": huge}), file, compression="zstd", dictionary_pagesize_limit=2**30)
    assert file.stat().st_size < 100_000
    done = subprocess.run([sys.executable, "-c", _READ, file], capture_output=True, text=True, check=True)
    *said, most_bytes = done.stdout.splitlines()
    assert said == ["read", *["a cell of 286 MiB in q: at most 16"] * repeated]
    # Arrow reserves the text six times while it reads one row (1.8 GB), and not once more for each row. The count is
    # Arrow's, since the maximum that the system gives for a process includes its parent's.
    assert int(most_bytes) < 7 * 300_000_000


def test_a_large_text_in_a_conversation_is_a_reject(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    talks = [[{"role": "user", "content": text}] for text in ("one", "x" * (2**24 + 1), "three")]
    pq.write_table(pa.table({"messages": talks}), file)
    rows = list(READERS[".parquet"](file))
    assert [type(row) for row in rows] == [Row, Unreadable, Row]


def test_a_picture_may_be_larger_than_a_text(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"image": [{"bytes": b"x" * (2**24 + 1), "path": "a.png"}]}), file)
    assert [type(row) for row in READERS[".parquet"](file)] == [Row]


def test_one_large_text_takes_no_other_row_with_it(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"q": ["one", "x" * (2**24 + 1), "three"]}), file)
    rows = list(READERS[".parquet"](file))
    assert [type(row) for row in rows] == [Row, Unreadable, Row]
    assert [row.number for row in rows] == [1, 2, 3]


def test_a_link_to_an_image_outside_is_not_followed(tmp_path: Path) -> None:
    folder, outside = tmp_path / "data", tmp_path / "private.png"
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(outside)
    Image.new("RGB", (4, 4)).save(folder / "own.png")
    (folder / "images" / "a.png").symlink_to("../own.png")
    (folder / "images" / "b.png").symlink_to(outside)
    (folder / "elsewhere").symlink_to(tmp_path)
    place = Place(folder, folder)
    assert len(read_pictures("images/a.png", place)) == 1
    for path in ("images/b.png", "elsewhere/private.png"):
        with pytest.raises(ImageError, match="a link that leads out of the source's folder"):
            read_pictures(path, place)


def test_the_hubs_cache_is_made_of_links(tmp_path: Path) -> None:
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshots" / "0123"
    blobs.mkdir()
    folder.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(blobs / "abcd", "PNG")
    (folder / "a.png").symlink_to("../../blobs/abcd")
    assert len(read_pictures(json.dumps(["a.png"]), Place(folder, folder))) == 1
