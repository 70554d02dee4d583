"""One task made ready, and one training run on it: everything a run says goes to the task's store."""

from __future__ import annotations

import json
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import LabelConfig
from diva_grpo.schemas.records import Evaluation
from diva_grpo.schemas.replies import Answer, Reply
from diva_grpo.trainer.config import DivaGRPOConfig
from diva_grpo.trainer.data import problems_dataset
from diva_grpo.trainer.evaluation.policy import PolicySolver
from diva_grpo.trainer.grpo import DivaGRPOTrainer
from diva_grpo.trainer.loading import load_tokenizer
from diva_grpo.trainer.prompts import PromptBuilder
from diva_grpo.trainer.recorder import Recorder, RecorderCallback
from tests.bench.convergence import preconditions
from tests.bench.convergence.contenders import CONTENDERS, SHARED, Contender
from tests.bench.convergence.noise import NoiseRecorder
from tests.bench.convergence.tasks import TASKS, Task, fill_store
from tests.bench.convergence.warm import warm_up
from tests.support.sessions import label

LABEL_SAMPLES = 4
LABELS = "labels.json"


@dataclass(frozen=True, slots=True)
class RunSpec:
    """A training run of the plan.

    Attributes:
        task: of the testbed.
        contender: the method.
        seed: of order, sampling and choices.
        learning_rate: of AdamW, constant.
        group: grid (the learning rate is chosen by it), main, ablation or trial.
        steps: of training.
        eval_every: steps between two evaluations.
    """

    task: str
    contender: str
    seed: int
    learning_rate: float
    group: str
    steps: int
    eval_every: int

    @property
    def run_id(self) -> str:
        """The same for the same run, so that a plan can be gone on with."""
        return f"{self.group}-{self.contender}-{self.learning_rate:g}-{self.seed}-{self.steps}"

    @property
    def split(self) -> str:
        """What is evaluated on: choices are made on other problems than reports."""
        return "validation" if self.group in ("grid", "trial") else "test"


class _CountingSolver:
    """A solver whose rollouts and tokens are counted, for those who pay for labels."""

    def __init__(self, solver: PolicySolver, tokenizer: Any) -> None:
        self._solver, self._tokenizer = solver, tokenizer
        self.rollouts = self.tokens = 0

    @property
    def model(self) -> str:
        return self._solver.model

    def solve(self, questions: Any, samples: int, progress: Any = None) -> list[list[Answer[Reply]]]:
        answers = self._solver.solve(questions, samples, progress)
        texts = [answer.text for given in answers for answer in given]
        self.rollouts += len(texts)
        self.tokens += sum(len(ids) + 1 for ids in self._tokenizer(texts)["input_ids"])
        return answers


def prepare(out: Path, name: str) -> None:
    """Warm a task's model up, fill its store, and measure labels and preconditions; what is there stays.

    Args:
        out: the testbed's folder.
        name: of the task.
    """
    folder = out / name
    task, model = TASKS[name], folder / "warm"
    if not (folder / LABELS).exists():
        _prepare_store(folder, task, model)
    if not (folder / preconditions.FILE).exists():
        store = VariantStore(folder / "store")
        found = preconditions.measure(store, model, _exact, SHARED["max_completion_length"])
        (folder / preconditions.FILE).write_text(json.dumps(found))


