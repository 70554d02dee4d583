"""The `diva` command: the lines of the README, exit codes, and one line for every mistake of a user."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as Picture

from diva_grpo.flows.cli import cli
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.queries import queries
from diva_grpo.schemas.config import CurateConfig, TeacherConfig
from diva_grpo.schemas.records import Problem
from tests.conftest import Diva
from tests.support.endpoints import Endpoint, Reply, completion, serving
from tests.support.planted_variants import WORDING, plant
from tests.support.prefect_processes import hear_interrupts

DIVA = str(Path(sys.executable).parent / "diva")


@pytest.fixture
def source(tmp_path: Path, word_problems: list[Problem]) -> Path:
    """The word problems as a user's Parquet file, the last one with an image."""
    buffer = io.BytesIO()
    Picture.new("RGB", (3, 2)).save(buffer, "PNG")
    columns = {
        "id": [problem.problem_id.removeprefix("w/") for problem in word_problems],
        "problem": [problem.text for problem in word_problems],
        "answer": [problem.answer for problem in word_problems],
        "images": [[], [], [], [], [{"bytes": buffer.getvalue(), "path": None}]],
    }
    pq.write_table(pa.table(columns), tmp_path / "FILE.parquet")
    return tmp_path / "FILE.parquet"


# --- the lines of the README


@pytest.mark.docs
def test_the_loop_by_the_lines_of_the_readme(
    diva: Diva, source: Path, tmp_path: Path, endpoint: TeacherConfig
) -> None:
    store = ["--store", tmp_path / "DIR"]
    teacher = ["--base-url", endpoint.base_url, "--model", "scripted-teacher"]
    columns = "--id-column id --problem-column problem --answer-column answer --images-column images".split()
    kinds = "--kinds reword,think_step --limit 50 --concurrency 16".split()
    lines = [
        diva("ingest", source, *columns, *store),
        diva("generate", *store, *teacher, *kinds),
        diva("verify", *store, *teacher),
        diva("label", *store, *teacher, "--samples", "4"),
    ]
    assert [(line.code, line.out) for line in lines] == [
        (0, "5 problems added, 0 there already, 0 rejected\n"),
        (0, "variants: 33 candidate, 1 failed\n"),
        (0, "variants: 28 accepted, 5 failed\n"),
        (0, "labels: 4 original, 20 reword, 8 think_step, 1 unjudged\n"),
    ]
    assert [line.err.count("--retry-failed tries them again") for line in lines] == [0, 1, 1, 0]
    shared = "SELECT count(*) FROM calls WHERE purpose = 'solve' AND outcome = 'ok'"
    # 20 wordings are verified by three answers each, and 4 originals and 28 variants labelled by four.
    assert VariantStore(tmp_path / "DIR").query(shared) == [(20 * 3 + 32 * 4,)]
    status = diva("status", *store)
    assert status.code == 0
    for name in ("problems", "variants", "reasons", "labels", "calls"):
        assert f"\n{queries()[name].title}\n" in status.out
    assert "\nLast runs\n" in status.out
    query = "select kind, status, count(*) from variants group by all"
    answered = diva("sql", query, *store, "--format", "csv")
    assert answered.code == 0
    assert sorted(csv.reader(io.StringIO(answered.out))) == [
        ["kind", "status", "count_star()"],
        ["reword", "accepted", "20"],
        ["reword", "failed", "5"],
        ["think_step", "accepted", "8"],
        ["think_step", "failed", "1"],
    ]


def test_everything_again_adds_nothing(
    diva: Diva, source: Path, tmp_path: Path, endpoint: TeacherConfig
) -> None:
    store = ["--store", tmp_path / "DIR"]
    teacher = ["--base-url", endpoint.base_url, "--model", "scripted-teacher"]
    commands = [
        ("ingest", source, "--id-column", "id", *store),
        ("generate", *store, *teacher, "--kinds", "reword"),
        ("verify", *store, *teacher),
        ("label", *store, *teacher, "--samples", "1", "--limit", "4"),
    ]
    for command in commands:
        assert diva(*command).code == 0
    again = [diva(*command).out for command in commands]
    assert again == [
        "0 problems added, 5 there already, 0 rejected\n",
        "variants: nothing to do\n",
        "variants: nothing to do, passed over: 5 that failed before (5 refusal); --retry-failed asks again\n",
        "labels: nothing to do\n",
    ]


def test_every_run_of_a_verb_is_recorded(diva: Diva, store: VariantStore, endpoint: TeacherConfig) -> None:
    teacher = ["--base-url", endpoint.base_url, "--model", "scripted-teacher"]
    diva("generate", "--store", store.root, *teacher, "--rewordings", "2")
    nobody = ["--base-url", "http://127.0.0.1:9/v1", "--max-retries", "0"]
    diva("generate", "--store", store.root, "--model", "x", "--kinds", "harder", *nobody)
    rows = store.query("SELECT kind, model, config->>'rewordings', outcome FROM runs ORDER BY started_at")
    assert rows == [("generate", "scripted-teacher", "2", "ok"), ("generate", "x", "5", "failed")]


