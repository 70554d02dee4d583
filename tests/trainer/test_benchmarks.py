"""The paper's benchmarks: rows as their sources hold them, into a store and through `diva eval`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as PillowImage

from diva_grpo.flows.cli import cli
from diva_grpo.pipeline.grade import grade
from diva_grpo.pipeline.ingest import ingest, split_options
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import ConfigError, SourceError
from diva_grpo.schemas.mapping import PRESETS, ColumnMapping
from diva_grpo.schemas.records import Evaluation, Problem, Reject
from diva_grpo.trainer.evaluation.benchmarks import BENCHMARKS, find_benchmark
from tests.support.tiny_vision_model import tiny_vision_model


def picture(colour: str = "red") -> dict[str, Any]:
    """An image as the hub's Parquet files hold it."""
    buffer = io.BytesIO()
    PillowImage.new("RGB", (8, 6), colour).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": "1.png"}


MATHVISTA = {
    "pid": "1",
    "question": "When a spring does work on an object, we cannot find the work by its displacement. How long?",
    "image": "images/1.jpg",
    "decoded_image": picture(),
    "choices": None,
    "unit": "m",
    "precision": 1.0,
    "answer": "1.2",
    "question_type": "free_form",
    "answer_type": "float",
    "query": "Hint: ...",
}
MATHVERSE = {
    "sample_index": "5",
    "problem_index": "1",
    "problem_version": "Vision Only",
    "question": "",
    "image": picture(),
    "answer": "D",
    "question_type": "multi-choice",
    "query_wo": "According to the question shown in the image, please directly answer the question.",
    "query_cot": "According to the question shown in the image, please first conduct reasoning, and then answer "
    "the question and provide the correct option letter, e.g., A, B, C, D, at the end.",
}
MATHVISION = {
    "id": "4",
    "question": "Which is larger?\n<image1>",
    "options": ["A", "B", "C", "D", "E"],
    "image": "images/4.jpg",
    "decoded_image": picture(),
    "answer": "B",
    "solution": None,
    "level": 2,
    "subject": "counting",
}
OLYMPIADBENCH = {
    "id": 2231,
    "question": "From <image_2>, and <image_1> again beside <image_2>, find $v_{1}$ and $v_{2}$.",
    "context": "A ball rolls as in <image_1>.",
    "solution": ["Energy is kept.", "So $v_1=3$."],
    "final_answer": ["$3$", "$4.5$"],
    "image_1": picture("red"),
    "image_2": picture("blue"),
    "image_3": None,
    "image_4": None,
    "image_5": None,
    "is_multiple_answer": True,
    "unit": "m/s",
    "answer_type": "Numerical",
    "error": "1e-1",
    "subfield": "Mechanics",
}
WEMATH = {
    "ID": "3steps_47",
    "split": "testmini",
    "key": "3steps_1",
    "question number": 1127,
    "question": "What are the liquid level height when upright and the air height when inverted?",
    "option": "A. 6cm, 2cm B. 1cm, 3cm ;C. 1cm, 4cm; D. No correct answer",
    "answer": "A",
    "image_path": picture(),
}
MMK12 = {
    "id": "a7a3",
    "question": "As shown, the mirror turns the beam. Which is right?\nA. It bends.\nB. It does not.",
    "answer": "B",
    "subject": "physics",
    "image": picture(),
}
ROWS: dict[str, dict[str, Any]] = {
    "mathvista": MATHVISTA,
    "mathverse": MATHVERSE,
    "mathvision": MATHVISION,
    "olympiadbench": OLYMPIADBENCH,
    "wemath": WEMATH,
    "mmk12": MMK12,
}


@pytest.fixture
def store(tmp_path: Path) -> VariantStore:
    return VariantStore(tmp_path / "store", create=True)


def source_of(folder: Path, *rows: dict[str, Any]) -> str:
    """A file named as a split that must not be recorded."""
    pq.write_table(pa.Table.from_pylist(list(rows)), folder / "testmini-00000-of-00001.parquet")
    return str(folder / "testmini-00000-of-00001.parquet")


def problem_of(store: VariantStore, folder: Path, name: str, **changes: Any) -> Problem:
    mapping = BENCHMARKS[name].mapping
    report = ingest(store, source_of(folder, {**ROWS[name], **changes}), mapping, source_name=name)
    assert report.added == 1, [reject.reason for reject in store.read(Reject)]
    return store.problems()[0]


# --- rows


@pytest.mark.parametrize(
    ("name", "problem_id", "right", "wrong"),
    [
        ("mathvista", "mathvista/1", "1.2", "1.25"),
        ("mathverse", "mathverse/5", "D", "C"),
        ("mathvision", "mathvision/4", "B", "E"),
        ("olympiadbench", "olympiadbench/2231", "3, 4.5", "3"),
        ("wemath", "wemath/1127", "6 cm, 2 cm", "B"),
        ("mmk12", "mmk12/a7a3", "\\text{B}", "A"),
    ],
)
def test_a_row_of_each(
    store: VariantStore, tmp_path: Path, name: str, problem_id: str, right: str, wrong: str
) -> None:
    problem = problem_of(store, tmp_path, name)
    assert (problem.problem_id, problem.source, problem.split) == (problem_id, name, "test")
    assert len(problem.images) == (2 if name == "olympiadbench" else 1)
    for answer, outcome in ((right, "correct"), (wrong, "wrong")):
        assert grade(f"So \\boxed{{{answer}}}", problem.answer, options=problem.options).outcome == outcome
    assert "\\boxed{}" in BENCHMARKS[name].instruction


