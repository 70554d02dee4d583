"""What is exported loads elsewhere, row by row, with its images and a true card."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import datasets
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image as PillowImage

from diva_grpo.flows.cli import cli
from diva_grpo.pipeline.export import export, push
from diva_grpo.pipeline.export.rows import Selection, TrainingRow
from diva_grpo.pipeline.images.shown import MIN_PIXELS, Shown
from diva_grpo.pipeline.ingest import ingest
from diva_grpo.pipeline.perturb import make_operation
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import MAX_PIXELS, ExportConfig
from diva_grpo.schemas.exceptions import ConfigError, StoreError, TargetError
from diva_grpo.schemas.mapping import ColumnMapping
from diva_grpo.schemas.recipe import OperationName, Recipe
from diva_grpo.schemas.records import Image, Kind, Label, Problem, Setting, Status, Variant, Verdict

RECIPE = Recipe(operations=(make_operation(OperationName.GAUSSIAN_NOISE, 0.4, 1),), seed=1).model_dump_json()


def picture(store: VariantStore, colour: str) -> Image:
    buffer = io.BytesIO()
    PillowImage.new("RGB", (80, 60), colour).save(buffer, "PNG")
    return Image(hash=store.put_image(buffer.getvalue(), "PNG"), width=80, height=60)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> VariantStore:
    """Text problems of two splits and sources, a problem with two images, variants of each fate."""
    store = VariantStore(tmp_path_factory.mktemp("export") / "store", create=True)
    red, blue = picture(store, "red"), picture(store, "blue")
    problems = [
        Problem(
            problem_id=f"s/{i}",
            source="s",
            split="test" if i == 3 else "train",
            text=f"What is {i} + 1?",
            answer=str(i + 1),
            solution_steps=[f"{i} + 1 = {i + 1}"],
        )
        for i in range(4)
    ]
    problems.append(
        Problem(
            problem_id="v/0",
            source="v",
            split="train",
            text="Is <image2> larger than <image1>? Look at <image2> again.",
            answer="B",
            options=["yes", "no, see <image1>"],
            images=[red, blue],
        )
    )
    store.append(problems)
    made: dict[str, Any] = {"generator_model": "teacher", "prompt_version": "p-1"}
    store.append(
        [
            Variant(
                variant_id="s/0:think_step:1",
                problem_id="s/0",
                kind=Kind.THINK_STEP,
                text="What is 0 + 1?",
                hint=["0 + 1 = 1"],
                status=Status.ACCEPTED,
                delta_designed=-8.0,
                **made,
            ),
            Variant(
                variant_id="s/0:reword:0",
                problem_id="s/0",
                kind=Kind.REWORD,
                text="x",
                status=Status.REJECTED,
                reason="leak",
                **made,
            ),
            Variant(variant_id="s/1:reword:0", problem_id="s/1", kind=Kind.REWORD, text="x", **made),
            Variant(
                variant_id="v/0:image:0",
                problem_id="v/0",
                kind=Kind.IMAGE,
                text=problems[-1].text,
                recipe=RECIPE,
                status=Status.ACCEPTED,
                delta_designed=2.0,
                generator_model="recipe",
                prompt_version="r-1",
            ),
        ]
    )
    store.append(
        [
            Verdict(variant_id="s/0:think_step:1", check_name="leak", passed=True),
            Verdict(variant_id="s/0:reword:0", check_name="leak", passed=False),
        ]
    )
    store.append(
        [
            Label(
                subject_id="s/0",
                solver_model="p",
                subject_kind="original",
                samples=4,
                correct=1,
                pass_rate=0.25,
                difficulty=6.0,
                difficulty_low=4.0,
                difficulty_high=8.0,
            )
        ]
    )
    with store.run("ingest", '{"a": 1}'):
        pass
    store.append([Setting(name="label_model", value="p"), Setting(name="license:s", value="mit")])
    return store


def exported(store: VariantStore, out: Path, **config: Any) -> dict[str, list[dict[str, Any]]]:
    export(store, out, ExportConfig(**config))
    loaded = datasets.load_dataset(str(out), cache_dir=str(out.parent / "cache"))
    return {name: list(split) for name, split in loaded.items()}


# --- rows


def test_a_folder_has_originals_and_accepted_variants_by_split(store: VariantStore, tmp_path: Path) -> None:
    report = export(store, tmp_path / "out", ExportConfig())
    assert (report.rows, report.images) == ({"test": 1, "train": 6}, 4)
    found = exported(store, tmp_path / "again")
    assert [(row["problem_id"], row["variant_id"]) for row in found["train"]] == [
        ("s/0", "original"),
        ("s/0", "s/0:think_step:1"),
        ("s/1", "original"),
        ("s/2", "original"),
        ("v/0", "original"),
        ("v/0", "v/0:image:0"),
    ]
    assert [row["problem_id"] for row in found["test"]] == ["s/3"]
    first, hinted = found["train"][:2]
    assert (first["difficulty"], hinted["delta"], hinted["hint"]) == (6.0, -8.0, ["0 + 1 = 1"])
    assert first["solution_steps"] == ["0 + 1 = 1"]
    assert (hinted["generator_model"], first["generator_model"]) == ("teacher", None)


@pytest.mark.parametrize(
    ("what", "kinds"), [("problems", {"original"}), ("variants", {"think_step", "image"})]
)
def test_sides_alone(store: VariantStore, tmp_path: Path, what: str, kinds: set[str]) -> None:
    found = exported(store, tmp_path / "out", what=what)
    assert {row["kind"] for rows in found.values() for row in rows} == kinds


def test_a_condition_on_the_rows(store: VariantStore, tmp_path: Path) -> None:
    found = exported(store, tmp_path / "out", where="source = 's' and delta < 0 -- the easier")
    assert [row["variant_id"] for row in found["train"]] == ["s/0:think_step:1"]
    assert "images" not in found["train"][0]


def test_images_are_embedded_as_they_are_or_as_their_recipe_says(store: VariantStore, tmp_path: Path) -> None:
    original, perturbed = exported(store, tmp_path / "out", where="source = 'v'")["train"]
    assert [image.getpixel((0, 0)) for image in original["images"]] == [(255, 0, 0), (0, 0, 255)]
    paths = tuple(store.image_path(image.hash) for image in store.problems(["v/0"])[0].images)
    text = store.problems(["v/0"])[0].text
    expected = Shown(paths, RECIPE, text, MIN_PIXELS, MAX_PIXELS).open()
    assert [image.tobytes() for image in perturbed["images"]] == [image.tobytes() for image in expected]
    assert perturbed["images"][0].tobytes() != original["images"][0].tobytes()


def test_a_file_of_parquet_is_the_folder_in_one(store: VariantStore, tmp_path: Path) -> None:
    export(store, tmp_path / "out.parquet", ExportConfig(format="parquet"))
    loaded = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "out.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert Counter(loaded["kind"]) == Counter({"original": 5, "think_step": 1, "image": 1})
    assert loaded[-1]["images"][0].size == (80, 60)


def test_json_lines_have_their_images_beside_them_and_can_be_ingested(
    store: VariantStore, tmp_path: Path
) -> None:
    export(store, tmp_path / "out.jsonl", ExportConfig(format="jsonl", what="problems", preset="easyr1"))
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 5
    assert {path.name for path in tmp_path.iterdir()} == {"out.jsonl", "out.jsonl.images"}
    assert all((tmp_path / path).is_file() for row in rows for path in row["images"])
    other = VariantStore(tmp_path / "other", create=True)
    mapping = ColumnMapping(id="problem_id", images="images")
    assert ingest(other, str(tmp_path / "out.jsonl"), mapping).added == 5
    assert sum(row["images"] != [] for row in rows) == 1


@pytest.mark.parametrize("output_format", ["jsonl", "parquet", "hf"])
@pytest.mark.parametrize("what", ["verdicts", "labels", "settings", "runs"])
def test_views_are_exported_as_they_are(
    store: VariantStore, tmp_path: Path, output_format: Literal["jsonl", "parquet", "hf"], what: str
) -> None:
    out = tmp_path / "out"
    report = export(store, out, ExportConfig(format=output_format, what=what))
    count = store.query(f"SELECT count(*) FROM {what}")[0][0]
    assert report.rows == {"train": count}
    if output_format == "jsonl":
        assert len(out.read_text("utf-8").splitlines()) == count
    else:
        file = out if output_format == "parquet" else out / "data" / "train-00000-of-00001.parquet"
        assert pq.read_table(file).num_rows == count


def test_shards(store: VariantStore, tmp_path: Path) -> None:
    found = exported(store, tmp_path / "out", shard_rows=4)
    names = sorted(path.name for path in (tmp_path / "out" / "data").iterdir())
    assert names == [
        "test-00000-of-00001.parquet",
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]
    assert len(found["train"]) == 6


# --- presets


def test_trl_has_images_at_their_places(store: VariantStore, tmp_path: Path) -> None:
    rows = exported(store, tmp_path / "out", preset="trl", instruction="\nBox it.")["train"]
    content = rows[4]["prompt"][0]["content"]
    assert [part["type"] for part in content] == ["text", "image", "text", "image", "text"]
    shown = [image.getpixel((0, 0)) for image in rows[4]["images"]]
    assert shown == [(0, 0, 255), (255, 0, 0)]  # <image2> stands first
    assert content[-1]["text"] == "? Look at [image2] again.\n(A) yes\n(B) no, see [image1]\nBox it."
    assert rows[1]["prompt"][0]["content"][0]["text"].endswith("0 + 1 = 1\nContinue from here.\nBox it.")
    assert rows[1]["solution"] == "$1$"


def test_trl_without_images_has_plain_conversations_or_text(store: VariantStore, tmp_path: Path) -> None:
    chat = exported(store, tmp_path / "chat", preset="trl", where="source = 's'")["train"]
    text = exported(store, tmp_path / "text", preset="trl", prompt="text", where="source = 's'")["train"]
    assert chat[0]["prompt"] == [{"role": "user", "content": "What is 0 + 1?"}]
    assert text[0]["prompt"] == "What is 0 + 1?"


def test_verl_columns(store: VariantStore, tmp_path: Path) -> None:
    rows = exported(store, tmp_path / "out", preset="verl")["train"]
    assert set(rows[0]) == {"data_source", "prompt", "ability", "reward_model", "extra_info", "images"}
    assert (rows[0]["data_source"], rows[0]["ability"]) == ("s", "math")
    assert rows[0]["reward_model"] == {"style": "rule", "ground_truth": "1"}
    assert [row["extra_info"]["index"] for row in rows] == list(range(6))
    assert rows[5]["extra_info"]["variant_id"] == "v/0:image:0"
    for row in rows:  # as veRL's RLHFDataset takes a prompt apart
        assert row["prompt"][0]["content"].count("<image>") == len(row["images"])


def test_easyr1_columns(store: VariantStore, tmp_path: Path) -> None:
    rows = exported(store, tmp_path / "out", preset="easyr1")["train"]
    assert {"problem", "answer", "images"} <= set(rows[0])
    for row in rows:
        assert row["problem"].count("<image>") == len(row["images"])
    assert rows[4]["problem"].startswith("Is <image> larger than <image>? Look at [image2] again.")
    raw = pq.read_table(tmp_path / "out" / "train-00000-of-00001.parquet").to_pylist()
    assert raw[4]["images"][0]["bytes"][:4] == b"\x89PNG"  # read as {"bytes": ...} by both


# --- the card


def test_the_card_says_where_rows_come_from(store: VariantStore, tmp_path: Path) -> None:
    export(store, tmp_path / "out", ExportConfig(preset="trl"))
    _, header, body = (tmp_path / "out" / "README.md").read_text("utf-8").split("---\n", 2)
    metadata = yaml.safe_load(header)
    assert metadata["license"] == "unknown"  # of v nothing is known
    assert metadata["size_categories"] == ["n<1K"]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines() if "|" in line
    ]
    for row in (
        ["train", "original", "4"],
        ["test", "original", "1"],
        ["train", "think_step", "1"],
        ["s", "5", "mit"],
        ["v", "2", "unknown"],
        ["think_step", "teacher", "p-1", "1"],
        ["leak", "(none)", "2", "0.5"],
    ):
        assert row in cells, row
    features = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))[
        "train"
    ].features
    assert {row[0] for row in cells} >= set(features)


def test_a_licence_is_known_from_ingest_on(tmp_path: Path) -> None:
    source = tmp_path / "set.jsonl"
    source.write_text('{"problem": "1 + 1?", "answer": "2"}\n')
    for licence in ("cc-by-4.0", "cc-by-4.0", "mit"):
        arguments = ["ingest", str(source), "--store", str(tmp_path / "store"), "--license", licence]
        assert CliRunner().invoke(cli, arguments, catch_exceptions=False).exit_code == 0
    store = VariantStore(tmp_path / "store")
    assert store.setting("license:set") == "mit"
    assert len(list((store.root / "settings").glob("*.parquet"))) == 3  # the empty one, and two licences
    export(store, tmp_path / "out", ExportConfig())
    assert "license: mit\n" in (tmp_path / "out" / "README.md").read_text("utf-8")


# --- mistakes


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"what": "nothing"}, "choose from problems, variants, training, rejects"),
        ({"what": "labels", "preset": "trl"}, "goes with --what"),
        ({"prompt": "text"}, "goes with --preset trl"),
        ({"preset": "trl", "prompt": "text"}, "cannot hold images"),
        ({"where": "nope = 1"}, "--where 'nope = 1'"),
        ({"where": "true) FROM problems; DROP VIEW problems; --"}, "--where"),
        ({"where": "EXISTS (FROM read_text('/etc/hostname'))"}, "file system operations are disabled"),
        ({"where": "EXISTS (WITH x AS (COPY (SELECT 1) TO 'x.csv') FROM x)"}, "--where"),
        ({"where": "false"}, "no row fits"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    store: VariantStore, tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        export(store, tmp_path / "out", ExportConfig(**config))
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(store: VariantStore, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        export(store, tmp_path / "out", ExportConfig())
    assert (tmp_path / "out").read_text() == "mine"


def test_a_missing_image_leaves_no_half_export(store: VariantStore, tmp_path: Path) -> None:
    broken = VariantStore(shutil.copytree(store.root, tmp_path / "store"))
    shutil.rmtree(broken.root / "images")
    with pytest.raises(StoreError, match="is missing from"):
        export(broken, tmp_path / "out", ExportConfig(shard_rows=1))
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.fixture
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)


@pytest.mark.usefixtures("no_token")
def test_without_a_token_nothing_is_exported(store: VariantStore, tmp_path: Path) -> None:
    arguments = ["export", str(tmp_path / "out"), "--store", str(store.root), "--push-to-hub", "me/set"]
    result = CliRunner().invoke(cli, arguments)
    assert str(result.exception) == "no Hugging Face token: run `hf auth login`, or set HF_TOKEN"
    assert list(tmp_path.iterdir()) == []


def test_a_hub_that_is_out_of_reach_is_one_line(
    store: VariantStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_none")
    export(store, tmp_path / "out", ExportConfig(where="source = 's'"))
    with pytest.raises(TargetError, match="is written, but me/set could not be uploaded") as error:
        push(tmp_path / "out", "me/set")  # tests are offline (conftest.py)
    assert "\n" not in str(error.value)


def test_parts_that_go_while_they_are_read_are_one_line(
    store: VariantStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of an export that takes longer than the grace of a compaction."""
    copy = tmp_path / "copy"
    shutil.copytree(store.root, copy)
    rows = Selection.rows

    def late(self: Selection, split: str) -> Iterator[TrainingRow]:
        shutil.rmtree(copy / "problems")
        return rows(self, split)

    monkeypatch.setattr(Selection, "rows", late)
    with pytest.raises(StoreError, match=r"copy could not be read to the end: .*: export again"):
        export(VariantStore(copy), tmp_path / "out", ExportConfig())
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