def test_rejected_rows_are_named_with_where_to_look(diva: Diva, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"problem": "1 + 1?", "answer": "2"}\n{"problem": "?"}\n')
    outcome = diva("ingest", tmp_path / "p.jsonl", "--store", tmp_path / "DIR")
    assert outcome.code == 0
    assert outcome.out.startswith("1 problems added, 0 there already, 1 rejected: diva sql ")


def test_settings_of_the_teacher_may_come_from_a_file(
    diva: Diva, store: VariantStore, endpoint: TeacherConfig, tmp_path: Path
) -> None:
    (tmp_path / "t.yaml").write_text(f"model: from-file\nbase_url: {endpoint.base_url}\nconcurrency: 2\n")
    arguments = ["--store", store.root, "--teacher-config", tmp_path / "t.yaml", "--kinds", "reword"]
    assert diva("generate", *arguments).code == 0
    assert diva("generate", *arguments, "--model", "from-option").code == 0
    models = store.query("SELECT DISTINCT generator_model FROM variants ORDER BY 1")
    assert models == [("from-file",), ("from-option",)]


@pytest.mark.parametrize("output_format", ["csv", "json", "table"])
def test_sql_writes_a_file(diva: Diva, store: VariantStore, tmp_path: Path, output_format: str) -> None:
    arguments = [
        "sql",
        "select problem_id from problems order by 1",
        "--store",
        store.root,
        "--format",
        output_format,
    ]
    outcome = diva(*arguments, "--output", tmp_path / "out")
    assert (outcome.code, outcome.out) == (0, f"5 rows written to {tmp_path / 'out'}\n")
    assert (tmp_path / "out").read_text() == diva(*arguments).out