def test_mathvista_asks_for_unit_and_precision(store: VariantStore, tmp_path: Path) -> None:
    problem = problem_of(store, tmp_path, "mathvista")
    assert problem.text.endswith("How long? (Unit: m)\nGive the answer with 1 decimal place.")


def test_mathvista_choices_are_answered_by_letter_or_text(store: VariantStore, tmp_path: Path) -> None:
    changes = {"choices": ["120°", "145°"], "answer": "145°", "unit": None, "precision": None}
    problem = problem_of(store, tmp_path, "mathvista", **changes)
    assert problem.text == MATHVISTA["question"]
    for answer in ("B", "145°", "(B) 145°"):
        assert grade(f"\\boxed{{{answer}}}", problem.answer, options=problem.options).outcome == "correct"


def test_olympiadbench_puts_the_context_first_and_names_its_figures(
    store: VariantStore, tmp_path: Path
) -> None:
    problem = problem_of(store, tmp_path, "olympiadbench")
    assert problem.text == (
        "A ball rolls as in <image1>.\n"
        "From <image2>, and <image1> again beside <image2>, find $v_{1}$ and $v_{2}$. (Unit: m/s)"
    )
    assert problem.answer == "$3$, $4.5$"
    assert problem.solution_steps == ["Energy is kept.", "So $v_1=3$."]
    reds = [PillowImage.open(store.image_path(image.hash)).getpixel((0, 0)) for image in problem.images]
    assert reds == [(255, 0, 0), (0, 0, 255)]


def test_olympiadbench_of_text_alone(store: VariantStore, tmp_path: Path) -> None:
    row = {name: value for name, value in OLYMPIADBENCH.items() if not name.startswith("image")}
    row |= {"question": "Find $n$.", "context": None, "unit": None, "final_answer": ["$2n+1$"]}
    report = ingest(
        store, source_of(tmp_path, row), BENCHMARKS["olympiadbench"].mapping, source_name="olympiadbench"
    )
    assert report.added == 1
    assert (store.problems()[0].text, store.problems()[0].images) == ("Find $n$.", [])


def test_proofs_are_rejected(store: VariantStore, tmp_path: Path) -> None:
    row = {**OLYMPIADBENCH, "final_answer": None}
    report = ingest(store, source_of(tmp_path, row, OLYMPIADBENCH), BENCHMARKS["olympiadbench"].mapping)
    assert (report.added, report.rejected) == (1, 1)
    assert store.read(Reject)[0].reason.startswith("no answer")


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("A. 300, 400;B. 400, 300;C. 3, 4; D. No correct answer", ["300, 400", "400, 300", "3, 4"]),
        ("A. F;    B. D;    C. B;    D. No correct answer", ["F", "D", "B"]),
        ("A. A;B. B;C. C;D. No correct answer", ["A", "B", "C"]),
        ("A: 1\nB: 2\nC: 0.5\nD: No correct answer", ["1", "2", "0.5"]),
        (
            "A. Point A; the first B. point B.; C. none; D. No correct answer",
            ["Point A; the first", "point B."],
        ),
    ],
)
def test_options_in_one_text(text: str, options: list[str]) -> None:
    found = split_options(text)
    assert found[: len(options)] == options
    assert found[-1] == "No correct answer"


@pytest.mark.parametrize("text", ["1 or 2", "A. alone", "", "Take A. 1; B. 2", "A. ; B. 2", "B. 1; C. 2"])
def test_what_is_no_list_of_options(text: str) -> None:
    assert split_options(text) == []


# --- the registry


