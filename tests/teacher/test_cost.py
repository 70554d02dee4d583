"""What a run costs: the estimate before it, the limit while it runs, the ledger after it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Picture

from diva_grpo.pipeline.images.encoding import image_part
from diva_grpo.pipeline.session.rehearsal import Rehearsal, copied
from diva_grpo.pipeline.stages.curate import label as label_in
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.client import Teacher
from diva_grpo.pipeline.teacher.meter import Meter
from diva_grpo.pipeline.teacher.prices import Budget, ImageRule, Price, PriceTable
from diva_grpo.pipeline.teacher.prompts import Prompt
from diva_grpo.pipeline.teacher.tokens import TokenCounter, approximate_tokens
from diva_grpo.pipeline.teacher.wire.outcome import Outcome
from diva_grpo.schemas.config import LabelConfig, TeacherConfig
from diva_grpo.schemas.exceptions import BudgetError, ConfigError
from tests.conftest import Diva
from tests.support.endpoints import Endpoint, Reply, body, completion, json_reply, serving
from tests.support.sessions import ask, label

SHAPED = {
    "Rewordings": json.dumps({"rewordings": ["a", "b"]}),
    "HarderTexts": json.dumps({"texts": [{"aspect": "story", "text": "a"}]}),
}
DEAR = "m: [1000.0, 0.0]\n"  # the endpoint's 100 prompt tokens are ten cents


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def dear(tmp_path: Path) -> Path:
    """A price table by which each request to the endpoint costs ten cents."""
    (tmp_path / "dear.yaml").write_text(DEAR)
    return tmp_path / "dear.yaml"


def _files(store: VariantStore) -> dict[str, str]:
    """A fingerprint of everything in a store's folder, but for SQLite's own bookkeeping."""
    return {
        str(path.relative_to(store.root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.root.rglob("*"))
        if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    }


def _options(endpoint: Endpoint, store: VariantStore, *more: object) -> list[object]:
    common = ["--store", store.root, "--base-url", endpoint.url, "--model", "m", "--endpoint", "test"]
    return [*common, "--max-retries", 0, *more]


class Counting(Endpoint):
    """Charges for the tokens of the request that it received, and answers in the asked shape."""

    def next(self, request: dict[str, Any], key: str | None) -> Reply:
        super().next(request, key)
        shape = request.get("response_format", {}).get("json_schema", {}).get("name")
        reply = body(SHAPED.get(shape, "\\boxed{7}"))
        reply["usage"]["prompt_tokens"] = TokenCounter("m").request(request, ImageRule())
        return json_reply(reply)


# --- the estimate


@pytest.mark.parametrize("verb", ["generate", "verify", "label"])
def test_dry_run_sends_nothing_and_leaves_the_store_as_it_is(
    diva: Diva, store: VariantStore, verb: str
) -> None:
    with serving(Counting()) as endpoint:
        diva("generate", *_options(endpoint, store, "--kinds", "reword", "--limit", 3))
        sent, before = len(endpoint.requests), _files(store)
        outcome = diva(verb, *_options(endpoint, store, "--dry-run"))
        assert (outcome.code, len(endpoint.requests)) == (0, sent), outcome.err
    assert "Nothing was sent." in outcome.out
    assert _files(store) == before


def test_estimate_is_what_the_ledger_shows_afterwards(
    diva: Diva, store: VariantStore, tmp_path: Path
) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("m: {prompt: 2.0, completion: 0.0}\n")
    with serving(Counting()) as endpoint:
        options = _options(endpoint, store, "--prices", prices)
        for verb, *more in [("generate", "--kinds", "reword,harder"), ("label", "--samples", "3")]:
            before = store.query("SELECT count(*), sum(prompt_tokens), sum(cost_usd) FROM calls")[0]
            rehearsed = diva(verb, *options, *more, "--dry-run").out
            diva(verb, *options, *more)
            after = store.query("SELECT count(*), sum(prompt_tokens), sum(cost_usd) FROM calls")[0]
            requests, tokens, dollars = (a - (b or 0) for a, b in zip(after, before, strict=True))
            total = next(line for line in rehearsed.splitlines() if line.startswith("total")).split()
            assert total[1:3] == [str(requests), f"{tokens:,}"], rehearsed
            assert total[-1] == f"{dollars:.4f}", rehearsed
    assert len(endpoint.requests) == 5 * 2 + 5 * 3


def test_what_the_journal_has_is_free(diva: Diva, store: VariantStore) -> None:
    with serving(Counting()) as endpoint:
        diva("label", *_options(endpoint, store, "--samples", 2, "--limit", 3))
        outcome = diva("label", *_options(endpoint, store, "--samples", 5, "--dry-run"))
    assert re.search(r"^total +19 ", outcome.out, re.MULTILINE)  # 5 * 5 - 3 * 2
    assert "6 requests more are in the journal already" in outcome.out


def test_verify_counts_only_what_the_cheap_checks_leave(diva: Diva, store: VariantStore) -> None:
    with serving(Counting()) as endpoint:
        diva("generate", *_options(endpoint, store, "--kinds", "reword"))
        rehearsed = diva("verify", *_options(endpoint, store, "--dry-run")).out
        sent = len(endpoint.requests)
        diva("verify", *_options(endpoint, store))
    needed = len(endpoint.requests) - sent
    assert [int(word) for word in rehearsed.split() if word.isdigit()][:1] == ([needed] if needed else [0])


def test_length_of_earlier_answers_takes_the_place_of_the_assumption(store: VariantStore) -> None:
    with serving(Endpoint(completion("\\boxed{7}"))) as endpoint:
        config = TeacherConfig(model="m", base_url=endpoint.url)
        with copied(store) as copy, Rehearsal(copy, config) as assumed:
            label_in(assumed, LabelConfig(samples=4))
            assumed.note("label")
        label(store, config, LabelConfig(samples=2))  # ten calls of 20 tokens
    with copied(store) as copy, Rehearsal(copy, config) as measured:
        label_in(measured, LabelConfig(samples=4))
        measured.note("label")
    assert [line.completion_tokens for line in assumed.lines] == [20 * 300]
    assert [line.completion_tokens for line in measured.lines] == [10 * 20]
    assert (measured.requests, measured.meter.reused) == (10, 10)
    assert "the mean of this store's calls" in measured.render()


def test_unknown_price_says_how_to_add_it(diva: Diva, store: VariantStore) -> None:
    with serving(Endpoint()) as endpoint:
        outcome = diva("label", *_options(endpoint, store, "--dry-run"))
    assert outcome.code == 0
    assert "unknown" in outcome.out
    assert "no price of 'm' in genai-prices: add the line `m: [PROMPT, COMPLETION]`" in outcome.out


# --- the limit


def test_run_stops_at_its_limit_and_keeps_everything(diva: Diva, store: VariantStore, dear: Path) -> None:
    concurrency = 3
    with serving(Endpoint(completion("\\boxed{7}"))) as endpoint:
        options = _options(endpoint, store, "--prices", dear, "--concurrency", concurrency, "--samples", 8)
        stopped = diva("label", *options, "--max-cost", "1.0")
        [(calls, dollars)] = store.query("SELECT count(*), sum(cost_usd) FROM calls")
        assert stopped.code == 1
        assert stopped.err.startswith("diva: --max-cost is reached: $")
        assert stopped.err.count("\n") == 1
        assert calls == len(endpoint.requests)
        assert 1.0 - 1e-9 <= dollars <= 1.0 + 0.1 * (concurrency - 1) + 1e-9
        assert diva("label", *options).code == 0
    assert len(endpoint.requests) == 5 * 8  # none of them twice
    assert store.query("SELECT outcome FROM runs ORDER BY started_at") == [("failed",), ("ok",)]


def test_run_below_its_limit_ends_as_ever(diva: Diva, store: VariantStore, dear: Path) -> None:
    with serving(Endpoint(completion("\\boxed{7}"))) as endpoint:
        options = _options(endpoint, store, "--prices", dear, "--samples", 2)
        assert diva("label", *options, "--max-cost", "2.0").code == 0
    assert len(endpoint.requests) == 10


def test_limit_without_a_price_is_refused(diva: Diva, store: VariantStore) -> None:
    with serving(Endpoint()) as endpoint:
        outcome = diva("label", *_options(endpoint, store, "--max-cost", "1"))
    assert (outcome.code, endpoint.requests) == (2, [])
    assert outcome.err.startswith("diva: --max-cost: no price of 'm'")
    assert outcome.err.count("\n") == 1


def test_answers_of_a_journal_cost_no_money(store: VariantStore, dear: Path) -> None:
    with serving(Endpoint(completion("\\boxed{7}"))) as endpoint:
        config = TeacherConfig(model="m", base_url=endpoint.url, prices=dear)
        label(store, config, LabelConfig(samples=1))
        meter = Meter("answers", budget=Budget(0.5))
        label(store, config, LabelConfig(samples=2), meter)
    assert meter.reused == 5
    assert meter.budget.spent == pytest.approx(0.5)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {"prompt_tokens": 0, "completion_tokens": 0},
        {"prompt_tokens": 0},
        {"prompt_tokens": -5, "completion_tokens": 9},
    ],
)
def test_endpoint_that_counts_no_tokens_reaches_the_limit_too(
    store: VariantStore, dear: Path, usage: dict[str, int] | None
) -> None:
    reply = body("\\boxed{7}") | {"usage": usage}
    with serving(Endpoint(json_reply(reply))) as endpoint:
        config = TeacherConfig(model="m", base_url=endpoint.url, concurrency=2, prices=dear)
        meter = Meter("answers", budget=Budget(0.5))
        with pytest.raises(BudgetError, match="--max-cost is reached"):
            label(store, config, LabelConfig(samples=20), meter)
    assert 0 < len(endpoint.requests) < 20
    [(ledger,)] = store.query("SELECT sum(cost_usd) FROM calls")
    assert ledger == pytest.approx(meter.budget.spent), "the ledger says what the budget has counted"


def test_purse_that_is_empty_admits_nothing() -> None:
    budget = Budget(1.0)
    budget.pay(0.999)
    budget.admit()
    budget.pay(None)
    budget.admit()
    budget.pay(0.001)
    with pytest.raises(BudgetError, match=r"\$1.0000 of \$1 are spent"):
        budget.admit()


# --- tasks


def test_few_of_many_jobs_are_begun_at_once(store: VariantStore) -> None:
    most = 0

    async def one(number: int, teacher: Teacher) -> int:
        nonlocal most
        most = max(most, len(asyncio.all_tasks()))
        await teacher.ask(
            Prompt(version="1", system="s", user="$n"), {"n": number % 3}, purpose="t", problem_id="p"
        )
        return number

    with serving(Endpoint()) as endpoint:
        config = TeacherConfig(model="m", base_url=endpoint.url, concurrency=4)
        assert ask(store, config, [partial(one, i) for i in range(500)]) == list(range(500))
    assert most < 20


# --- prices and tokens


def test_prices_are_found_by_name_with_and_without_a_date(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("a: [1, 2]\nb-2024-01-01: {prompt: 3, completion: 4, thinks: 5}\n")
    table = PriceTable.load(tmp_path / "p.yaml")
    assert table.cost("a-2025-04-14", Outcome("", "ok", None, 1_000_000, 500_000)) == pytest.approx(2.0)
    assert table.cost("a", Outcome("", "ok", None, 1_000_000, 500_000, price_share=0.5)) == pytest.approx(1.0)
    assert table.of("b") is None
    assert (price := table.of("b-2024-01-01")) is not None
    assert price.thinks == 5
    assert table.cost("a", Outcome("", "ok")) is None  # tokens unknown
    assert table.cost("a-mini", Outcome("", "ok", None, 1, 1)) is None


OPENAI, OPENROUTER, LOCAL = (
    "https://api.openai.com/v1",
    "https://openrouter.ai/api/v1",
    "http://127.0.0.1:8000/v1",
)


@pytest.mark.parametrize(
    ("model", "url", "price"),
    [
        ("gpt-4o-2024-08-06", OPENAI, Price(prompt=2.5, completion=10)),
        ("gpt-4.1-mini", LOCAL, Price(prompt=0.4, completion=1.6, images=ImageRule(patch=1.62))),
        (
            "o3",
            None,
            Price(prompt=2, completion=8, thinks=1000, images=ImageRule(base=75, tile=150)),
        ),
        ("scripted-teacher", LOCAL, Price(prompt=0, completion=0)),
        ("gpt-oss-20b", LOCAL, None),
        ("mistral-7b", LOCAL, None),
        ("Qwen/Qwen2.5-7B-Instruct", LOCAL, None),
        ("gpt-4o", "https://api.deepseek.com", None),
    ],
)
def test_prices_of_genai_prices_are_those_of_the_provider(
    model: str, url: str | None, price: Price | None
) -> None:
    assert PriceTable.load(url=url).of(model) == price


def test_prices_in_tiers_are_those_of_short_prompts_and_providers_differ() -> None:
    google = PriceTable.load(url="https://generativelanguage.googleapis.com/v1beta/openai/").of(
        "gemini-2.5-pro"
    )
    assert google == Price(prompt=1.25, completion=10)
    assert PriceTable.load(url=OPENROUTER).of("qwen-max") is not None
    assert PriceTable.load(url=OPENAI).of("qwen-max") is None


def test_a_price_file_needs_no_genai_prices(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("a: [1, 2]\n")
    code = (
        "import sys\nfrom pathlib import Path\nfrom diva_grpo.pipeline.teacher.prices import PriceTable\n"
        f"print(PriceTable.load(Path({str(tmp_path / 'p.yaml')!r})).of('b'))\n"
        "print(PriceTable.load().of('scripted-teacher'))\n"
        "print([name for name in sys.modules if name.startswith('genai_prices')])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "content", ["m: [1]", "m: {prompt: 1}", "m: [-1, 1]", "m: [.nan, 1]", "m: {p: 1}", "m: x"]
)
def test_price_that_is_none_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "p.yaml").write_text(content)
    with pytest.raises(ConfigError, match="price table") as caught:
        PriceTable.load(tmp_path / "p.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rule", "size", "tokens"),
    [
        # The examples of OpenAI's vision guide.
        (ImageRule(base=85, tile=170), (1024, 1024), 765),
        (ImageRule(base=85, tile=170), (2048, 4096), 1105),
        (ImageRule(base=85, tile=170), (512, 512), 255),
        (ImageRule(base=85, tile=170), (513, 10), 425),
        (ImageRule(patch=1.0), (1024, 1024), 1024),
        (ImageRule(patch=1.0), (1800, 2400), 1452),
        (ImageRule(patch=1.62), (32, 33), 4),
    ],
)
def test_images_are_counted_by_their_formula(rule: ImageRule, size: tuple[int, int], tokens: int) -> None:
    assert rule.tokens(*size) == tokens


def test_image_of_a_request_is_counted_by_its_size() -> None:
    content = [image_part(Picture.new("RGB", (1024, 1024))), {"type": "text", "text": ""}]
    tokens = TokenCounter("m").request({"messages": [{"content": content}]}, ImageRule())
    assert tokens == 765 + 4 + 3


# Counted by OpenAI's o200k_base.
KNOWN_TOKENS = [
    ("Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May.", 24),
    ("If $x^2 + 3y = 17$ and $\\frac{x}{y} = 2$, what is $x + y$?", 32),
    ("The total distance is 12.5 km * 4 = 50 km.\nSo he needs 50 / 20 = 2.5 hours.", 32),
]


@pytest.mark.parametrize(("text", "tokens"), KNOWN_TOKENS)
def test_approximation_is_near_a_real_tokenizer(text: str, tokens: int) -> None:
    assert approximate_tokens(text) == pytest.approx(tokens, rel=0.2)


def test_unknown_model_is_counted_by_the_approximation() -> None:
    counter = TokenCounter("somebody/else")
    assert (counter.name, counter.text) == ("an approximation", approximate_tokens)


def test_openai_models_are_counted_exactly_where_their_tokenizer_is_installed() -> None:
    pytest.importorskip("bpe_openai")
    counter = TokenCounter("gpt-4.1-mini")
    assert counter.name == "bpe_openai's o200k_base"
    assert [counter.text(text) for text, _ in KNOWN_TOKENS] == [tokens for _, tokens in KNOWN_TOKENS]


# --- curate


def test_curation_is_rehearsed_with_what_its_stages_make(diva: Diva, store: VariantStore) -> None:
    before = _files(store)
    with serving(Endpoint()) as endpoint:
        outcome = diva("curate", *_options(endpoint, store, "--dry-run"))
        assert (outcome.code, endpoint.requests) == (0, []), outcome.err
    rows = [line.split() for line in outcome.out.splitlines() if line.startswith(("gen", "ver", "lab"))]
    assert [(stage, purpose, int(requests)) for stage, _, purpose, requests, *_ in rows] == [
        ("generate", "reword", 5),
        ("generate", "think_step", 5),
        ("verify", "solve", 3 * 5 * 5),
        ("label", "solve", 4 * (5 + 5 * 5 + 5 * 4)),  # originals, five wordings and four steps of each
    ]
    assert _files(store) == before


def test_half_the_price_by_batch(diva: Diva, store: VariantStore, dear: Path) -> None:
    with serving(Endpoint()) as endpoint:
        options = _options(endpoint, store, "--dry-run", "--prices", dear)
        dollars = [
            float(re.findall(r"^total.* ([0-9.]+)$", diva("label", *options, *more).out, re.MULTILINE)[0])
            for more in ([], ["--batch"])
        ]
    assert dollars[1] == pytest.approx(dollars[0] / 2, abs=1e-4)


@pytest.mark.slow
def test_curation_stops_at_its_limit(diva: Diva, store: VariantStore, dear: Path) -> None:
    with serving(Counting()) as endpoint:
        options = _options(endpoint, store, "--prices", dear, "--kinds", "reword", "--concurrency", 1)
        stopped = diva("curate", *options, "--max-cost", "0.5")
    [(dollars, most)] = store.query("SELECT sum(cost_usd), max(cost_usd) FROM calls")
    assert stopped.code == 1
    assert "--max-cost is reached" in stopped.err
    assert 0.5 - 1e-9 <= dollars < 0.5 + most + 1e-9
