"""`DivaGRPOConfig`: TRL's `GRPOConfig` with the options of the method."""

from __future__ import annotations

import math
import sys
from copy import copy
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from trl import GRPOConfig

from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.policy import HintStyle
from diva_grpo.trainer.asking import check_generation_kwargs
from diva_grpo.trainer.method.advantages import (
    ADVANTAGES,
    DEFAULTS,
    AdvantageSettings,
    Balance,
    Rescale,
    Scale,
)
from diva_grpo.trainer.method.curriculum import Aim, CurriculumSettings, DifficultyFrom, VariantPrior
from diva_grpo.trainer.method.live import LiveRule
from diva_grpo.trainer.method.problems import ProblemSampler
from diva_grpo.trainer.method.selection import SELECTORS

_CURRICULUM = CurriculumSettings()
_NAMED = {"selector": SELECTORS, "advantage": ADVANTAGES}
_SCALING: dict[str, tuple[str, ...]] = {
    "scale_rewards": get_args(Scale),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
}
_UNSET = {"advantage": (None,)}
"""Values that are allowed besides the choices of an option. `settled` replaces them when the training data is known."""
_EPS_OF_TRL = 1e-4
_AT_LEAST = {
    **dict.fromkeys(("store_refresh_steps", "store_flush_steps", "num_iterations"), 1),
    **dict.fromkeys(
        ("per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation"), 1
    ),
    "num_generations": 2,
    "seed": 0,
}
"""The smallest value of options that are numbers."""
_NO_EFFECT: dict[str, tuple[Any, str]] = {
    "remove_unused_columns": (
        False,
        "rewards and selection need the columns of the problems; leave it false",
    ),
    "label_smoothing_factor": (0.0, "the loss is of rewards, not of labels; leave it 0"),
    "train_sampling_strategy": ("random", "problems come shuffled, or in order with --shuffle_dataset false"),
}
"""Fields that have no effect in this trainer: their required value, and the error message for another one."""


