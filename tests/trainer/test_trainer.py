"""The trainer on real TRL steps: its options, its records, its advantages."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.records import ORIGINAL, DifficultyEvent, Rollout, Variant
from tests.support.tiny_text_model import add_labels, planted_store
from tests.support.tiny_training import always_wrong, coin_reward, loss_inputs, make_trainer
from tests.trainer.test_advantages import slow_diva

PAPER: dict[str, Any] = {
    "k": 0.1,
    "r_max": 1.0,
    "eps": 1e-6,
    "balance": "zscore",
    "rescale": "range",
    "local_weight": 1.0,
    "global_weight": 1.0,
}


def test_a_step_changes_every_parameter(sums: VariantStore, model_path: Path, tmp_path: Path) -> None:
    before = {k: v.clone() for k, v in AutoModelForCausalLM.from_pretrained(model_path).named_parameters()}
    trainer = make_trainer(sums, model_path, tmp_path / "out")
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_recorded_rewards_give_the_advantages_that_the_loss_saw(
    sums: VariantStore, model_path: Path, tmp_path: Path
) -> None:
    add_labels(sums, 7.0)
    trainer = make_trainer(sums, model_path, tmp_path / "out", difficulty_init="labels", num_variants=1)
    seen = loss_inputs(trainer)
    trainer.train()
    assert len(seen) == 4
    for step, batch in enumerate(seen):
        rollouts = sums.read(Rollout, "step = ?", [step])
        deltas = {v.variant_id: v.delta_designed for v in sums.read(Variant)}
        old = {e.problem_id: e.old_difficulty for e in sums.read(DifficultyEvent, "step = ?", [step])}
        rows = [
            (
                r.reward,
                hash((r.problem_id, r.slot)),
                hash(r.problem_id),
                min(9.0, max(1.0, old[r.problem_id] + (deltas.get(r.variant_id) or 0.0))),
            )
            for r in rollouts
            if r.reward is not None
        ]
        expected = slow_diva(rows, **PAPER)["total"]
        assert any(abs(value) > 0.1 for value in expected)
        assert [r.advantage for r in rollouts] == pytest.approx(expected, abs=1e-6)
        # TRL shuffles the rows behind us: the loss sees the same advantages in another order.
        assert sorted(batch["advantages"].tolist()) == pytest.approx(sorted(expected), abs=1e-6)


def test_hard_problems_get_think_steps_and_easy_ones_do_not(
    sums: VariantStore, model_path: Path, tmp_path: Path
) -> None:
    never = [lambda completions, **_: [0.0] * len(completions)]
    never[0].__name__ = "coin_reward"
    make_trainer(sums, model_path, tmp_path / "out", rewards=never, max_steps=12).train()
    rows = sums.query(
        "SELECT kind, avg(old_difficulty) FROM rollouts r JOIN difficulty_events USING (run_id, step, problem_id) "
        "JOIN variants v USING (variant_id) GROUP BY kind"
    )
    difficulty = dict(rows)
    assert set(difficulty) == {"reword", "think_step"}
    assert difficulty["think_step"] > difficulty["reword"] == 5.0
    assert sums.query("SELECT min(difficulty) FROM live_difficulty WHERE step > 4")[0][0] == 9.0


def test_slot_zero_is_the_original_and_each_slot_has_n_rollouts(
    sums: VariantStore, model_path: Path, tmp_path: Path
) -> None:
    make_trainer(
        sums, model_path, tmp_path / "out", num_variants=3, max_steps=2, per_device_train_batch_size=32
    ).train()
    rollouts = sums.read(Rollout)
    assert len(rollouts) == 2 * 32
    assert {r.variant_id for r in rollouts if r.slot == 0} == {ORIGINAL}
    assert all(r.variant_id.startswith(r.problem_id) for r in rollouts if r.slot > 0)
    for problem_id in {r.problem_id for r in rollouts}:
        mine = [r for r in rollouts if r.problem_id == problem_id]
        assert sorted({(r.slot, r.sample) for r in mine}) == [(s, i) for s in range(4) for i in range(4)]
        hints = {r.variant_id for r in mine if "think_step" in r.variant_id}
        assert len(hints) == 1, "at most one think step in a group"


@pytest.mark.parametrize(
    "options",
    [
        {"selector": "posterior", "difficulty_rule": "posterior"},
        {"selector": "tier", "difficulty_rule": "bands", "difficulty_from": "group"},
        {"selector": "uniform", "advantage": "dgpo"},
        {"advantage": "dr_grpo"},
        {"balance": "minmax", "rescale": "low_reward"},
        {"balance": "rms", "rescale": "none", "weight_k": 0.0},
        {"num_iterations": 2},
        {"steps_per_generation": 2, "per_device_train_batch_size": 8},
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 8},
        {"variant_warmup_steps": 2},
        {"refill_rounds": 2},
        {"refill_rounds": 1, "hint_style": "prefix"},
        {"loss_type": "dapo", "mask_truncated_completions": True, "hint_style": "prefix"},
        {"beta": 0.1},
        {"log_completions": True},
    ],
    ids=str,
)
def test_options_train(options: dict[str, Any], sums: VariantStore, model_path: Path, tmp_path: Path) -> None:
    trainer = make_trainer(sums, model_path, tmp_path / "out", **options)
    trainer.train()
    assert trainer.state.global_step == 4
    logged = trainer.state.log_history[0]
    assert 1 <= logged["diva/difficulty"] <= 9
    assert 0 <= logged["diva/groups_without_signal/local"] <= 1
    assert sums.query("SELECT count(*) FROM difficulty_events")[0][0] > 0
    assert all(np.isfinite(p.detach().numpy()).all() for p in trainer.model.parameters())


def test_warm_up_is_plain_grpo(sums: VariantStore, model_path: Path, tmp_path: Path) -> None:
    make_trainer(sums, model_path, tmp_path / "out", variant_warmup_steps=2).train()
    by_step = dict(
        sums.query("SELECT step, count(*) FILTER (variant_id <> 'original') FROM rollouts GROUP BY step")
    )
    assert by_step[0] == by_step[1] == 0
    assert by_step[2] == by_step[3] == 8
    for problem in sums.query(
        "SELECT list(reward), list(advantage) FROM rollouts WHERE step = 0 GROUP BY problem_id"
    ):
        rewards, advantages = map(np.array, problem)
        expected = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-6)
        assert advantages == pytest.approx(expected, abs=1e-6)


def test_refill_replaces_problems_without_a_signal(model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store", problems=12)
    dead = {f"sums/{i:03d}" for i in range(6)}

    def coin(completions: list[Any], problem_id: list[str], **columns: Any) -> list[float | None]:
        flips = coin_reward(completions)
        return [0.0 if p in dead else flip for p, flip in zip(problem_id, flips, strict=True)]

    coin.__name__ = "coin_reward"
    trainer = make_trainer(store, model_path, tmp_path / "out", rewards=coin, refill_rounds=4, max_steps=6)
    trainer.train()
    trained = store.query("SELECT problem_id, bool_or(advantage <> 0) FROM rollouts GROUP BY problem_id")
    assert not any(has_advantage for problem_id, has_advantage in trained if problem_id in dead)
    used = store.query(
        "SELECT step, count(DISTINCT problem_id) FILTER (advantage <> 0) FROM rollouts GROUP BY step ORDER BY step"
    )
    assert sum(count for _, count in used) > 9, "of 12 places most are filled with live problems"


@pytest.mark.parametrize("problems", [4, 5, 8])
def test_refill_trains_and_records_what_was_generated(
    problems: int, model_path: Path, tmp_path: Path
) -> None:
    store = planted_store(tmp_path / "store", problems=problems)
    generated: list[str] = []

    def flip(completions: list[Any], problem_id: list[str], **columns: Any) -> list[float | None]:
        """In the first generation only the middle problem has a signal, in the refill all have."""
        order = list(dict.fromkeys(problem_id))
        alive = set(order) if generated else {order[1]}
        generated.extend(problem_id)
        return [float(i % 2) if p in alive else 0.0 for i, p in enumerate(problem_id)]

    flip.__name__ = "coin_reward"
    trainer = make_trainer(
        store, model_path, tmp_path / "out", rewards=flip, refill_rounds=1, max_steps=1, log_completions=True,
        per_device_train_batch_size=24,
    )  # fmt: skip
    seen = loss_inputs(trainer)
    tables: list[list[tuple[float, float]]] = []
    log = trainer.log

    def keep(*args: Any, **kwargs: Any) -> None:
        rows = trainer._logs
        tables.append(list(zip(rows["rewards"]["coin_reward"], rows["advantages"], strict=True)))
        log(*args, **kwargs)

    trainer.log = keep
    trainer.train()
    recorded = store.query(
        "SELECT problem_id, count(*), count(*) FILTER (advantage <> 0) FROM rollouts GROUP BY 1"
    )
    assert {problem_id: count for problem_id, count, _ in recorded} == {
        p: generated.count(p) for p in generated
    }
    assert len(generated) == 48
    # Every problem of the batch has a signal in the end, and its eight rollouts stand in the batch once.
    assert [trained for _, _, trained in recorded if trained] == [8, 8, 8]
    assert int((seen[0]["advantages"] != 0).sum()) == 24
    assert sorted(tables[0]) == sorted(
        store.query("SELECT reward, advantage FROM rollouts WHERE advantage <> 0")
    )


def test_a_step_of_several_generations_records_all_of_a_problem(model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store", problems=4)
    generated: list[str] = []

    def flip(completions: list[Any], problem_id: list[str], **columns: Any) -> list[float | None]:
        """The first generation has no signal, so the refill makes the problems of the second one."""
        silent = not generated
        generated.extend(problem_id)
        return [0.0 if silent else float(i % 2) for i in range(len(problem_id))]

    flip.__name__ = "coin_reward"
    trainer = make_trainer(
        store, model_path, tmp_path / "out", rewards=flip, steps_per_generation=1, gradient_accumulation_steps=2,
        refill_rounds=1, max_steps=1,
    )  # fmt: skip
    seen = loss_inputs(trainer)
    trainer.train()
    recorded = store.query(
        "SELECT problem_id, count(*), count(*) FILTER (advantage <> 0) FROM rollouts GROUP BY 1"
    )
    assert {problem_id: count for problem_id, count, _ in recorded} == Counter(generated)
    assert max(Counter(generated).values()) == 16, "a problem comes twice in the step"
    assert sum(count for *_, count in recorded) == sum(int((b["advantages"] != 0).sum()) for b in seen) == 32


def test_tokens_of_truncated_answers_are_counted(
    sums: VariantStore, model_path: Path, tmp_path: Path
) -> None:
    lengths: list[int] = []

    def coin(completions: list[Any], completion_ids: list[list[int]], **columns: Any) -> list[float | None]:
        lengths.append(sum(map(len, completion_ids)))
        return coin_reward(completions)

    coin.__name__ = "coin_reward"
    trainer = make_trainer(
        sums, model_path, tmp_path / "out", rewards=coin, mask_truncated_completions=True, max_steps=2
    )
    trainer.train()
    recorded = sums.query("SELECT sum(completion_tokens)::INT FROM rollouts GROUP BY step ORDER BY step")
    assert [tokens for (tokens,) in recorded] == lengths


def test_fewer_problems_than_a_generation_batch(model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store", problems=3)
    with pytest.raises(ConfigError) as error:
        make_trainer(store, model_path, tmp_path / "out", per_device_train_batch_size=32)
    assert str(error.value) == (
        "the training data has 3 problems, fewer than the 4 of a generation batch (32 rollouts, 8 a problem): add "
        "problems, or make the batch smaller (per_device_train_batch_size=24 works)"
    )
    trainer = make_trainer(store, model_path, tmp_path / "out", per_device_train_batch_size=24, max_steps=1)
    trainer.train()
    assert trainer.state.global_step == 1


def test_dgpo_reads_its_temperature(sums: VariantStore, model_path: Path, tmp_path: Path) -> None:
    advantages = []
    for temperature in (2.0, 0.1):
        trainer = make_trainer(
            sums, model_path, tmp_path / "out", advantage="dgpo", dgpo_temperature=temperature, max_steps=1
        )
        trainer.train()
        advantages.append(list(trainer._logs["advantages"]))
        assert not any("advantage_abs" in name for log in trainer.state.log_history for name in log)
    assert advantages[0] != advantages[1]


def test_logged_parts_are_those_of_the_loss(sums: VariantStore, model_path: Path, tmp_path: Path) -> None:
    trainer = make_trainer(
        sums, model_path, tmp_path / "out", local_weight=0.0, global_weight=2.0, max_steps=1
    )
    trainer.train()
    logged = trainer.state.log_history[0]
    assert logged["diva/advantage_abs/local"] == 0
    mean = np.abs(list(trainer._logs["advantages"])).mean()
    assert logged["diva/advantage_abs/global"] == pytest.approx(mean, rel=1e-3)


def test_a_refresh_sees_variants_that_were_accepted_meanwhile(model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store", problems=4)
    hints = [v for v in store.read(Variant) if v.kind == "think_step"]
    store.append([v.model_copy(update={"status": "candidate"}) for v in hints])
    trainer = make_trainer(
        store, model_path, tmp_path / "out", rewards=always_wrong(), max_steps=8, store_refresh_steps=4
    )
    original = trainer.training_step

    def step(*args: Any, **kwargs: Any) -> Any:
        if trainer.state.global_step == 2:
            store.append(hints)
        return original(*args, **kwargs)

    trainer.training_step = step
    trainer.train()
    kinds = store.query(
        "SELECT step < 4, list(DISTINCT kind) FROM rollouts JOIN variants USING (variant_id) GROUP BY 1 ORDER BY 1"
    )
    assert kinds == [(False, ["think_step"]), (True, ["reword"])]


def test_without_a_variant_the_original_comes_again_and_is_counted(model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store", problems=4)
    bare = [v for v in store.read(Variant) if v.problem_id == "sums/000"]
    store.append([v.model_copy(update={"status": "rejected"}) for v in bare])
    trainer = make_trainer(store, model_path, tmp_path / "out", max_steps=2)
    trainer.train()
    rows = store.query("SELECT DISTINCT variant_id FROM rollouts WHERE problem_id = 'sums/000' AND slot = 1")
    assert rows == [(ORIGINAL,)]
    shortage = [log["diva/variant_shortage"] for log in trainer.state.log_history if "loss" in log]
    assert sorted(shortage) == [0, 1]


@pytest.mark.parametrize("prior", ["pooled", "item_response"])
def test_rollouts_of_aimed_slots_are_recorded_as_what_they_are(
    sums: VariantStore, model_path: Path, tmp_path: Path, prior: str
) -> None:
    options: dict[str, Any] = {"aim": "all", "variant_prior": prior, "selector": "posterior"}
    trainer = make_trainer(sums, model_path, tmp_path / "out", **options)
    trainer.train()
    kinds = sums.query("SELECT slot, variant_id = 'original', count(*) FROM rollouts GROUP BY ALL")
    assert any(slot == 0 and not original for slot, original, _ in kinds)
    # Difficulty is learnt from the original where it was asked, and stays where it was not.
    events = "SELECT bool_and((accuracy IS NULL) = (rollouts = 0)), count(DISTINCT rollouts) FROM difficulty_events"
    assert sums.query(events) == [(True, 2)]
    assert set(trainer.curriculum.live.pools) >= {"original"}


def test_rewards_not_judged_have_no_advantage_and_no_say(
    sums: VariantStore, model_path: Path, tmp_path: Path
) -> None:
    def coin(completions: list[Any], **columns: Any) -> list[float | None]:
        return [None if i % 4 == 0 else flip for i, flip in enumerate(coin_reward(completions))]

    coin.__name__ = "coin_reward"
    make_trainer(sums, model_path, tmp_path / "out", rewards=coin).train()
    unjudged = sums.query("SELECT DISTINCT sample, accuracy, advantage FROM rollouts WHERE reward IS NULL")
    assert unjudged == [(0, None, 0.0)]
    assert sums.query("SELECT DISTINCT rollouts FROM difficulty_events") == [(3,)]


def test_lora(sums: VariantStore, model_path: Path, tmp_path: Path) -> None:
    from diva_grpo.trainer.config import DivaGRPOConfig
    from diva_grpo.trainer.data import problems_dataset
    from diva_grpo.trainer.grpo import DivaGRPOTrainer
    from diva_grpo.trainer.prompts import PromptBuilder
    from tests.support.tiny_training import SETTINGS

    trainer = DivaGRPOTrainer(
        str(model_path),
        coin_reward,
        DivaGRPOConfig(**SETTINGS, output_dir=str(tmp_path / "out")),
        problems_dataset(sums.problems(), PromptBuilder(chat=False)),
        store=sums,
        peft_config=LoraConfig(r=2, target_modules=["q_proj", "v_proj"]),
    )
    before = {k: v.clone() for k, v in trainer.model.named_parameters()}
    trainer.train()
    changed = {k for k, v in trainer.model.named_parameters() if not torch.equal(v, before[k])}
    assert changed
    assert all("lora" in name for name in changed)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"selector": "best"}, "paper, tier, posterior, signal, uniform"),
        ({"num_variants": 9}, "from 0 to 8"),
        ({"num_variants": 2}, "4 * 3 = 12: 12 or 24 would work"),
        ({"balance": "mean"}, "zscore"),
        ({"accuracy_from": "nobody"}, "coin_reward"),
        ({"difficulty_init": "labels"}, "diva label"),
        (
            {"reward_weights": [0.0]},
            "reward_max=0 (by default the sum of the reward weights) must be above 0",
        ),
        ({"dgpo_temperature": 0.0}, "dgpo_temperature=0.0: above 0"),
        ({"difficulty_eta": float("nan")}, "difficulty_eta=nan: give a finite number"),
        ({"epsilon": float("nan")}, "epsilon=nan: give a finite number"),
        ({"reward_max": float("inf")}, "reward_max=inf: give a finite number"),
        ({"reward_weights": [float("inf")]}, "reward_weights=[inf]: give a finite number"),
        ({"advantage_eps": -1.0}, "advantage_eps=-1.0: not negative"),
        ({"max_steps": 0}, "leave no step to train"),
        ({"max_steps": -1, "num_train_epochs": 0}, "leave no step to train"),
        ({"num_iterations": 0}, "num_iterations=0: at least 1"),
        ({"num_generations": 0}, "num_generations=0: at least 2"),
        ({"seed": -1}, "seed=-1: at least 0"),
        ({"load_best_model_at_end": True}, "would keep the last model"),
        ({"generation_kwargs": {"typical": 0.2}}, "no option 'typical'"),
        ({"generation_kwargs": {"num_return_sequences": 2}}, "set --num_generations"),
        ({"opening_advantage": 1.0}, "hint_style=prefix"),
        ({"opening_advantage": -1.0, "hint_style": "prefix"}, "not negative"),
        ({"opening_anchor": True, "beta": 0.1}, "hint_style=prefix"),
        (
            {"opening_anchor": True, "hint_style": "prefix"},
            "set --beta, --entropy_coef or --use_adaptive_entropy",
        ),
        (
            {"opening_anchor": True, "opening_advantage": 1.0, "beta": 0.1, "hint_style": "prefix"},
            "leave one of them out",
        ),
        (
            {"opening_advantage": 1.0, "hint_style": "prefix", "importance_sampling_level": "sequence"},
            "importance_sampling_level=token",
        ),
    ],
)
def test_wrong_settings_end_in_one_line(
    options: dict[str, Any], words: str, sums: VariantStore, model_path: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        make_trainer(sums, model_path, tmp_path / "out", **options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_variants_wanted_of_an_empty_store(model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store", variants=False)
    with pytest.raises(ConfigError, match="no accepted variant"):
        make_trainer(store, model_path, tmp_path / "out")
    make_trainer(store, model_path, tmp_path / "out", num_variants=0, max_steps=1).train()


def test_evaluation_during_training_and_tensorboard(
    sums: VariantStore, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    trainer = make_trainer(
        sums,
        model_path,
        tmp_path / "out",
        eval_strategy="steps",
        eval_steps=2,
        per_device_eval_batch_size=8,
        report_to="tensorboard",
        eval_problems=4,
    )
    trainer.train()
    evaluated = [log for log in trainer.state.log_history if "eval_reward" in log]
    assert [log["step"] for log in evaluated] == [2, 4]
    assert all("eval_diva/difficulty" not in log for log in evaluated)
    assert sums.query("SELECT max(step), count(DISTINCT step) FROM rollouts") == [(3, 4)]
    assert list((tmp_path / "board").rglob("events.out.tfevents.*"))


def test_logged_advantages_are_ours(sums: VariantStore, model_path: Path, tmp_path: Path) -> None:
    trainer = make_trainer(sums, model_path, tmp_path / "out", max_steps=1)
    trainer.train()
    recorded = sums.query("SELECT advantage FROM rollouts ORDER BY problem_id, slot, sample")
    assert sorted(trainer._logs["advantages"]) == pytest.approx(sorted(a for (a,) in recorded))
