"""The `Curriculum` in veRL 0.9: its PPO trainer gets prompts from a store, and the curriculum gets their accuracies.

    python -m verl.trainer.main_ppo data.train_files=runs/store data.val_files=test.parquet \\
        data.custom_cls.path=pkg://diva_grpo.trainer.hosts.verl data.custom_cls.name=StoreDataset \\
        trainer.v1.sampler.custom_sampler.path=pkg://diva_grpo.trainer.hosts.verl \\
        trainer.v1.sampler.custom_sampler.name=CurriculumBuffer \\
        reward.custom_reward_function.path=pkg://diva_grpo.trainer.hosts.verl \\
        reward.custom_reward_function.name=compute_score \\
        data.dataloader_num_workers=0 '+data.diva={variants: 1, selector: posterior}' ...

In each step, veRL's data loader draws a batch from `StoreDataset`, which chooses a prompt for each slot.
`compute_score` scores the rollouts. When veRL takes the rollouts from `CurriculumBuffer` for training, the buffer
passes their accuracies to the dataset, which updates live difficulty and records the rollouts in the store. The
checkpoint of veRL (`data.pt`) has the state of the dataset.

Axes: P problems of a batch, V = variants + 1 prompts (rows of veRL's batch) per problem, N rollouts per prompt.
"""

from __future__ import annotations

import atexit
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np
import transfer_queue
from omegaconf import OmegaConf
from pydantic import Field, TypeAdapter, ValidationError
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.utils.dataset.rl_dataset import RLHFDataset

from diva_grpo.pipeline.difficulty.scale import FloatArray
from diva_grpo.pipeline.grade import grade
from diva_grpo.pipeline.images.shown import MIN_PIXELS, Shown
from diva_grpo.pipeline.store import VariantStore, VariantText
from diva_grpo.schemas.config import MAX_PIXELS, Config
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.nearest import unknown
from diva_grpo.schemas.question import place_images
from diva_grpo.schemas.records import DifficultyEvent, Problem, Rollout
from diva_grpo.trainer.columns import event_columns
from diva_grpo.trainer.data import training_problems
from diva_grpo.trainer.method.curriculum import Choice, Curriculum, CurriculumSettings
from diva_grpo.trainer.method.problems import Drawn
from diva_grpo.trainer.method.selection import SELECTORS
from diva_grpo.trainer.prompts import PromptBuilder
from diva_grpo.trainer.recorder import Recorder

_FILES = (".parquet", ".json", ".jsonl")
_PLACE = "diva_place"
"""Key in a row's `extra_info`, with the place of the row's problem in the batch and the slot of its prompt."""


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> dict[str, float]:
    """Score a response with our grader. Reward function of veRL for rows of a store and of `diva export --preset verl`.

    Args:
        data_source: not used.
        solution_str: the response.
        ground_truth: the reference answer.
        extra_info: `extra_info` of the row, with the choices in `options`.
        **kwargs: not used.

    Returns:
        `score` and `acc`: 1 for a right response, else 0. `judged`: 0 if the grader could not decide, else 1.
    """
    options = (extra_info or {}).get("options")
    value = grade(solution_str, ground_truth, options=() if options is None else list(options)).score
    return {"score": value or 0.0, "acc": value or 0.0, "judged": float(value is not None)}


class StoreOptions(Config):
    """The options in `data.diva` for `StoreDataset`. The other options there are those of the curriculum."""

    split: str = Field(default="train", description="Split of the problems.")
    problem_filter: str | None = Field(default=None, description="SQL condition on `problems`.")
    system_prompt: str | None = Field(default=None, description="System message.")
    instruction: str = Field(default="", description="Text to add after each question.")
    difficulty_init: Literal["paper", "labels"] = Field(
        default="paper", description="Where live difficulty starts: 5 for all, or the labels of the store."
    )
    min_pixels: int = Field(default=MIN_PIXELS, ge=1, description="Smaller images are enlarged.")
    max_pixels: int = Field(default=MAX_PIXELS, ge=1, description="Larger images are shrunk.")
    flush_steps: int = Field(default=10, ge=1, description="Steps after which records go to the store.")
    refresh_steps: int = Field(default=50, ge=1, description="Steps between two looks for new variants.")


