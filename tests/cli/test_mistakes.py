"""One line for every mistake of a user, the right exit code, and no traceback."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import Problem
from tests.conftest import Diva

MISTAKES: dict[str, tuple[str, int, str]] = {
    "no command": ("nope", 2, "No such command 'nope'"),
    "no option": ("status --store {store} --nope", 2, "No such option"),
    "--store forgotten": ("status", 2, "Missing option '--store'"),
    "no store": ("status --store {tmp}/none", 1, "no store at .*none: make one with `diva ingest"),
    "store is a file": ("ingest {source} --store {source}", 2, "is a file: a store is a folder"),
    "unknown kind": ("generate --store {store} --model m --kinds rewrod", 2, "--kinds rewrod: should be 'reword'"),
    "images are free": ("generate --store {store} --kinds image --dry-run", 2, "cost nothing"),
    "model forgotten": ("generate --store {store} {url}", 2, "give --model"),
    "no endpoint": ("generate --store {store} --model m", 2, "no endpoint: set OPENAI_API_KEY"),
    "URL without http": ("generate --store {store} --model m --base-url localhost:1", 2, "must begin with http"),
    "no concurrency": ("generate --store {store} --model m --concurrency 0", 2, "--concurrency 0: should be greater"),
    "concurrency in words": ("generate --store {store} --model m --concurrency many", 2, "'many' is not"),
    "limit of nothing": ("generate --store {store} --model m --limit 0", 2, "--limit"),
    "unknown output mode": ("label --store {store} --model m --output-mode xml", 2, "'xml' is not one of"),
    "unknown check": ("verify --store {store} --model m --checks spelling", 2, "--checks spelling: should be .format"),
    "no samples": ("label --store {store} --model m --samples 0", 2, "--samples 0: should be greater"),
    "no price table": ("generate --store {store} --model m {url} --prices {tmp}/none", 2, "price table .*none"),
    "no settings file": ("generate --store {store} --teacher-config {tmp}/none", 2, "none cannot be read"),
    "settings are a list": ("generate --store {store} --teacher-config {list}", 2, "holds no settings"),
    "settings are no YAML": ("generate --store {store} --teacher-config {bad}", 2, "cannot be read"),
    "settings misspelt": ("generate --store {store} --model m --teacher-config {misspelt}", 2, "no setting 'modle'"),
    "source missing": ("ingest {tmp}/none.parquet --store {tmp}/s", 1, "none.parquet"),
    "source unreadable": ("ingest {bad} --store {tmp}/s", 1, "bad"),
    "Parquet that is none": ("ingest {fake} --store {tmp}/s", 1, "fake.parquet"),
    "unknown column": ("ingest {source} --problem-column q --store {tmp}/s", 1, "no column 'q'"),
    "unknown preset": ("ingest {source} --preset gms8k --store {tmp}/s", 2, "'gms8k' is not one of"),
    "store is a file to read": ("status --store {source}", 2, "is a file: a store is a folder"),
    "store is a file to verify": ("verify --store {source} --model m {url}", 2, "is a file: a store is a folder"),
    "no SQL": ("sql nonsense --store {store}", 1, "Parser Error"),
    "unknown SQL column": ("sql select+nope+from+variants --store {store}", 1, '"nope" not found .*sql --schema'),
    "misspelt SQL column": ("sql select+statsu+from+variants --store {store}", 1, "did you mean status"),
    "misspelt SQL view": ("sql from+varants --store {store}", 1, "did you mean variants"),
    "SQL that writes": ("sql drop+view+variants --store {store}", 1, "only one SELECT"),
    "unknown format": ("sql select+1 --store {store} --format xml", 2, "'xml' is not one of"),
    "Parquet to the screen": ("sql select+1 --store {store} --format parquet", 2, "needs --output FILE"),
    "no time": ("sql select+1 --store {store} --timeout 0", 2, "--timeout"),
    "too little time": ("sql {endless} --store {store} --timeout 0.1", 1, "longer than 0.1 s"),
    "unwritable output": ("sql select+1 --store {store} --output {tmp}/no/out", 1, "cannot be written"),
    "curate without a store": ("curate --store {tmp}/none --model m {url}", 1, "no store at"),
    "curate without an endpoint": ("curate --store {store} --model m", 2, "no endpoint"),
    "curate with a bad filter": ("curate --store {store} --model m {url} --problem-filter nope=1", 2, "problem filter"),
    "no model to train": ("train --store {store}", 2, "no model: give --model_name_or_path"),
    "no model comes before bf16": ("train --store {store} --bf16 true", 2, "no model: give --model_name_or_path"),
    "model is no folder": ("train --store {store} --model_name_or_path a/b/c", 2, "a/b/c: there is no such folder"),
    "model of the hub, offline": ("train --store {store} --model_name_or_path a/b", 2, "the hub cannot be asked"),
    "misspelt training option": ("train --store {store} --learning_rat 1 --selectr x", 2, "no option '--selectr'"),
    "run before any training": ("diagnose --store {store} --run nope", 2, "no rollouts: `diva train`"),
    "run without a page": ("report --store {store} --run nope", 2, "give --html FILE too"),
    "wrong share": ("teacher --store {store} --wrong-share 2", 2, "--wrong-share"),
}  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What the lines of MISTAKES name; none of them gets as far as to write a variant."""
    folder = tmp_path_factory.mktemp("mistakes")
    problem = Problem(problem_id="a/0", source="a", split="train", text="1 + 1?", answer="2")
    VariantStore(folder / "store", create=True).append([problem])
    pq.write_table(pa.table({"problem": ["1 + 1?"], "answer": ["2"]}), folder / "source.parquet")
    contents = {"list": "- a\n", "bad": "{x: [", "misspelt": "modle: m\n", "fake": "not Parquet"}
    names = {name: f"{name}.parquet" if name == "fake" else f"{name}.json" for name in contents}
    for name, content in contents.items():
        (folder / names[name]).write_text(content)
    return {
        **{name: folder / file for name, file in names.items()},
        "store": folder / "store",
        "source": folder / "source.parquet",
        "url": "--base-url=http://127.0.0.1:9/v1",
        "endless": "select+count(*)+from+range(10000000000)+a,range(10000000000)+b",
    }


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_told_without_a_traceback(
    diva: Diva, places: dict[str, object], tmp_path: Path, mistake: str
) -> None:
    line, code, message = MISTAKES[mistake]
    arguments = [part.replace("+", " ") for part in line.format(tmp=tmp_path, **places).split()]
    outcome = diva(*arguments)
    assert outcome.code == code, outcome
    assert "Traceback" not in outcome.err
    assert re.search(message, outcome.err), outcome.err
    if outcome.err.startswith("diva:"):
        assert outcome.err.count("\n") == 1, outcome.err


def test_key_in_a_settings_file_is_not_shown(diva: Diva, places: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("model: m\napi_key: sk-very-secret\n")
    outcome = diva("generate", "--store", places["store"], "--teacher-config", tmp_path / "t.yaml")
    assert outcome.code == 2
    assert "no setting 'api_key'" in outcome.err
    assert "sk-very-secret" not in outcome.err


def test_no_arguments_show_the_help(diva: Diva) -> None:
    outcome = diva()
    assert outcome.code == 2
    assert "diva ingest problems.jsonl" in outcome.err


def test_damaged_part_is_one_line(diva: Diva, store: VariantStore) -> None:
    (store.root / "variants" / "1.parquet").write_bytes(b"no Parquet at all")
    outcome = diva("status", "--store", store.root)
    assert outcome.code == 1
    assert re.fullmatch(r"diva: store .* cannot be read: .*1\.parquet.*\n", outcome.err)
