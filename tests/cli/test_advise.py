"""`diva advise`: from labels, and by a probe of a local policy."""

from __future__ import annotations

import json
from pathlib import Path

from diva_grpo.pipeline.store import VariantStore
from tests.conftest import Diva
from tests.support.store_records import label
from tests.support.tiny_text_model import planted_store


def test_advice_from_labels(diva: Diva, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store")
    ids = store.problem_ids()
    hints = [
        v
        for (v,) in store.query(
            "SELECT variant_id FROM variants WHERE kind = 'think_step' AND hint_steps = 1"
        )
    ]
    store.append([label(i, 0, 64) for i in ids] + [label(i, 20, 64) for i in hints])
    store.put_setting("label_model", "policy")
    done = diva("advise", "--store", store.root, "--rollouts", "4")
    assert done.code == 0
    assert "8 problems, 64 answers each by policy; pass rates:" in done.out
    assert "below 1/4: 100% of the problems" in done.out
    assert "with a hint 8 of 8 had a right answer" in " ".join(done.out.split())
    values = json.loads(diva("advise", "--store", store.root, "--json").out)
    assert values["recommendations"][0]["action"].startswith("train on the solutions first: ")
    assert values["pass_rates"]["0"] == 8


def test_a_policy_is_probed(diva: Diva, tmp_path: Path, model_path: Path) -> None:
    store = planted_store(tmp_path / "store", problems=3)
    line = ("advise", "--store", store.root, "--policy", model_path, "--limit", "2", "--rollouts", "2")
    values = json.loads(diva(*line, "--json").out)
    assert values["solver"] == model_path.name
    assert values["problems"] == 2
    # A random model of bytes: neither text is more likely than the other, at one of 258 tokens.
    assert 150 < values["perplexity"]["solutions"] < 450
    assert 150 < values["perplexity"]["own"] < 450
    assert store.query("SELECT count(*) FROM labels WHERE subject_kind = 'original'") == [(2,)]


def test_mistakes_are_one_line(diva: Diva, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store", variants=False)
    done = diva("advise", "--store", store.root)
    assert done.code == 2
    assert done.err.startswith("diva: the store has no labels of problems: `diva label` measures them")
    assert len(done.err.splitlines()) == 1
    assert VariantStore(store.root).query("SELECT count(*) FROM labels") == [(0,)]
    done = diva("advise", "--store", store.root, "--problem-filter", "true")
    assert (done.code, "goes with --policy" in done.err) == (2, True)
