"""A trainer whose runs are recorded in a store; without a store, the facts for their diagnosis stay in memory."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from transformers.trainer_utils import TrainOutput

from diva_grpo.pipeline.diagnosis.diagnose import Diagnosis
from diva_grpo.pipeline.diagnosis.in_memory import FactsInMemory
from diva_grpo.pipeline.grade import Grade
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.policy import HintStyle
from diva_grpo.schemas.records import Prompt as PromptRecord
from diva_grpo.schemas.records import Rollout
from diva_grpo.trainer.config import DivaGRPOConfig
from diva_grpo.trainer.diagnosis import DiagnosisCallback
from diva_grpo.trainer.heap import settled_heap
from diva_grpo.trainer.keeper import WordKeeper
from diva_grpo.trainer.prompts import Prompt
from diva_grpo.trainer.recorder import Recorder, RecorderCallback
from diva_grpo.trainer.resumable import ResumableGRPOTrainer
from diva_grpo.trainer.rewards import accuracy_reward, graded
from diva_grpo.trainer.rollouts import RolloutBatch
from diva_grpo.trainer.run_folder import as_json
from diva_grpo.trainer.steps import StepRecorder


class RecordedGRPOTrainer(ResumableGRPOTrainer):
    """`GRPOTrainer` that records its rollouts and steps, and diagnoses its runs.

    A subclass calls `_start_recording` at the end of its `__init__`, and `_record` for each batch.

    Attributes:
        accuracy_from: name of the reward function that decides whether an answer is right or wrong.
        recorder: writes the records; inactive in processes other than the main one.
        keeper: chooses the rollouts whose texts are kept.
    """

    args: DivaGRPOConfig
    accuracy_from: str
    recorder: Recorder
    keeper: WordKeeper

    def _start_recording(
        self, store: VariantStore | None, run_id: str | None, kinds: Mapping[str, str], hint_style: HintStyle
    ) -> None:
        """Start to record in the store, or in memory; only in the main process.

        Args:
            store: the store; None keeps the facts of the run in memory.
            run_id: id of an existing run; None: each call of `train` creates one.
            kinds: without a store, the kind of each variant by its id.
            hint_style: hint style of the prompts.
        """
        self._records, self._run_is_given = store, run_id is not None
        main, args = self.accelerator.is_main_process, self.args
        self._facts = FactsInMemory(kinds) if main and store is None else None
        target = store if main and store is not None else self._facts
        self.recorder = Recorder(target, run_id or "", args.store_flush_steps)
        self.add_callback(RecorderCallback(self.recorder))
        self._diagnosis: DiagnosisCallback | None = None
        if target is not None:
            self._diagnosis = DiagnosisCallback(target, self.recorder, summarise=not self._run_is_given)
            self.add_callback(self._diagnosis)
        decides = self.reward_funcs[self.reward_func_names.index(self.accuracy_from)]
        grade = self._graded if decides is accuracy_reward else None
        # Without a store, texts are kept only until they are graded, and are not counted.
        self.keeper = WordKeeper(
            args.problems_logged if main and (store is not None or grade) else 0,
            int(args.log_rollouts_mb * 1e6) if store is not None else sys.maxsize,
            hint_style,
            self._rendered,
            grade,
        )
        if target is not None and not self._run_is_given:
            self.add_callback(StepRecorder(self.recorder, self, self.accuracy_from))

    def _rendered(self, prompt: Prompt) -> str:
        if isinstance(prompt, str):
            return prompt
        options = {"tokenize": False, "add_generation_prompt": True, **self.chat_template_kwargs}
        return str(self.processing_class.apply_chat_template(prompt, **options))

    def _graded(self, number: int, text: str) -> Grade:
        row = self.train_dataset[number]
        return graded(text, row["answer"], tuple(row.get("options") or ()))

    def _record(
        self, batch: RolloutBatch, problem_ids: Sequence[str], advantage_PVN: Any, places: Sequence[int]
    ) -> None:
        """Record rollouts of a batch. Arguments as for `RolloutBatch.rollout_columns`."""
        if self.recorder.active:
            step = self.state.global_step
            columns = batch.rollout_columns(problem_ids, self.reward_func_names, advantage_PVN, places)
            texts, prompts = self.keeper.columns(batch, places, problem_ids)
            self.recorder.add(Rollout, step, {**columns, **texts})
            if prompts["prompt"]:
                self.recorder.add(PromptRecord, step, prompts)

    @property
    def diagnosis(self) -> Diagnosis | None:
        """The latest diagnosis of the run, without examples; `pipeline.diagnosis.text.as_text` formats it.

        None before the first records are flushed, if the last diagnosis failed, and in processes other than the main
        one.
        """
        return self._diagnosis.last if self._diagnosis else None

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> TrainOutput:
        """Train as `Trainer.train` does.

        If the trainer has a store and was given no `run_id`, this call creates a run in the table `runs`. A resumed
        call continues the run of its checkpoint.
        """
        if self._facts:
            self._facts.clear()
        with self._own_run(resume_from_checkpoint) as run_id:
            self.recorder.run_id = run_id
            try:
                with settled_heap():
                    done: TrainOutput = super().train(resume_from_checkpoint, *args, **kwargs)
                return done
            finally:
                self.recorder.flush(self.state.global_step)

    def _own_run(self, resume_from_checkpoint: str | bool | None) -> AbstractContextManager[str]:
        if self._run_is_given or self._records is None or not self.recorder.active:
            return nullcontext(self.recorder.run_id)
        state = self._state_of(resume_from_checkpoint)
        settings = as_json({**self.args.to_dict(), "rewards": self.reward_func_names})
        model = str(self.accelerator.unwrap_model(self.model).config._name_or_path)
        return self._records.run("train", json.dumps(settings), model, state["run_id"] if state else None)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # A resumed run does not repeat the steps before its checkpoint, so their records must be kept.
        self.recorder.flush(self.state.global_step)
        super()._save_checkpoint(model, trial)

    def _own_state(self) -> dict[str, Any]:
        return {
            "run_id": self.recorder.run_id,
            "logged_bytes": self.keeper.used_bytes,
            "facts": self._facts.state_dict() if self._facts else None,
        }

    def _restore_own_state(self, state: dict[str, Any]) -> None:
        if self._run_is_given:
            self.recorder.run_id = state["run_id"]
        self.keeper.used_bytes = state["logged_bytes"]
        facts = state.get("facts")  # missing in a checkpoint of a run with a store, or of an earlier version
        if self._facts and facts:
            self._facts.load_state_dict(facts)
