"""What `diva train` shows while it runs: a live table on a terminal, lines elsewhere, and no dictionaries."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import pty
import re
import signal
import struct
import sys
import termios
from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerControl, TrainerState, TrainingArguments

from diva_grpo.trainer.terminal import SHOWN_STEPS, SHOWN_WARNINGS, LiveTable, LoggedStep, StepLines
from diva_grpo.trainer.train import main
from tests.support.tiny_text_model import planted_store

LOGS = {
    "loss": 0.1,
    "reward": 0.25,
    "diva/pass_rate/original": 0.125,
    "diva/groups_without_signal/local": 0.5,
    "diva/difficulty": 6.5,
}
DICTIONARY = re.compile(r"\{'")


def arguments(folder: Path, model: Path, steps: int, *more: str) -> list[str]:
    store = planted_store(folder / "store")
    settings = (
        f"--store {store.root} --model_name_or_path {model} --output_dir {folder / 'out'} --max_steps {steps} "
        "--per_device_train_batch_size 16 --num_generations 4 --max_completion_length 4 --bf16 False --use_cpu True "
        "--gradient_checkpointing False --dtype float32 --logging_steps 1"
    )
    return [*settings.split(), *more]


def events(progress: StepLines, folder: Path, steps: int) -> None:
    """Call the events of a run of 100 steps, of which some are done."""
    args, state, control = TrainingArguments(str(folder)), TrainerState(max_steps=100), TrainerControl()
    progress.on_train_begin(args, state, control)
    for step in range(1, steps + 1):
        progress.on_step_begin(args, state, control)
        state.global_step = step
        progress.on_step_end(args, state, control)
        progress.on_log(args, state, control, {**LOGS, "reward": step / 1000})
    progress.on_log(args, state, control, {"eval_reward": 0.75, "eval_loss": 1.0})
    progress.on_log(args, state, control, {"train_runtime": 1.0, "train_loss": 0.1})


def test_a_line_says_all_figures() -> None:
    logged = LoggedStep.of(20, LOGS, 0.4214)
    assert logged.line(200, 76.2) == (
        "step 20/200: originals right 12.5%, reward 0.250, silent groups 50%, difficulty 6.50, 0.421 s a step, "
        "0:01:16 left"
    )
    bare = LoggedStep.of(1, {"loss": 0.0, "reward": None}, None)
    assert bare.line(2, None) == (
        "step 1/2: originals right -, reward -, silent groups -, difficulty -, - a step"
    )


def test_lines_are_of_logging_steps_and_evaluations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events(StepLines(), tmp_path, 2)
    shown = capsys.readouterr()
    assert shown.out == ""
    first, second, evaluation = shown.err.splitlines()
    assert re.fullmatch(r"step 1/100: originals right 12.5%, reward 0.001, .* a step, 0:00:\d\d left", first)
    assert "step 2/100: originals right 12.5%, reward 0.002," in second
    assert evaluation == "step 2/100: evaluation: reward 0.750"


def test_the_table_has_the_last_steps_and_the_last_warnings(tmp_path: Path) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, color_system=None, width=90, height=40)
    logger = logging.getLogger("diva_grpo.trainer.diagnosis")
    with LiveTable(console) as table:
        events(table, tmp_path, SHOWN_STEPS + 2)
        for number in range(SHOWN_WARNINGS + 1):
            logger.warning("warning %d", number)
    whole = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).replace("\r", "")
    last = whole.split("┏")[-1]
    lines = last.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("│")] == [
        str(step) for step in range(3, SHOWN_STEPS + 3)
    ]
    assert "12.5% │  0.010 │           50% │       6.50 │" in last
    assert re.search(r"^step 10 of 100 .* elapsed, .* left", last, re.M)
    assert [line.strip() for line in lines if line.startswith("warning")] == [
        "warning 1",
        "warning 2",
        "warning 3",
    ]
    assert re.search(r"^warning 0 *\n┏", whole, re.M), "an earlier warning is moved above the table"
    assert "step 10/100: evaluation: reward 0.750" in whole
    assert logger.parent is not None
    assert not logging.getLogger("diva_grpo").handlers


def test_a_piped_run_prints_lines_and_its_loggers_get_all_metrics(
    model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(arguments(tmp_path, model_path, 2, "--report_to", "tensorboard"))
    shown = capsys.readouterr()
    assert not DICTIONARY.search(shown.out + shown.err)
    assert re.findall(r"^step (\d)/2: originals right .* a step, .* left$", shown.err, re.M) == ["1", "2"]
    [events_file] = (tmp_path / "out").rglob("events.*")
    logged = EventAccumulator(str(events_file))
    logged.Reload()
    assert {
        "train/diva/pass_rate/original",
        "train/reward",
        "train/diva/difficulty",
        "train/step_time",
    } <= set(logged.Tags()["scalars"])


def in_terminal(command: list[str], interrupt_at: str | None = None) -> tuple[int, str]:
    """Run a command in a terminal of its own; return its exit status and all that it wrote there.

    Args:
        command: the command.
        interrupt_at: text at which Ctrl-C is sent.
    """
    process, terminal = pty.fork()
    if process == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS="100", LINES="40")
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # tests that a shell runs in the background ignore it
        os.execv(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    shown = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # Linux: the command has ended
            break
        if not piece:
            break
        shown += piece
        if interrupt_at and interrupt_at.encode() in shown:
            os.kill(process, signal.SIGINT)
            interrupt_at = None
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), shown.decode()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("interrupted", "save_steps", "advice"),
    [
        (False, 500, ""),
        (True, 500, "there was no checkpoint yet, so the same command begins anew"),
        (True, 1, r"the same command with --resume true continues from step \d+"),
    ],
)
def test_a_run_in_a_terminal_draws_one_table(
    interrupted: bool, save_steps: int, advice: str, model_path: Path, tmp_path: Path
) -> None:
    steps = 500 if interrupted else 3
    diva = str(Path(sys.executable).with_name("diva"))
    command = [diva, "train", *arguments(tmp_path, model_path, steps, "--report_to", "none")]
    command += ["--save_steps", str(save_steps)]
    code, shown = in_terminal(command, "step 2 of" if interrupted else None)
    assert code == (130 if interrupted else 0)
    assert not DICTIONARY.search(shown)
    assert "\x1b[?25l" not in shown, "a killed run could not show the cursor again"
    drawn, _, after = re.sub(r"\x1b\[[0-9;]*m", "", shown).rpartition("━ ")
    assert "┃ originals right ┃" in drawn
    assert "│    2 │" in drawn
    assert "\x1b[1A" not in after, "nothing is drawn after the table's last state"
    if interrupted:
        assert re.search(f"interrupted: {advice}\r\n$", after)
    else:
        assert "step 3: Completions are truncated: " in after, "a warning beneath the table"
        assert "3 steps done, the model is in" in after
