"""The contenders: what each adds to the settings that are the same for all.

Rollouts a step, the optimizer, the model and the problems are equal. A step has 64 rollouts: 8 prompts of GRPO with 8
each, and 4 problems with one variant each, or fewer with more variants. Where groups are half as large there are twice
as many; GRPO is there with both sizes. Two and four variants make 63 and 60 of it, and groups smaller; supervised
training has no rollouts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

from diva_grpo.trainer.presets import TRAINING_PRESETS

ROLLOUTS = 64
GENERATIONS = 8

SHARED: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "num_generations": GENERATIONS,
        # Two halves of a step's rollouts, one gradient each: the noise of the step's gradient is read off them.
        "per_device_train_batch_size": ROLLOUTS // 2,
        "gradient_accumulation_steps": 2,
        "max_completion_length": 40,
        "temperature": 1.0,
        "beta": 0.0,
        "loss_type": "grpo",
        "lr_scheduler_type": "constant",
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "logging_steps": 20,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
)

# TRL's own advantage, in the terms of ours: one group a prompt, nothing over the batch.
PLAIN = {
    "num_variants": 0,
    "advantage": "diva",
    "global_weight": 0.0,
    "weight_k": 0.0,
    "balance": "none",
    "rescale": "none",
    "advantage_eps": 1e-4,
}
_PAPER: Mapping[str, Any] = {
    "num_variants": 1,
    "selector": "paper",
    "difficulty_init": "paper",
    "full_solutions": True,
}
_POSTERIOR: Mapping[str, Any] = {
    "full_solutions": True,
    "num_variants": 1,
    "selector": "posterior",
    "difficulty_rule": "posterior",
    "difficulty_init": "labels",
    "hint_style": "prefix",
    "rescale": "none",
    "local_weight": 0.5,
    "global_weight": 0.5,
}
# One prompt a problem, as GRPO has it: the original, or the least help from which there is something to learn.
_SIGNAL: Mapping[str, Any] = {
    "full_solutions": True,
    "num_variants": 0,
    "aim": "all",
    "selector": "signal",
    "variant_prior": "pooled",
    "difficulty_rule": "posterior",
    "hint_style": "prefix",
    "rescale": "none",
    "local_weight": 1.0,
    "global_weight": 0.0,
}
# Help from which half of the answers come out right, and what it gives is trained on as well: then it need not be the
# least, and with groups that are seldom silent smaller ones are enough.
_TAUGHT: Mapping[str, Any] = {
    **_SIGNAL,
    "selector": "posterior",
    "opening_advantage": 3.0,
    "num_generations": GENERATIONS // 2,
}
_SOLUTIONS: Mapping[str, Any] = {
    "per_device_train_batch_size": ROLLOUTS
    // _TAUGHT["num_generations"]
    // 2,  # as many as _TAUGHT has problems
    "completion_only_loss": True,
    "packing": False,
    "max_length": None,
}
_OF_GRPO = ("num_generations", "max_completion_length", "temperature", "beta", "loss_type")


@dataclass(frozen=True, slots=True)
class Contender:
    """A method with its settings.

    Attributes:
        name: under which its runs are known.
        own: settings in the place of `SHARED`, or beside them.
        trainer: `DivaGRPOTrainer`, or TRL's own: `GRPOTrainer`, or `SFTTrainer` on the worked solutions.
    """

    name: str
    own: Mapping[str, Any] = field(default_factory=dict)
    trainer: Literal["diva", "grpo", "sft"] = "diva"

    @property
    def settings(self) -> dict[str, Any]:
        """All settings, of the trainer's configuration."""
        shared = {k: v for k, v in SHARED.items() if self.trainer != "sft" or k not in _OF_GRPO}
        return {**shared, **self.own}

    @property
    def labels(self) -> bool:
        """Whether it starts from labels, and is charged for them."""
        return self.own.get("difficulty_init") == "labels"


def _named(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Contender]:
    return {name: Contender(name, values) for name, values in settings.items()}


