"""What reward functions may return: numbers in range, one per answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import ConfigError
from tests.support.tiny_training import coin_reward, make_trainer


@pytest.mark.parametrize(
    ("value", "options", "words"),
    [
        (float("inf"), {}, "coin_reward returned an infinite reward"),
        (float("-inf"), {"advantage": "dr_grpo"}, "coin_reward returned an infinite reward"),
        (100.0, {}, "rewards from 0 to 100, and reward_max=1: set --reward_max"),
        (100.0, {"advantage": "dgpo"}, "rewards from 0 to 100, and reward_max=1: set --reward_max"),
        (-100.0, {}, "rewards from -100 to 1, and reward_max=1: set --reward_max"),
        (-1.0, {"reward_max": 2.0}, None),
        (-100.0, {"advantage": "grpo"}, None),
        (100.0, {"reward_max": 100.0}, None),
        (100.0, {"rescale": "none"}, None),
        (100.0, {"advantage": "dr_grpo"}, None),
    ],
    ids=str,
)
def test_rewards_out_of_range_end_the_first_step(
    value: float,
    options: dict[str, Any],
    words: str | None,
    sums: VariantStore,
    model_path: Path,
    tmp_path: Path,
) -> None:
    def coin(completions: list[Any], **columns: Any) -> list[float | None]:
        return [value, *coin_reward(completions)[1:]]

    coin.__name__ = "coin_reward"
    trainer = make_trainer(sums, model_path, tmp_path / "out", rewards=coin, max_steps=1, **options)
    if words is None:
        trainer.train()
    else:
        with pytest.raises(ConfigError, match=words):
            trainer.train()
    assert trainer.state.global_step == (words is None)
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ([1.0], "returned 1 rewards, but 16 were expected"),
        (["a"] * 16, "too many dimensions 'str'"),
        (None, "'NoneType' object is not iterable"),
    ],
    ids=["too few", "texts", "nothing"],
)
def test_what_is_no_reward_is_one_line(
    returned: Any, words: str, sums: VariantStore, model_path: Path, tmp_path: Path
) -> None:
    def coin(completions: list[Any], **columns: Any) -> Any:
        return returned

    coin.__name__ = "coin_reward"
    with pytest.raises(ConfigError, match=words) as error:
        make_trainer(sums, model_path, tmp_path / "out", rewards=coin).train()
    assert "returns one number, or None, per answer" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_error_in_a_reward_function_keeps_its_traceback(
    sums: VariantStore, model_path: Path, tmp_path: Path
) -> None:
    def coin(completions: list[Any], **columns: Any) -> Any:
        return [int(completion) for completion in ["x"]]

    coin.__name__ = "coin_reward"
    with pytest.raises(ValueError, match="invalid literal") as error:
        make_trainer(sums, model_path, tmp_path / "out", rewards=coin).train()
    assert not isinstance(error.value, ConfigError)
