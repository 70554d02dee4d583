"""What flows tell Prefect, read back by its client; and the command that continues from a failure."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diva_grpo.flows.cli import cli
from diva_grpo.flows.runs.server import BoundServer
from diva_grpo.flows.verbs import command_line
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import (
    TEXT_KINDS,
    CurateConfig,
    GenerateConfig,
    LabelConfig,
    LabelFlowConfig,
    Route,
    TeacherConfig,
    TopUpConfig,
    VerifyConfig,
)
from diva_grpo.schemas.exceptions import ConfigError, TeacherError
from diva_grpo.schemas.records import Attempt, DifficultyEvent, Kind
from tests.support.endpoints import listening

ROOT = Path(__file__).parents[2]


@pytest.mark.docs
def test_screens_of_the_documents_are_there_and_small() -> None:
    pages = "".join(path.read_text("utf-8") for path in (ROOT / "docs").glob("*.md"))
    named = re.findall(r"!\[[^\]]+\]\((screens/.*?)\)", pages)
    assert sorted(named) == sorted(f"screens/{path.name}" for path in (ROOT / "data/screens").iterdir())
    assert all((ROOT / "docs" / name).stat().st_size < 150_000 for name in named)


# --- the command that continues


def _typed(line: str) -> dict[str, Any]:
    """The options of a command line that were given, as click reads them."""
    diva, verb, *arguments = shlex.split(line)
    assert diva == "diva"
    context = cli.commands[verb].make_context(verb, arguments)
    source = click.core.ParameterSource.COMMANDLINE
    return {
        name: value for name, value in context.params.items() if context.get_parameter_source(name) is source
    }


def test_only_what_differs_from_the_defaults_is_typed() -> None:
    config = CurateConfig(store=Path("runs/my store"), teacher=TeacherConfig(model="m"))
    assert command_line("curate", config) == "diva curate --store 'runs/my store' --model m"


def test_every_form_of_an_option() -> None:
    config = CurateConfig(
        store=Path("s"),
        teacher=TeacherConfig(
            model="m", routes=(Route(base_url="http://a/v1"),), endpoint="ours", retry_failed=True
        ),
        generate=GenerateConfig(
            kinds=TEXT_KINDS, accepted={Kind.REWORD: 5, Kind.HARDER: 2}, retry_failed=True
        ),
        label=None,
        problem_filter="source = 'a b'",
        max_cost=2.5,
        batch=True,
    )
    line = command_line("curate", config)
    assert line == (
        "diva curate --store s --model m --endpoint ours --teacher-config FILE --retry-failed "
        "--problem-filter \"source = 'a b'\" --max-cost 2.5 --batch --kinds reword,harder,think_step "
        "--accepted reword=5,harder=2 --no-labels"
    )
    assert _typed(line)["accepted"] == "reword=5,harder=2"


def test_secrets_of_a_url_are_not_told() -> None:
    config = CurateConfig(
        store=Path("s"), teacher=TeacherConfig(model="m", base_url="http://me:pass@h/v1?key=1")
    )
    assert command_line("curate", config).endswith("--base-url http://h/v1")


def test_a_top_up_types_neither_its_own_defaults_nor_its_solver() -> None:
    config = TopUpConfig(
        store=Path("s"), teacher=TeacherConfig(model="m"), solver=TeacherConfig(model="other"), max_variants=5
    )
    line = command_line("top-up", config)
    assert line == "diva top-up --store s --model m --solver-config FILE --max-variants 5"


def test_options_that_a_verb_has_not_are_left_out() -> None:
    config = LabelFlowConfig(
        store=Path("s"), teacher=TeacherConfig(model="m"), workers=3, label=LabelConfig(samples=8)
    )
    assert command_line("label", config) == "diva label --store s --model m --samples 8"


@given(
    st.builds(
        CurateConfig,
        store=st.just(Path("s")),
        teacher=st.builds(TeacherConfig, model=st.text("abc-$'\" ", min_size=1), temperature=st.floats(0, 2)),
        generate=st.builds(
            GenerateConfig, rewordings=st.integers(1, 9), aspects=st.just(("story", "abstract"))
        ),
        verify=st.builds(VerifyConfig, solver_samples=st.integers(1, 9)),
        label=st.none() | st.builds(LabelConfig, samples=st.integers(1, 9), label_model=st.booleans()),
        limit=st.none() | st.integers(1, 99),
    )
)
def test_what_is_typed_gives_the_configuration_again(config: CurateConfig) -> None:
    typed = _typed(command_line("curate", config))
    assert typed.pop("store_dir") == config.store
    assert typed.pop("no_labels", False) == (config.label is None)
    parts = [
        config,
        config.teacher,
        config.generate,
        config.verify,
        *([config.label] if config.label else []),
    ]
    for part in parts:
        fields = type(part).model_fields
        again = {name: typed.pop(name) for name in list(typed) if name in fields}
        again = {n: tuple(v.split(",")) if n == "aspects" else v for n, v in again.items()}
        assert part.model_copy(update=again) == part, again
        assert all(
            name in again for name, field in fields.items() if _scalar_differs(part, name, field.default)
        )
    assert typed == {}


def _scalar_differs(part: Any, name: str, default: object) -> bool:
    value = getattr(part, name)
    return isinstance(value, int | float | str | tuple) and value != default


# --- by Prefect itself


@pytest.fixture
def config(store: VariantStore, endpoint: TeacherConfig) -> CurateConfig:
    """Five problems in shards of three."""
    return CurateConfig(
        store=store.root, teacher=endpoint, generate=GenerateConfig(rewordings=2), label=LabelConfig(samples=2),
        shard_size=3,
    )  # fmt: skip


def _last_run() -> tuple[Any, dict[str, Any]]:
    """The flow run that began last, and the artifacts that it has left, by key."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
    from prefect.client.schemas.sorting import FlowRunSort

    with get_client(sync_client=True) as client:
        [run] = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)
        of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        left = client.read_artifacts(artifact_filter=of_run)
    return run, {artifact.key: artifact for artifact in left if artifact.key}  # Prefect's own have none


