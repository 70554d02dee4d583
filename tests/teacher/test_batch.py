"""The Batch API as an exchange: half the price, nothing paid for twice, whatever happens in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from diva_grpo.pipeline.session.session import Session
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.client import Teacher
from diva_grpo.pipeline.teacher.meter import Meter
from diva_grpo.pipeline.teacher.prices import Budget
from diva_grpo.pipeline.teacher.prompts import Prompt
from diva_grpo.pipeline.teacher.wire.batch import exchange as module
from diva_grpo.pipeline.teacher.wire.batch.book import BatchBook
from diva_grpo.pipeline.teacher.wire.batch.exchange import Pace, by_batch
from diva_grpo.pipeline.teacher.wire.batch.pending import pending_batches
from diva_grpo.pipeline.teacher.wire.outcome import Outcome
from diva_grpo.schemas.config import TeacherConfig
from diva_grpo.schemas.exceptions import BudgetError, ConfigError, StoreError, TeacherError
from diva_grpo.schemas.replies import Answer, Rewordings
from diva_grpo.schemas.replies import Reply as StructuredReply
from tests.conftest import Diva
from tests.support.batch_endpoint import Batches, failing, right, serving_batches
from tests.support.endpoints import body
from tests.support.prefect_processes import hear_interrupts

PROMPT = Prompt(version="1", system="You help.", user="Say $word.")
QUICK = Pace(quiet=0.05, first=0.02, longest=0.05)


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def priced(tmp_path: Path) -> Path:
    """A dollar for a thousand tokens of an answer; the prompt costs nothing."""
    (tmp_path / "prices.yaml").write_text("m: [0.0, 1000.0]\n")
    return tmp_path / "prices.yaml"


def _config(batches: Batches, **values: Any) -> TeacherConfig:
    given = {"model": "m", "base_url": batches.url, "endpoint": "test", "max_retries": 0, "concurrency": 4}
    return TeacherConfig.model_validate(given | values)


def _ask(
    store: VariantStore,
    teacher: TeacherConfig | Batched,
    words: range,
    shape: type[StructuredReply] | None = None,
) -> list[Answer[StructuredReply]]:
    async def one(word: int, asked: Teacher) -> Answer[StructuredReply]:
        return await asked.ask(PROMPT, {"word": word}, purpose="t", problem_id=str(word), shape=shape)

    session = teacher.session(store) if isinstance(teacher, Batched) else Session(store, teacher)
    with session:
        return session.teacher.ask([partial(one, word) for word in words])


@dataclass(frozen=True)
class Batched:
    """An endpoint that is asked by the Batch API, quickly."""

    config: TeacherConfig
    meter: Meter
    size: int

    def session(self, store: VariantStore) -> Session:
        return Session(store, self.config, meter=self.meter, connect=by_batch(self.meter, self.size, QUICK))


def _by_batch(batches: Batches, size: int = 1_000, budget: Budget | None = None, **values: Any) -> Batched:
    return Batched(_config(batches, **values), Meter("requests", budget=budget), size)


def _paid(batches: Batches) -> Counter[str]:
    """How often each request was run."""
    return Counter(batches.requests())


# --- the ordinary course


def test_answers_come_back_at_half_the_price(store: VariantStore, priced: Path) -> None:
    with serving_batches(Batches()) as batches:
        run = _by_batch(batches, prices=priced)
        answers = _ask(store, run, range(30))
    assert {answer.text for answer in answers} == {"so \\boxed{7}"}
    assert (len(batches.batches), batches.live) == (1, 0)
    rows = store.query("SELECT count(*), sum(cost_usd), min(outcome), sum(completion_tokens) FROM calls")
    assert rows == [(30, pytest.approx(30 * 0.01), "ok", 600)]
    assert run.meter.budget.spent == pytest.approx(0.3)
    assert pending_batches(store.root) == []
    assert list((store.root / "batches").glob("*.jsonl")) == []


def test_batch_and_live_answers_stand_for_each_other(store: VariantStore) -> None:
    with serving_batches(Batches()) as batches:
        _ask(store, _config(batches), range(5))
        _ask(store, _by_batch(batches), range(10))
        assert (batches.live, len(batches.requests())) == (5, 5)
        _ask(store, _config(batches), range(10))
        _ask(store, _by_batch(batches), range(10))
        assert (batches.live, len(batches.requests())) == (5, 5)


def test_answers_find_their_requests_in_any_order(store: VariantStore) -> None:
    def echo(request: dict[str, Any]) -> dict[str, Any]:
        return {"response": {"status_code": 200, "body": body(request["messages"][-1]["content"])}}

    with serving_batches(Batches(answer=echo)) as batches:
        answers = _ask(store, _by_batch(batches), range(40))
    assert [answer.text for answer in answers] == [f"Say {i}." for i in range(40)]


def test_signs_that_some_take_for_the_end_of_a_line_are_part_of_an_answer(store: VariantStore) -> None:
    text = "a\u2028b\x85c\u2029d"
    with serving_batches(
        Batches(answer=lambda request: {"response": {"status_code": 200, "body": body(text)}})
    ) as batches:
        answers = _ask(store, _by_batch(batches), range(3))
    assert {answer.text for answer in answers} == {text}
    assert len(batches.batches) == 1


@pytest.mark.parametrize(("size", "files"), [(7, 3), (1_000, 1)])
def test_file_has_no_more_requests_than_allowed(store: VariantStore, size: int, files: int) -> None:
    with serving_batches(Batches()) as batches:
        _ask(store, _by_batch(batches, size), range(20))
    assert len(batches.batches) == files
    assert max(len(batch["lines"]) for batch in batches.batches.values()) <= size
    assert set(_paid(batches).values()) == {1}


def test_file_is_no_larger_than_allowed(store: VariantStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 2_000)
    with serving_batches(Batches()) as batches:
        _ask(store, _by_batch(batches), range(20))
    sent = [len(data) for name, data in batches.files.items() if "put" not in name and "error" not in name]
    assert len(sent) > 2
    assert max(sent) <= 2_000
    assert len(_paid(batches)) == 20


def test_request_that_fits_no_file_is_one_line(store: VariantStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    with serving_batches(Batches()) as batches, pytest.raises(TeacherError, match="larger than the 200 MB"):
        _ask(store, _by_batch(batches), range(3))
    assert batches.batches == {}


# --- what comes back unanswered


@pytest.mark.parametrize("end", ["expired", "cancelled"])
def test_rest_of_a_batch_that_ended_early_is_sent_again(store: VariantStore, end: str) -> None:
    with serving_batches(Batches(end=[(end, ""), (end, "")])) as batches:
        answers = _ask(store, _by_batch(batches), range(20))
    assert all(answer.failure is None for answer in answers)
    assert [len(batch["lines"]) for batch in batches.batches.values()] == [20, 10, 5]
    assert set(_paid(batches).values()) == {1}


def test_request_that_never_comes_to_its_turn_fails_as_data(store: VariantStore) -> None:
    with serving_batches(Batches(end=[("expired", "")] * 9)) as batches:
        answers = _ask(store, _by_batch(batches), range(16))
    assert sum(answer.failure is None for answer in answers) == 8 + 4 + 2
    assert {answer.failure.partition(":")[0] for answer in answers if answer.failure} == {"timeout"}
    assert len(batches.batches) == module.MOST_TRIES


def test_failures_have_their_types_and_rules(store: VariantStore) -> None:
    asked = Counter[str]()

    def answer(request: dict[str, Any]) -> dict[str, Any] | None:
        word = request["messages"][-1]["content"]
        asked[word] += 1
        cases: dict[str, Any] = {
            "Say 0.": failing(500),
            "Say 1.": failing(500) if asked[word] == 1 else right(request),
            "Say 2.": failing(401, "bad key"),
            "Say 3.": None if asked[word] == 1 else right(request),
            "Say 4.": {"response": {"status_code": 200, "body": body("cut", finish_reason="length")}},
            "Say 5.": {"response": {"status_code": 200, "body": {"no": "completion"}}},
        }
        return cases.get(word, right(request))

    with serving_batches(Batches(answer=answer)) as batches:
        answers = _ask(store, _by_batch(batches), range(8))
    assert [(a.failure or "ok").partition(":")[0] for a in answers] == [
        "http_500", "ok", "http_401", "ok", "length", "parse", "ok", "ok",
    ]  # fmt: skip
    assert asked["Say 0."] == module.MOST_TRIES
    assert (asked["Say 1."], asked["Say 2."], asked["Say 3."], asked["Say 4."]) == (2, 1, 2, 1)


def test_parameter_that_a_model_refuses_is_left_out_of_the_next_batch(store: VariantStore) -> None:
    def answer(request: dict[str, Any]) -> dict[str, Any] | None:
        if "temperature" in request:
            return failing(400, "Unsupported value", param="temperature")
        return right(request)

    with serving_batches(Batches(answer=answer)) as batches:
        answers = _ask(store, _by_batch(batches), range(6))
    assert {answer.failure for answer in answers} == {None}
    assert len(batches.batches) == 2


def test_answer_of_the_wrong_shape_is_mended_by_a_second_batch(store: VariantStore) -> None:
    def answer(request: dict[str, Any]) -> dict[str, Any]:
        repaired = len(request["messages"]) > 2
        text = '{"rewordings": ["a"]}' if repaired else "sorry"
        return {"response": {"status_code": 200, "body": body(text)}}

    with serving_batches(Batches(answer=answer)) as batches:
        answers = _ask(store, _by_batch(batches), range(2), Rewordings)
    assert [answer.value for answer in answers] == [Rewordings(rewordings=["a"])] * 2
    assert len(batches.batches) == 2


# --- batches that are not taken


def test_batch_that_was_taken_without_a_word_is_found_again(store: VariantStore) -> None:
    with serving_batches(Batches(create=["drop"])) as batches:
        answers = _ask(store, _by_batch(batches), range(10))
    assert all(answer.failure is None for answer in answers)
    assert len(batches.batches) == 1


def test_batch_of_which_nothing_is_known_is_looked_for_by_the_next_run(store: VariantStore) -> None:
    with serving_batches(Batches(create=["lose"])) as batches:
        with pytest.raises(TeacherError, match="did not say whether it took a batch"):
            _ask(store, _by_batch(batches), range(10))
        assert [pending.batch_id for pending in pending_batches(store.root)] == [None]
        assert all(answer.failure is None for answer in _ask(store, _by_batch(batches), range(10)))
    assert set(_paid(batches).values()) == {1}
    assert pending_batches(store.root) == []


def test_endpoint_without_batches_is_one_line(store: VariantStore) -> None:
    with (
        serving_batches(Batches(create=["404"])) as batches,
        pytest.raises(TeacherError, match=r"takes no batch: .*no: 404") as caught,
    ):
        _ask(store, _by_batch(batches), range(3))
    assert "\n" not in str(caught.value)
    assert pending_batches(store.root) == []


def test_making_a_batch_waits_for_the_rate_limit(store: VariantStore) -> None:
    with serving_batches(Batches(create=["429", "429"])) as batches:
        _ask(store, _by_batch(batches), range(3))
    assert len(batches.batches) == 1


def test_batch_that_fails_as_a_whole_says_why(store: VariantStore) -> None:
    with (
        serving_batches(Batches(end=[("failed", "model_not_found")])) as batches,
        pytest.raises(TeacherError, match="refuses the batch: said model_not_found"),
    ):
        _ask(store, _by_batch(batches), range(3))
    assert pending_batches(store.root) == []
    assert batches.requests() == []


def test_full_queue_makes_smaller_batches(store: VariantStore) -> None:
    with serving_batches(Batches(end=[("failed", "token_limit_exceeded")] * 2)) as batches:
        answers = _ask(store, _by_batch(batches), range(16))
    assert all(answer.failure is None for answer in answers)
    sizes = [len(batch["lines"]) for batch in batches.batches.values()]
    assert sizes[:2] == [16, 8]
    assert max(sizes[2:]) <= 8
    assert set(_paid(batches).values()) == {1}


def test_routes_have_no_batches(store: VariantStore) -> None:
    with serving_batches(Batches()) as batches, pytest.raises(ConfigError, match="--batch goes to one URL"):
        _ask(store, _by_batch(batches, api_version="2024-10-21"), range(3))


def test_two_runs_at_once_are_refused(store: VariantStore) -> None:
    book = BatchBook(store.root)
    with pytest.raises(ConfigError, match="another run of this store uses --batch"):
        BatchBook(store.root)
    book.close()
    BatchBook(store.root).close()


def test_damaged_pages_are_named(store: VariantStore) -> None:
    book = BatchBook(store.root)
    for number in range(200):
        book.open(f"batch {number}", "test", "m", [f"{number} {at}" for at in range(20)])
    book.close()
    content = bytearray(book.path.read_bytes())
    content[3 * 4096 :] = bytes(len(content) - 3 * 4096)
    book.path.write_bytes(content)
    message = r"the batches in .*batches\.sqlite cannot be"
    with pytest.raises(StoreError, match=message):
        pending_batches(store.root)
    damaged = BatchBook(store.root)
    calls: list[Callable[[], object]] = [
        damaged.pending,
        lambda: damaged.outcome("7 1"),
        lambda: damaged.batch_of("7 1"),
        lambda: damaged.open("another", "test", "m", ["a"]),
        lambda: damaged.forget(["7 1"]),
        lambda: damaged.end("batch 7"),
    ]
    for call in calls:
        with pytest.raises(StoreError, match=message):
            call()
    damaged.close()


def test_another_endpoints_requests_are_kept(store: VariantStore) -> None:
    book = BatchBook(store.root)
    book.open("name", "another", "m", ["a"])
    file = book.file_of("name")
    file.write_text("{}\n")
    (book.folder / "of-a-crash.jsonl").write_text("{}\n")
    book.close()
    with serving_batches(Batches()) as batches:
        _ask(store, _by_batch(batches), range(3))
    assert list(book.folder.glob("*.jsonl")) == [file]


def test_file_that_is_cut_on_its_way_is_fetched_again(store: VariantStore) -> None:
    with serving_batches(Batches(cuts=2)) as batches:
        answers = _ask(store, _by_batch(batches), range(30))
    assert all(answer.failure is None for answer in answers)
    assert (batches.cuts, len(batches.batches)) == (0, 1)
    assert set(_paid(batches).values()) == {1}


def test_batch_that_the_api_does_not_know_is_one_line_that_helps(store: VariantStore) -> None:
    book = BatchBook(store.root)
    book.open("name", "test", "m", ["a"])
    book.update("name", "batch_9", "in_progress", 0, 0)
    book.close()
    with (
        serving_batches(Batches()) as batches,
        pytest.raises(TeacherError, match=r"batch batch_9 cannot be read: .*another key.*batches\.sqlite"),
    ):
        _ask(store, _by_batch(batches), range(3))
    assert batches.batches == {}


# --- limits of money


def test_batches_never_overspend(store: VariantStore, priced: Path) -> None:
    budget = Budget(0.2)
    with serving_batches(Batches()) as batches:
        # At most 100 tokens each, 5 cents in a batch; in truth 20 tokens, 1 cent.
        run = _by_batch(batches, budget=budget, prices=priced, max_tokens=100)
        with pytest.raises(BudgetError, match=r"--max-cost: \$0.1600 of \$0.2 .* may cost \$0.0500"):
            _ask(store, run, range(40))
    assert [len(batch["lines"]) for batch in batches.batches.values()] == [4, 3, 2, 2, 1, 1, 1, 1, 1]
    assert store.query("SELECT count(*), sum(cost_usd) FROM calls") == [(16, pytest.approx(0.16))]


# --- crashes


def test_what_came_back_before_a_crash_is_used_without_asking(store: VariantStore) -> None:
    with serving_batches(Batches()) as batches:
        run = _by_batch(batches)
        _ask(store, run, range(3))
        [(key,)] = [(key,) for key in list(_paid(batches))[:1]]
        book = BatchBook(store.root)
        book.open("b", "test", "m", [key])
        book.keep({key: Outcome("kept", "ok", None, 1, 2, price_share=0.5)})
        assert book.end("b") == []
        assert book.outcome(key) == Outcome("kept", "ok", None, 1, 2, price_share=0.5)
        book.close()
        (store.root / "journal.sqlite").unlink()
        for path in store.root.glob("journal.sqlite-*"):
            path.unlink()
        texts = [answer.text for answer in _ask(store, run, range(3))]
    assert sorted(texts) == ["kept", "so \\boxed{7}", "so \\boxed{7}"]
    assert len(batches.requests()) == 3 + 2


@pytest.mark.parametrize("fresh", [False, True])
def test_fresh_run_takes_only_what_a_fresh_run_has_left(store: VariantStore, fresh: bool) -> None:
    with serving_batches(Batches()) as batches:
        _ask(store, _by_batch(batches, fresh=fresh), range(3))
        left = batches.requests()[0]
        book = BatchBook(store.root)
        book.open("b", "test", "m", [left])
        book.keep({left: Outcome("left", "ok", None, 1, 2, price_share=0.5)})
        book.end("b")
        book.close()
        again = [answer.text for answer in _ask(store, _by_batch(batches, fresh=True), range(3))]
        assert again.count("left") == int(fresh)


def test_batch_goes_on_while_nobody_waits_and_status_shows_it(diva: Diva, store: VariantStore) -> None:
    book = BatchBook(store.root)
    book.open("name", "test", "m", ["a", "b"])
    book.update("name", "batch_9", "in_progress", 1, 0)
    status = diva("status", "--store", store.root).out  # while another process has them in use
    book.close()
    assert "Batch batch_9 of m: in_progress, 1 of 2 done, 0 failed" in status


STAGES = ["upload", "create", "poll", "content", "after content"]


def _diva_label(store: VariantStore, batches: Batches, *more: str) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).parent / "diva"), "label", "--store", str(store.root), "--model", "m"]
    options = ["--base-url", batches.url, "--endpoint", "test", "--samples", "40", "--batch", *more]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    return subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=hear_interrupts,
    )


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_run_that_is_killed_at_any_stage_pays_for_nothing_twice(store: VariantStore, stage: str) -> None:
    with serving_batches(Batches(polls=1)) as batches:
        process = _diva_label(store, batches, "--batch-size", "90")  # 200 requests: three files

        def kill(step: str) -> None:
            if step == stage.removeprefix("after "):
                if stage.startswith("after"):
                    threading.Timer(0.03, process.kill).start()
                else:
                    process.kill()

        batches.on = kill
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        batches.on = lambda step: None
        again = _diva_label(store, batches, "--batch-size", "90")
        out, err = again.communicate(timeout=100)
    assert (again.returncode, out) == (0, "labels: 5 original\n"), err
    paid = _paid(batches)
    assert len(paid) == 200
    assert set(paid.values()) == {1}
    assert store.query("SELECT sum(samples) FROM labels") == [(200,)]
    assert store.query("SELECT count(*), count(DISTINCT request_hash) FROM calls") == [(200, 200)]
    assert pending_batches(store.root) == []


@pytest.mark.slow
def test_interrupted_run_leaves_its_batch_to_the_next(store: VariantStore) -> None:
    with serving_batches(Batches(polls=10**6)) as batches:
        process = _diva_label(store, batches)
        deadline = time.monotonic() + 60
        while not pending_batches(store.root) or pending_batches(store.root)[0].status != "in_progress":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        assert "the same command continues from there" in process.communicate(timeout=60)[1]
        assert process.returncode == 130
        assert time.monotonic() - started < 20
        batches.batches["batch_0"]["left"] = 0
        again = _diva_label(store, batches)
        out, err = again.communicate(timeout=100)
    assert (again.returncode, out) == (0, "labels: 5 original\n"), err
    assert len(batches.batches) == 1
