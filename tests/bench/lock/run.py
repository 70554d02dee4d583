"""One run of the testbed `lock`: an arm, a length, a seed; its evaluations and costs go to one JSON file."""

from __future__ import annotations

import json
import random
import shutil
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from datasets import disable_progress_bars
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig, GRPOTrainer

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.question import Question, question_of
from diva_grpo.schemas.records import Problem, Variant
from diva_grpo.trainer.config import DivaGRPOConfig
from diva_grpo.trainer.data import problems_dataset
from diva_grpo.trainer.grpo import DivaGRPOTrainer
from diva_grpo.trainer.loading import load_tokenizer
from diva_grpo.trainer.prompts import PromptBuilder
from diva_grpo.trainer.recorder import Recorder, RecorderCallback
from diva_grpo.trainer.steps import StepRecorder
from tests.bench.convergence.contenders import PLAIN
from tests.bench.lock.task import Lock, accuracy_reward, fill_store, warm_up

ROLLOUTS, GENERATIONS, STEPS, EVAL_EVERY = 256, 8, 100, 5
LEARNING_RATE: Final = 7e-4
OBEYS: Final = 0.9
"""Least pass rate of a warm model when the question names all rules. Below it, a hint does not help."""
TOKENS_PER_STEP: Final = 4
"""Of a worked step at most: number, cue, rule and digit."""

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


class PreconditionError(Exception):
    """The warm model cannot do what the testbed supposes."""


@dataclass(frozen=True, slots=True)
class Spec:
    """A run.

    Attributes:
        arm: of `ARMS`.
        length: steps of a problem, L.
        seed: of the table, the problems, the warm model and the training.
    """

    arm: str
    length: int
    seed: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.arm}-L{self.length}-s{self.seed}"


def prepare(out: Path, length: int, seed: int, device: str) -> None:
    """Warm a model, fill its stores, and measure the pass rate by given steps; what is there stays."""
    torch.set_num_threads(1)
    folder, task = out / f"L{length}-s{seed}", Lock(length, seed)
    if (folder / "preconditions.json").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    warm_up(task, folder / "warm")
    fill_store(task, folder / "store")
    rates = _preconditions(folder, length)
    if rates[str(length)] < OBEYS:
        raise PreconditionError(
            f"{folder.name}: told all rules, the warm model is right at {rates[str(length)]:.2f}, not {OBEYS}: "
            "a longer warm-up is needed"
        )
    (folder / "preconditions.json").write_text(json.dumps(rates))


def _preconditions(folder: Path, length: int) -> dict[str, float]:
    """Pass rate of the warm model by the number of steps given in the question, 256 answers each."""
    from transformers import AutoModelForCausalLM

    store = VariantStore(folder / "store")
    tokenizer = load_tokenizer(str(folder / "warm"))
    model = AutoModelForCausalLM.from_pretrained(folder / "warm")
    torch.manual_seed(0)
    problems = {p.problem_id: p for p in store.problems(where="split = 'train'")}
    rates = {"0": _rate(model, tokenizer, [question_of(p) for p in problems.values()], length)}
    for given in range(1, length + 1):
        hints = store.read(Variant, "hint_steps = ?", [given])
        asked = [question_of(problems[v.problem_id], v) for v in hints]
        rates[str(given)] = _rate(model, tokenizer, asked, length)
    return rates