def test_the_papers_six_are_there() -> None:
    assert list(BENCHMARKS) == list(ROWS)
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.name == benchmark.mapping.name == name
        assert benchmark.mapping.recorded_split == "test"
        assert benchmark.mapping.hub
        assert benchmark.instruction.startswith("\n")
    assert BENCHMARKS["mathvision"].mapping.problem == PRESETS["mathvision"].problem
    assert find_benchmark("We-Math") is BENCHMARKS["wemath"]
    with pytest.raises(
        ConfigError, match="choose mathvista, mathverse, mathvision, olympiadbench, wemath, mmk12"
    ):
        find_benchmark("mathvist")


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_the_hub_is_asked_for_the_right_sets(
    name: str, store: VariantStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load_dataset(hub: str, config: str | None, *, split: str | None, streaming: bool) -> Any:
        asked.append((hub, config, split))
        row = {**ROWS[name], "id": len(asked)}
        return datasets.Dataset(pa.Table.from_pylist([row]), split=datasets.NamedSplit(split or "train"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.chdir(tmp_path)
    for source, mapping in BENCHMARKS[name].parts():
        assert ingest(store, source, mapping, source_name=name).added == 1
    olympiad = [f"OE_{kind}_{of}_en_COMP" for kind in ("MM", "TO") for of in ("maths", "physics")]
    expected = {
        "mathvista": [("AI4Math/MathVista", None, "testmini")],
        "mathverse": [("AI4Math/MathVerse", "testmini", "testmini")],
        "mathvision": [("MathLLMs/MathVision", None, "test")],
        "olympiadbench": [("Hothan/OlympiadBench", config, "train") for config in olympiad],
        "wemath": [("We-Math/We-Math", None, "testmini")],
        "mmk12": [("FanqingM/MMK12", None, "test")],
    }
    assert asked == expected[name]
    assert {problem.split for problem in store.problems()} == {"test"}


# --- the command


@pytest.fixture(scope="module")
def vision_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vision_model(tmp_path_factory.mktemp("tiny-vision"))


def evaluate(model: Path, store: Path, *arguments: str) -> None:
    common = [
        "--model",
        str(model),
        "--store",
        str(store),
        "--benchmark",
        "mathvision",
        "--max-new-tokens",
        "3",
    ]
    cli.main(["eval", *common, *arguments], standalone_mode=False)


def test_a_benchmark_is_read_once_and_evaluated(
    vision_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "store"
    source = source_of(tmp_path, *({**MATHVISION, "id": str(i), "level": i % 2} for i in range(6)))
    evaluate(vision_path, root, "--source", source, "--limit", "2")
    shown = capsys.readouterr()
    assert "mathvision: 2 problems added, 0 rejected; as published it has 3,040" in shown.err
    assert "level 0" in shown.out
    store = VariantStore(root)
    assert [(row.problem_id, row.split, row.samples) for row in store.read(Evaluation)] == [
        ("mathvision/0", "test", 1),
        ("mathvision/1", "test", 1),
    ]
    settings = store.query(
        "SELECT config->>'temperature', config->>'instruction' FROM runs WHERE kind = 'eval'"
    )
    assert settings == [("0.0", BENCHMARKS["mathvision"].instruction)]
    evaluate(vision_path, root, "--limit", "2")  # they are there: nobody asks the hub
    evaluate(vision_path, root, "--source", source, "--instruction", "", "--samples", "2")
    assert "mathvision: 4 problems added, 0 rejected" in capsys.readouterr().err
    Path(source).unlink()
    evaluate(vision_path, root)
    assert store.query("SELECT count(*) FROM evaluations GROUP BY run_id ORDER BY ALL") == [
        (2,),
        (2,),
        (6,),
        (6,),
    ]
    settings = store.query(
        "SELECT config->>'temperature', config->>'instruction' FROM runs WHERE config->>'samples' = '2' "
    )
    assert settings == [("1.0", "")]


def test_a_benchmark_that_is_training_data_is_refused(
    vision_path: Path, store: VariantStore, tmp_path: Path
) -> None:
    source = source_of(tmp_path, MATHVISION)
    ingest(store, source, PRESETS["mathvision"], split="train")
    with pytest.raises(ConfigError, match="the store has mathvision as split train"):
        evaluate(vision_path, store.root, "--source", source)


def test_a_benchmark_without_a_network_is_one_line(vision_path: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="could it be read from the Hugging Face hub") as error:
        evaluate(vision_path, tmp_path / "store")
    assert "\n" not in str(error.value)


def test_real_mathvision_by_the_command(
    vision_path: Path, tmp_path: Path, real_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = real_data / "mathvision" / "problems.jsonl"
    evaluate(vision_path, tmp_path / "store", "--source", str(source), "--limit", "5", "--samples", "2")
    shown = capsys.readouterr().out
    assert all(words in shown for words in ("pass@1", "pass@2", "level 1"))
    store = VariantStore(tmp_path / "store")
    assert [(row.samples, row.split) for row in store.read(Evaluation)] == [(2, "test")] * 5
    assert {image.width > 0 for problem in store.problems() for image in problem.images} == {True}


def test_columns_of_ones_own(store: VariantStore, tmp_path: Path) -> None:
    mapping = ColumnMapping(id="id", images="one", more_images=("two", "three"), decimals="places")
    rows = [
        {
            "id": "1",
            "problem": "?",
            "answer": "1.5",
            "one": [picture(), picture("blue")],
            "two": picture("green"),
        },
        {"id": "2", "problem": "?", "answer": "2", "one": None, "two": None, "places": 0.0},
        {"id": "3", "problem": "?", "answer": "2.25", "three": picture(), "places": 2.0},
    ]
    (tmp_path / "parts").mkdir()
    for i, row in enumerate(rows):
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / "parts" / f"{i}.parquet")
    assert ingest(store, str(tmp_path / "parts"), mapping, source_name="own").added == 3
    assert [len(problem.images) for problem in store.problems()] == [3, 0, 1]
    assert [problem.text for problem in store.problems()] == [
        "?",
        "?",
        "?\nGive the answer with 2 decimal places.",
    ]