def test_sql_writes_parquet(diva: Diva, store: VariantStore, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    assert (
        diva("sql", "from problems", "--store", store.root, "--format", "parquet", "--output", out).code == 0
    )
    assert pq.read_table(out).num_rows == 5


# --- endpoints that fail


def test_unreachable_endpoint_fails_each_verb_and_keeps_the_reason(diva: Diva, store: VariantStore) -> None:
    unreachable = [
        "--store",
        store.root,
        "--base-url",
        "http://127.0.0.1:9/v1",
        "--model",
        "m",
        "--max-retries",
        "0",
    ]
    generated = diva("generate", *unreachable, "--kinds", "reword")
    assert (generated.code, generated.out) == (1, "variants: 5 failed\n")
    assert re.fullmatch(
        r"diva: all failed, most often by 'network: .*': check --base-url .*run the same command again\n",
        generated.err,
    )
    assert store.query("SELECT count(*) FROM variants WHERE reason LIKE 'network: %'") == [(5,)]
    labelled = diva("label", *unreachable, "--samples", "1")
    assert (labelled.code, labelled.out) == (1, "labels: 5 unjudged\n")
    assert "5 of 5 questions got no label" in labelled.err
    assert "says why some failed" not in generated.err
    assert store.query("SELECT DISTINCT outcome FROM runs") == [("failed",)]


def test_reasons_of_a_run_that_failed_are_those_of_this_run(diva: Diva, store: VariantStore) -> None:
    refusal = Endpoint(completion(None, refusal="no"))
    with serving(refusal) as served:
        earlier = diva(
            "generate", "--store", store.root, "--base-url", served.url, "--model", "m", "--limit", 4
        )
    assert "all failed, most often by 'refusal" in earlier.err
    nobody = ["--base-url", "http://127.0.0.1:9/v1", "--model", "m", "--max-retries", "0"]
    outcome = diva("generate", "--store", store.root, *nobody, "--kinds", "harder", "--limit", 1)
    assert re.fullmatch(r"diva: all failed, most often by 'network: [^']*': check .*\n", outcome.err)


@pytest.mark.parametrize(("refused", "code"), [(11, 1), (7, 1), (6, 0), (1, 0)])
def test_verify_fails_if_most_variants_failed(
    diva: Diva, store: VariantStore, endpoint: TeacherConfig, refused: int, code: int
) -> None:
    written = ["--kinds", "reword", "--limit", "3", "--rewordings", "4", "--base-url", endpoint.base_url]
    diva("generate", "--store", store.root, "--model", "m", *written)
    refusals = [completion(None, refusal="no")] * refused
    with serving(Endpoint(*refusals, completion("42"))) as served:
        asked = ["--base-url", served.url, "--model", "m", "--concurrency", "1", "--solver-samples", "1"]
        outcome = diva("verify", "--store", store.root, *asked)
    assert outcome.code == code
    assert f"{refused} failed" in outcome.out
    assert (f"diva: {refused} of 12 failed, most often by" in outcome.err) == bool(code)
    assert ("next: " in outcome.err) == (not code)


@pytest.mark.parametrize(("refused", "code"), [(3, 1), (2, 0)])
def test_label_fails_if_most_questions_got_no_label(
    diva: Diva, store: VariantStore, refused: int, code: int
) -> None:
    refusals = [completion(None, refusal="no")] * refused
    with serving(Endpoint(*refusals, completion("42"))) as served:
        asked = ["--base-url", served.url, "--model", "m", "--concurrency", "1", "--samples", "1"]
        outcome = diva("label", "--store", store.root, *asked)
    assert outcome.code == code
    assert f"{refused} unjudged" in outcome.out
    assert (f"diva: {refused} of 5 questions got no label" in outcome.err) == bool(code)


@pytest.mark.parametrize("verb", ["generate", "verify", "label", "status", "report", "init"])
def test_the_next_command_repeats_the_path_as_it_was_typed(
    diva: Diva, store: VariantStore, endpoint: TeacherConfig, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store.root.parent)
    asked = ["--base-url", endpoint.base_url, "--model", "m"]
    diva("generate", "--store", store.root, *asked, "--kinds", "reword")
    outcome = diva(
        verb, "--store", store.root.name, *asked if verb in ("generate", "verify", "label") else ()
    )
    [line] = re.findall(r"^next: (.*)$", outcome.err, re.MULTILINE)
    assert re.search(rf"--store {store.root.name}( |$)", line)


@pytest.mark.parametrize("name", ["~", "s3:/x"])
def test_a_folder_in_the_working_folder_may_have_any_name(
    diva: Diva, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert diva("init", "--store", f"./{name}").code == 0
    assert (tmp_path / name / "problems").is_dir()
    counted = diva("sql", "select count(*) as n from problems", "--store", f"./{name}", "--format", "csv")
    assert counted.out == "n\n0\n"
    teacher = TeacherConfig(model="m")
    assert CurateConfig.model_validate({"store": f"./{name}", "teacher": teacher}).store == tmp_path / name


@pytest.mark.parametrize("verb", ["generate", "verify", "label"])
def test_url_where_nobody_listens_is_given_up_within_seconds(
    diva: Diva, store: VariantStore, verb: str
) -> None:
    plant(store, 0, WORDING)
    outcome = diva(verb, "--store", store.root, "--base-url", "http://127.0.0.1:9/v1", "--model", "m")
    assert outcome.code == 1
    assert re.fullmatch(
        r"diva: http://127\.0\.0\.1:9/v1 refuses every request \(network: .*\): check --base-url .*\n",
        outcome.err,
    )
    assert store.query("SELECT max(attempts) FROM calls") == [(3,)], "not the seven of --max-retries"
    assert store.query("SELECT count(*) FROM variants WHERE status = 'failed'") == [(0,)]


def test_dead_prefect_server_is_one_line(diva: Diva, store: VariantStore) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        outcome = diva("curate", "--store", store.root, "--model", "m", "--base-url", "http://127.0.0.1:9/v1")
    assert outcome.code == 1
    assert re.fullmatch(
        r"diva: PREFECT_API_URL=http://127\.0\.0\.1:9/api does not answer \(.*\): start that server, or unset it\n",
        outcome.err,
    )


def test_wrong_key_is_given_up_at_once(diva: Diva, store: VariantStore) -> None:
    store.append(
        [Problem(problem_id=f"x/{i}", source="x", split="t", text=f"{i}?", answer="1") for i in range(50)]
    )
    denied = Reply(json.dumps({"error": {"message": "Incorrect API key"}}).encode(), 401)
    with serving(Endpoint(denied)) as served:
        outcome = diva(
            "generate", "--store", store.root, "--base-url", served.url, "--model", "m", "--concurrency", "4"
        )
    assert outcome.code == 1
    assert re.fullmatch(
        r"diva: .* refuses every request \(http_401: .*Incorrect API key.*\): check the key .*\n", outcome.err
    )
    assert store.query("SELECT count(*) FROM variants") == [(0,)], "the next run must ask for all of them"


def test_failed_verdicts_are_tried_again_on_demand(
    diva: Diva, store: VariantStore, endpoint: TeacherConfig
) -> None:
    arguments = ["--store", store.root, "--model", "scripted-teacher", "--max-retries", "0"]
    diva(
        "generate",
        *arguments,
        "--base-url",
        endpoint.base_url,
        "--kinds",
        "reword",
        "--limit",
        "3",
        "--rewordings",
        "4",
    )
    # Fewer requests than those after which an endpoint that answers none is given up.
    arguments += ["--solver-samples", "1"]
    assert diva("verify", *arguments, "--base-url", "http://127.0.0.1:9/v1").code == 1
    again = diva("verify", *arguments, "--base-url", endpoint.base_url)
    assert again.out == "variants: 12 accepted\n"


# --- real processes


@pytest.mark.parametrize("name", cli.commands)
def test_help_of_every_command_has_an_example(diva: Diva, name: str) -> None:
    outcome = diva(name, "--help")
    assert outcome.code == 0
    assert re.search(rf"examples?: +diva {name} ", outcome.out)


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in ("OPENAI_API_KEY", "OPENAI_BASE_URL")}


def test_installed_script_ends_with_the_right_code(store: VariantStore, tmp_path: Path) -> None:
    codes = []
    for arguments in (["status", "--store", store.root], ["status", "--store", tmp_path / "no"], ["status"]):
        process = subprocess.run(
            [DIVA, *map(str, arguments)], capture_output=True, text=True, env=_environment()
        )
        assert "Traceback" not in process.stderr
        codes.append(process.returncode)
    assert codes == [0, 1, 2]


_PLAIN_VERBS = """
import sys
from diva_grpo.flows.cli import cli
for line in sys.argv[1:]:
    cli.main(line.split(), standalone_mode=False)
heavy = {"prefect", "torch", "transformers", "trl", "datasets", "sympy"} & set(sys.modules)
print("loaded:", sorted(heavy))
"""


@pytest.mark.slow
def test_plain_verbs_load_neither_prefect_nor_torch(store: VariantStore, endpoint: TeacherConfig) -> None:
    tail = f"--store {store.root} --base-url {endpoint.base_url} --model scripted-teacher"
    lines = [f"generate {tail}", f"verify {tail}", f"label {tail}", f"status --store {store.root}"]
    command = [sys.executable, "-c", _PLAIN_VERBS, *lines]
    process = subprocess.run(command, capture_output=True, text=True, env=_environment())
    said = "`diva status` says why some failed; --retry-failed tries them again"
    assert {line for line in process.stderr.splitlines() if not line.startswith("next: diva ")} <= {said}
    assert process.stdout.splitlines()[-1] == "loaded: []"


@pytest.mark.slow
def test_interrupted_run_keeps_what_was_done_and_goes_on(diva: Diva, store: VariantStore) -> None:
    answer = completion(json.dumps({"rewordings": ["How many apples has Tom?"]}))
    with serving(Endpoint(Reply(answer.body, delay_s=0.15))) as served:
        arguments = [
            "--store",
            str(store.root),
            "--base-url",
            served.url,
            "--model",
            "m",
            "--concurrency",
            "1",
        ]
        command = [DIVA, "generate", *arguments, "--kinds", "reword"]
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=_environment(), preexec_fn=hear_interrupts
        )
        while len(served.requests) < 3:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        message = process.stderr.read()
        assert process.wait() == 130
        *waited, last = filter(None, message.splitlines())
        assert last == "interrupted: what was done is kept; the same command continues from there"
        assert waited in (
            [],
            ["interrupted: waiting for the answer to 1 request; Ctrl-C again stops at once"],
        )
        assert store.query("SELECT outcome FROM runs") == [("interrupted",)]
        assert store.query("SELECT count(*) >= 2 FROM calls") == [(True,)]
        assert diva(*command[1:]).code == 0
    assert len(served.requests) <= 6, "only the interrupted request is sent again"
    assert store.query("SELECT count(*) FROM variants") == [(5,)]


