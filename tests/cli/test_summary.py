"""Every verb ends with a summary in words, and knows `--quiet` and `--json`. A new verb without them fails here."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click
import pytest
import yaml

from diva_grpo.flows.cli import WITHOUT_SUMMARY, cli
from diva_grpo.flows.cli.summary import conclude, with_summary
from diva_grpo.flows.demo.scripted_teacher import ScriptedTeacher, create_app, serve
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import Attempt
from tests.conftest import Diva
from tests.support.planted_runs import RUN, Policy, plant
from tests.support.prefect_processes import free_port, hear_interrupts, marbles
from tests.support.short_store import event
from tests.support.store_records import label

SERVERS = ("teacher", "watch")
"""Verbs that end with Ctrl-C, after their summary."""

LINES = {
    "advise": "--store {store}",
    "check": "--store {store}",
    "compact": "--store {store}",
    "curate": "--store {store} {teacher} --limit 1 --kinds reword --rewordings 1 --no-labels",
    "demo": "--short --store {tmp}/demo",
    "diagnose": "--store {store}",
    "doctor": "--store {store}",
    "eval": "--store {store} --model {model} --split train --limit 2 --samples 1 --max-new-tokens 2",
    "export": "{tmp}/out.jsonl --store {store}",
    "generate": "--store {store} {teacher} --kinds reword --rewordings 1",
    "grade": "{tmp}/answers.jsonl",
    "ingest": "{tmp}/problems.jsonl --store {store}",
    "init": "--store {store}",
    "label": "--store {store} {teacher} --samples 1 --limit 2",
    "lake": "--store {store} --catalog ducklake:sqlite:{tmp}/lake.sqlite --python {lake_python}",
    "remove": f"{RUN} --store {{store}}",
    "report": "--store {store}",
    "serve": "{tmp}/serve.yaml --port {port}",
    "show": "--store {store} --limit 2",
    "status": "--store {store}",
    "teacher": "--store {store} --port 0",
    "top-up": "--store {store} {teacher} --max-problems 1 --no-labels",
    "train": "--store {store} --model_name_or_path {model} --output_dir {tmp}/out --max_steps 1 --use_cpu True "
    "--per_device_train_batch_size 16 --num_generations 4 --max_completion_length 4 --bf16 False --report_to none "
    "--gradient_checkpointing False --dtype float32 --num_variants 0",
    "verify": "--store {store} {teacher}",
    "watch": "--store {store}",
}
"""The arguments with which each verb is run here."""

SLOW = ("curate", "demo", "eval", "serve", "top-up", "train")
VERBS = sorted(set(cli.commands) - set(WITHOUT_SUMMARY))


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> VariantStore:
    """A store with a training run on problems with a hint and a label each, and with problems that have solutions."""
    store = VariantStore(tmp_path_factory.mktemp("planted") / "store", create=True)
    plant(store, Policy())
    store.append([label(problem_id, 1, 4) for problem_id in store.problem_ids()])
    store.put_setting("label_model", "policy")
    store.append([Attempt(run_id=RUN, attempt=0, resumed_step=0)])
    store.append([event("w/0", 2.0, step=1, run_id=RUN)])
    store.append(marbles("marbles", range(3, 7)))
    return store


@pytest.fixture(scope="module")
def url(planted: VariantStore) -> Iterator[str]:
    """The URL of a scripted teacher that knows the problems of the store."""
    with serve(create_app(ScriptedTeacher(planted.problems(), wrong_share=0.0))) as url:
        yield url


@pytest.fixture
def line(
    planted: VariantStore, tmp_path: Path, url: str, request: pytest.FixtureRequest
) -> Callable[[str], list[str]]:
    """The arguments of a verb, on a copy of the store."""

    def filled(verb: str) -> list[str]:
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        store = shutil.copytree(planted.root, tmp_path / "store")
        (tmp_path / "out.jsonl").unlink(missing_ok=True)
        (tmp_path / "answers.jsonl").write_text('{"response": "It is 4.", "answer": "4"}\n')
        (tmp_path / "problems.jsonl").write_text('{"problem": "1 + 1?", "answer": "2"}\n')
        teacher = {"model": "m", "base_url": url}
        served = {"name": "often", "flow": "curate", "parameters": {"store": str(store), "teacher": teacher}}
        (tmp_path / "serve.yaml").write_text(yaml.safe_dump({"deployments": [served]}))
        places = {
            "store": store,
            "tmp": tmp_path,
            "port": free_port(),
            "teacher": f"--base-url {url} --model scripted-teacher",
            "model": request.getfixturevalue("model_path") if "{model}" in LINES[verb] else "",
            "lake_python": request.getfixturevalue("lake_python") if verb == "lake" else "",
        }
        return [verb, *LINES[verb].format(**places).split()]

    return filled


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Press Ctrl-C in this process after a while."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "verb",
    [
        *(verb for verb in VERBS if verb not in (*SLOW, "lake")),
        pytest.param("lake", marks=pytest.mark.slow),  # in another environment, which takes time to make
    ],
)
def test_a_summary_in_words_and_as_json(verb: str, line: Callable[[str], list[str]], diva: Diva) -> None:
    ends, outcomes = (0, 130) if verb in SERVERS else (0,), []
    for flag in ("--json", "--quiet"):
        arguments = line(verb)
        if verb in SERVERS:
            with interrupted_after(3.0):
                outcomes.append(diva(*arguments, flag))
        else:
            outcomes.append(diva(*arguments, flag))
    as_json, quiet = outcomes
    assert as_json.code in ends
    assert json.loads(as_json.out)
    assert quiet.code in ends
    assert quiet.out.strip()
    assert quiet.out[0] not in "{[", "words"
    errors = [text for text in filter(None, quiet.err.splitlines()) if not text.startswith("interrupted: ")]
    assert errors == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("verb", SLOW)
def test_a_summary_as_json_and_nothing_else(verb: str, line: Callable[[str], list[str]]) -> None:
    command = [str(Path(sys.executable).with_name("diva")), *line(verb), "--json"]
    if verb != "serve":
        command.append("-q")
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear_interrupts
    )
    assert process.stderr is not None
    if verb == "serve":
        next(text for text in process.stderr if "being served" in text)
        process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert json.loads(out)
    assert verb == "serve" or err == ""


# --- how it is done


def test_a_verb_has_the_options_unless_it_makes_no_summary() -> None:
    for name, command in cli.commands.items():
        flags = {flag for parameter in command.params for flag in parameter.opts}
        assert ({"-q", "--quiet", "--json"} <= flags) == (name not in WITHOUT_SUMMARY), name


def test_what_goes_where(capfd: pytest.CaptureFixture[str]) -> None:
    @click.command()
    @click.option("--fail", is_flag=True)
    def work(fail: bool) -> None:
        """Work.

        example: work
        """
        print("a library prints")
        click.echo("a remark", err=True)
        conclude("2 done", {"done": 2, "share": float("nan"), "file": Path("a")}, "diva rest")
        if fail:
            raise click.ClickException("it failed")

    with_summary(work)
    group = click.Group("works", commands={"work": work})

    def run(*words: str) -> tuple[str, str]:
        try:
            group.main(["work", *words], standalone_mode=False)
        except click.ClickException as error:
            error.show()
        return capfd.readouterr()

    assert run() == ("a library prints\n2 done\n", "a remark\nnext: diva rest\n")
    out, err = run("--json")
    assert json.loads(out) == {"done": 2, "share": None, "file": "a"}
    assert err == "a library prints\na remark\n"
    assert run("-q") == ("2 done\n", "")
    assert run("-q", "--fail")[1] == "Error: it failed\n"
    out, err = run("-q", "--json", "--fail")
    assert json.loads(out)["done"] == 2
    assert err == "Error: it failed\n"