@dataclass
class DivaGRPOConfig(GRPOConfig):
    """Options of DIVA-GRPO (arXiv 2603.01106) for `DivaGRPOTrainer`.

    The defaults are the paper's settings, except for the fields of GRPOConfig (such as the number of generations and
    the learning rate), which keep their defaults and meaning. `num_generations` is the number of rollouts of
    *one prompt* (the paper's n), so a problem has `num_generations * (num_variants + 1)` rollouts.

    Raises:
        ConfigError: a value or a combination of values cannot work. The message says which values would.

    Example:
        >>> args = DivaGRPOConfig(
        ...     output_dir="runs/model", num_generations=8, num_variants=1, per_device_train_batch_size=16, bf16=False
        ... )
        >>> args.selector
        'paper'
    """

    num_variants: int | None = field(
        default=None,
        metadata={
            "help": "Variants of a problem beside its original (M), 0 to 8; default: 1 where the training data have "
            "variants, else 0."
        },
    )
    selector: str = field(
        default=_CURRICULUM.selector,
        metadata={
            "help": "How variants are chosen by live difficulty: paper, tier, posterior, signal or uniform."
        },
    )
    variant_prior: VariantPrior = field(
        default=_CURRICULUM.variant_prior,
        metadata={
            "help": "What posterior and signal expect of a variant: its label or delta, the pass rate in this run of "
            "those with as many steps to go (pooled), a curve over these (ladder), or one per problem "
            "(item_response)."
        },
    )
    aim: Aim = field(
        default=_CURRICULUM.aim,
        metadata={
            "help": "Slot 0 is always the original (variants), or the original is one candidate among the "
            "variants for all M + 1 slots (all)."
        },
    )
    full_solutions: bool = field(
        default=_CURRICULUM.full_solutions,
        metadata={
            "help": "Variants may be chosen whose hint is the whole solution, as in the paper. With it in the question "
            "the policy learns to copy it."
        },
    )
    problem_sampler: ProblemSampler = field(
        default=_CURRICULUM.problem_sampler,
        metadata={
            "help": "Which problems come next: each once an epoch (epoch), those with the largest predicted signal "
            "p(1 - p) (difficulty), or without those that were silent, but for a share (pool)."
        },
    )
    pool_revisit: float = field(
        default=_CURRICULUM.pool_revisit,
        metadata={
            "help": "With problem_sampler=pool, the share of problems that were silent when they last came, 0 to 1."
        },
    )
    difficulty_rule: LiveRule = field(
        default=_CURRICULUM.difficulty_rule,
        metadata={
            "help": "How live difficulty moves: paper (eta), bands (released code) or posterior (Beta)."
        },
    )
    difficulty_eta: float = field(
        default=_CURRICULUM.difficulty_eta, metadata={"help": "Step of the rule `paper`, in levels."}
    )
    difficulty_from: DifficultyFrom = field(
        default=_CURRICULUM.difficulty_from,
        metadata={"help": "Which rollouts move it: those of the original prompt, or of the whole group."},
    )
    difficulty_init: Literal["paper", "labels"] = field(
        default="paper",
        metadata={
            "help": "Where it starts: paper (5 for all) or labels (measured by the store's label_model)."
        },
    )
    hint_style: HintStyle = field(
        default="prompt",
        metadata={
            "help": "Think steps stand in the question (prompt), or open the answer (prefix); there they are "
            "trained on only with opening_advantage."
        },
    )
    hint_opening: str = field(
        default="", metadata={"help": "Text before the steps of hint_style=prefix: <think>."}
    )
    opening_advantage: float = field(
        default=0.0,
        metadata={
            "help": "With hint_style=prefix, the given steps are trained on too, each token with this advantage "
            "(1 to 3, that of a clearly right answer), and count wherever a loss averages over tokens; 0: they "
            "are not."
        },
    )
    opening_anchor: bool = field(
        default=False,
        metadata={
            "help": "With hint_style=prefix, the KL penalty (beta) and the entropy bonus (entropy_coef, or "
            "use_adaptive_entropy with entropy_target) cover the given steps too, which keeps the policy from becoming "
            "sure of steps that no rollout has written."
        },
    )
    advantage: str | None = field(
        default=None,
        metadata={
            "help": "Advantage function: diva, dgpo (2601.20614), dr_grpo (2503.20783), or grpo (TRL's own, with "
            "scale_rewards and multi_objective_aggregation); default: diva, and grpo where there are no variants."
        },
    )
    weight_k: float = field(
        default=DEFAULTS.k, metadata={"help": "Strength k of the difficulty weight; 0 is off."}
    )
    balance: Balance = field(
        default=DEFAULTS.balance,
        metadata={"help": "Local-global balance over the batch: zscore, minmax, rms or none."},
    )
    rescale: Rescale = field(
        default=DEFAULTS.rescale,
        metadata={"help": "Reward-range rescaling: range, low_reward (released code) or none."},
    )
    local_weight: float = field(
        default=DEFAULTS.local_weight, metadata={"help": "Weight of the local advantage."}
    )
    global_weight: float = field(
        default=DEFAULTS.global_weight, metadata={"help": "Weight of the global advantage."}
    )
    dgpo_temperature: float = field(
        default=DEFAULTS.dgpo_temperature,
        metadata={
            "help": "With advantage=dgpo, the temperature of the question weights; a larger one makes them more equal."
        },
    )
    advantage_eps: float | None = field(
        default=None,
        metadata={
            "help": "Added to the deviation of each group; default: 1e-6, and with advantage=grpo 1e-4, as TRL."
        },
    )
    reward_max: float | None = field(
        default=None, metadata={"help": "Largest reachable reward; default: the sum of the reward weights."}
    )
    accuracy_from: str | None = field(
        default=None,
        metadata={
            "help": "Name of the reward function that says right (above 0.5) or wrong; default: accuracy_reward, or "
            "the only one."
        },
    )
    variant_warmup_steps: int = field(
        default=_CURRICULUM.warmup_steps,
        metadata={"help": "First steps as plain GRPO, all rollouts on the original prompt."},
    )
    store_refresh_steps: int = field(
        default=50, metadata={"help": "Steps between two look-ups of new accepted variants in the store."}
    )
    store_flush_steps: int = field(
        default=50,
        metadata={
            "help": "Steps after which rollouts go to the store and the run is diagnosed; a checkpoint writes them too."
        },
    )
    log_rollouts: str = field(
        default="4",
        metadata={
            "help": "Rollouts that are stored with their texts: those of N problems of a generation, all, or none."
        },
    )
    log_rollouts_mb: float = field(
        default=200.0,
        metadata={"help": "Texts of rollouts and prompts that a run may store, in MB before compression."},
    )
    refill_rounds: int = field(
        default=0,
        metadata={
            "help": "Rounds in which silent problems of a batch are replaced by others (DAPO); 0 is off."
        },
    )

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        literals = {
            f.name: get_args(hints[f.name]) for f in fields(self) if get_origin(hints[f.name]) is Literal
        }
        for name, choices in {**literals, **_NAMED}.items():
            if getattr(self, name) not in (*choices, *_UNSET.get(name, ())):
                raise ConfigError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(choices)}")
        self._check_numbers()
        if not 0 <= (self.num_variants or 0) <= 8:
            raise ConfigError(f"num_variants={self.num_variants}: from 0 to 8")
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name}={value}: at least {least}")
        if self.refill_rounds < 0 or self.variant_warmup_steps < 0:
            raise ConfigError("refill_rounds and variant_warmup_steps are not negative")
        if not 0 <= self.pool_revisit <= 1:
            raise ConfigError(f"pool_revisit={self.pool_revisit}: from 0 to 1")
        if self.dgpo_temperature <= 0:
            raise ConfigError(f"dgpo_temperature={self.dgpo_temperature}: above 0")
        if (self.advantage_eps or 0) < 0:
            raise ConfigError(f"advantage_eps={self.advantage_eps}: not negative")
        if self.max_steps == 0 or (self.max_steps < 0 and self.num_train_epochs <= 0):
            raise ConfigError(
                f"max_steps={self.max_steps} and num_train_epochs={self.num_train_epochs:g} leave no step to train: "
                "set --max_steps to at least 1, or --max_steps -1 and --num_train_epochs above 0"
            )
        if self.log_rollouts not in ("all", "none") and not str(self.log_rollouts).isdecimal():
            raise ConfigError(f"log_rollouts={self.log_rollouts!r}: a number of problems, all, or none")
        self._check_opening()
        # TRL's default for the old name, gradient_checkpointing, would cause a warning of transformers.
        name = "activation_checkpointing"
        if getattr(self, name) is None:
            setattr(self, name, self.gradient_checkpointing)
        # Without an accelerator, torch would warn that pinned memory has no use.
        self.dataloader_pin_memory &= torch.accelerator.is_available()
        super().__post_init__()
        for name, choices in _SCALING.items():
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(choices)}")
        self._check_no_effect()
        if self.num_variants is not None:
            self._settle(self.num_variants)

    def settled(self, *, variants: bool) -> DivaGRPOConfig:
        """Return a copy of these options with values for those whose default depends on the training data.

        Args:
            variants: whether the training data has variants, in a column or in a store.

        Raises:
            ConfigError: the values do not fit together.
        """
        config = copy(self)
        config._settle(int(variants) if self.num_variants is None else self.num_variants)
        return config

    def _settle(self, num_variants: int) -> None:
        self.num_variants = num_variants
        if self.advantage is None:
            # Without variants, local and global group are the same, and only the rescaling would differ from GRPO.
            self.advantage = "diva" if num_variants or self.aim == "all" else "grpo"
        if self.advantage_eps is None:
            self.advantage_eps = _EPS_OF_TRL if self.advantage == "grpo" else DEFAULTS.eps
        self._check_scaling()
        block, size = self.rollouts_per_problem, self.generation_batch_size
        if size % block:
            raise ConfigError(
                f"generation_batch_size={size} is not divisible by num_generations * (num_variants + 1) = "
                f"{self.num_generations} * {num_variants + 1} = {block}: "
                f"{max(block, size // block * block)} or {(size // block + 1) * block} would work"
            )

    def _check_numbers(self) -> None:
        """Raise ConfigError for a field that is NaN, and for one of our own (or a reward weight) that is infinite."""
        inherited = {f.name for f in fields(GRPOConfig)} - {"reward_weights"}
        for name, value in vars(self).items():
            for number in value if isinstance(value, list) else [value]:
                if not isinstance(number, float) or math.isfinite(number):
                    continue
                if math.isnan(number) or name not in inherited:
                    raise ConfigError(f"{name}={value}: give a finite number")

    def _check_opening(self) -> None:
        if self.opening_advantage < 0:
            raise ConfigError(f"opening_advantage={self.opening_advantage}: not negative")
        if not self.openings_in_loss:
            return
        if self.opening_anchor and self.opening_advantage:
            raise ConfigError(
                "opening_anchor has no effect with opening_advantage, with which KL and entropy cover the given steps "
                "already: leave one of them out"
            )
        if self.opening_anchor and not (self.beta or self.entropy_coef or self.use_adaptive_entropy):
            raise ConfigError(
                "opening_anchor extends a KL penalty or an entropy bonus, and there is neither: set --beta, "
                "--entropy_coef or --use_adaptive_entropy"
            )
        option = "opening_anchor" if self.opening_anchor else f"opening_advantage={self.opening_advantage}"
        if self.hint_style != "prefix":
            raise ConfigError(
                f"{option} is about steps that open the answer, and hint_style={self.hint_style} puts them in the "
                "question: set hint_style=prefix"
            )
        # With one probability ratio per answer, the tokens of an opening cannot have an advantage of their own.
        if self.importance_sampling_level != "token" or self.loss_type == "vespo":
            raise ConfigError(
                f"{option} gives single tokens an advantage: set importance_sampling_level=token, and a loss_type "
                "other than vespo"
            )

    def _check_scaling(self) -> None:
        """Raise ConfigError if TRL's options for scaling rewards have no effect on the chosen advantage function."""
        scale, by_function = self.scale_rewards, self.multi_objective_aggregation == "normalize_then_sum"
        own = {"dr_grpo": ("group", "none"), "grpo": _SCALING["scale_rewards"]}.get(
            str(self.advantage), ("group",)
        )
        if scale not in own:
            raise ConfigError(
                f"scale_rewards={scale} has no effect on advantage={self.advantage}, which scales rewards by its own "
                "rules: set --advantage grpo (TRL's own), or --advantage dr_grpo for rewards less the mean of their "
                "group"
            )
        if by_function and (self.advantage != "grpo" or scale != "group" or self.refill_rounds):
            raise ConfigError(
                "multi_objective_aggregation=normalize_then_sum is of TRL's own advantages, normalises them over the "
                "batch, and has a signal where summed rewards are equal: set --advantage grpo, --scale_rewards group "
                "and --refill_rounds 0"
            )

    def _check_no_effect(self) -> None:
        """Raise ConfigError if a field is set that has no effect in this trainer."""
        for name, (default, advice) in _NO_EFFECT.items():
            if getattr(self, name) not in (default, str(default)):
                raise ConfigError(f"{name}={getattr(self, name)}: {advice}")
        if self.load_best_model_at_end and self.eval_strategy == "no":
            raise ConfigError(
                "load_best_model_at_end without evaluations would keep the last model: set --eval_strategy and "
                "--save_strategy"
            )
        if isinstance(self.generation_kwargs, dict) and not self.use_vllm:
            check_generation_kwargs(self.generation_kwargs)
        for name in ("split_batches", "dispatch_batches"):
            if getattr(self.accelerator_config, name):
                raise ConfigError(
                    f"accelerator_config {name}=true: each process reads its own rows of a batch; leave it out"
                )

    @property
    def openings_in_loss(self) -> bool:
        """Whether the loss covers the tokens of openings, if only by its KL penalty and its entropy bonus."""
        return bool(self.opening_advantage) or self.opening_anchor

    @property
    def rollouts_per_problem(self) -> int:
        """Number of rollouts per problem, n (M + 1). They are consecutive rows of the generation batch."""
        return int(self.num_generations * ((self.num_variants or 0) + 1))

    @property
    def problems_logged(self) -> int:
        """Number of problems of each generation whose rollouts are stored with their texts."""
        named = {"all": sys.maxsize, "none": 0}
        return named[self.log_rollouts] if self.log_rollouts in named else int(self.log_rollouts)

    def advantage_settings(self, reward_max: float) -> AdvantageSettings:
        """Return the options of the advantage functions.

        Args:
            reward_max: largest reward that an answer can get.
        """
        return AdvantageSettings(
            k=self.weight_k,
            r_max=reward_max,
            eps=DEFAULTS.eps if self.advantage_eps is None else self.advantage_eps,
            balance=self.balance,
            rescale=self.rescale,
            local_weight=self.local_weight,
            global_weight=self.global_weight,
            dgpo_temperature=self.dgpo_temperature,
            scale=self.scale_rewards,
        )

    def curriculum_settings(self) -> CurriculumSettings:
        """Return the options of the curriculum."""
        return CurriculumSettings(
            variants=self.num_variants or 0,
            selector=self.selector,
            variant_prior=self.variant_prior,
            aim=self.aim,
            full_solutions=self.full_solutions,
            difficulty_rule=self.difficulty_rule,
            difficulty_eta=self.difficulty_eta,
            difficulty_from=self.difficulty_from,
            problem_sampler=self.problem_sampler,
            pool_revisit=self.pool_revisit,
            warmup_steps=self.variant_warmup_steps,
            seed=self.seed,
        )
