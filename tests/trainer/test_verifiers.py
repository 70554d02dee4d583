"""A package of `diva export --preset verifiers`, evaluated by `verifiers` itself in an environment of its own."""

from __future__ import annotations

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from diva_grpo.flows.cli import cli
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import Image, Kind, Label, Problem, Variant
from tests.support.endpoints import Server, completion, serving
from tests.support.other_environments import Environment, environment
from tests.support.source_files import png

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first test makes the environment

SAMPLES = 4

# Replies to a question, from the first: of each subject another share is right, in another form.
REPLIES: dict[str, list[str]] = {
    "What is 0 + 1?": ["The answer is 1.", "\\boxed{2}", "I do not know.", ""],
    "Add 1 to 0.": ["\\boxed{1}", "\\boxed{1.0}", "\\boxed{3}", "#### 1"],
    "What is 1 + 1?": ["\\boxed{1}", "Perhaps 3.", "\\boxed{4}", "no"],
    "one more than 1 is": ["\\boxed{2}", "\\boxed{\\frac{4}{2}}", "It is 2.", "\\boxed{5}"],
    "Which is larger?": ["(B)", "The answer is 7.", "\\boxed{B}", "\\boxed{7}"],
    "How many corners?": ["\\boxed{3}", "\\boxed{4}", "\\boxed{3}", "\\boxed{4}"],
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> VariantStore:
    """Four problems, one with options and one with an image, and two variants, one with a hint of two steps."""
    store = VariantStore(tmp_path_factory.mktemp("verifiers") / "store", create=True)
    picture = Image(hash=store.put_image(png(40, 30), "PNG"), width=40, height=30)
    shared: dict[str, Any] = {"source": "sums", "split": "train"}
    problems: list[dict[str, Any]] = [
        {"text": "What is 0 + 1?", "answer": "1"},
        {"text": "What is 1 + 1?", "answer": "2"},
        {"text": "Which is larger?", "answer": "B", "options": ["3", "7"]},
        {"text": "How many corners?<image>", "answer": "4", "images": [picture]},
    ]
    store.append([Problem(problem_id=f"sums/{i}", **shared, **p) for i, p in enumerate(problems)])
    made: dict[str, Any] = {"status": "accepted", "generator_model": "t", "prompt_version": "p"}
    hint: dict[str, Any] = {"hint": ["1 is 1", "one more than 1 is"], "hint_steps": 2, "hint_total": 3}
    store.append(
        [
            Variant(
                variant_id="sums/0:reword:0",
                problem_id="sums/0",
                kind=Kind.REWORD,
                text="Add 1 to 0.",
                **made,
            ),
            Variant(
                variant_id="sums/1:think_step:0",
                problem_id="sums/1",
                kind=Kind.THINK_STEP,
                text="What is 1 + 1?",
                **hint,
                **made,
            ),
        ]
    )
    return store


@pytest.fixture(scope="module")
def package(store: VariantStore) -> Path:
    """The exported package."""
    folder = store.root.parent / "small_sums"
    arguments = ["export", str(folder), "--store", str(store.root), "--preset", "verifiers"]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert f"pip install {folder}" in done.stderr
    return folder


@pytest.fixture(scope="module")
def verifiers(tmp_path_factory: pytest.TempPathFactory, package: Path) -> Environment:
    """An environment with `verifiers` 0.4 and the exported package."""
    found = environment(tmp_path_factory.mktemp("env"), "DIVA_VERIFIERS_ENV", ["verifiers==0.4.*"])
    return installed(found, package)


@pytest.fixture(scope="module")
def verifiers_01(tmp_path_factory: pytest.TempPathFactory, package: Path) -> Environment:
    """An environment with `verifiers` 0.1 and the exported package."""
    found = environment(tmp_path_factory.mktemp("env"), "DIVA_VERIFIERS_01_ENV", ["verifiers>=0.1.14,<0.2"])
    return installed(found, package)


def installed(found: Environment, package: Path) -> Environment:
    """Install the exported package in an environment."""
    found.install("--reinstall-package", "small-sums", package)
    return found


@pytest.fixture
def endpoint() -> Iterator[Server]:
    """Gives the replies to a question in turn."""
    asked: Counter[str] = Counter()
    lock = threading.Lock()

    def answer(request: dict[str, Any]) -> Any:
        content = json.dumps([message["content"] for message in request["messages"]])
        question = max((text for text in REPLIES if text in content), key=content.rindex)
        with lock:
            asked[question] += 1
        return completion(REPLIES[question][(asked[question] - 1) % SAMPLES])

    with serving(Server(answer)) as server:
        yield server


def evaluated(verifiers: Environment, endpoint: Server, out: Path) -> dict[str, list[float]]:
    """Rewards by id of the task, as `vf-eval` wrote them."""
    command = ["small-sums", "-r", SAMPLES, "--model", "m", "--client.base-url", endpoint.url, "--no-push"]
    verifiers.run("vf-eval", *command, "--no-rich", "-o", out, "--run.name", "run")
    found: defaultdict[str, list[float]] = defaultdict(list)
    for line in (out / "run" / "traces.jsonl").read_text("utf-8").splitlines():
        [trace] = json.loads(line)["traces"]
        assert trace["ok"], trace["errors"]
        found[trace["task"]["data"]["id"]].append(trace["rewards"]["accuracy"]["score"])
    return dict(found)


def labelled(store: VariantStore, endpoint: Server) -> dict[str, float]:
    """Pass rates by problem or variant, as `diva label` measures them."""
    arguments = ["label", "--store", str(store.root), "--model", "m", "--base-url", endpoint.url]
    done = CliRunner().invoke(cli, [*arguments, "--samples", str(SAMPLES)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return {label.subject_id: label.pass_rate for label in store.read(Label)}


def test_its_evaluation_gives_the_pass_rates_of_labels(
    verifiers: Environment, store: VariantStore, endpoint: Server, tmp_path: Path
) -> None:
    rewards = evaluated(verifiers, endpoint, tmp_path)
    [shown] = [r["messages"][-1]["content"] for r in endpoint.requests if "corners" in str(r)][:1]
    assert [part["type"] for part in shown] == ["text", "image_url"]
    labels = labelled(store, endpoint)
    assert {task: sum(values) / SAMPLES for task, values in rewards.items()} == labels
    assert {len(values) for values in rewards.values()} == {SAMPLES}
    assert labels["sums/1"] == 0.0
    assert labels["sums/1:think_step:0"] == 0.75


def test_that_of_0_1_gives_them_too(
    verifiers_01: Environment, store: VariantStore, endpoint: Server, tmp_path: Path
) -> None:
    command = [
        "small-sums",
        "-n",
        6,
        "-r",
        SAMPLES,
        "-m",
        "m",
        "-b",
        endpoint.url,
        "-k",
        "ANY_KEY",
        "-s",
        "-o",
        tmp_path,
    ]
    verifiers_01.run("vf-eval", *command, "--disable-tui", "--api-client-type", "openai_chat_completions",
                     variables={"ANY_KEY": "x"})  # fmt: skip
    [results] = tmp_path.rglob("results.jsonl")
    rewards: defaultdict[str, list[float]] = defaultdict(list)
    for line in results.read_text("utf-8").splitlines():
        result = json.loads(line)
        rewards[result["info"]["id"]].append(result["reward"])
    assert {task: sum(values) / SAMPLES for task, values in rewards.items()} == labelled(store, endpoint)
    assert {len(values) for values in rewards.values()} == {SAMPLES}
    [shown] = [r["messages"][-1]["content"] for r in endpoint.requests if "corners" in str(r)][:1]
    assert [part["type"] for part in shown] == ["text", "image_url"]


SELECTED_01 = """
import json, sys
import verifiers as vf

def keys(options):
    try:
        return [info["id"] for info in vf.load_environment("small-sums", **options).get_dataset()["info"]]
    except RuntimeError as error:
        return str(error)

print(json.dumps([keys(json.loads(argument)) for argument in sys.argv[1:]]))
"""


def test_kinds_are_selectable_there(verifiers_01: Environment) -> None:
    asked: list[dict[str, Any]] = [{"kinds": ["think_step"], "hint_steps": [2]}, {"split": "test"}]
    found = json.loads(verifiers_01.run("python", "-c", SELECTED_01, *map(json.dumps, asked)))
    assert found[0] == ["sums/1:think_step:0"]
    assert "no split 'test': choose from train" in found[1]


FOLDER = """
import sys
from pathlib import Path
from diva_grpo.trainer.hosts.verifiers import StoreTaskset, StoreTasksetConfig

class Taskset(StoreTaskset):
    folder = Path(sys.argv[1])

try:
    print(len(list(Taskset(StoreTasksetConfig(id="folder")).load())))
except ValueError as error:
    print(error)
"""


def test_a_row_with_more_places_than_images_is_named(
    verifiers: Environment, store: VariantStore, tmp_path: Path
) -> None:
    [file] = (store.root.parent / "small_sums" / "small_sums" / "data").glob("train-*.parquet")
    table = pq.read_table(file)
    assert verifiers.run("python", "-c", FOLDER, file.parent) == f"{len(table)}\n"
    rows = table.to_pylist()
    next(row for row in rows if row["images"])["prompt"] += " <image>"
    pq.write_table(pa.Table.from_pylist(rows, table.schema), tmp_path / file.name)
    said = verifiers.run("python", "-c", FOLDER, tmp_path)
    assert said.startswith("row sums/3: its question has 2 `<image>` for 1 images: ")
    assert said.count("\n") == 1


SELECTED = """
import json, sys
import verifiers.v1 as vf

def keys(options):
    try:
        return [task.key for task in vf.load_taskset(config(id="small-sums", **options))]
    except ValueError as error:
        return str(error)

config = vf.taskset_config_type("small-sums")
print(json.dumps([keys(json.loads(argument)) for argument in sys.argv[1:]]))
"""


def test_splits_kinds_and_hints_are_selectable(verifiers: Environment) -> None:
    asked: list[dict[str, Any]] = [
        {},
        {"kinds": ["original"]},
        {"hint_steps": [1]},
        {"kinds": ["think_step"], "hint_steps": [1, 2]},
        {"split": "test"},
        {"kinds": ["harder"]},
    ]
    found = json.loads(verifiers.run("python", "-c", SELECTED, *map(json.dumps, asked)))
    originals = [f"sums/{i}" for i in range(4)]
    everything = {*originals, "sums/0:reword:0", "sums/1:think_step:0"}
    assert set(found[0]) == everything
    assert found[1] == originals
    assert set(found[2]) == everything - {"sums/1:think_step:0"}
    assert found[3] == ["sums/1:think_step:0"]
    assert found[4] == "no split 'test': choose from train"
    assert found[5] == "split 'train' has no row of kinds ['harder'] with hint_steps all"