@pytest.mark.slow
@pytest.mark.usefixtures("prefect")
class TestByPrefect:
    def test_a_run_leaves_its_artifacts_under_its_name(
        self, store: VariantStore, config: CurateConfig
    ) -> None:
        from prefect.client.orchestration import get_client

        from diva_grpo.flows.runs.curate import curate

        curate(config)
        run, left = _last_run()
        assert run.name == "curate store: 5 problems with scripted-teacher"
        assert left.keys() == {
            "store-progress-of-curate", "store-counts", "store-reasons", "store-cost", "store-difficulty",
            "store-problems",
        }  # fmt: skip
        assert left["store-progress-of-curate"].data == 100.0
        assert left["store-progress-of-curate"].description.startswith("2 of 2 shards · 5/5 problems")
        rows = {row.pop("kind"): row for row in json.loads(left["store-counts"].data)}
        assert rows["reword"]["accepted"] == rows["think_step"]["accepted"] == 8
        assert rows["all"] == {
            "candidate": 0, "accepted": 16, "rejected": 0, "failed": 3, "share accepted": "100 %",
        }  # fmt: skip
        [(calls,)] = store.query("SELECT count(*) FROM calls")
        assert left["store-cost"].description.startswith(f"This run: {calls} requests")
        page = store.root / "pages" / "problems.html"
        assert page.as_uri() in left["store-problems"].data
        assert 'id="pack-0"' in page.read_text("utf-8")
        with get_client(sync_client=True) as client:
            tasks = sorted(task.name for task in client.read_task_runs() if task.flow_run_id == run.id)
        assert tasks == ["shard 1 of 2", "shard 2 of 2"]

        curate(config)  # nothing is left to do
        again, left = _last_run()
        assert again.id != run.id
        assert left.keys() == {
            "store-progress-of-curate", "store-counts", "store-reasons", "store-cost", "store-difficulty",
        }  # fmt: skip
        assert left["store-cost"].description.startswith("This run: 0 requests")

    def test_a_top_up_is_named_by_its_training_run(self, store: VariantStore) -> None:
        from diva_grpo.flows.runs.hooks import name_of

        top_up = TopUpConfig(store=store.root, teacher=TeacherConfig(model="m"))
        assert name_of("top_up", top_up) == "top up store with m"
        store.append([Attempt(run_id="train-a", attempt=0, resumed_step=0)])
        store.append(
            [
                DifficultyEvent(
                    run_id="train-a", step=1, problem_id="w/0", old_difficulty=5, new_difficulty=6, accuracy=0.0,
                    rollouts=4, rule="paper", attempt=0,
                )
            ]
        )  # fmt: skip
        assert name_of("top_up", top_up) == "top up store for train-a with m"

    def test_a_users_mistake_is_one_line(
        self, config: CurateConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        from diva_grpo.flows.runs.curate import curate

        for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
            monkeypatch.delenv(name, raising=False)
        wrong = config.model_copy(update={"teacher": TeacherConfig(model="m")})
        with caplog.at_level(logging.INFO), pytest.raises(ConfigError, match="no endpoint"):
            curate(wrong)
        run, left = _last_run()
        message = run.state.message
        assert run.state.is_failed()
        assert re.fullmatch(
            rf"ConfigError: no endpoint.*\. To continue: `diva curate --store {config.store} --model m .*`",
            message,
        ), message
        assert "\n" not in message
        assert "store-how-to-go-on" in left
        assert (
            left["store-how-to-go-on"].data == f"{message}\n\nAll that was done is kept, and paid for once."
        )
        _no_traceback(caplog)

    def test_an_endpoint_that_answers_nothing_is_one_line(
        self, config: CurateConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        from diva_grpo.flows.runs import curate as module

        def down(*arguments: Any, **options: Any) -> None:
            raise TeacherError("the endpoint answers nothing: start it")

        monkeypatch.setattr(module.curate_shard, "retry_delay_seconds", [0, 0])
        monkeypatch.setattr(module, "worked", down)
        with caplog.at_level(logging.INFO), pytest.raises(TeacherError):
            module.curate(config)
        run, left = _last_run()
        assert run.state.message.startswith(
            "TeacherError: the endpoint answers nothing: start it. To continue: `diva"
        )
        assert left["store-progress-of-curate"].data == 0.0
        assert [r.getMessage() for r in caplog.records if "Retries are exhausted" in r.getMessage()]
        _no_traceback(caplog)

    def test_a_bug_keeps_its_traceback(
        self, config: CurateConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        from diva_grpo.flows.runs import curate as module

        def broken(*arguments: Any, **options: Any) -> None:
            raise KeyError("bug")

        monkeypatch.setattr(module.curate_shard, "retries", 0)
        monkeypatch.setattr(module, "worked", broken)
        with caplog.at_level(logging.INFO), pytest.raises(KeyError):
            module.curate(config)
        run, left = _last_run()
        assert run.state.message == "Flow run encountered an exception: KeyError: 'bug'"
        assert "diva curate --store" in left["store-how-to-go-on"].data
        assert any(record.exc_info for record in caplog.records)

    def test_parameters_that_do_not_fit(self, caplog: pytest.LogCaptureFixture) -> None:
        from prefect.exceptions import ParameterTypeError

        from diva_grpo.flows.runs.curate import curate

        with caplog.at_level(logging.INFO), pytest.raises(ParameterTypeError):
            curate({"store": "s", "teacher": {}})  # type: ignore[call-overload]  # the mistake that is tested
        run, left = _last_run()
        assert "config.teacher.model" in run.state.message
        assert left == {}
        _no_traceback(caplog)

    def test_a_store_that_is_not_there(self, config: CurateConfig, tmp_path: Path) -> None:
        from diva_grpo.flows.runs.curate import curate
        from diva_grpo.schemas.exceptions import StoreError

        with pytest.raises(StoreError):
            curate(config.model_copy(update={"store": tmp_path / "Other_Store"}))
        run, left = _last_run()
        assert run.name == "curate Other_Store with scripted-teacher"
        assert run.state.message.startswith("StoreError: no store at ")
        assert left.keys() == {"other-store-how-to-go-on"}


def _no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    flows = [record for record in caplog.records if record.name.startswith("prefect.")]
    assert flows
    assert not any(record.exc_info or "Traceback" in record.getMessage() for record in flows)


# --- notifications


class _Inbox(ThreadingHTTPServer):
    """Keeps what is posted to it."""

    daemon_threads = True

    def __init__(self) -> None:
        self.posts: Queue[tuple[str, str]] = Queue()
        super().__init__(("127.0.0.1", 0), _Keeper)


class _Keeper(BaseHTTPRequestHandler):
    server: _Inbox

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
        self.server.posts.put((self.path, text))

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.mark.docs
@pytest.mark.slow
def test_the_documented_commands_notify_of_a_failed_run(store: VariantStore, tmp_path: Path) -> None:
    page = (ROOT / "docs/operations.md").read_text("utf-8")
    [commands] = [
        block for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) if "notify.yaml" in block
    ]
    (tmp_path / "data").symlink_to(ROOT / "data")
    fails = (
        "from diva_grpo.flows.runs.curate import curate\n"
        "from diva_grpo.schemas.config import CurateConfig, TeacherConfig\n"
        f"curate(CurateConfig(store={str(store.root)!r}, teacher=TeacherConfig(model='m')))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "OPENAI_"))}
    environment |= {"PREFECT_HOME": str(tmp_path / "prefect"), "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    inbox = _Inbox()
    with listening(inbox) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", environment["PREFECT_HOME"])
        server = BoundServer(services=True)
        try:
            environment |= {"PREFECT_API_URL": server.url, "PREFECT_API_AUTH_STRING": server.auth}
            for command in (
                ["bash", "-ec", commands.replace("https://ntfy.sh/TOPIC", f"{url}/topic")],
                [sys.executable, "-c", fails],
            ):
                done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert "ConfigError: no endpoint" in done.stderr
            path, text = inbox.posts.get(timeout=60)
        finally:
            server.close()
    assert path == "/v1/topic"
    assert text.startswith("curate store: 5 problems with m is Failed: ConfigError: no endpoint")
    assert f"`diva curate --store {store.root} --model m`" in text
    assert "\n" not in text