MAIN: Final[Mapping[str, Contender]] = MappingProxyType(
    {
        "grpo": Contender("grpo", trainer="grpo"),
        "grpo_n4": Contender("grpo_n4", {"num_generations": GENERATIONS // 2}, "grpo"),
        "dr_grpo": Contender("dr_grpo", {"loss_type": "dr_grpo", "scale_rewards": "none"}, "grpo"),
        **_named(
            {
                "dapo": {**PLAIN, "loss_type": "dapo", "epsilon_high": 0.28, "refill_rounds": 3},
                "diva": _PAPER,
                "diva_posterior": _POSTERIOR,
                "diva_signal": _SIGNAL,
                "uniform": {**_SIGNAL, "selector": "uniform"},
                "diva_taught": _TAUGHT,
                "uniform_taught": {**_TAUGHT, "selector": "uniform"},
                "untaught": {**_TAUGHT, "opening_advantage": 0.0},
            }
        ),
        "sft": Contender("sft", _SOLUTIONS, "sft"),
    }
)
"""Those of the main comparison."""

ABLATIONS: Final[Mapping[str, Contender]] = MappingProxyType(
    _named(
        {
            "diva_no_variants": {**_PAPER, "num_variants": 0, "advantage": "diva"},
            "diva_no_weight": {**_PAPER, "weight_k": 0.0},
            "diva_no_rescaling": {**_PAPER, "rescale": "none"},
            "diva_no_balance": {**_PAPER, "balance": "none"},
            "diva_fixed": {**_PAPER, "difficulty_eta": 0.0},
            "diva_from_group": {**_PAPER, "difficulty_from": "group"},
            # As many problems as with M = 1, or one less, and as many rollouts or up to four fewer.
            "diva_m2": {
                **_PAPER,
                "num_variants": 2,
                "num_generations": 7,
                "per_device_train_batch_size": 21,
                "gradient_accumulation_steps": 3,
            },
            "diva_m3": {**_PAPER, "num_variants": 3, "num_generations": 4},
            "diva_m4": {
                **_PAPER,
                "num_variants": 4,
                "num_generations": 3,
                "per_device_train_batch_size": 30,
            },
        }
    )
)
"""The paper's method with a part taken away or changed."""

_POOLED: Mapping[str, Any] = {**_POSTERIOR, "variant_prior": "pooled"}
_LOCAL: Mapping[str, Any] = {**_POOLED, "local_weight": 1.0, "global_weight": 0.0}

TRIALS: Final[Mapping[str, Contender]] = MappingProxyType(
    _named(
        {
            "t_pooled": _POOLED,
            "t_local": _LOCAL,
            "t_aim": {**_POOLED, "aim": "all"},
            "t_aim_local": {**_LOCAL, "aim": "all"},
            "t_signal_m1": {**_SIGNAL, "num_variants": 1},
            "t_signal_refill": {**_SIGNAL, "refill_rounds": 1},
            "t_signal_taught": {**_SIGNAL, "opening_advantage": 1.0},
            "t_taught_n8": {**_TAUGHT, "num_generations": GENERATIONS},
            "t_taught_n8_weak": {**_TAUGHT, "num_generations": GENERATIONS, "opening_advantage": 1.0},
            "t_taught_weak": {**_TAUGHT, "opening_advantage": 1.0},
            "t_taught_m1": {**_LOCAL, "opening_advantage": 1.0},
        }
    )
)
"""What was tried to make it better; TRIED.md says with which outcome."""

PRESETS: Final[Mapping[str, Contender]] = MappingProxyType(
    {"grpo": MAIN["grpo"], **_named({"preset_hints": TRAINING_PRESETS["hints"]})}
)
"""What `diva train --preset hints` does, and GRPO: does the preset harm where it was not made for?"""

CONTENDERS: Final[Mapping[str, Contender]] = MappingProxyType({**MAIN, **ABLATIONS, **TRIALS, **PRESETS})
