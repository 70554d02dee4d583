"""`DivaGRPOTrainer`: DIVA-GRPO (arXiv 2603.01106) as a subclass of TRL's `GRPOTrainer`.

These methods of TRL and transformers are overridden:

- `_get_train_sampler`: repeats the row of each problem n (M + 1) times in succession. The order of the problems
  depends only on the seed and the epoch.
- `_generate_and_score_completions`: draws the problems, unless `problem_sampler` is `epoch`. It chooses variants by
  live difficulty and replaces the prompts before TRL generates. Afterwards it replaces GRPO's advantages by DIVA's and
  updates the live difficulty.
- `_calculate_rewards`: keeps the rewards of all processes, which TRL gathers in this method, raises an error for an
  infinite reward, and adds columns to TRL's table of completions.
- `_generate_and_score_completions`, `_generate` (also in `trainer.vision`): images are decoded only when they are used.
- `_tokenize_prompts`, `_generate` (in `trainer.openings`): with `hint_style="prefix"` the think steps are the start of
  the answer. They are trained on if `opening_advantage` is not 0, and anchored with `opening_anchor`.
- `_compute_loss`, `_get_per_token_logps_and_entropies` (in `trainer.openings`): log the entropy at the given tokens.
- `train` (in `trainer.recorded`): records a new run if the trainer has a store and the caller gave no `run_id`.
- `_load_from_checkpoint`, `_load_best_model` (in `trainer.resumable`): load all weights of a vision-language model. The
  methods of transformers skip most of them.
- `_save_checkpoint`, `_load_optimizer_and_scheduler` (in `trainer.resumable`): save and load the live difficulty, the
  buffered generation if steps on it remain, and the reference model if it follows the policy.
- `_save_checkpoint` (also in `trainer.recorded`): writes the records of the steps before the checkpoint first.
- `_load_rng_state` (in `trainer.resumable`): sets new seeds if the checkpoint was written by another number of
  processes, because it then has no random state for the present ones.
- `_run_epoch` (in `trainer.resumable`): a resumed run that has already done all its steps does no further step.
- `_get_grad_norm`, `save_model` (in `trainer.finite`): a gradient that is not finite ends the run; weights that are not
  finite are never saved.
- `evaluate` (in `trainer.finite`): restores the random state afterwards, so that evaluation does not change training.

Everything else is TRL's, including the clipped loss. Most of these methods are private, so TRL is pinned to one minor
version; `tests/trainer/test_trl_contract.py` lists what we rely on. Departures from the paper: DESIGN.md, The method.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from torch.utils.data import Sampler

from diva_grpo.pipeline.difficulty.scale import FloatArray
from diva_grpo.pipeline.store import Snapshot, VariantStore
from diva_grpo.schemas.exceptions import ConfigError, first_line
from diva_grpo.schemas.records import ORIGINAL, DifficultyEvent
from diva_grpo.trainer.config import DivaGRPOConfig
from diva_grpo.trainer.data import Layout, Texts, opening_of, rows_of_choice
from diva_grpo.trainer.method.curriculum import BoolArray, Choice, Curriculum, IntArray
from diva_grpo.trainer.openings import OpenedGRPOTrainer
from diva_grpo.trainer.plain import PROBLEM_ID, VARIANTS, DatasetVariants, problem_ids_of
from diva_grpo.trainer.prompts import PromptBuilder
from diva_grpo.trainer.recorded import RecordedGRPOTrainer
from diva_grpo.trainer.refusals import refusing_package
from diva_grpo.trainer.rollouts import FINISHES, RolloutBatch
from diva_grpo.trainer.sampler import EpochRepeatSampler
from diva_grpo.trainer.settled import accuracy_function, check_dataset, settled_config
from diva_grpo.trainer.vision import ImageRows
from diva_grpo.trainer.words import Words


class DivaGRPOTrainer(OpenedGRPOTrainer, RecordedGRPOTrainer):
    """Trains with GRPO on problems and their variants, which it chooses by live difficulty.

    It replaces `GRPOTrainer` and works with any map-style dataset.

    Args:
        model: as for `GRPOTrainer`.
        reward_funcs: as for `GRPOTrainer`. The function named by `args.accuracy_from` decides whether an answer is
            right or wrong.
        args: options; None uses the defaults of `DivaGRPOConfig`.
        train_dataset: one row per problem, with the column `prompt` and the columns that the reward functions need, as
            for `GRPOTrainer`. Optional columns: `problem_id` (default: a hash of the row) and `variants` (see
            `trainer.plain`). If a store is given, the rows must be problems of that store
            (`trainer.data.problems_dataset`).
        *others: further arguments of `GRPOTrainer`, in its order.
        variants_dataset: the variants of the problems, one row per variant, with the columns `problem_id`, `prompt`,
            `kind` and `delta` (see `trainer.plain`).
        store: the source of the variants, including those accepted during the run, and the place where the run is
            recorded. None if the dataset brings the variants, or there are none.
        prompts: builds the prompts of the store's variants; it must be the builder that made the dataset's prompts.
        run_id: id of an existing row in `runs`, under which records are stored. None: each call of `train` creates a
            run.
        images: loads the images of the rows from the store. None if the dataset has its own images, or has none.
        **kwargs: as for `GRPOTrainer`.

    Raises:
        ConfigError: settings, data and store do not fit together.

    Example:
        >>> from diva_grpo.trainer.data import problems_dataset
        >>> from diva_grpo.trainer.prompts import PromptBuilder
        >>> from diva_grpo.trainer.rewards import accuracy_reward
        >>> prompts = PromptBuilder(chat=False)
        >>> args = DivaGRPOConfig(
        ...     output_dir="runs/model", max_steps=1, per_device_train_batch_size=8, num_generations=4,
        ...     max_completion_length=8, report_to="none", bf16=False,
        ... )
        >>> dataset = problems_dataset(store.problems(), prompts)
        >>> trainer = DivaGRPOTrainer(
        ...     "data/demo_model", accuracy_reward, args, dataset, store=store, prompts=prompts
        ... )
        >>> trainer.train().global_step
        1
    """

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: DivaGRPOConfig | None = None,
        train_dataset: Dataset | None = None,
        *others: Any,
        variants_dataset: Dataset | None = None,
        store: VariantStore | None = None,
        prompts: PromptBuilder | None = None,
        run_id: str | None = None,
        images: ImageRows | None = None,
        **kwargs: Any,
    ) -> None:
        if args is None:
            name = model if isinstance(model, str) else str(model.config._name_or_path)
            args = DivaGRPOConfig(f"{name.split('/')[-1]}-DIVA-GRPO")
        args = settled_config(args, train_dataset, store, variants_dataset)
        train_dataset, self._hidden = check_dataset(train_dataset, args)
        super().__init__(model, reward_funcs, args, train_dataset, *others, **kwargs)
        self.accuracy_from = accuracy_function(self.reward_func_names, args.accuracy_from)
        self._accuracy_column = self.reward_func_names.index(self.accuracy_from)
        reward_max = args.reward_max
        self._reward_max = float(self.reward_weights.sum()) if reward_max is None else reward_max
        if self._reward_max <= 0 and args.advantage in ("diva", "dgpo"):
            raise ConfigError(
                f"reward_max={self._reward_max:g} (by default the sum of the reward weights) must be above 0: set "
                "--reward_max to the largest reward that an answer can get"
            )
        self._layout = Layout(args.num_generations, args.rollouts_per_problem // args.num_generations - 1)
        problem_ids = problem_ids_of(train_dataset)
        self._problem_numbers = {problem_id: i for i, problem_id in enumerate(problem_ids)}
        self._prompts = prompts or PromptBuilder(chat=not isinstance(train_dataset[0]["prompt"], str))
        self._images = images
        self._store = store
        self._snapshot = self._take_snapshot(None)
        self._refreshed_at = 0
        self._own_variants: DatasetVariants | None = None
        if variants_dataset is not None:
            self._own_variants = DatasetVariants.of_rows(variants_dataset, train_dataset)
        elif VARIANTS in train_dataset.column_names:
            self._own_variants = DatasetVariants.of_column(train_dataset)
        labels = self._snapshot.labels() if self._snapshot and args.difficulty_init == "labels" else None
        self._check_variants(labels)
        self.curriculum = Curriculum(problem_ids, args.curriculum_settings(), labels)
        kinds = self._own_variants.kinds() if self._own_variants else {}
        self._start_recording(store, run_id, kinds, self._prompts.hint_style)
        self.openings = []
        self._reward_BF = torch.empty(0, len(self.reward_funcs))
        self._described: list[tuple[str, str]] = []
        """Problem and kind of prompt of each row of this process in the present generation."""
        # Generations for each problem in the current step, which has several if gradients are accumulated over them.
        self._tries: Counter[int] = Counter()
        self._tries_step = ("", -1)

    # --- start-up

    def _check_variants(self, labels: dict[str, float] | None) -> None:
        source = self._variants()
        if (self.args.num_variants or self.args.aim == "all") and not (source and source.variant_count):
            wanted = f"num_variants={self.args.num_variants} and aim={self.args.aim}, but"
            if self._store is None:
                raise ConfigError(
                    f"{wanted} there are no variants: give the training data a column `variants`, a variants_dataset "
                    "or a store, or leave num_variants and aim out"
                )
            raise ConfigError(
                f"{wanted} the store {self._store.root} has no accepted variant: run `diva generate` and `diva "
                "verify` first, or train with --num_variants 0 --aim variants"
            )
        if self.args.difficulty_init == "labels" and not labels:
            raise ConfigError(
                "difficulty_init=labels, but the store has no labels: run `diva label` first, or train with "
                "--difficulty_init paper"
            )

    def _variants(self) -> Snapshot | DatasetVariants | None:
        return self._snapshot or self._own_variants

    def _take_snapshot(self, parts: list[str] | None) -> Snapshot | None:
        """Return a snapshot of the store that is the same on every process; None without a store.

        Args:
            parts: names of the parts to read; None reads the parts that the store has now.
        """
        if self._store is None:
            return None
        named = [parts or (self._store.variant_parts() if self.accelerator.is_main_process else None)]
        return self._store.snapshot(broadcast_object_list(named)[0])

    def _get_train_sampler(self, dataset: Dataset | None = None) -> Sampler[int]:
        block = self._layout.block
        return EpochRepeatSampler(
            data_source=self.train_dataset if dataset is None else dataset,
            mini_repeat_count=block,
            batch_size=self.args.generation_batch_size // block,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
            shuffle=bool(self.shuffle_dataset),
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
        )

    # --- a generation batch

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.model.training:
            rows = inputs
            self._described = [(str(row.get(PROBLEM_ID, "")), ORIGINAL) for row in inputs]
            if self._images:
                rows = [{**row, **self._images.columns(row, row["prompt"])} for row in inputs]
            return super()._generate_and_score_completions(rows)
        self._check_weights()
        self._refresh_snapshot()
        step = (self.recorder.run_id, self.state.global_step)
        if self._tries_step != step:
            self._tries_step, self._tries = step, Counter()
        if self.args.problem_sampler == "epoch":
            batch = self._generated(inputs, "epoch")
        else:
            # Of the data loader's rows only the number is used: they were drawn before the last rewards were known.
            count = self.args.generation_batch_size // self._layout.block
            drawn = self.curriculum.draw(count, self.state.global_step)
            batch = self._generated(self._rows(drawn.problem_P, len(inputs)), drawn.chosen_P)
        for round_number in range(1, self.args.refill_rounds + 1):
            silent_P = batch.silent_P()
            if not silent_P.any():
                break
            batch = self._refilled(batch, silent_P, inputs, round_number)
        self._put_advantages(batch)
        if self.args.refill_rounds or self.args.openings_in_loss:
            self._count_items(batch.output)
        self.recorder.maybe_flush(self.state.global_step)
        return batch.output

    def _refilled(
        self, batch: RolloutBatch, silent_P: BoolArray, inputs: list[dict[str, Any]], round_number: int
    ) -> RolloutBatch:
        """Generate rollouts for other problems, and put those that are not silent in place of silent ones of the batch.

        Args:
            batch: the generated batch.
            silent_P: problems of the batch whose rollouts all have the same reward.
            inputs: this process's rows of the data loader.
            round_number: number of this refill in the step, from 1.

        Returns:
            A batch of the same shape. Rollouts that are not in it are recorded with the advantage 0.
        """
        logged = {key: list(rows) for key, rows in self._log_columns()}
        first_row = self.accelerator.process_index * len(inputs)
        numbers_P = self.curriculum.replacements(batch.choice, silent_P, self.state.global_step, round_number)
        other = self._generated(self._rows(numbers_P, len(inputs)), "refill")
        take_P = silent_P & ~other.silent_P()
        for generated, replaced_P in ((batch, take_P), (other, ~take_P)):
            places = np.flatnonzero(replaced_P).tolist()
            self._record(generated, self.curriculum.problem_ids, None, places)
        kept = np.flatnonzero(np.repeat(~take_P, self._layout.block))
        for (
            key,
            column,
        ) in self._log_columns():  # TRL's table of completions now has the rows of the refill
            before = logged.get(key, [])
            if len(before) == len(column) == len(take_P) * self._layout.block:
                for place in kept.tolist():
                    column[place] = before[place]
        return batch.refilled(other, take_P, self._layout, first_row, self._tokenizer.pad_token_id)

    def _rows(self, problem_P: IntArray, count: int) -> list[dict[str, Any]]:
        """Return this process's `count` rows of a generation for the given problems."""
        first = self.accelerator.process_index * count
        places = [(first + offset) // self._layout.block for offset in range(count)]
        read = {place: dict(self.train_dataset[int(problem_P[place])]) for place in set(places)}
        return [read[place] for place in places]

    def _log_columns(self) -> Iterator[tuple[tuple[str, str], deque[Any]]]:
        """Yield the key and the values of each column of TRL's table of completions.

        A column has one value per rollout of a generation. A key is (name, name within a group of columns or "").
        """
        for name, column in self._logs.items():
            if isinstance(column, dict):
                yield from (((name, part), rows) for part, rows in column.items())
            else:
                yield (name, ""), column

    def _refresh_snapshot(self) -> None:
        step = self.state.global_step
        if self._store is not None and step - self._refreshed_at >= self.args.store_refresh_steps:
            self._refreshed_at = step
            self._snapshot = self._take_snapshot(None)

    def _generated(
        self, inputs: list[dict[str, Any]], chosen_P: npt.NDArray[np.object_] | str
    ) -> RolloutBatch:
        """Choose prompts, generate and score rollouts, and update the curriculum with their accuracies.

        Args:
            inputs: this process's rows of the training data.
            chosen_P: how the problems were chosen: one value for all, or one per problem (see `Choice`).
        """
        layout, device = self._layout, self.accelerator.device
        first_row = self.accelerator.process_index * len(inputs)
        numbers = torch.tensor([self._problem_numbers[str(row[PROBLEM_ID])] for row in inputs], device=device)
        problem_P = self.accelerator.gather(numbers).cpu().numpy()[:: layout.block]
        variants = self._variants()
        choice = self.curriculum.choose(problem_P, variants, self.state.global_step, chosen_P)
        texts = variants.texts(choice.variant_numbers()) if variants else {}
        rows, self.openings = rows_of_choice(
            inputs, choice, texts, layout, first_row, self._prompts, self._images
        )
        rows = [{name: value for name, value in row.items() if name not in self._hidden} for row in rows]
        self._described = [
            (str(row[PROBLEM_ID]), choice.kind(*layout.place_of(position)))
            for position, row in enumerate(inputs, first_row)
        ]
        output = super()._generate_and_score_completions(rows)
        self.openings = []
        of_rows = torch.tensor([self.written, self.ended], device=device).T.contiguous()
        written_B, ended_B = self.accelerator.gather(of_rows).cpu().numpy().T
        shape = (len(problem_P), layout.variants + 1, layout.generations)
        batch = RolloutBatch(
            choice,
            self._reward_B().cpu().numpy().reshape(shape),
            self._reward_BF.double().cpu().numpy().reshape(*shape, -1),
            self._accuracy_B().cpu().numpy().reshape(shape),
            written_B.reshape(shape),
            ended_B.reshape(shape).astype(bool),
            np.array([self._tries[number] for number in problem_P.tolist()]),
            dict(output),
            self._words(choice, texts),
        )
        self._tries.update(problem_P.tolist())
        visit = self.curriculum.observe(choice, batch.accuracy_PVN)
        if self.recorder.active:
            columns = batch.event_columns(visit, self.curriculum)
            self.recorder.add(DifficultyEvent, self.state.global_step, columns)
        return batch

    def _words(self, choice: Choice, texts: Texts) -> Words | None:
        """Return the texts of the last generation on all processes, from TRL's log; None if no texts are kept."""
        if not self.keeper.active:
            return None
        openings = [
            [opening_of(texts[variant.number], self._prompts) if variant else "" for variant in slots]
            for slots in choice.variant_PV
        ]
        prompts, completions = list(self._logs["prompt"]), list(self._logs["completion"])
        return Words.of_batch(prompts, completions, openings, self._layout.generations)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, ids: Any) -> torch.Tensor:
        try:
            self._reward_BF = super()._calculate_rewards(inputs, prompts, completions, ids)
        except (TypeError, ValueError) as error:
            if refusing_package(error) is None:
                raise
            raise ConfigError(
                "a reward function takes each column of the data by name (**kwargs takes the rest), and returns one "
                f"number, or None, per answer: {first_line(error)}"
            ) from error
        if self.log_completions:
            self._describe_rollouts()
        for name, infinite in zip(self.reward_func_names, self._reward_BF.isinf().any(dim=0), strict=True):
            if infinite:
                raise ConfigError(
                    f"the reward function {name} returned an infinite reward: rewards are finite numbers, or None "
                    "for an answer that cannot be judged"
                )
        return self._reward_BF

    def _describe_rollouts(self) -> None:
        """Add columns to TRL's table of completions, which it prints, writes as Parquet and logs to trackio and wandb.

        Columns that a reward function has logged under the same name are kept.
        """
        problem_ids, kinds = map(list, zip(*self._described, strict=True))
        finish = [FINISHES[ended] for ended in self.ended]
        for name, values in {"problem_id": problem_ids, "kind": kinds, "finish": finish}.items():
            self._pending_extra_logs.setdefault(name, values)

    def _reward_B(self) -> torch.Tensor:
        weighted_BF: torch.Tensor = self._reward_BF.double() * self.reward_weights.to(self._reward_BF.device)
        unjudged_B = torch.isnan(self._reward_BF).all(dim=1)
        return weighted_BF.nansum(dim=1).masked_fill(unjudged_B, torch.nan)

    def _accuracy_B(self) -> torch.Tensor:
        value_B: torch.Tensor = self._reward_BF[:, self._accuracy_column].double()
        return torch.where(torch.isnan(value_B), value_B, (value_B > 0.5).double())

    def _reward_max_matters(self) -> bool:
        return self.args.advantage == "dgpo" or (
            self.args.advantage == "diva" and self.args.rescale == "range"
        )

    def _check_range(self, reward_PVN: FloatArray) -> None:
        """Check the range of rewards, by which advantages are scaled as a share of `reward_max`.

        Raises:
            ConfigError: a reward, or the difference between two rewards of the batch, is above `reward_max`.
        """
        judged = reward_PVN[~np.isnan(reward_PVN)]
        if not judged.size:
            return
        highest, lowest = float(judged.max()), float(judged.min())
        if max(highest, highest - lowest) > self._reward_max * (1 + 1e-6):
            raise ConfigError(
                f"answers got rewards from {lowest:g} to {highest:g}, and reward_max={self._reward_max:g}: set "
                "--reward_max to the largest reward that an answer can get, or, if rewards can be negative, to the "
                "difference between the largest and the smallest"
            )

    def _put_advantages(self, batch: RolloutBatch) -> None:
        """Replace TRL's advantages in the batch and in TRL's log, log metrics, and record the rollouts."""
        settings = self.args.advantage_settings(self._reward_max)
        if self._reward_max_matters():
            self._check_range(batch.reward_PVN)
        by_function = self.args.multi_objective_aggregation == "normalize_then_sum"
        trained = batch.advantages(
            str(self.args.advantage), settings, self.reward_weights if by_function else None
        )
        total_B = trained.total
        theirs = batch.output["advantages"]
        first_row = self.accelerator.process_index * len(theirs)
        batch.output["advantages"] = total_B[first_row : first_row + len(theirs)].to(theirs)
        if self.args.openings_in_loss:
            self._train_on_openings(batch.output, self.args.opening_advantage)
        self._logs["advantages"].extend(total_B.tolist())  # holds one batch, so TRL's values drop out
        of_curriculum = self.curriculum.metrics(batch.choice, batch.accuracy_PVN)
        for metric, value in {**batch.metrics(trained, settings), **of_curriculum}.items():
            self._metrics["train"][f"diva/{metric}"].append(value)
        if self._snapshot is not None:
            age_s = time.monotonic() - self._snapshot.taken_at
            self._metrics["train"]["diva/snapshot_age_s"].append(age_s)
        advantage_PVN = total_B.numpy().reshape(batch.reward_PVN.shape)
        self._record(batch, self.curriculum.problem_ids, advantage_PVN, list(range(len(batch.reward_PVN))))

    # --- checkpoints

    def _own_state(self) -> dict[str, Any]:
        return {
            **super()._own_state(),
            **self.curriculum.state_dict(),
            "refreshed_at": self._refreshed_at,
            "variant_parts": self._snapshot.parts if self._snapshot else None,
        }

    def _restore_own_state(self, state: dict[str, Any]) -> None:
        super()._restore_own_state(state)
        self.curriculum.load_state_dict(state)
        self._refreshed_at = state["refreshed_at"]
        if state["variant_parts"] is not None:
            self._snapshot = self._take_snapshot(state["variant_parts"])