def read_options(given: Mapping[str, Any]) -> tuple[StoreOptions, CurriculumSettings]:
    """Split `data.diva` into the options of the dataset and those of the curriculum.

    Raises:
        ConfigError: a name is unknown or a value is invalid.
    """
    of_curriculum = {field.name for field in fields(CurriculumSettings)}
    known = [*StoreOptions.model_fields, *of_curriculum]
    for name in given:
        if name not in known:
            raise ConfigError(unknown("setting of data.diva", name, known))
    own = {name: value for name, value in given.items() if name not in of_curriculum}
    method = {name: value for name, value in given.items() if name in of_curriculum}
    try:
        settings = TypeAdapter(CurriculumSettings).validate_python(method)
        options = StoreOptions.model_validate(own)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"data.diva.{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if settings.selector not in SELECTORS:
        raise ConfigError(f"data.diva.selector: choose from {', '.join(SELECTORS)}")
    return options, settings


@dataclass(slots=True)
class _Rows:
    """The rows of the present batch by (place, slot), with the columns that veRL reads.

    Attributes:
        problems: problems of the training data.
        prompts: builds the prompts.
        store: store with the images.
        options: options of the dataset.
        length: number of rows per epoch.
        choice: prompts of the present batch; None before the first batch, and once its rewards have arrived.
        texts: texts of the batch's variants, by number.
    """

    problems: Sequence[Problem]
    prompts: PromptBuilder
    store: VariantStore
    options: StoreOptions
    length: int
    choice: Choice | None = None
    texts: Mapping[int, VariantText] | None = None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, at: tuple[int, int]) -> dict[str, Any]:
        assert self.choice is not None
        assert self.texts is not None
        place, slot = at
        problem = self.problems[self.choice.problem_P[place]]
        variant = self.choice.variant_PV[place][slot]
        text = self.texts[variant.number] if variant else VariantText(problem.text, (), None)
        messages: Any = self.prompts.prompt(text.text or problem.text, problem.options, text.hint)
        images = self._images(problem, text.recipe)
        parts, order = place_images(messages[-1]["content"], len(images))
        messages[-1]["content"] = "".join(part.get("text", "<image>") for part in parts)
        return {
            "data_source": problem.source,
            "prompt": messages,
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": problem.answer},
            "extra_info": {
                "index": int(self.choice.problem_P[place]),
                "split": problem.split,
                "problem_id": problem.problem_id,
                "variant_id": self.choice.variant_id(place, slot),
                "kind": self.choice.kind(place, slot),
                "options": list(problem.options),
                _PLACE: [place, slot],
            },
            **({"images": [images[number] for number in order]} if images else {}),
        }

    def _images(self, problem: Problem, recipe: str | None) -> list[Any]:
        paths = tuple(self.store.image_path(image.hash) for image in problem.images)
        bounds = self.options.min_pixels, self.options.max_pixels
        return Shown(paths, recipe, problem.text, *bounds).open() if paths else []


