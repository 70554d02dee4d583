"""The training command: YAML and flags in TRL's own manner.

diva train --config data/train_demo.yaml --store DIR --max_steps 20
accelerate launch -m diva_grpo.trainer --config data/train_demo.yaml --store DIR
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from trl import ModelConfig, TrlParser, get_peft_config, get_quantization_config

from diva_grpo.pipeline.images.shown import MIN_PIXELS
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import MAX_PIXELS
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.trainer.checkpoints import STATE_FILE, latest_checkpoint
from diva_grpo.trainer.config import DivaGRPOConfig
from diva_grpo.trainer.data import problems_dataset, training_problems
from diva_grpo.trainer.grpo import DivaGRPOTrainer
from diva_grpo.trainer.loading import load_processor, load_tokenizer, reads_images
from diva_grpo.trainer.prompts import PromptBuilder
from diva_grpo.trainer.rewards import load_rewards
from diva_grpo.trainer.steps import StepRecorder
from diva_grpo.trainer.vision import ImageRows

EXAMPLE = "example: diva train --config data/train_demo.yaml --store runs/store --max_steps 20"


@dataclass
class TrainArguments:
    """What to train on, beside TRL's own arguments."""

    store: str = field(metadata={"help": "Folder of the store."})
    split: str = field(default="train", metadata={"help": "Split of the problems."})
    eval_split: str = field(
        default="test", metadata={"help": "Split for evaluation during training, with --eval_strategy."}
    )
    problem_filter: str | None = field(
        default=None, metadata={"help": "SQL condition on `problems`, such as \"source = 'gsm8k'\"."}
    )
    max_problems: int | None = field(default=None, metadata={"help": "Only the first so many, by id."})
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
        default="", metadata={"help": "Added behind each question, such as where to put the answer."}
    )
    resume: bool = field(
        default=False,
        metadata={"help": "Go on from the last whole checkpoint of output_dir, if there is one."},
    )


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a training run ended.

    Attributes:
        run_id: under which its records are in the store.
        step: optimizer steps done.
        model_path: where the trained model lies.
    """

    run_id: str
    step: int
    model_path: str


def parse(arguments: Sequence[str]) -> tuple[TrainArguments, DivaGRPOConfig, ModelConfig]:
    """Read YAML (`--config`) and flags; a flag wins.

    Raises:
        ConfigError: an unknown field, or settings that cannot work.
        SystemExit: `--help`, or a flag that argparse refuses.
    """
    parser = TrlParser((TrainArguments, DivaGRPOConfig, ModelConfig), prog="diva train", epilog=EXAMPLE)
    try:
        parsed = parser.parse_args_and_config(args=list(arguments), fail_with_unknown_args=True)
    except ConfigError:
        raise
    except (ValueError, OSError) as error:
        raise ConfigError(str(error).strip().splitlines()[0]) from error
    train_args, config, model_args = parsed
    return train_args, config, model_args


def _reading(args: TrainArguments, store: VariantStore, model: str) -> tuple[ImageRows | None, Any]:
    """How the model reads: where its images come from (None: it reads text alone), and its processor."""
    if not reads_images(model):
        return None, load_tokenizer(model)
    if not 0 < args.min_pixels <= args.max_pixels:
        raise ConfigError(f"min_pixels={args.min_pixels} is not within 1 and max_pixels={args.max_pixels}")
    processor = load_processor(model, args.min_pixels, args.max_pixels)
    return ImageRows(store.image_path, args.min_pixels, args.max_pixels), processor


def train(train_args: TrainArguments, config: DivaGRPOConfig, model_args: ModelConfig) -> TrainResult:
    """Train a policy on the problems of a store; its records go back there.

    Raises:
        ConfigError: arguments, store and model that do not go together.
        StoreError: no such store.
    """
    if model_args.model_name_or_path is None:
        raise ConfigError("no model: give --model_name_or_path")
    store = VariantStore(train_args.store)
    images, processing = _reading(train_args, store, model_args.model_name_or_path)
    prompts = PromptBuilder(
        chat=processing.chat_template is not None,
        system=train_args.system_prompt,
        instruction=train_args.instruction,
        hint_style=config.hint_style,
        hint_opening=config.hint_opening,
    )
    problems = training_problems(
        store,
        split=train_args.split,
        where=train_args.problem_filter,
        limit=train_args.max_problems,
        reads_images=images is not None,
    )
    eval_dataset = None
    if config.eval_strategy != "no":
        held_out = training_problems(store, split=train_args.eval_split, reads_images=images is not None)
        eval_dataset = problems_dataset(held_out, prompts)
    rewards, weights = load_rewards(train_args.rewards)
    if weights and config.reward_weights is None:
        config.reward_weights = weights
    config.model_init_kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(config.model_init_kwargs or {}),
    }
    checkpoint = config.resume_from_checkpoint
    if train_args.resume and checkpoint is None:
        checkpoint = latest_checkpoint(config.output_dir)
    known_run = torch.load(Path(checkpoint) / STATE_FILE, weights_only=True)["run_id"] if checkpoint else None
    is_main = int(os.environ.get("RANK", "0")) == 0
    settings = json.dumps({"train": vars(train_args), "trl": config.to_dict()}, default=str)
    recorded = (
        store.run("train", settings, model_args.model_name_or_path, known_run) if is_main else nullcontext("")
    )
    with recorded as run_id:
        trainer = DivaGRPOTrainer(
            model_args.model_name_or_path,
            rewards,
            config,
            problems_dataset(problems, prompts),
            store=store,
            prompts=prompts,
            run_id=run_id,
            images=images,
            eval_dataset=eval_dataset,
            processing_class=processing,
            peft_config=get_peft_config(model_args),
            quantization_config=get_quantization_config(model_args),
        )
        trainer.add_callback(StepRecorder(trainer.recorder, trainer, config.accuracy_from))
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
        finally:
            trainer.recorder.flush(trainer.state.global_step)
        trainer.save_model(config.output_dir)
    return TrainResult(run_id, trainer.state.global_step, config.output_dir)


def main(arguments: Sequence[str]) -> TrainResult:
    """Parse and train."""
    # TRL 1.16 reads this attribute; it is not a setting of the user's.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    return train(*parse(arguments))
