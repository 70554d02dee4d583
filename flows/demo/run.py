"""The demo: the whole loop, from ingestion to evaluation, on the project's own problems, without a network."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from diva_grpo.flows.demo.screen import render_screen
from diva_grpo.flows.demo.scripted_teacher import MODEL, ScriptedTeacher, create_app, serve
from diva_grpo.flows.pages.page import write_report
from diva_grpo.pipeline.ingest import ingest
from diva_grpo.pipeline.session.session import Session
from diva_grpo.pipeline.stages.curate import label
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import IMAGE_KINDS, CurateConfig, GenerateConfig, LabelConfig, TeacherConfig
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.mapping import PRESETS, ColumnMapping
from diva_grpo.schemas.records import Kind, utc_now


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a demo run.

    Attributes:
        sums: number of sums, which are curated and trained on.
        words: number of word problems, which are curated.
        figures: number of image problems, which are curated and used for the vision-language model.
        steps: training steps.
        vision_steps: training steps of the tiny vision-language model.
        label_samples: the policy's answers to each question, for labels.
        test_samples: answers to each held-out problem.
    """

    sums: int
    words: int
    figures: int
    steps: int
    vision_steps: int
    label_samples: int
    test_samples: int


FULL = Size(sums=128, words=60, figures=24, steps=200, vision_steps=30, label_samples=8, test_samples=4)
SHORT = Size(sums=48, words=10, figures=10, steps=16, vision_steps=8, label_samples=4, test_samples=2)

# Sums of at least six terms, whose solutions have five steps or more.
_LONG_SUMS = "source = 'sums_train' AND len(solution_steps) >= 5"
_SUMS = ColumnMapping(id="id", problem="problem", answer="answer", solution="steps")
_FIGURES = PRESETS["sharevl"].model_copy(update={"name": None, "solution": "steps"})


def _say(text: str) -> None:
    click.echo(f"\n▸ {text}", err=True)


def _ingest_all(store: VariantStore, data: Path) -> None:
    """Ingest the project's own problems, from files in formats that users also have.

    Raises:
        ConfigError: a file is missing.
    """
    sources = (
        ("word_problems.jsonl", PRESETS["gsm8k"], "word_problems", "train"),
        ("figures.jsonl", _FIGURES, "figures", "train"),
        ("sums_train.parquet", _SUMS, "sums_train", "train"),
        ("sums_test.parquet", _SUMS, "sums_test", "test"),
    )
    for file, mapping, name, split in sources:
        path = data / file
        if not path.exists():
            raise ConfigError(f"{path} is missing: leave --data out for the package's own")
        with store.run("ingest", mapping.model_dump_json()):
            report = ingest(store, str(path), mapping, source_name=name, split=split)
        click.echo(f"{file}: {report.added} added, {report.rejected} rejected", err=True)


def _chosen(store: VariantStore, size: Size) -> str:
    """The SQL condition for the problems that the demo curates."""
    parts = (
        (_LONG_SUMS, size.sums),
        ("source = 'word_problems'", size.words),
        ("source = 'figures'", size.figures),
    )
    ids = [p.problem_id for where, count in parts for p in store.problems(where=where, limit=count)]
    return "problem_id IN (" + ", ".join(f"'{problem_id}'" for problem_id in ids) + ")"


def _curate(store: VariantStore, condition: str) -> None:
    """Run the flow `curate` with the scripted teacher, which is a real server on loopback."""
    # Prefect's log would hide the demo's own lines. `diva curate` shows it.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    from diva_grpo.flows.runs.curate import curate
    from diva_grpo.flows.runs.server import prefect_api

    script = ScriptedTeacher(store.problems(), wrong_share=0.1)
    with serve(create_app(script)) as url:
        teacher = TeacherConfig(model=MODEL, base_url=url, endpoint=MODEL, concurrency=32)
        config = CurateConfig(
            store=store.root,
            teacher=teacher,
            generate=GenerateConfig(kinds=(Kind.REWORD, Kind.THINK_STEP, *IMAGE_KINDS), image_families=1),
            label=LabelConfig(samples=1),
            problem_filter=condition,
        )
        prefect_api()
        curate(config)


def run_demo(data_dir: Path | None, store_dir: Path | None, *, short: bool) -> tuple[str, dict[str, Any]]:
    """Run the demo: ingest, curate, label with the policy, train and evaluate.

    Args:
        data_dir: folder with problems, models and settings; default the package's own.
        store_dir: folder of the store; default a new folder in `runs/`.
        short: True uses fewer problems and steps.

    Returns:
        The results as text (see `render_screen`), and as values by name.

    Raises:
        ConfigError: a file of the data folder is missing.
    """
    from diva_grpo.flows.demo.vision import train_on_figures
    from diva_grpo.trainer.evaluation.policy import PolicySolver
    from diva_grpo.trainer.evaluation.score import evaluate
    from diva_grpo.trainer.train import parse, train

    size = SHORT if short else FULL
    data = data_dir or Path(str(files("diva_grpo.data")))
    root = store_dir or Path("runs") / f"demo-{utc_now():%Y%m%d-%H%M%S}"
    store = VariantStore(root, create=True)
    model, config = str(data / "demo_model"), str(data / "train_demo.yaml")

    _say("Ingest the project's own problems")
    _ingest_all(store, data)
    condition = _chosen(store, size)
    _say("Curate: the scripted teacher writes variants, a solver checks them (a Prefect flow)")
    _curate(store, condition)
    sums = [p.problem_id for p in store.problems(where=_LONG_SUMS, limit=size.sums)]
    _say(f"Label {len(sums)} problems and their variants with the policy itself")
    warm = PolicySolver(model, hint_style="prefix", max_new_tokens=96)
    with store.run("label", "{}", warm.model):
        labels = LabelConfig(samples=size.label_samples, label_model=True)
        with Session(store) as session:
            label(session, labels, warm, problem_ids=sums)

    _say(f"Train {size.steps} steps")
    problem_filter = f"{_LONG_SUMS} AND {condition}"
    output = str(root / "model")
    arguments = ["--config", config, "--store", str(root), "--model_name_or_path", model]
    arguments += ["--output_dir", output, "--max_steps", str(size.steps), "--problem_filter", problem_filter]
    result = train(*parse(arguments))

    _say("Evaluate on held-out problems, before and after")
    test = store.problems(where="source = 'sums_test'")
    scores = []
    for path, step in ((model, 0), (output, result.step)):
        solver = PolicySolver(path, max_new_tokens=96)
        report = evaluate(store, solver, test, samples=size.test_samples, run_id=result.run_id, step=step)
        scores.append(report.overall)

    _say(
        f"Train a tiny vision-language model on the figures, {size.vision_steps} steps "
        "(random and too small to solve any, as its diagnosis finds)"
    )
    of_figures = f"source = 'figures' AND {condition}"
    vision = train_on_figures(store, data / "train_demo_vision.yaml", of_figures, size.vision_steps)
    page = root / "report.html"
    write_report(store, page, [result.run_id])
    screen = render_screen(store, result.run_id, scores[0], scores[1], str(root), vision, page)
    figures = {
        "store": root,
        "run": result.run_id,
        "before": scores[0],
        "after": scores[1],
        "vision": vision,
        "page": page,
    }
    return screen, figures