class StoreDataset(RLHFDataset):
    """Dataset of veRL with the problems of a store. It chooses prompts by live difficulty when veRL draws a batch.

    A path that ends in .parquet, .json or .jsonl is read as a file by veRL's own code, for validation.

    Args:
        data_files: folder of the store, or files.
        tokenizer: tokenizer of the policy.
        config: veRL's `data`; `data.diva` has the fields of `StoreOptions` and `CurriculumSettings`.
        processor: processor of the policy; None if it reads only text.
        max_samples: use only the first N problems; -1 for all.

    Attributes:
        training: the dataset of this process that reads a store. `CurriculumBuffer` finds it here, because veRL
            creates the dataset and the buffer separately.
        step: number of batches drawn so far.

    Raises:
        ConfigError: the options cannot work.
        StoreError: there is no such store.
    """

    training: ClassVar[StoreDataset | None] = None

    @property
    def reads_store(self) -> bool:
        """Whether the rows come from a store."""
        return not str(self.data_files[0]).endswith(_FILES)

    def _download(self, use_origin_parquet: bool = False) -> None:
        if not self.reads_store:
            super()._download(use_origin_parquet)

    def _read_files_and_tokenize(self) -> None:
        if not self.reads_store:
            super()._read_files_and_tokenize()
            return
        if self.config.get("dataloader_num_workers", 0):
            raise ConfigError("set data.dataloader_num_workers=0: prompts are chosen when a batch is drawn")
        if self.filter_overlong_prompts:
            raise ConfigError(
                "data.filter_overlong_prompts reads files: select with data.diva.problem_filter"
            )
        self._given = OmegaConf.to_container(self.config, resolve=True)
        assert isinstance(self._given, dict)
        self._options, self._settings = read_options(self._given.get("diva") or {})
        self._store = VariantStore(str(self.data_files[0]))
        self._snapshot = self._store.snapshot()
        self._labels = self._snapshot.labels() if self._options.difficulty_init == "labels" else None
        if self._labels == {}:
            raise ConfigError(
                "data.diva.difficulty_init=labels, but the store has none: run `diva label` first"
            )
        if self._settings.variants and not self._snapshot.variant_count:
            raise ConfigError(
                f"data.diva.variants={self._settings.variants}, but {self._store.root} has no accepted variant: run "
                "`diva generate` and `diva verify` first"
            )
        self.step = self._refreshed_at = 0
        self._recorder: Recorder | None = None
        self._run_id: str | None = None
        self._held = ExitStack()
        self._start(None)
        StoreDataset.training = self

    def _start(self, only: Sequence[str] | None) -> None:
        """Load the problems, then build the curriculum and the rows from them.

        Args:
            only: ids of the problems of a resumed run, from its checkpoint. None loads those that the options select.

        Raises:
            ConfigError: no problem fits, a problem of `only` is missing, or a batch needs more prompts than an epoch
                has.
        """
        options, settings = self._options, self._settings
        problems = training_problems(
            self._store,
            split=options.split,
            where=options.problem_filter,
            limit=self.max_samples if self.max_samples > 0 else None,
            only=only,
            reads_images=self.processor is not None,
        )
        self.curriculum = Curriculum([problem.problem_id for problem in problems], settings, self._labels)
        prompts = PromptBuilder(True, options.system_prompt, options.instruction)
        self.dataframe = _Rows(
            problems, prompts, self._store, options, len(problems) * (settings.variants + 1)
        )
        size = self.config.get("gen_batch_size") or self.config.get("train_batch_size", 1)
        if size > len(self.dataframe):
            raise ConfigError(
                f"data.train_batch_size={size} is more than the {len(self.dataframe)} prompts of an epoch"
            )

    # --- a batch

    def __getitems__(self, items: Sequence[int]) -> list[dict[str, Any]]:
        """Return the rows of a batch. With a store, these are the chosen prompts of the next problems.

        Args:
            items: indices of veRL's sampler. With a store, only their number is used.

        Raises:
            ConfigError: the size of the batch is not a multiple of the prompts per problem, or the rewards of the last
                batch have not arrived.
        """
        if not self.reads_store:
            return [self[item] for item in items]
        rows: _Rows = self.dataframe
        if rows.choice is not None:
            raise ConfigError(
                "the rewards of the last batch did not come back: set trainer.v1.sampler.custom_sampler to "
                "CurriculumBuffer, and trainer.v1.trainer_mode=sync"
            )
        problem_P, chosen_P = self._next_problems(len(items))
        if self._recorder is None:
            self._begin()
        if self.step - self._refreshed_at >= self._options.refresh_steps:
            self._snapshot, self._refreshed_at = self._store.snapshot(), self.step
        choice = self.curriculum.choose(problem_P, self._snapshot, self.step, chosen_P)
        rows.choice, rows.texts = choice, self._snapshot.texts(choice.variant_numbers())
        self.step += 1
        return [
            self[place, slot] for place, slots in enumerate(choice.variant_PV) for slot in range(len(slots))
        ]

    def _next_problems(self, count: int) -> Drawn:
        """Choose the problems of the next batch.

        With the sampler `epoch`, each problem is used at most once per epoch. The order depends on seed and epoch.

        Args:
            count: number of rows of the batch.

        Raises:
            ConfigError: `count` is not a multiple of the prompts per problem.
        """
        slots, total = self.curriculum.settings.variants + 1, len(self.curriculum.problem_ids)
        problems = count // slots
        if count % slots:
            raise ConfigError(
                f"a batch of {count} prompts does not divide into problems of {slots} prompts each: set "
                "data.train_batch_size to a multiple, and leave algorithm.filter_groups and gen_batch_size alone"
            )
        if self.curriculum.settings.problem_sampler != "epoch":
            return self.curriculum.draw(problems, self.step)
        epoch, number = divmod(self.step, total // problems)
        order = np.random.default_rng([self.curriculum.settings.seed, epoch]).permutation(total)
        return Drawn(order[number * problems : (number + 1) * problems], np.full(problems, "epoch", object))

    def observe(self, rollouts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Update live difficulty with the rollouts of the present batch, and record them.

        Args:
            rollouts: a dictionary for each rollout: `place` and `slot` of its prompt, `sample` (number of the rollout
                of this prompt, from 0), `accuracy` (1, 0, or NaN if it was not judged), `reward`, and `tokens` (length
                of the response).

        Returns:
            Metrics for the log, by name.
        """
        choice: Choice | None = self.dataframe.choice
        assert choice is not None
        assert self._recorder is not None
        samples = 1 + max((rollout["sample"] for rollout in rollouts), default=0)
        accuracy_PVN: FloatArray = np.full((*choice.difficulty_PV.shape, samples), np.nan)
        for rollout in rollouts:
            accuracy_PVN[rollout["place"], rollout["slot"], rollout["sample"]] = rollout["accuracy"]
        visit = self.curriculum.observe(choice, accuracy_PVN)
        step = self.step - 1
        self._recorder.add(DifficultyEvent, step, event_columns(choice, visit, self.curriculum))
        self._recorder.add(Rollout, step, _rollout_columns(choice, self.curriculum.problem_ids, rollouts))
        self._recorder.maybe_flush(self.step)
        self.dataframe.choice = None
        metrics = self.curriculum.metrics(choice, accuracy_PVN)
        return {f"curriculum/{name}": value for name, value in metrics.items()}

    # --- a run

    def _begin(self) -> None:
        """Start the run in the store. It ends when this process exits, because veRL does not tell a dataset the end."""
        settings = json.dumps({"verl": self._given}, default=str)
        self._run_id = self._held.enter_context(self._store.run("train", settings, run_id=self._run_id))
        self._recorder = recorder = Recorder(self._store, self._run_id, self._options.flush_steps)
        recorder.start_attempt(self.step)
        self._held.callback(lambda: recorder.flush(self.step))
        atexit.register(self.close)

    def close(self) -> None:
        """Write the remaining records, and end the run in the store."""
        self._held.close()

    def state_dict(self) -> dict[str, Any]:
        """Write all records to the store, and return the state that veRL saves in `data.pt` of a checkpoint."""
        if not self.reads_store:
            return {}
        if self._recorder:
            self._recorder.flush(self.step)
        return {
            "step": self.step,
            "run_id": self._run_id,
            "variant_parts": self._snapshot.parts,
            "refreshed_at": self._refreshed_at,
            **self.curriculum.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned.

        Raises:
            ConfigError: a problem of the run is not in the store.
            StoreError: a part of the store that the checkpoint names is damaged or missing.
        """
        if not self.reads_store:
            return
        self._start(state["problem_ids"])
        self.curriculum.load_state_dict(state)
        self.step, self._run_id = state["step"], state["run_id"]
        self._snapshot = self._store.snapshot(state["variant_parts"])
        self._refreshed_at = state["refreshed_at"]


def _rollout_columns(
    choice: Choice, problem_ids: Sequence[str], rollouts: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    at = [(rollout["place"], rollout["slot"]) for rollout in rollouts]
    return {
        "problem_id": [problem_ids[choice.problem_P[place]] for place, _ in at],
        "slot": [slot for _, slot in at],
        "variant_id": [choice.variant_id(*prompt) for prompt in at],
        "sample": [rollout["sample"] for rollout in rollouts],
        "reward": [rollout["reward"] for rollout in rollouts],
        "accuracy": [None if np.isnan(r["accuracy"]) else r["accuracy"] for r in rollouts],
        "completion_tokens": [rollout["tokens"] for rollout in rollouts],
        "advantage": None,  # veRL computes it later, after it has taken the rollouts from the buffer
    }


class CurriculumBuffer(ReplayBuffer):
    """veRL's buffer of finished rollouts, which also passes their accuracies to `StoreDataset` before training.

    Raises:
        ConfigError: the trainer mode is not `sync`. Other modes generate the next batch while they train on a batch.
    """

    def __init__(self, trainer_mode: str, **kwargs: Any) -> None:
        if trainer_mode != "sync":
            raise ConfigError(f"trainer.v1.trainer_mode={trainer_mode}: CurriculumBuffer works with sync")
        super().__init__(trainer_mode=trainer_mode, **kwargs)

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        """Return a batch and metrics as veRL's own buffer does, and update the curriculum with the batch.

        Args:
            global_steps: see veRL's `ReplayBuffer`.
            partition_id: only batches of the partition `train` update the curriculum.
            batch_size: see veRL's `ReplayBuffer`.

        Raises:
            ConfigError: the dataset is not a `StoreDataset` with a store, or the reward function is not
                `compute_score`.
        """
        batch, metrics = super().sample(global_steps, partition_id, batch_size)
        if partition_id != "train":
            return batch, metrics
        if StoreDataset.training is None:
            raise ConfigError("CurriculumBuffer goes with data.custom_cls.name=StoreDataset and a store")
        return batch, {**metrics, **StoreDataset.training.observe(_rollouts(batch))}


def _rollouts(batch: Any) -> list[dict[str, Any]]:
    """Return the rollouts of a batch in the form that `StoreDataset.observe` expects.

    The key of a row in veRL's batch is {uid}_{session}_{index}, where (uid, session) identifies a rollout.
    """
    wanted = ["extra_info", "extra_fields", "rm_scores"]
    data = transfer_queue.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=wanted)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    columns = (list(data[name]) for name in wanted)
    for key, tag, info, more, scores in zip(batch.keys, batch.tags, *columns, strict=True):
        uid, session, _ = key.rsplit("_", 2)
        scored = _plain(more).get("reward_extra_info", {})
        if "judged" not in scored:
            raise ConfigError("set reward.custom_reward_function to compute_score of this module")
        place, slot = _plain(info)[_PLACE]
        # A rollout with several turns has several rows, each with the reward of the rollout.
        found[uid, session] = {
            "place": place,
            "slot": slot,
            "sample": int(session),
            "accuracy": float(scored["acc"]) if scored["judged"] else float("nan"),
            "reward": float(scores.sum()),
            "tokens": tag["response_len"],
        }
    return list(found.values())


def _plain(value: Any) -> dict[str, Any]:
    """Return a dictionary without tensordict's wrapper, if it has one."""
    found: dict[str, Any] = getattr(value, "data", value)
    return found
