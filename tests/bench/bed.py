"""One run of a testbed of hints: a warm model, a store of problems and variants, an arm, a seed.

The testbeds say what their problems are (`Bed`); here are the arms, the training by our trainer or TRL's own, and the
evaluations. `tests/bench/lock`, `gap`, `figures` and `llm` use it.
"""

from __future__ import annotations

import json
import random
import shutil
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig, GRPOTrainer

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.question import Question, question_of
from diva_grpo.schemas.records import Problem, Variant
from diva_grpo.trainer.config import DivaGRPOConfig
from diva_grpo.trainer.data import problems_dataset
from diva_grpo.trainer.grpo import DivaGRPOTrainer
from diva_grpo.trainer.loading import load_processor, load_tokenizer, reads_images
from diva_grpo.trainer.prompts import PromptBuilder
from diva_grpo.trainer.recorder import Recorder, RecorderCallback
from diva_grpo.trainer.steps import StepRecorder
from diva_grpo.trainer.vision import ImageRows
from tests.bench.convergence.contenders import PLAIN

GENERATIONS, EVAL_EVERY = 8, 5
LEARNING_RATE: Final = 7e-4

_PAPER: Mapping[str, Any] = {"num_variants": 1, "selector": "paper", "difficulty_init": "paper"}
_ONE_PROMPT: Mapping[str, Any] = {
    **PLAIN,
    "aim": "all",
    "difficulty_rule": "posterior",
    "variant_prior": "pooled",
}
_RESPONSE: Mapping[str, Any] = {**_ONE_PROMPT, "selector": "signal", "variant_prior": "item_response"}
_PREFIX: Mapping[str, Any] = {**_RESPONSE, "hint_style": "prefix"}

ARMS: Final[Mapping[str, Mapping[str, Any] | None]] = MappingProxyType(
    {
        "grpo": None,  # TRL's own trainer
        "augmented": None,  # it too, with a random variant in place of each original
        "dapo": {**PLAIN, "loss_type": "dapo", "epsilon_high": 0.28, "refill_rounds": 3},
        "difficulty": {**PLAIN, "problem_sampler": "difficulty"},
        "pool": {**PLAIN, "problem_sampler": "pool"},
        "paper": {**_PAPER, "full_solutions": True},
        "paper_ladder": _PAPER,
        "paper_ladder_local": {**_PAPER, "global_weight": 0.0},
        "paper_ladder_no_weight": {**_PAPER, "weight_k": 0.0},
        "paper_ladder_no_balance": {**_PAPER, "balance": "none"},
        "signal": {**_ONE_PROMPT, "selector": "signal", "variant_prior": "ladder"},
        "response": _RESPONSE,
        "response_entropy": {**_RESPONSE, "entropy_coef": 0.02},
        "response_kl": {**_RESPONSE, "beta": 0.02},
        "response_prefix": _PREFIX,
        "response_prefix_entropy": {**_PREFIX, "entropy_coef": 0.02},
        "response_prefix_entropy_anchor": {**_PREFIX, "entropy_coef": 0.02, "opening_anchor": True},
        "response_prefix_kl": {**_PREFIX, "beta": 0.02},
        "response_prefix_kl_anchor": {**_PREFIX, "beta": 0.02, "opening_anchor": True},
        "signal_pooled": {**_ONE_PROMPT, "selector": "signal"},
        "posterior": {**_ONE_PROMPT, "selector": "posterior"},
        "uniform": {**_ONE_PROMPT, "selector": "uniform"},
    }
)
"""Settings of each arm; hints stand in the question, as in the paper, unless `hint_style` says otherwise. Only `paper`
has full solutions."""

Asked = Mapping[str, list[Question]]
"""By the name of a measure, the questions of its accuracy. The arms are compared by the first measure."""


def originals(*splits: str) -> Callable[[VariantStore], Asked]:
    """Return what asks the originals of these splits, without hints; each split is a measure."""

    def ask(store: VariantStore) -> Asked:
        return {
            split: [question_of(problem) for problem in store.problems(where=f"split = '{split}'")]
            for split in splits
        }

    return ask


class _Prompts(PromptBuilder):
    """Prompts whose openings end with a whole token: the toy tokenizers join a line break and what follows it."""

    __slots__ = ()

    def prefix(self, hint: Sequence[str]) -> str:
        return PromptBuilder.prefix(self, hint).removesuffix("\n")


_TEXT: Final = _Prompts(chat=False)
_ORIGINALS_OF_TEST: Final = originals("test")


