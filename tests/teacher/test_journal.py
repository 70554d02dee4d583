"""The journal: what its key knows, what it never reuses, and that a kill costs no answer that was received."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Picture

from diva_grpo.pipeline.images.shown import Shown
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.client import Teacher
from diva_grpo.pipeline.teacher.journal import Entry, Journal, request_hash
from diva_grpo.pipeline.teacher.prompts import Prompt
from diva_grpo.schemas.config import TeacherConfig
from diva_grpo.schemas.exceptions import StoreError
from diva_grpo.schemas.replies import Answer, Reply, Rewordings
from tests.support.endpoints import Endpoint, completion, serving
from tests.support.endpoints import Reply as EndpointReply
from tests.support.sessions import ask

STRUCTURED = completion('{"rewordings": ["a"]}')


class OtherRewordings(Reply):
    rewordings: list[str]


@dataclass(frozen=True)
class Request:
    """All that a request is made of; those below the line do not determine its answer."""

    endpoint: str = "test"
    model: str = "m"
    system: str = "You help."
    word: str = "x"
    images: tuple[str, ...] = ()
    shape: type[Reply] | None = None
    output_mode: str = "json_schema"
    temperature: float = 1.0
    max_tokens: int = 100
    sample: int = 0
    # ---
    purpose: str = "test"
    problem_id: str = "p"
    version: str = "test-1"
    concurrency: int = 4
    timeout_s: float = 5.0
    max_retries: int = 0
    retry_failed: bool = False
    fresh: bool = False


def _send(store: VariantStore, url: str, requests: Sequence[Request]) -> list[Answer[Reply]]:
    """Ask one after the other, each by a teacher of its own settings."""

    async def one(request: Request, teacher: Teacher) -> Answer[Reply]:
        values: dict[str, object] = {"word": request.word}
        return await teacher.ask(
            Prompt(request.version, request.system, "Say $word."),
            values,
            purpose=request.purpose,
            problem_id=request.problem_id,
            shape=request.shape,
            images=Shown(tuple(_image(store, content) for content in request.images)),
            sample=request.sample,
        )

    names = set(TeacherConfig.model_fields) & set(Request.__dataclass_fields__)
    answers = []
    for request in requests:
        config = TeacherConfig.model_validate(
            {"base_url": url} | {name: getattr(request, name) for name in names}
        )
        answers += ask(store, config, [partial(one, request)])
    return answers


def _image(store: VariantStore, content: str) -> Path:
    path = store.root / f"{content}.png"
    Picture.new("L", (2, 2), sum(content.encode()) % 256).save(path)
    return path


SAME = Request(images=("one", "two"), shape=Rewordings)

CHANGES: dict[str, Request] = {
    "endpoint": replace(SAME, endpoint="another"),
    "model": replace(SAME, model="n"),
    "system prompt": replace(SAME, system="You help!"),
    "user message": replace(SAME, word="y"),
    "no images": replace(SAME, images=()),
    "another image": replace(SAME, images=("one", "three")),
    "order of images": replace(SAME, images=("two", "one")),
    "schema": replace(SAME, shape=OtherRewordings),
    "no schema": replace(SAME, shape=None),
    "output mode": replace(SAME, output_mode="json_object"),
    "temperature": replace(SAME, temperature=0.5),
    "max tokens": replace(SAME, max_tokens=101),
    "sample": replace(SAME, sample=1),
}
NO_CHANGES: dict[str, Request] = {
    "nothing": SAME,
    "purpose": replace(SAME, purpose="another"),
    "problem": replace(SAME, problem_id="another"),
    "version of the prompt": replace(SAME, version="test-2"),  # its wording is
    "concurrency": replace(SAME, concurrency=1),
    "timeout": replace(SAME, timeout_s=6.0),
    "retries": replace(SAME, max_retries=3),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_determines_an_answer_is_in_the_key(store: VariantStore, change: str) -> None:
    with serving(Endpoint(STRUCTURED)) as endpoint:
        _send(store, endpoint.url, [SAME, CHANGES[change]])
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize("change", NO_CHANGES)
def test_what_does_not_determine_an_answer_is_not_in_the_key(store: VariantStore, change: str) -> None:
    with serving(Endpoint(STRUCTURED)) as endpoint:
        _send(store, endpoint.url, [SAME, NO_CHANGES[change]])
    assert len(endpoint.requests) == 1


def test_api_key_is_not_in_the_key(store: VariantStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Endpoint()) as endpoint:
        for key in ("old", "new"):
            monkeypatch.setenv("OPENAI_API_KEY", key)
            _send(store, endpoint.url, [Request()])
    assert endpoint.keys == ["Bearer old"]


def test_named_endpoint_may_move(store: VariantStore) -> None:
    with serving(Endpoint()) as first, serving(Endpoint()) as second:
        _send(store, first.url, [Request()])
        _send(store, second.url, [Request()])
    assert (len(first.requests), len(second.requests)) == (1, 0)


_REQUESTS = st.builds(
    Request,
    endpoint=st.sampled_from(["a", "b"]),
    model=st.sampled_from(["m", "n"]),
    system=st.sampled_from(["", "s", "s\nm"]),
    word=st.text(max_size=3),
    images=st.lists(st.sampled_from(["one", "two"]), max_size=2).map(tuple),
    shape=st.sampled_from([None, Rewordings]),
    temperature=st.sampled_from([0.0, 1.0]),
    max_tokens=st.integers(1, 3),
    sample=st.integers(0, 2),
    purpose=st.sampled_from(["p", "q"]),
)


def _identity(request: Request) -> Request:
    return replace(request, purpose="test")


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(requests=st.lists(_REQUESTS, min_size=2, max_size=6), data=st.data())
def test_each_distinct_request_is_sent_once_in_any_order(
    requests: list[Request], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = VariantStore(tmp_path_factory.mktemp("keys") / "store", create=True)
    with serving(Endpoint(STRUCTURED)) as endpoint:
        _send(store, endpoint.url, requests)
        _send(store, endpoint.url, data.draw(st.permutations(requests)))
    assert len(endpoint.requests) == len(set(map(_identity, requests)))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(first=st.dictionaries(st.text(max_size=3), _JSON), second=st.dictionaries(st.text(max_size=3), _JSON))
def test_hash_is_equal_for_equal_identities_alone(first: dict[str, Any], second: dict[str, Any]) -> None:
    def canonical(value: Any) -> str:
        return json.dumps(value, sort_keys=True)

    assert (request_hash(first) == request_hash(second)) == (canonical(first) == canonical(second))
    assert request_hash(first) == request_hash(dict(reversed(list(first.items()))))


def test_many_requests_in_another_order_and_at_another_concurrency_are_all_found(store: VariantStore) -> None:
    async def one(word: str, teacher: Teacher) -> str:
        prompt = Prompt("test-1", "s", "Say $word.")
        return (await teacher.ask(prompt, {"word": word}, purpose="test", problem_id=word)).text

    jobs: list[Callable[[Teacher], Any]] = [partial(one, str(i)) for i in range(30)]
    with serving(Endpoint()) as endpoint:
        for concurrency, work in ((7, jobs), (1, jobs[::-1])):
            config = TeacherConfig(model="m", base_url=endpoint.url, concurrency=concurrency)
            assert ask(store, config, work) == ["42"] * 30
    assert len(endpoint.requests) == 30


# --- entries


def _entry(key: str = "k", outcome: str = "ok", **values: Any) -> Entry:
    defaults: dict[str, Any] = {
        "request_hash": key,
        "purpose": "test",
        "endpoint": "e",
        "model": "m",
        "problem_id": "p",
        "content": outcome,
        "outcome": outcome,
        "detail": None,
        "prompt_tokens": 1,
        "completion_tokens": 2,
        "cost_usd": None,
        "latency_s": 0.1,
        "attempts": 1,
        "output_mode": "text",
        "created_at": "2026-01-02T03:04:05.000006",
    }
    return Entry(**defaults | values)


@pytest.fixture
def journal(store: VariantStore) -> Journal:
    return Journal.of_store(store)


@pytest.mark.parametrize(
    "outcome", ["network", "timeout", "http_500", "refusal", "length", "parse", "schema"]
)
def test_failed_entry_is_never_an_answer(journal: Journal, outcome: str) -> None:
    journal.commit(_entry(outcome=outcome))
    assert journal.answer("k") is None


def test_good_entry_takes_the_place_of_a_failed_one(journal: Journal) -> None:
    journal.commit(_entry(outcome="network"))
    good = _entry(content="the answer")
    journal.commit(good)
    assert journal.answer("k") == good


@pytest.mark.parametrize("outcome", ["ok", "network"])
def test_good_entry_is_never_overwritten(journal: Journal, outcome: str) -> None:
    first = _entry(content="first")
    journal.commit(first)
    journal.commit(_entry(outcome=outcome, content="second"))
    assert journal.answer("k") == first


CUT, WHOLE = completion("cut", finish_reason="length"), completion("whole")


@pytest.mark.parametrize("lost", [EndpointReply(b"", 500), EndpointReply(drop=True)])
def test_request_that_was_not_answered_is_sent_again_by_the_next_run(
    store: VariantStore, lost: EndpointReply
) -> None:
    with serving(Endpoint(lost, WHOLE)) as endpoint:
        answers = [_send(store, endpoint.url, [Request()])[0] for _ in range(3)]
    assert [answer.text for answer in answers] == ["", "whole", "whole"]
    assert len(endpoint.requests) == 2


def test_answer_of_no_use_is_paid_for_again_only_where_the_user_says_so(store: VariantStore) -> None:
    with serving(Endpoint(CUT, WHOLE)) as endpoint:
        again = Request(retry_failed=True)
        answers = [
            _send(store, endpoint.url, [r])[0] for r in (Request(), Request(), again, again, Request())
        ]
    assert [answer.text for answer in answers] == ["cut", "cut", "whole", "whole", "whole"]
    assert [(answer.failure or "").split(":")[0] for answer in answers] == ["length", "length", "", "", ""]
    assert len(endpoint.requests) == 2


def test_fresh_answer_takes_the_place_of_the_old_one_which_is_kept(store: VariantStore) -> None:
    with serving(Endpoint(completion("old"), completion("new"))) as endpoint:
        answers = [_send(store, endpoint.url, [Request(fresh=fresh)])[0] for fresh in (False, True, False)]
    assert [answer.text for answer in answers] == ["old", "new", "new"]
    with sqlite3.connect(store.root / "journal.sqlite") as connection:
        assert connection.execute("SELECT content, fresh FROM entries ORDER BY id").fetchall() == [
            ("old", 0),
            ("new", 1),
        ]


def test_fresh_answer_that_fails_leaves_the_old_one(store: VariantStore) -> None:
    with serving(Endpoint(completion("old"), CUT)) as endpoint:
        answers = [_send(store, endpoint.url, [Request(fresh=fresh)])[0] for fresh in (False, True, False)]
    assert [answer.text for answer in answers] == ["old", "cut", "old"]


def test_entry_is_on_disk_when_commit_returns(store: VariantStore, journal: Journal) -> None:
    journal.commit(_entry(content="½ ≤ 漢字\0"))
    with Journal.of_store(store) as other:
        assert other.answer("k") == _entry(content="½ ≤ 漢字\0")


def test_ledger_has_each_call_once(store: VariantStore, journal: Journal) -> None:
    for key in "abc":
        journal.commit(_entry(key))
    assert [journal.to_ledger(store), journal.to_ledger(store)] == [3, 0]
    journal.commit(_entry("d"))
    assert journal.to_ledger(store) == 1
    assert store.query("SELECT request_hash, count(*) FROM calls GROUP BY ALL ORDER BY 1") == [
        (k, 1) for k in "abcd"
    ]


def test_ledger_shows_the_last_outcome_of_a_request(store: VariantStore, journal: Journal) -> None:
    journal.commit(_entry(outcome="timeout", created_at="2026-01-01T00:00:00"))
    journal.to_ledger(store)
    journal.commit(_entry(outcome="ok"))
    journal.to_ledger(store)
    assert store.query("SELECT outcome FROM calls") == [("ok",)]


def test_crash_before_the_mark_shows_a_call_once_all_the_same(store: VariantStore, journal: Journal) -> None:
    journal.commit(_entry())
    journal.to_ledger(store)
    with sqlite3.connect(store.root / "journal.sqlite") as connection:
        connection.execute("UPDATE entries SET in_ledger = 0")
    assert journal.to_ledger(store) == 1
    assert store.query("SELECT count(*) FROM calls") == [(1,)]


def test_damaged_journal_is_one_line(store: VariantStore) -> None:
    (store.root / "journal.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match=r"journal\.sqlite cannot be used") as caught:
        Journal.of_store(store)
    assert "\n" not in str(caught.value)


def test_a_damaged_page_is_one_line_whatever_reads_it(store: VariantStore, tmp_path: Path) -> None:
    path = store.root / "journal.sqlite"
    with Journal.of_store(store) as journal:
        for number in range(300):
            journal.commit(replace(_entry(), request_hash=f"key {number}", content="x" * 300))
    whole, size = path.read_bytes(), 4096
    said: list[str] = []
    for page in range(1, len(whole) // size):
        path.write_bytes(whole[: page * size] + bytes(size) + whole[(page + 1) * size :])
        copy = VariantStore(shutil.copytree(store.root, tmp_path / str(page)))
        for use in (
            lambda journal: [journal.exchanges(f"key {number}") for number in range(300)],
            lambda journal: journal.sums_since(0),
            lambda journal, to=copy: journal.to_ledger(to),
            lambda journal: journal.commit(replace(_entry(), request_hash="another")),
            lambda journal: journal.learn("e", "m", "name", "value"),
        ):
            try:
                with Journal.of_store(copy) as journal:
                    use(journal)
            except StoreError as error:
                said.append(str(error))
    assert len(said) > 20
    assert {
        bool(re.fullmatch(r"the journal \S+ cannot be used: [^\n]+ puts it aside", line)) for line in said
    } == {True}


def test_a_folder_in_place_of_the_journal_is_one_line(store: VariantStore) -> None:
    (store.root / "journal.sqlite").mkdir()
    with pytest.raises(StoreError, match=r"journal\.sqlite cannot be read or written: unable to open"):
        Journal.of_store(store)


# --- group commits, sums and old files


def test_entries_are_on_disk_when_keep_returns(store: VariantStore) -> None:
    async def run() -> None:
        with Journal.of_store(store) as journal, Journal.of_store(store) as other:

            async def one(key: str) -> None:
                await journal.keep(_entry(key))
                assert other.answer(key) == _entry(key)

            await asyncio.gather(*(one(f"{i:064x}") for i in range(300)))

    asyncio.run(run())


def test_what_failures_have_cost_stays_in_the_ledger(store: VariantStore, journal: Journal) -> None:
    journal.commit(_entry(outcome="parse", cost_usd=0.5, attempts=3))
    journal.to_ledger(store)
    journal.commit(_entry(outcome="timeout", prompt_tokens=None, completion_tokens=None, attempts=2))
    journal.commit(_entry(cost_usd=0.25))
    assert journal.to_ledger(store) == 1
    assert store.query("SELECT outcome, cost_usd, attempts, prompt_tokens, completion_tokens FROM calls") == [
        ("ok", 0.75, 6, 2, 4)
    ]


def test_journal_of_the_first_version_keeps_its_answers(store: VariantStore) -> None:
    path = store.root / "journal.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE entries (request_hash TEXT PRIMARY KEY, purpose TEXT, endpoint TEXT, model TEXT, "
            "problem_id TEXT, content TEXT, outcome TEXT, detail TEXT, prompt_tokens INTEGER, "
            "completion_tokens INTEGER, cost_usd REAL, latency_s REAL, attempts INTEGER, output_mode TEXT, "
            "created_at TEXT, in_ledger INTEGER NOT NULL DEFAULT 0)"
        )
        connection.execute("CREATE INDEX not_in_ledger ON entries (created_at) WHERE in_ledger = 0")
        old = list(asdict(_entry(content="paid")).values())[:15]
        connection.execute(f"INSERT INTO entries VALUES ({', '.join('?' * 15)}, 0)", old)
    for _ in range(2):
        with Journal.of_store(store) as journal:
            assert journal.answer("k") == _entry(content="paid")
    with Journal.of_store(store) as journal:
        assert journal.to_ledger(store) == 1


def test_journal_of_version_1_gets_the_column_of_thoughts(store: VariantStore) -> None:
    with Journal.of_store(store) as journal:
        asyncio.run(journal.keep(_entry(content="paid")))
    with sqlite3.connect(store.root / "journal.sqlite") as connection:
        connection.execute("ALTER TABLE entries DROP COLUMN reasoning_tokens")
        connection.execute("PRAGMA user_version = 1")
    with Journal.of_store(store) as journal:
        assert journal.answer("k") == _entry(content="paid")
        asyncio.run(journal.keep(_entry("l", reasoning_tokens=7)))
        journal.to_ledger(store)
    assert store.query("SELECT reasoning_tokens FROM calls ORDER BY request_hash") == [(None,), (7,)]


@pytest.mark.parametrize("values", [{"detail": "\ud800"}, {"prompt_tokens": 10**30}])
def test_entry_that_cannot_be_written_is_an_error_and_holds_up_nothing(
    journal: Journal, values: dict[str, Any]
) -> None:
    async def work() -> None:
        async with asyncio.timeout(10):
            with pytest.raises(StoreError, match="the journal cannot be written"):
                await journal.keep(_entry("0" * 64, **values))
            await journal.keep(_entry("1" * 64))

    asyncio.run(work())
    assert journal.answer("1" * 64) is not None


def test_journal_of_a_later_version_is_one_line(store: VariantStore) -> None:
    with sqlite3.connect(store.root / "journal.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="of a later version: update diva-grpo"):
        Journal.of_store(store)


def test_api_key_is_in_no_file(store: VariantStore, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "sk-very-secret-4711"
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    echo = EndpointReply(b'{"error": {"message": "bad key sk-very-secret-4711"}}', 400)
    with serving(
        Endpoint(echo, EndpointReply(b"<p>sk-very-secret-4711"), completion(f"it is {secret}"))
    ) as endpoint:
        url = endpoint.url.replace("//", "//user:hunter2@")
        config = TeacherConfig(model="m", base_url=url, max_retries=0, concurrency=1)

        async def one(word: str, teacher: Teacher) -> str | None:
            prompt = Prompt("test-1", "s", "Say $word.")
            return (await teacher.ask(prompt, {"word": word}, purpose="test", problem_id=word)).failure

        failures = ask(store, config, [partial(one, word) for word in "abc"])
    assert endpoint.keys[0] is not None
    assert [failure and failure.split(":")[0] for failure in failures] == ["http_400", "parse", None]
    files = [path for path in store.root.rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        assert secret.encode() not in content, path
        assert b"hunter2" not in content, path


@pytest.mark.parametrize("key", ["x", "EMPTY", "ollama", "international", "1234"])
def test_key_that_is_no_secret_changes_no_answer(
    store: VariantStore, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    text = f"Max has 1234 EMPTY boxes of international stamps, and ollamas: {key}"
    with serving(Endpoint(completion(text))) as endpoint:
        config = TeacherConfig(model="m", base_url=endpoint.url)

        async def one(teacher: Teacher) -> str | None:
            prompt = Prompt("test-1", "s", "Say $word.")
            return (await teacher.ask(prompt, {"word": "a"}, purpose="test", problem_id="a")).text

        assert ask(store, config, [one]) == [text]
