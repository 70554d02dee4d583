"""The training command `diva train`, with options from a YAML file and flags as in TRL's scripts.

diva train --config data/train_demo.yaml --store DIR --max_steps 20
accelerate launch -m diva_grpo.trainer --config data/train_demo.yaml --store DIR
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate.utils import broadcast_object_list
from pydantic import ValidationError
from trl import ModelConfig, TrlParser, get_peft_config, get_quantization_config

from diva_grpo.pipeline.diagnosis.diagnose import Diagnosis
from diva_grpo.pipeline.images.shown import MIN_PIXELS
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import MAX_PIXELS
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.policy import PolicyConfig
from diva_grpo.trainer.arguments import config_file, preset_of
from diva_grpo.trainer.asking import prompts_of, template_digest, unapplied
from diva_grpo.trainer.checkpoints import STATE_FILE, Checkpoint
from diva_grpo.trainer.config import DivaGRPOConfig
from diva_grpo.trainer.data import problems_dataset, training_problems
from diva_grpo.trainer.diagnosis import diagnosis_of
from diva_grpo.trainer.grpo import DivaGRPOTrainer
from diva_grpo.trainer.loading import load_processor, load_tokenizer, reads_images
from diva_grpo.trainer.model_path import SETTING, beside
from diva_grpo.trainer.refusals import first_line, in_one_line
from diva_grpo.trainer.rewards import load_rewards
from diva_grpo.trainer.run_folder import (
    RunFile,
    RunFileCallback,
    as_json,
    at_work,
    check_resumed_settings,
    find_resumed,
    read_run_file,
    superseded_checkpoints,
    told_how_to_continue,
)
from diva_grpo.trainer.steps import StepRecorder
from diva_grpo.trainer.terminal import progress_of
from diva_grpo.trainer.vision import ImageRows

logger = logging.getLogger(__name__)

EXAMPLE = "example: diva train --config data/train_demo.yaml --store runs/store --max_steps 20"


@dataclass
class TrainArguments:
    """Arguments of `diva train` that are not in `DivaGRPOConfig` or TRL's `ModelConfig`."""

    store: str = field(metadata={"help": "Folder of the store."})
    preset: str | None = field(
        default=None,
        metadata={
            "help": "hints (default if no option of the method is set) or paper; other options override it."
        },
    )
    split: str = field(default="train", metadata={"help": "Split of the problems."})
    eval_split: str = field(default="test", metadata={"help": "Split to evaluate on (--eval_strategy)."})
    problem_filter: str | None = field(
        default=None, metadata={"help": "SQL condition on `problems`, such as \"source = 'gsm8k'\"."}
    )
    max_problems: int | None = field(default=None, metadata={"help": "Only the first N, by id."})
    rewards: list[str] = field(
        default_factory=lambda: ["accuracy"],
        metadata={"help": "accuracy, format, paper (0.9 accuracy + 0.1 format), or dotted paths."},
    )
    system_prompt: str | None = field(default=None, metadata={"help": "System message of a conversation."})
    min_pixels: int = field(
        default=MIN_PIXELS, metadata={"help": "Images with a smaller area are enlarged (models with images)."}
    )
    max_pixels: int = field(
        default=MAX_PIXELS,
        metadata={"help": "Images with a larger area are made smaller; it bounds memory and tokens."},
    )
    instruction: str = field(
        default="", metadata={"help": "Added after each question, such as where to put the answer."}
    )
    resume: bool = field(
        default=False,
        metadata={
            "help": "Continue from the last complete checkpoint of the run in output_dir, if there is one."
        },
    )
    overwrite: bool = field(
        default=False,
        metadata={"help": "Delete checkpoints of other runs in output_dir, which is refused otherwise."},
    )


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The result of a training run.

    Attributes:
        run_id: id of the run in the store; empty in processes other than the main one.
        step: number of optimizer steps done.
        model_path: folder of the trained model.
        store: folder of the store.
        diagnosis: diagnosis of the run; None if it failed, and in processes other than the main one.
    """

    run_id: str
    step: int
    model_path: str
    store: str
    diagnosis: Diagnosis | None


class _Parser(TrlParser):
    """TRL's parser with errors of one line, without the usage text of several hundred lines.

    A model folder that a YAML file names is relative to that file (see `model_path.beside`).
    """

    file: Path | None = None

    def set_defaults_with_config(self, **settings: Any) -> list[str]:
        """Use the values of the YAML file as defaults."""
        if self.file and settings.get(SETTING) is not None:
            settings[SETTING] = beside(self.file, str(settings[SETTING]))
        remaining: list[str] = super().set_defaults_with_config(**settings)
        return remaining

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{first_line(ValueError(message))} (`diva train --help`)")


def parse(arguments: Sequence[str]) -> tuple[TrainArguments, DivaGRPOConfig, ModelConfig]:
    """Read the arguments of `diva train` from flags and a YAML file (`--config`), which flags override.

    Raises:
        ConfigError: a name is unknown, or the settings cannot work.
        SystemExit: for `--help`.
    """
    preset, flags, defaults = preset_of(arguments)
    parser = _Parser((TrainArguments, DivaGRPOConfig, ModelConfig), prog="diva train", epilog=EXAMPLE)
    parser.file = config_file(arguments)
    try:
        with in_one_line():
            parser.set_defaults_with_config(**defaults)
            parsed = parser.parse_args_and_config(args=[*flags, *arguments], fail_with_unknown_args=True)
    except ConfigError:
        raise
    except (ValueError, OSError) as error:
        raise ConfigError(first_line(error)) from error
    train_args, config, model_args = parsed
    if train_args.preset != preset:
        raise ConfigError("write --preset in full, once")
    return train_args, config, model_args


def _reading(args: TrainArguments, store: VariantStore, model: str) -> tuple[ImageRows | None, Any]:
    """Return the loader of images and the processor of a model; None and the tokenizer if it reads only text."""
    if not reads_images(model):
        return None, load_tokenizer(model)
    if not 0 < args.min_pixels <= args.max_pixels:
        raise ConfigError(f"min_pixels={args.min_pixels} is not within 1 and max_pixels={args.max_pixels}")
    processor = load_processor(model, args.min_pixels, args.max_pixels)
    return ImageRows(store.image_path, args.min_pixels, args.max_pixels), processor


def train(train_args: TrainArguments, config: DivaGRPOConfig, model_args: ModelConfig) -> TrainResult:
    """Train a policy on the problems of a store, and record the run in the store.

    Args:
        train_args: store, problems, rewards and prompts.
        config: options of the trainer.
        model_args: the model, and options for loading it.

    Raises:
        ConfigError: arguments, store, model and output_dir do not fit together.
        StoreError: there is no such store.
        TrainingError: GPU memory or disk space is exhausted.
    """
    if model_args.model_name_or_path is None:
        raise ConfigError("no model: give --model_name_or_path")
    started = Path(model_args.model_name_or_path)
    if (started / "adapter_config.json").exists() and not (started / "config.json").exists():
        raise ConfigError(
            f"{started} has an adapter and no model: continue its run with --resume true, or merge it into its base "
            "(peft's `merge_and_unload`) and train the result"
        )
    config = config.settled(variants=True)
    settings = as_json({**vars(train_args), **config.to_dict(), **vars(model_args)})
    store = VariantStore(train_args.store)
    reading = _reading(train_args, store, model_args.model_name_or_path)
    with (
        _begun(train_args, config, settings) as start,
        told_how_to_continue(config.output_dir),
        in_one_line(),
    ):
        return _train(train_args, config, model_args, store, reading, settings, start)


def policy_of_training(train_args: TrainArguments, config: DivaGRPOConfig, processing: Any) -> PolicyConfig:
    """Return the prompt and sampling options of the policy in training.

    Args:
        train_args: arguments of `diva train`.
        config: options of the trainer.
        processing: the model's tokenizer, or its processor if it reads images.

    Raises:
        ConfigError: a sampling option has an invalid value.
    """
    if config.temperature <= 0:
        raise ConfigError(f"temperature={config.temperature}: above 0, since rollouts are sampled")
    sees = hasattr(processing, "image_processor")
    asked: dict[str, Any] = {
        "system_prompt": train_args.system_prompt,
        "instruction": train_args.instruction,
        "hint_style": config.hint_style,
        "hint_opening": config.hint_opening,
        "chat_template": template_digest(processing),
        "chat_template_kwargs": config.chat_template_kwargs or {},
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": config.top_k,
        "min_p": config.min_p,
        "repetition_penalty": config.repetition_penalty,
        "generation_kwargs": config.generation_kwargs or {},
        "max_new_tokens": config.max_completion_length,
        "min_pixels": train_args.min_pixels if sees else None,
        "max_pixels": train_args.max_pixels if sees else None,
    }
    try:
        return PolicyConfig.model_validate(asked)
    except ValidationError as error:
        first = error.errors()[0]
        name = {"max_new_tokens": "max_completion_length"}.get(str(first["loc"][0]), first["loc"][0])
        raise ConfigError(f"{name}={first['input']}: {first['msg'].removeprefix('Input ')}") from error


def _is_main() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


@dataclass(frozen=True, slots=True)
class _Start:
    """The state from which a run starts.

    Attributes:
        checkpoint: checkpoint from which it continues; None for a new run.
        problem_ids: problems of the resumed run; None for a new run.
        superseded: folders of checkpoints that must be deleted before it starts.
    """

    checkpoint: Checkpoint | None
    problem_ids: list[str] | None
    superseded: list[Path]


@contextmanager
def _begun(train_args: TrainArguments, config: DivaGRPOConfig, settings: dict[str, Any]) -> Iterator[_Start]:
    """Lock the folder of the run, and find the checkpoint to continue from.

    The main process does this, and all processes get the same result or error.

    Raises:
        ConfigError: the folder has checkpoints of another run, another trainer uses it, or the run cannot continue with
            these settings.
    """
    with ExitStack() as held:
        found: Any = None
        if _is_main():
            try:
                held.enter_context(at_work(config.output_dir))
                resumed = find_resumed(
                    config.output_dir, config.resume_from_checkpoint, resume=train_args.resume
                )
                found = (
                    resumed,
                    superseded_checkpoints(config.output_dir, resumed, overwrite=train_args.overwrite),
                )
            except ConfigError as error:
                found = error
        [found] = broadcast_object_list([found])
        if isinstance(found, ConfigError):
            raise found
        resumed, superseded = found
        yield _start(resumed, superseded, settings)


def _start(resumed: Checkpoint | None, superseded: list[Path], settings: dict[str, Any]) -> _Start:
    """Check that a run can continue with these settings, and return where it starts.

    Args:
        resumed: checkpoint from which it continues; None for a new run.
        superseded: folders of checkpoints that must be deleted.
        settings: all settings of the run, as in `RunFile.settings`.

    Raises:
        ConfigError: a setting has changed that must not change.
    """
    if resumed is None:
        return _Start(None, None, superseded)
    run = read_run_file(resumed.folder)
    if run is None and _is_main():
        logger.warning(
            "%s has no run file that can be read: whether settings have changed is not known", resumed.folder
        )
    changed = check_resumed_settings(run, settings) if run else ""
    if changed and _is_main():
        logger.warning("the run %s continues with other settings: %s", resumed.run_id, changed)
    state = torch.load(resumed.folder / STATE_FILE, map_location="cpu", weights_only=True, mmap=True)
    return _Start(resumed, state["problem_ids"], superseded)


def _train(
    train_args: TrainArguments,
    config: DivaGRPOConfig,
    model_args: ModelConfig,
    store: VariantStore,
    reading: tuple[ImageRows | None, Any],
    settings: dict[str, Any],
    start: _Start,
) -> TrainResult:
    images, processing = reading
    policy = policy_of_training(train_args, config, processing)
    prompts = prompts_of(policy, chat=processing.chat_template is not None)
    problems = training_problems(
        store,
        split=train_args.split,
        where=train_args.problem_filter,
        limit=train_args.max_problems,
        only=start.problem_ids,
        reads_images=images is not None,
    )
    held_out = None
    if config.eval_strategy != "no":
        held_out = training_problems(store, split=train_args.eval_split, reads_images=images is not None)
    rewards, weights = load_rewards(train_args.rewards)
    config = _completed(config, model_args, weights)
    kept_policy = policy.model_dump(mode="json")
    kept = json.dumps({**settings, "policy": kept_policy})
    with _recorded(store, kept, model_args.model_name_or_path, start) as run_id:
        trainer = DivaGRPOTrainer(
            str(model_args.model_name_or_path),
            rewards,
            config,
            problems_dataset(problems, prompts),
            store=store,
            prompts=prompts,
            run_id=run_id,
            images=images,
            eval_dataset=problems_dataset(held_out, prompts) if held_out else None,
            processing_class=processing,
            peft_config=get_peft_config(model_args),
            quantization_config=get_quantization_config(model_args),
        )
        trainer.add_callback(StepRecorder(trainer.recorder, trainer, trainer.accuracy_from))
        trainer.add_callback(RunFileCallback(RunFile(run_id, settings, kept_policy)))
        if _is_main():
            for folder in start.superseded:
                shutil.rmtree(folder)
            if ignored := unapplied(trainer.accelerator.unwrap_model(trainer.model), policy):
                logger.warning("the model's generation_config is not applied in training: it has %s", ignored)
        with progress_of(trainer):
            try:
                trainer.train(
                    resume_from_checkpoint=str(start.checkpoint.folder) if start.checkpoint else None
                )
            finally:
                trainer.recorder.flush(trainer.state.global_step)
            if config.load_best_model_at_end and trainer.state.best_model_checkpoint is None and _is_main():
                logger.warning(
                    "no checkpoint was evaluated, so the saved model is the last one: lower --eval_steps"
                )
            trainer.save_model(config.output_dir)
    found = diagnosis_of(store, run_id) if _is_main() else None
    return TrainResult(run_id, trainer.state.global_step, config.output_dir, train_args.store, found)


def _completed(
    config: DivaGRPOConfig, model_args: ModelConfig, weights: list[float] | None
) -> DivaGRPOConfig:
    """Return the options of the trainer with those for loading the model, and the usual weights of the rewards.

    Options that the user gives are kept.
    """
    loading = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
    }
    completed = copy(config)
    completed.model_init_kwargs = {**loading, **(config.model_init_kwargs or {})}
    if config.reward_weights is None:
        completed.reward_weights = weights
    return completed


def _recorded(
    store: VariantStore, settings: str, model: str | None, start: _Start
) -> AbstractContextManager[str]:
    """Return a context that records the run in the store and gives its id.

    In processes other than the main one it does nothing and gives an empty text.
    """
    known_run = start.checkpoint.run_id if start.checkpoint else None
    return store.run("train", settings, model, known_run) if _is_main() else nullcontext("")


def main(arguments: Sequence[str]) -> TrainResult:
    """Parse the arguments of `diva train`, and train."""
    # TRL 1.16 reads this attribute itself, so the user cannot avoid the warning.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    return train(*parse(arguments))
