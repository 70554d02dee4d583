"""Hints in both styles on real TRL steps, and given steps that open the answer: their gradient, loss and advantage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import Variant
from tests.support.tiny_text_model import planted_store
from tests.support.tiny_training import always_wrong, coin_reward, loss_inputs, make_trainer


def keep_hints_alone(store: VariantStore) -> None:
    wordings = [v for v in store.read(Variant) if v.kind == "reword"]
    store.append([v.model_copy(update={"status": "rejected"}) for v in wordings])


@pytest.mark.parametrize("style", ["prompt", "prefix"])
@pytest.mark.parametrize("chat", [False, True])
def test_hints_in_both_styles(
    style: str,
    chat: bool,
    model_path: Path,
    chat_model_path: Path,
    tmp_path: Path,
) -> None:
    store = planted_store(tmp_path / "store", problems=2)
    keep_hints_alone(store)
    texts: list[str] = []

    def coin(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float | None]:
        texts.extend(f"{p} → {c}" for p, c in zip(prompts, completions, strict=True))
        return coin_reward(completions)

    coin.__name__ = "coin_reward"
    path = chat_model_path if chat else model_path
    trainer = make_trainer(store, path, tmp_path / "out", rewards=coin, hint_style=style, max_steps=1)
    seen = loss_inputs(trainer)
    trainer.train()
    prompts, completions = zip(*(text.split(" → ") for text in texts), strict=True)
    hinted = [i for i in range(16) if i // 4 % 2]
    where = prompts if style == "prompt" else completions
    other = completions if style == "prompt" else prompts
    assert all("+ 3 = " in where[i] for i in hinted)
    assert not any("+ 3 = " in other[i] for i in range(16))
    batch = seen[0]
    if style == "prompt":
        assert "tool_mask" not in batch
    else:
        masked = (batch["tool_mask"] == 0).sum(dim=1)
        assert sorted(masked.tolist())[:8] == [0] * 8
        assert all(count >= len("0 + 3 = 3\n") for count in sorted(masked.tolist())[8:])
        assert int(batch["num_items_in_batch"]) == int((batch["completion_mask"] * batch["tool_mask"]).sum())


@pytest.mark.parametrize("advantage", [0.0, 2.5])
def test_gradient_of_given_steps(
    advantage: float, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = planted_store(tmp_path / "store", problems=2)
    keep_hints_alone(store)
    trainer = make_trainer(
        store, model_path, tmp_path / "out", hint_style="prefix", max_steps=1, loss_type="grpo",
        opening_advantage=advantage,
    )  # fmt: skip
    seen = loss_inputs(trainer)
    trainer.train()
    [batch] = seen
    counted = batch["completion_mask"] * batch["tool_mask"]
    given = batch["advantages"] == advantage if advantage else batch["tool_mask"] == 0
    assert given.any()
    logps, _, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model,
        torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
        torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
        batch["completion_ids"].size(1),
    )
    logps.retain_grad()
    trainer.model.eval()  # no metrics: they need the real entropies
    known = (logps, torch.zeros_like(logps), None)
    monkeypatch.setattr(trainer, "_get_per_token_logps_and_entropies", lambda *a, **k: known)
    torch.autograd.backward(trainer._compute_loss(trainer.model, batch))
    assert logps.grad is not None
    assert torch.any(logps.grad[~given] != 0)
    # That of a mean log-likelihood, times the advantage: GRPO's loss is the mean over rows of means over tokens.
    rows = counted.sum(dim=1, keepdim=True) * len(counted)
    likelihood = (advantage / rows).expand_as(counted)[given]
    assert torch.allclose(-logps.grad[given], likelihood, rtol=1e-5)


@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_given_steps_are_trained_on_with_an_advantage_of_their_own(
    loss_type: str, model_path: Path, tmp_path: Path
) -> None:
    store = planted_store(tmp_path / "store", problems=2)
    keep_hints_alone(store)
    seen = []
    for advantage in (0.0, 2.5):
        trainer = make_trainer(
            store, model_path, tmp_path / "out", hint_style="prefix", max_steps=1, loss_type=loss_type,
            opening_advantage=advantage,
        )  # fmt: skip
        seen.append(loss_inputs(trainer))
        trainer.train()
    [before], [batch] = seen
    written, both = before["completion_mask"] * before["tool_mask"], batch["completion_mask"]
    given = (both == 1) & (written == 0)
    assert torch.equal(batch["completion_ids"], before["completion_ids"]), "the same rollouts"
    assert given.sum() >= 8 * len("0 + 3 = 3\n")
    assert torch.all(batch["advantages"][given] == 2.5)
    own = before["advantages"][:, None].expand_as(both)
    assert torch.equal(batch["advantages"][written == 1], own[written == 1])
    assert torch.equal(batch["completion_mask"] * batch["tool_mask"], both)
    assert int(batch["num_items_in_batch"]) == int(both.sum())
    assert int(before["num_items_in_batch"]) == int(written.sum())


def test_where_rewards_say_nothing_given_steps_are_learnt_all_the_same(
    model_path: Path, tmp_path: Path
) -> None:
    store = planted_store(tmp_path / "store", problems=2)
    keep_hints_alone(store)

    def likelihood(trainer: Any, batch: dict[str, Any], given: torch.Tensor) -> float:
        with torch.no_grad():
            logps, _, _ = trainer._get_per_token_logps_and_entropies(
                trainer.model,
                torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
                torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
                batch["completion_ids"].size(1),
            )
        return float(logps[given].mean())

    after = {}
    for advantage in (0.0, 1.0):
        trainer = make_trainer(
            store, model_path, tmp_path / "out", rewards=always_wrong(), hint_style="prefix", max_steps=6,
            opening_advantage=advantage, num_iterations=2,
        )  # fmt: skip
        seen = loss_inputs(trainer)
        trainer.train()
        first = seen[0]
        given = (first["completion_mask"] == 1) & (
            (first["tool_mask"] == 0) if not advantage else (first["advantages"] == advantage)
        )
        assert given.any()
        after[advantage] = likelihood(trainer, first, given)
    assert after[1.0] > after[0.0] + 0.05


@pytest.mark.parametrize(
    "options",
    [
        {"refill_rounds": 1, "loss_type": "dapo"},
        {"steps_per_generation": 2, "per_device_train_batch_size": 8},
        {"num_iterations": 2, "beta": 0.1},
        {"mask_truncated_completions": True},
        {"loss_type": "cispo"},
        {"loss_type": "dr_grpo", "scale_rewards": "none", "advantage": "dr_grpo"},
    ],
    ids=str,
)
def test_given_steps_are_trained_on_whatever_else_is_asked_for(
    options: dict[str, Any], model_path: Path, tmp_path: Path
) -> None:
    store = planted_store(tmp_path / "store")
    keep_hints_alone(store)
    trainer = make_trainer(
        store, model_path, tmp_path / "out", hint_style="prefix", opening_advantage=1.5, **options
    )
    seen = loss_inputs(trainer)
    trainer.train()
    assert trainer.state.global_step == 4
    assert all(np.isfinite(p.detach().numpy()).all() for p in trainer.model.parameters())
    counted = [batch["completion_mask"] * batch["tool_mask"] for batch in seen]
    given = [batch["advantages"] == 1.5 for batch in seen]
    assert sum(int(g.sum()) for g in given) > 0
    assert all(torch.all(c[g] == 1) for c, g in zip(counted, given, strict=True)), "in the loss, all of them"
    if "mask_truncated_completions" in options:
        cut = [batch["completion_mask"].sum(dim=1) == 0 for batch in seen]
        assert any(c.any() for c in cut), "a random model hardly ever ends"
        assert not any(g[c].any() for g, c in zip(given, cut, strict=True))


ANCHORS: list[dict[str, Any]] = [
    {"entropy_coef": 0.3},
    {"use_adaptive_entropy": True, "entropy_target": 9.0, "entropy_coef": 0.3},
    {"beta": 0.3},
]


@pytest.mark.parametrize("anchor", ANCHORS, ids=str)
def test_an_anchor_acts_on_given_steps_and_rewards_do_not(
    anchor: dict[str, Any], model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = planted_store(tmp_path / "store", problems=2)
    keep_hints_alone(store)
    pulled = {}
    for anchored in (False, True):
        trainer = make_trainer(
            store, model_path, tmp_path / "out", hint_style="prefix", max_steps=1, loss_type="grpo",
            opening_anchor=anchored, **anchor,
        )  # fmt: skip
        seen = loss_inputs(trainer)
        trainer.train()
        [batch] = seen
        given = (
            batch["given_mask"].bool()
            if anchored
            else (batch["completion_mask"] * (1 - batch["tool_mask"])) == 1
        )
        assert given.any()
        if anchored:
            assert torch.all(batch["advantages"][given] == 0)
        # After a step the policy differs from the reference, so that a KL penalty has a gradient.
        shape = batch["completion_ids"].shape
        logps = torch.full(shape, -2.0, requires_grad=True)
        entropies = torch.full(shape, 0.5, requires_grad=True)
        if "ref_per_token_logps" in batch:
            batch["ref_per_token_logps"] = torch.full(shape, -1.0)
        trainer.model.eval()  # no metrics: they need the real entropies
        known = (logps, entropies, None)
        monkeypatch.setattr(trainer, "_get_per_token_logps_and_entropies", lambda *a, known=known, **k: known)
        torch.autograd.backward(trainer._compute_loss(trainer.model, batch))
        pull = logps if "beta" in anchor else entropies
        assert pull.grad is not None
        pulled[anchored] = pull.grad[given]
        if "beta" not in anchor and logps.grad is not None:
            assert torch.all(logps.grad[given] == 0)
    assert torch.all(pulled[False] == 0)
    assert torch.all(pulled[True] < 0), "towards more entropy, or the reference's higher probability"


@pytest.mark.parametrize("anchored", [False, True])
def test_entropy_at_given_steps_is_logged(anchored: bool, model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store", problems=2)
    keep_hints_alone(store)
    trainer = make_trainer(
        store, model_path, tmp_path / "out", rewards=always_wrong(), hint_style="prefix", max_steps=6,
        entropy_coef=0.5, opening_anchor=anchored,
    )  # fmt: skip
    trainer.train()
    logged = [row["diva/given_entropy"] for row in trainer.state.log_history if "diva/given_entropy" in row]
    assert len(logged) == 6
    assert all(0 < entropy < np.log(trainer.model.config.vocab_size) for entropy in logged)


def test_what_vllm_says_of_sampling_says_nothing_of_given_steps(
    sums: VariantStore, model_path: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(sums, model_path, tmp_path / "out")
    for by_sequence in (False, True):
        output = {
            "completion_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
            "tool_mask": torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]),
            "advantages": torch.tensor([-1.0, 0.5]),
            "sampling_per_token_logps": torch.full((2, 4), -2.0),
            "importance_sampling_ratio": torch.tensor([[0.0], [0.9]]).expand(2, 1 if by_sequence else 4),
        }
        trainer._train_on_openings(output, 2.0)
        assert output["advantages"].tolist() == [[2, 2, -1, -1], [0.5] * 4]
        assert output["tool_mask"].tolist() == [[1] * 4] * 2
        assert output["sampling_per_token_logps"].isnan().tolist() == [
            [True, True, False, False],
            [False] * 4,
        ]
        ratio = output["importance_sampling_ratio"]
        assert torch.allclose(ratio, torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.9] * 4]))