def test_reader_that_goes_away_is_no_error(store: VariantStore) -> None:
    query = "select i, repeat('x', 100) from range(20000) t(i)"
    command = [DIVA, "sql", query, "--store", str(store.root), "--format", "csv"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "i,\"repeat('x', 100)\"\n"
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.wait()


@pytest.fixture
def teacher_process(store: VariantStore) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [DIVA, "teacher", "--store", str(store.root), "--port", "0", "--wrong-share", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear_interrupts
    )
    assert process.stdout is not None
    found = re.search(r"scripted teacher for 5 problems at (\S+)", process.stdout.readline())
    assert found
    assert process.stdout.readline() == "it refuses to solve 1 of them, which have no worked solution\n"
    yield process, found.group(1)
    process.kill()
    process.wait()


def test_teacher_serves_the_problems_of_a_store(
    diva: Diva, store: VariantStore, teacher_process: tuple[subprocess.Popen[str], str]
) -> None:
    process, url = teacher_process
    outcome = diva("generate", "--store", store.root, "--base-url", url, "--model", "scripted-teacher")
    assert outcome.out == "variants: 33 candidate, 1 failed\n"
    taken = diva("teacher", "--store", store.root, "--port", url.split(":")[2].split("/")[0])
    assert taken.code == 2
    assert "choose another with --port" in taken.err
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
