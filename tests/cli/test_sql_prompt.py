"""The prompt of `diva sql`: completion, statements of several lines, how to leave it, Ctrl-C."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from diva_grpo.flows.cli.prompt import SqlCompleter, history_file, is_complete, run_prompt
from diva_grpo.pipeline.store import VariantStore, run_select
from diva_grpo.pipeline.store.catalog import describe_views


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Types keys into the next prompt."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        yield keys.send_text


def completions(store: VariantStore, text: str) -> list[str]:
    document = Document(text)
    found = SqlCompleter(describe_views(store)).get_completions(document, CompleteEvent())
    return [completion.text for completion in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("select * from v", ["variants", "verdicts"]),
        (
            "select * from variants v where v.delta_",
            ["delta_designed", "delta_measured", "delta_low", "delta_high"],
        ),
        ("select * from variants as x join labels l on x.variant_id = l.sub", ["subject_id", "subject_kind"]),
        ("select variants.hint_t", ["hint_total"]),
        ("select * from problems where spl", ["split"]),
        ("sele", ["SELECT"]),
        (".sch", [".schema"]),
        ("select * from nothing where nothing.x", []),
    ],
)
def test_completion(full_store: VariantStore, text: str, expected: list[str]) -> None:
    assert completions(full_store, text) == expected


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("select 1;", True),
        ("select 1", False),
        ("select ';", False),
        ("select ';'\n;", True),
        ("select 1 /* ;", False),
        ("nonsense;", True),
        (".help", True),
        ("help", True),
        ("help me", False),
        ("Exit;", True),
        ("", True),
    ],
)
def test_a_statement_ends_with_its_semicolon(text: str, complete: bool) -> None:
    assert is_complete(text) == complete


def test_prompt_runs_statements_of_several_lines_and_goes_on_after_errors(
    full_store: VariantStore, typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    run: list[str] = []

    def execute(statement: str) -> None:
        run.append(statement)
        if "stop" in statement:
            raise KeyboardInterrupt
        run_select(full_store, statement)

    typed("select 1\r, ';' as a;\rnope;\rselect no;\rselect 'stop';\r")
    typed(".nothing\r.schema labels\rselect 2; select 3;\r.quit\r")
    run_prompt(describe_views(full_store), execute)
    assert run == ["select 1\n, ';' as a", "select no", "select 'stop'", "select 2", "select 3"]
    shown = capsys.readouterr()
    assert "solver_model" in shown.out
    errors = shown.err.splitlines()
    assert [line.split(":")[0] for line in errors] == [
        "help lists the commands of this prompt, exit leaves it", "diva", "diva", "the query was stopped", "diva",
    ]  # fmt: skip
    assert "select 1" in history_file().read_text()


@pytest.mark.parametrize("leave", ["exit", "quit", "EXIT;", ".exit", ".quit"])
def test_exit_and_quit_leave_and_help_helps(
    full_store: VariantStore,
    typed: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
    leave: str,
) -> None:
    run: list[str] = []
    typed(f"help\r{leave}\rselect 1;\r")
    run_prompt(describe_views(full_store), run.append)
    assert "list useful queries" in capsys.readouterr().out
    assert run == []


def test_prompt_ends_with_its_input_and_ctrl_c_drops_a_line(
    full_store: VariantStore, typed: Callable[[str], None]
) -> None:
    run: list[str] = []
    typed("select 1\x03select 2;\r\x04")
    run_prompt(describe_views(full_store), run.append)
    assert run == ["select 2"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for the query's process in /proc")
def test_ctrl_c_ends_a_query_and_not_the_prompt(full_store: VariantStore, tmp_path: Path) -> None:
    """On a real terminal, with the real command."""
    controller, terminal = pty.openpty()
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path), "TERM": "xterm"}
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from diva_grpo.flows.cli import main; main()",
            "sql",
            "--store",
            str(full_store.root),
        ],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: _take_terminal(terminal),
    )
    os.close(terminal)
    shown = ""

    def wait_for(text: str) -> None:
        nonlocal shown
        deadline = time.monotonic() + 120
        while text not in shown:
            assert select.select([controller], [], [], max(0.0, deadline - time.monotonic()))[0], shown
            shown += os.read(controller, 4096).decode(errors="replace")
        shown = shown.split(text, 1)[1]

    try:
        wait_for("diva>")
        os.write(controller, b"select count(*) as endless from range(1000000000) a, range(1000000000) b;\r")
        wait_for("range(1000000000) b;")
        while not _children(process.pid):  # the query's own process: before it, Ctrl-C is a key of the prompt
            assert process.poll() is None
            time.sleep(0.05)
        os.write(controller, b"\x03")
        wait_for("the query was stopped")
        # Only at its prompt does the command read keys: while a query runs, the terminal itself takes Ctrl-D.
        wait_for("diva>")
        # Neither the echo of the line nor a movement of the cursor ("\x1b[42D") can be taken for the result.
        os.write(controller, b"select 'for' || 'ty' as answer;\r")
        wait_for("forty")
        wait_for("diva>")
        os.write(controller, b"\x04")
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(controller)


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _take_terminal(terminal: int) -> None:
    import fcntl
    import termios

    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    # A shell starts jobs in the background deaf to Ctrl-C, and their children inherit it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
