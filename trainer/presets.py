"""Presets: settings of `DivaGRPOConfig` that were measured or published together, by name.

    diva train --preset hints --store runs/store --model_name_or_path MODEL --output_dir runs/model
    DivaGRPOConfig(**TRAINING_PRESETS["hints"], output_dir="runs/model")    # the same from Python

Other settings of the same place, command line or YAML file, override a preset.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

DEFAULT_PRESET: Final = "hints"
"""The preset of `diva train` where neither a preset nor one of `METHOD` is given."""

METHOD: Final = (
    "num_variants",
    "selector",
    "variant_prior",
    "aim",
    "advantage",
    "weight_k",
    "balance",
    "rescale",
    "local_weight",
    "global_weight",
)
"""Options that say how variants are chosen and compared. Who sets one of them gets no preset that he has not named, so
that `--num_variants 0` is GRPO, and what he leaves out has the default of `DivaGRPOConfig`."""

TRAINING_PRESETS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        # The settings of the paper's experiments, where a batch has 128 prompts. Its reward is `--rewards paper`.
        "paper": {
            "num_variants": 1,
            "num_generations": 5,
            "selector": "paper",
            "variant_prior": "delta",
            "aim": "variants",
            "full_solutions": True,
            "problem_sampler": "epoch",
            "difficulty_rule": "paper",
            "difficulty_eta": 4.0,
            "difficulty_from": "original",
            "difficulty_init": "paper",
            "hint_style": "prompt",
            "advantage": "diva",
            "weight_k": 0.1,
            "balance": "zscore",
            "rescale": "range",
            "local_weight": 1.0,
            "global_weight": 1.0,
            "loss_type": "grpo",
            "beta": 0.0,
            "learning_rate": 1e-6,
            "num_train_epochs": 5,
        },
        # One prompt per problem, the original or a variant, of which half of the answers are expected to be right. It
        # was measured on the testbeds `lock` and `gap`, as the arm `response` (docs/when-it-pays.md).
        "hints": {
            "num_variants": 0,
            "selector": "signal",
            "variant_prior": "item_response",
            "aim": "all",
            "full_solutions": False,
            "difficulty_rule": "posterior",
            "hint_style": "prompt",
            "advantage": "diva",
            "advantage_eps": 1e-4,
            "weight_k": 0.0,
            "balance": "none",
            "rescale": "none",
            "local_weight": 1.0,
            "global_weight": 0.0,
        },
    }
)
"""The presets by name."""