@dataclass(frozen=True, slots=True)
class Bed:
    """A testbed: what is equal for all of its runs.

    Attributes:
        name: of the folders of its warm models and stores, before the seed.
        facts: what the file of a run says about it, beside arm and seed.
        reward: called with prompts, completions and answer; 1 for a right answer, else 0.
        completion_tokens: of an answer at most.
        rollouts: of a step.
        steps: of a run.
        asked: returns what is evaluated, from its store.
        learning_rate: of all arms.
        eval_every: steps from one evaluation to the next.
        prompts: builds its prompts.
        lora_rank: of the adapters that are trained; 0 trains all weights.
        dtype: of the weights, adapters apart.
    """

    name: str
    facts: Mapping[str, Any]
    reward: Callable[..., list[float]]
    completion_tokens: int
    rollouts: int = 256
    steps: int = 100
    asked: Callable[[VariantStore], Asked] = _ORIGINALS_OF_TEST
    learning_rate: float = LEARNING_RATE
    eval_every: int = EVAL_EVERY
    prompts: PromptBuilder = _TEXT
    lora_rank: int = 0
    dtype: str = "float32"

    def rate(
        self, model: Any, processing: Any, questions: Sequence[Question], images: ImageRows | None = None
    ) -> float:
        """Share of right answers, one sampled answer (temperature 1) to each question."""
        rewards = self.rewards(model, processing, questions, images)
        return sum(rewards) / len(rewards)

    @torch.no_grad()
    def rewards(
        self, model: Any, processing: Any, questions: Sequence[Question], images: ImageRows | None = None
    ) -> list[float]:
        """The reward of one sampled answer (temperature 1) to each question.

        Args:
            model: the policy.
            processing: its tokenizer, or its processor.
            questions: what it is asked.
            images: loads their images; None if the policy reads text alone.
        """
        prompts = [self.prompts.prompt(q.text, (), q.hint) for q in questions]
        inputs = _inputs(processing, prompts, questions, images).to(model.device)
        answers = model.generate(
            **inputs, max_new_tokens=self.completion_tokens, do_sample=True, top_k=0, top_p=1.0
        )
        completions = processing.batch_decode(
            answers[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return self.reward(prompts=prompts, completions=completions, answer=[q.answer for q in questions])


def _inputs(
    processing: Any, prompts: Sequence[Any], questions: Sequence[Question], images: ImageRows | None
) -> Any:
    if images is None:
        if isinstance(prompts[0], str):
            return processing(list(prompts), return_tensors="pt", padding=True, return_token_type_ids=False)
        return processing.apply_chat_template(
            list(prompts), add_generation_prompt=True, return_dict=True, return_tensors="pt", padding=True
        )
    rows = [
        images.columns({"image_hashes": q.image_hashes, "text": q.original}, prompt, q.recipe)
        for prompt, q in zip(prompts, questions, strict=True)
    ]
    texts = processing.apply_chat_template(
        [row["prompt"] for row in rows], add_generation_prompt=True, tokenize=False
    )
    shown = [row["images"] for row in rows]
    return processing(images=shown, text=texts, return_tensors="pt", padding=True)


class _Evaluations(TrainerCallback):
    """Accuracy on what the testbed asks, before the first step and every `Bed.eval_every` steps."""

    def __init__(
        self, bed: Bed, store: VariantStore, processing: Any, images: ImageRows | None, seed: int
    ) -> None:
        self._bed, self._processing, self._images, self._seed = bed, processing, images, seed
        self._asked = bed.asked(store)
        self.accuracy: dict[str, dict[int, float]] = {name: {} for name in self._asked}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._evaluate(kwargs["model"], 0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step % self._bed.eval_every == 0:
            self._evaluate(kwargs["model"], state.global_step)

    def _evaluate(self, model: Any, step: int) -> None:
        state, cuda = torch.get_rng_state(), torch.cuda.get_rng_state_all()
        torch.manual_seed(self._seed)
        model.eval()
        for name, questions in self._asked.items():
            self.accuracy[name][step] = self._bed.rate(model, self._processing, questions, self._images)
        model.train()
        torch.set_rng_state(state)  # an evaluation changes no draw of the training
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


def accepted_variants(store: VariantStore) -> dict[str, list[Variant]]:
    """The accepted variants of a store, by problem."""
    variants: dict[str, list[Variant]] = defaultdict(list)
    for variant in store.read(Variant, "status = 'accepted'"):
        variants[variant.problem_id].append(variant)
    return variants


def _hint_style(arm: str) -> Any:
    return (ARMS[arm] or {}).get("hint_style", "prompt")


def give_own_steps(store: VariantStore) -> None:
    """Let each hint give the solution's steps in the policy's manner, in which alone they can open its answer."""
    steps = {problem.problem_id: problem.solution_steps for problem in store.problems()}
    variants = store.read(Variant, "hint_steps > 0")
    store.append([v.model_copy(update={"hint": list(steps[v.problem_id][: v.hint_steps])}) for v in variants])


def train_run(out: Path, bed: Bed, arm: str, seed: int, device: str) -> None:
    """Train one run from the warm model; its file is written when it has ended."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)
    disable_progress_bars()
    name, prepared = f"{arm}-{bed.name}-s{seed}", out / f"{bed.name}-s{seed}"
    scratch = out / "scratch" / name
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(prepared / "store", scratch / "store")
    store, began, cpu = VariantStore(scratch / "store"), time.monotonic(), time.process_time()
    if _hint_style(arm) == "prefix":
        give_own_steps(store)
    facts = {"arm": arm, **bed.facts, "seed": seed}
    random.seed(seed)
    with store.run("train", json.dumps(facts), "warm", name) as run_id:
        settings = _settings(bed, arm, seed, scratch, device)
        images = ImageRows(store.image_path) if reads_images(str(prepared / "warm")) else None
        trainer, recorder = _trainer(bed, arm, settings, str(prepared / "warm"), store, images, run_id)
        evaluations = _Evaluations(bed, store, trainer.processing_class, images, seed)
        trainer.add_callback(StepRecorder(recorder, trainer))
        trainer.add_callback(evaluations)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    steps = store.query(
        "SELECT step, rollouts, completion_tokens, groups, silent_groups FROM train_steps "
        "WHERE run_id = ? ORDER BY step",
        [name],
    )
    measure, *others = evaluations.accuracy
    result = {
        **facts,
        "accuracy": evaluations.accuracy[measure],
        **{f"accuracy_{name}": evaluations.accuracy[name] for name in others},
        "steps": [list(map(int, row)) for row in steps],
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - cpu,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
    }
    path = out / "runs" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result))
    part.rename(path)
    shutil.rmtree(scratch)


def _settings(bed: Bed, arm: str, seed: int, scratch: Path, device: str) -> dict[str, Any]:
    return {
        "num_generations": GENERATIONS,
        "per_device_train_batch_size": bed.rollouts,
        "max_completion_length": bed.completion_tokens,
        "temperature": 1.0,
        "beta": 0.0,
        "loss_type": "grpo",
        "lr_scheduler_type": "constant",
        "learning_rate": bed.learning_rate,
        "max_steps": bed.steps,
        "model_init_kwargs": {"dtype": bed.dtype},
        "seed": seed,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": device == "cpu",
        "logging_steps": bed.steps,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "output_dir": str(scratch / "model"),
        **(ARMS[arm] or {}),
    }


def _trainer(
    bed: Bed,
    arm: str,
    settings: dict[str, Any],
    model: str,
    store: VariantStore,
    images: ImageRows | None,
    run_id: str,
) -> tuple[GRPOTrainer, Recorder]:
    processing = load_processor(model) if images else load_tokenizer(model)
    problems, prompts = store.problems(where="split = 'train'"), bed.prompts
    lora = None
    if bed.lora_rank:
        lora = LoraConfig(
            r=bed.lora_rank, lora_alpha=2 * bed.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM"
        )
    never = bed.steps + 1  # once, at the end: a run that is cut short starts again
    if ARMS[arm] is not None:
        config = DivaGRPOConfig(**settings, store_flush_steps=never, store_refresh_steps=never)
        prompts = replace(prompts, hint_style=config.hint_style)
        ours = DivaGRPOTrainer(
            model, bed.reward, config, problems_dataset(problems, prompts), store=store, prompts=prompts,
            run_id=run_id, processing_class=processing, images=images, peft_config=lora,
        )  # fmt: skip
        return ours, ours.recorder
    if arm == "augmented":
        groups = bed.steps * bed.rollouts // GENERATIONS
        dataset = _augmented(store, problems, prompts, groups, settings["seed"])
        settings = {**settings, "shuffle_dataset": False}
    else:
        dataset = problems_dataset(problems, prompts)
    if images:
        dataset = dataset.with_transform(partial(_with_images, images=images))
    theirs = GRPOTrainer(
        model, bed.reward, GRPOConfig(**settings), dataset, processing_class=processing, peft_config=lora
    )
    recorder = Recorder(store, run_id, flush_steps=never)
    theirs.add_callback(RecorderCallback(recorder))
    return theirs, recorder


def _augmented(
    store: VariantStore, problems: Sequence[Problem], prompts: PromptBuilder, groups: int, seed: int
) -> Dataset:
    """Rows for at least `groups` groups. Each epoch has all problems in random order, each as one of its variants."""
    rng, variants = random.Random(f"augmented {seed}"), accepted_variants(store)
    rows: list[dict[str, Any]] = []
    while len(rows) < groups:
        for problem in rng.sample(problems, len(problems)):
            variant = rng.choice(variants[problem.problem_id])
            rows.append(
                {
                    "prompt": prompts.prompt(variant.text or problem.text, problem.options, variant.hint),
                    "answer": problem.answer,
                    "text": problem.text,
                    "image_hashes": [image.hash for image in problem.images],
                    "recipe": variant.recipe,
                }
            )
    return Dataset.from_list(rows)


def _with_images(rows: Mapping[str, list[Any]], images: ImageRows) -> dict[str, list[Any]]:
    """A batch of rows, with images in place of their hashes."""
    count = len(rows["prompt"])
    loaded = [
        images.columns(
            {"image_hashes": rows["image_hashes"][i], "text": rows["text"][i]},
            rows["prompt"][i],
            rows["recipe"][i] if "recipe" in rows else None,
        )
        for i in range(count)
    ]
    return {**rows, **{name: [columns[name] for columns in loaded] for name in ("prompt", "images")}}