def _prepare_store(folder: Path, task: Task, model: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not (model / "tokenizer.json").exists():
        warm_up(task, model)
    store, variants = fill_store(task, folder / "store")
    policy = PolicySolver(
        str(model), hint_style="prefix", max_new_tokens=SHARED["max_completion_length"], name="warm"
    )
    solver = _CountingSolver(policy, load_tokenizer(str(model)))
    began = time.process_time()
    label(store, solver, LabelConfig(samples=LABEL_SAMPLES, label_model=True), where="split = 'train'")
    spent = {
        "label_rollouts": solver.rollouts,
        "label_tokens": solver.tokens,
        "label_seconds": time.process_time() - began,
    }
    store.append(variants)
    (folder / LABELS).write_text(json.dumps(spent))


def _exact(completions: list[str], answer: list[str], **columns: Any) -> list[float]:
    """1 where what stands behind the last `####` is the answer: the texts are numbers, and a grader takes longer."""
    return [
        float(text.rpartition("#### ")[2].strip() == reference)
        for text, reference in zip(completions, answer, strict=True)
    ]


_exact.__name__ = "accuracy_reward"


class _Evaluations(TrainerCallback):
    """Answers the held-out originals once each every few steps, in one batch."""

    def __init__(self, spec: RunSpec, store: VariantStore, tokenizer: Any, run_id: str) -> None:
        self._spec, self._store, self._tokenizer, self._run_id = spec, store, tokenizer, run_id
        self._problems = store.problems(where=f"split = '{spec.split}'")
        prompts = PromptBuilder(chat=False)
        texts = [prompts.prompt(problem.text) for problem in self._problems]
        self._inputs = tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
        self._rows: list[Evaluation] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._evaluate(kwargs["model"], 0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step % self._spec.eval_every == 0:
            self._evaluate(kwargs["model"], state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._store.append(self._rows)

    @torch.no_grad()
    def _evaluate(self, model: Any, step: int) -> None:
        state = torch.get_rng_state()  # evaluation moves no draw of the training
        torch.manual_seed(self._spec.seed)
        model.eval()
        generated = model.generate(
            **self._inputs,
            max_new_tokens=SHARED["max_completion_length"],
            do_sample=True,
            top_k=0,
            top_p=1.0,
            disable_compile=True,
        )
        model.train()
        torch.set_rng_state(state)
        texts = self._tokenizer.batch_decode(
            generated[:, self._inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        right = _exact(texts, [problem.answer for problem in self._problems])
        self._rows += [
            Evaluation(
                run_id=self._run_id,
                step=step,
                split=problem.split,
                problem_id=problem.problem_id,
                samples=1,
                correct=int(value),
            )
            for problem, value in zip(self._problems, right, strict=True)
        ]


def train_run(out: Path, spec: RunSpec) -> None:
    """Train one run from the warm model to its end; an earlier try that was cut short is superseded.

    Args:
        out: the testbed's folder, in which the task is ready.
        spec: the run.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)  # of names that transformers will change
    disable_progress_bars()
    folder, contender = out / spec.task, CONTENDERS[spec.contender]
    store = VariantStore(folder / "store")
    spent = json.loads((folder / LABELS).read_text())
    bench = {**asdict(spec), **{key: value if contender.labels else 0 for key, value in spent.items()}}
    settings = {
        **contender.settings,
        "max_steps": spec.steps,
        "learning_rate": spec.learning_rate,
        "seed": spec.seed,
        "output_dir": str(out / "scratch" / f"{spec.task}-{spec.run_id}"),
    }
    config = json.dumps({"bench": bench, "trl": {k: v for k, v in settings.items() if k != "output_dir"}})
    model = str(folder / "warm")
    with store.run("train", config, f"{spec.task}/warm", spec.run_id) as run_id:
        trainer, recorder = _trainer(contender, settings, model, store, run_id)
        trainer.add_callback(NoiseRecorder(recorder, trainer))
        trainer.add_callback(_Evaluations(spec, store, trainer.processing_class, run_id))
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def _trainer(
    contender: Contender, settings: dict[str, Any], model: str, store: VariantStore, run_id: str
) -> tuple[Trainer, Recorder]:
    tokenizer = load_tokenizer(model)
    prompts = PromptBuilder(chat=False, hint_style=settings.get("hint_style", "prompt"))
    # Once, at the end: a run that is cut short starts again.
    never = settings["max_steps"] + 1
    if contender.trainer == "diva":
        config = DivaGRPOConfig(**settings, store_flush_steps=never, store_refresh_steps=never)
        dataset = problems_dataset(store.problems(where="split = 'train'"), prompts)
        ours = DivaGRPOTrainer(
            model, _exact, config, dataset, store=store, prompts=prompts, run_id=run_id,
            processing_class=tokenizer
        )  # fmt: skip
        return ours, ours.recorder
    theirs: Trainer
    if contender.trainer == "sft":
        theirs = SFTTrainer(
            model, SFTConfig(**settings), train_dataset=_solutions(store, prompts), processing_class=tokenizer
        )
    else:
        dataset = problems_dataset(store.problems(where="split = 'train'"), prompts)
        theirs = GRPOTrainer(model, _exact, GRPOConfig(**settings), dataset, processing_class=tokenizer)
    recorder = Recorder(store, run_id, flush_steps=never)
    theirs.add_callback(RecorderCallback(recorder))
    return theirs, recorder


def _solutions(store: VariantStore, prompts: PromptBuilder) -> Dataset:
    """The originals with the store's whole solutions as answers, for supervised training."""
    rows = store.query(
        "SELECT p.text, v.hint, p.answer FROM variants v JOIN problems p USING (problem_id) "
        "WHERE v.status = 'accepted' AND v.hint_steps = v.hint_total ORDER BY problem_id"
    )
    return Dataset.from_list(
        [
            {"prompt": prompts.prompt(text), "completion": "\n".join([*steps, f"#### {answer}"])}
            for text, steps, answer in rows
        ]
    )
