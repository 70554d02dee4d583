"""Help in groups, and what was meant by a misspelt name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from diva_grpo.flows.cli import cli
from diva_grpo.flows.cli.settings import flow_config
from diva_grpo.flows.cli.train import SELDOM
from diva_grpo.flows.verbs import VERBS
from diva_grpo.schemas.config import CurateConfig, TopUpConfig
from diva_grpo.trainer.arguments import known
from tests.conftest import Diva


def test_commands_stand_under_their_phase(diva: Diva) -> None:
    text = diva("--help").out
    phases = ["Try it:", "Data:", "Variants:", "Training:", "Looking:", "Keeping:"]
    assert re.findall(r"^[A-Z][a-z ]+:$", text, re.M) == ["Options:", *phases]
    for name in cli.commands:
        assert len(re.findall(rf"^  {name}  +\S", text, re.M)) == 1, name


def _flags(text: str) -> set[str]:
    return set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", text, re.M)) - {
        "--help"
    }  # which click has with or without -h


@pytest.mark.parametrize("verb", VERBS)
def test_help_all_shows_every_option_and_help_those_that_come_first(verb: str, diva: Diva) -> None:
    short, whole = _flags(diva(verb, "--help").out), _flags(diva(verb, "--help-all").out)
    every = {flag for parameter in cli.commands[verb].params for flag in parameter.opts if flag[:2] == "--"}
    assert whole == every
    behind = {
        f"--{name.replace('_', '-')}"
        for fields in VERBS[verb].fields
        for name, _ in fields.items()
        if fields.first and name not in fields.first
    }
    assert short == every - behind


@pytest.mark.parametrize("verb", VERBS)
def test_fields_that_come_first_are_fields(verb: str) -> None:
    for fields in VERBS[verb].fields:
        assert set(fields.first) - {name for name, _ in fields.items()} <= {"retry_failed"}


def test_options_stand_under_what_they_set(diva: Diva) -> None:
    text = diva("generate", "--help").out
    assert re.findall(r"^([A-Z][a-z]+):$", text, re.M) == ["Options", "Endpoint", "Variants", "Checks"]
    places = [text.index(f"\n{words}") for words in ("Endpoint:", "  --base-url ", "Variants:", "  --kinds ")]
    assert places == sorted(places)


def test_help_of_training_is_short(diva: Diva) -> None:
    text = diva("train", "--help").out
    assert "example: diva train --config" in text
    assert text.count("\n") < 120
    assert {"--store", "--num_variants", "--learning_rate"} <= set(re.findall(r"^  (--\w+)", text, re.M))
    assert set(SELDOM) <= set(known()), "what the help leaves out is an option"


# --- misspelt


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("genrate --store s", "'generate'"),
        ("generate --stroe s", "'--store'"),
        ("generate --store {store} --teacher-config {tmp}/t.yaml", "t.yaml: there is no setting 'modle': "
         "did you mean 'model'?"),
        ("serve {tmp}/s.yaml", "there is no setting 'crom': did you mean 'cron'?"),
        ("train --num_varients 2", "there is no option '--num_varients': did you mean '--num_variants'"),
        ("train --num-varients=2", "did you mean '--num_variants'"),
        ("train --config {tmp}/r.yaml", "r.yaml: there is no setting 'learning_rat': did you mean 'learning_rate'"),
    ],
)  # fmt: skip
def test_nearest_names_of_what_is_misspelt(line: str, words: str, diva: Diva, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("modle: m\n")
    (tmp_path / "r.yaml").write_text("env: {A: b}\nlearning_rat: 1.0e-6\n")
    (tmp_path / "s.yaml").write_text("deployments: [{name: a, flow: curate, parameters: {}, crom: x}]\n")
    diva("init", "--store", tmp_path / "store")
    outcome = diva(*line.format(tmp=tmp_path, store=tmp_path / "store").split())
    assert outcome.code == 2
    assert words in outcome.err


def test_a_misspelt_argument_of_training_is_found_before_torch_is_loaded() -> None:
    code = (
        "import sys\n"
        "from diva_grpo.flows.cli import main\n"
        "sys.argv = ['diva', 'train', *sys.argv[1:]]\n"
        "try: main()\n"
        "finally: print({'torch', 'trl', 'transformers'} & set(sys.modules))"
    )
    for arguments in (["--num_varients", "2"], ["--help"]):
        run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        assert run.stdout.splitlines()[-1] == "set()"


def test_retry_failed_is_of_every_stage_of_a_flow(tmp_path: Path) -> None:
    options = [param.name for name in ("curate", "top-up") for param in cli.commands[name].params]
    values: dict[str, Any] = dict.fromkeys(map(str, options)) | {"model": "m", "retry_failed": True}
    for config in (
        flow_config(CurateConfig, tmp_path, dict(values), no_labels=False),
        flow_config(TopUpConfig, tmp_path, dict(values), no_labels=False),
    ):
        assert config.label is not None
        parts = (config.teacher, config.generate, config.verify, config.label)
        assert all(part.retry_failed for part in parts)