@torch.no_grad()
def _rate(model: Any, tokenizer: Any, questions: list[Question], length: int) -> float:
    """Share of right answers, one sampled answer (temperature 1) to each question."""
    prompts = PromptBuilder(chat=False)
    texts = [prompts.prompt(q.text, (), q.hint) for q in questions]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False).to(model.device)
    answers = model.generate(
        **inputs, max_new_tokens=TOKENS_PER_STEP * length, do_sample=True, top_k=0, top_p=1.0
    )
    completions = tokenizer.batch_decode(answers[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    rewards = accuracy_reward(completions, [q.answer for q in questions])
    return sum(rewards) / len(rewards)


class _Evaluations(TrainerCallback):
    """Accuracy on the originals of the test split, without hints, every `EVAL_EVERY` steps."""

    def __init__(self, problems: list[Problem], tokenizer: Any, spec: Spec) -> None:
        self._questions = [question_of(p) for p in problems]
        self._tokenizer, self._spec = tokenizer, spec
        self.accuracy: dict[int, float] = {}

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
        torch.manual_seed(self._spec.seed)
        model.eval()
        self.accuracy[step] = _rate(model, self._tokenizer, self._questions, self._spec.length)
        model.train()
        torch.set_rng_state(state)  # an evaluation changes no draw of the training
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


def train_run(out: Path, spec: Spec, device: str) -> None:
    """Train one run from the warm model; the file is written when it has ended."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)
    disable_progress_bars()
    prepared = out / f"L{spec.length}-s{spec.seed}"
    scratch = out / "scratch" / spec.name
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(prepared / "store", scratch / "store")
    store = VariantStore(scratch / "store")
    settings = _settings(spec, scratch, device)
    model, began = str(prepared / "warm"), time.monotonic()
    random.seed(spec.seed)
    with store.run("train", json.dumps(asdict(spec)), "lock/warm", spec.name) as run_id:
        trainer, recorder = _trainer(spec, settings, model, store, run_id)
        evaluations = _Evaluations(store.problems(where="split = 'test'"), trainer.processing_class, spec)
        trainer.add_callback(StepRecorder(recorder, trainer))
        trainer.add_callback(evaluations)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    steps = store.query(
        "SELECT step, rollouts, completion_tokens, groups, silent_groups FROM train_steps "
        "WHERE run_id = ? ORDER BY step",
        [spec.name],
    )
    result = {
        **asdict(spec),
        "accuracy": evaluations.accuracy,
        "steps": [list(map(int, row)) for row in steps],
        "seconds": time.monotonic() - began,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
    }
    path = out / "runs" / f"{spec.name}.json"
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result))
    part.rename(path)
    shutil.rmtree(scratch)


def _settings(spec: Spec, scratch: Path, device: str) -> dict[str, Any]:
    return {
        "num_generations": GENERATIONS,
        "per_device_train_batch_size": ROLLOUTS,
        "max_completion_length": TOKENS_PER_STEP * spec.length,
        "temperature": 1.0,
        "beta": 0.0,
        "loss_type": "grpo",
        "lr_scheduler_type": "constant",
        "learning_rate": LEARNING_RATE,
        "max_steps": STEPS,
        "seed": spec.seed,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": device == "cpu",
        "logging_steps": STEPS,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "output_dir": str(scratch / "model"),
        **(ARMS[spec.arm] or {}),
    }


def _trainer(
    spec: Spec, settings: dict[str, Any], model: str, store: VariantStore, run_id: str
) -> tuple[GRPOTrainer, Recorder]:
    tokenizer, prompts = load_tokenizer(model), PromptBuilder(chat=False)
    dataset = problems_dataset(store.problems(where="split = 'train'"), prompts)
    never = STEPS + 1  # once, at the end: a run that is cut short starts again
    if ARMS[spec.arm] is not None:
        config = DivaGRPOConfig(**settings, store_flush_steps=never, store_refresh_steps=never)
        ours = DivaGRPOTrainer(
            model, accuracy_reward, config, dataset, store=store, prompts=prompts, run_id=run_id,
            processing_class=tokenizer,
        )  # fmt: skip
        return ours, ours.recorder
    theirs = GRPOTrainer(model, accuracy_reward, GRPOConfig(**settings), dataset, processing_class=tokenizer)
    recorder = Recorder(store, run_id, flush_steps=never)
    theirs.add_callback(RecorderCallback(recorder))
    return theirs, recorder
