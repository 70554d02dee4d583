"""One run of a testbed of hints: a warm model, a store of problems and variants, an arm, a seed.

The testbeds say what their problems are (`Bed`); here are the arms, the training by our trainer or TRL's own, and the
evaluations. `tests/bench/lock`, `gap` and `llm` use it.
"""

from __future__ import annotations

import json
import random
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from datasets import disable_progress_bars
from peft import LoraConfig
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig, GRPOTrainer

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.question import Question, question_of
from diva_grpo.trainer.config import DivaGRPOConfig
from diva_grpo.trainer.data import problems_dataset
from diva_grpo.trainer.grpo import DivaGRPOTrainer
from diva_grpo.trainer.loading import load_tokenizer
from diva_grpo.trainer.prompts import PromptBuilder
from diva_grpo.trainer.recorder import Recorder, RecorderCallback
from diva_grpo.trainer.steps import StepRecorder
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

ARMS: Final[Mapping[str, Mapping[str, Any] | None]] = MappingProxyType(
    {
        "grpo": None,  # TRL's own trainer
        "dapo": {**PLAIN, "loss_type": "dapo", "epsilon_high": 0.28, "refill_rounds": 3},
        "difficulty": {**PLAIN, "problem_sampler": "difficulty"},
        "pool": {**PLAIN, "problem_sampler": "pool"},
        "paper": {**_PAPER, "full_solutions": True},
        "paper_ladder": _PAPER,
        "paper_ladder_local": {**_PAPER, "global_weight": 0.0},
        "paper_ladder_no_weight": {**_PAPER, "weight_k": 0.0},
        "paper_ladder_no_balance": {**_PAPER, "balance": "none"},
        "signal": {**_ONE_PROMPT, "selector": "signal", "variant_prior": "ladder"},
        "response": {**_ONE_PROMPT, "selector": "signal", "variant_prior": "item_response"},
        "signal_pooled": {**_ONE_PROMPT, "selector": "signal"},
        "posterior": {**_ONE_PROMPT, "selector": "posterior"},
        "uniform": {**_ONE_PROMPT, "selector": "uniform"},
    }
)
"""Settings of each arm; hints stand in the question, as in the paper. Only `paper` has full solutions."""


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
        splits: of its store that are evaluated; the first is what the arms are compared by.
        chat: whether prompts are conversations.
        lora_rank: of the adapters that are trained; 0 trains all weights.
        learning_rate: of all arms.
    """

    name: str
    facts: Mapping[str, Any]
    reward: Callable[..., list[float]]
    completion_tokens: int
    rollouts: int = 256
    steps: int = 100
    splits: tuple[str, ...] = ("test",)
    chat: bool = False
    lora_rank: int = 0
    learning_rate: float = LEARNING_RATE

    @property
    def prompts(self) -> PromptBuilder:
        """Builds its prompts."""
        return PromptBuilder(chat=self.chat)

    @torch.no_grad()
    def rate(self, model: Any, tokenizer: Any, questions: list[Question]) -> float:
        """Share of right answers, one sampled answer (temperature 1) to each question."""
        asked = [self.prompts.prompt(q.text, (), q.hint) for q in questions]
        texts = (
            tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
            if self.chat
            else asked
        )
        inputs = tokenizer(
            texts,
            return_tensors="pt",
            padding=True,
            return_token_type_ids=False,
            add_special_tokens=not self.chat,  # a chat template has them
        )
        inputs = inputs.to(model.device)
        answers = model.generate(
            **inputs, max_new_tokens=self.completion_tokens, do_sample=True, top_k=0, top_p=1.0
        )
        completions = tokenizer.batch_decode(
            answers[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        rewards = self.reward(prompts=texts, completions=completions, answer=[q.answer for q in questions])
        return sum(rewards) / len(rewards)


class _Evaluations(TrainerCallback):
    """Accuracy on the originals of the evaluated splits, without hints, every `EVAL_EVERY` steps."""

    def __init__(self, bed: Bed, store: VariantStore, tokenizer: Any, seed: int) -> None:
        self._bed, self._tokenizer, self._seed = bed, tokenizer, seed
        self._questions = {
            split: [question_of(p) for p in store.problems(where=f"split = '{split}'")]
            for split in bed.splits
        }
        self.accuracy: dict[str, dict[int, float]] = {split: {} for split in bed.splits}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._evaluate(kwargs["model"], 0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step % EVAL_EVERY == 0:
            self._evaluate(kwargs["model"], state.global_step)

    def _evaluate(self, model: Any, step: int) -> None:
        state, cuda = torch.get_rng_state(), torch.cuda.get_rng_state_all()
        torch.manual_seed(self._seed)
        model.eval()
        for split, questions in self._questions.items():
            self.accuracy[split][step] = self._bed.rate(model, self._tokenizer, questions)
        model.train()
        torch.set_rng_state(state)  # an evaluation changes no draw of the training
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


def train_run(out: Path, bed: Bed, arm: str, seed: int, device: str) -> None:
    """Train one run from the warm model; its file is written when it has ended."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)
    disable_progress_bars()
    name, prepared = f"{arm}-{bed.name}-s{seed}", out / f"{bed.name}-s{seed}"
    scratch = out / "scratch" / name
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(prepared / "store", scratch / "store")
    store, began = VariantStore(scratch / "store"), time.monotonic()
    facts = {"arm": arm, **bed.facts, "seed": seed}
    random.seed(seed)
    with store.run("train", json.dumps(facts), "warm", name) as run_id:
        settings = _settings(bed, arm, seed, scratch, device)
        trainer, recorder = _trainer(bed, arm, settings, str(prepared / "warm"), store, run_id)
        evaluations = _Evaluations(bed, store, trainer.processing_class, seed)
        trainer.add_callback(StepRecorder(recorder, trainer))
        trainer.add_callback(evaluations)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    steps = store.query(
        "SELECT step, rollouts, completion_tokens, groups, silent_groups FROM train_steps "
        "WHERE run_id = ? ORDER BY step",
        [name],
    )
    measure, *others = bed.splits
    result = {
        **facts,
        "accuracy": evaluations.accuracy[measure],
        **{f"accuracy_{split}": evaluations.accuracy[split] for split in others},
        "steps": [list(map(int, row)) for row in steps],
        "seconds": time.monotonic() - began,
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
    bed: Bed, arm: str, settings: dict[str, Any], model: str, store: VariantStore, run_id: str
) -> tuple[GRPOTrainer, Recorder]:
    tokenizer, prompts = load_tokenizer(model), bed.prompts
    lora = LoraConfig(r=bed.lora_rank, task_type="CAUSAL_LM") if bed.lora_rank else None
    dataset = problems_dataset(store.problems(where="split = 'train'"), prompts)
    never = bed.steps + 1  # once, at the end: a run that is cut short starts again
    if ARMS[arm] is not None:
        config = DivaGRPOConfig(**settings, store_flush_steps=never, store_refresh_steps=never)
        ours = DivaGRPOTrainer(
            model, bed.reward, config, dataset, store=store, prompts=prompts, run_id=run_id,
            processing_class=tokenizer, peft_config=lora,
        )  # fmt: skip
        return ours, ours.recorder
    theirs = GRPOTrainer(
        model, bed.reward, GRPOConfig(**settings), dataset, processing_class=tokenizer, peft_config=lora
    )
    recorder = Recorder(store, run_id, flush_steps=never)
    theirs.add_callback(RecorderCallback(recorder))
    return theirs, recorder
