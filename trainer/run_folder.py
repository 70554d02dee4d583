"""The folder of a training run: the run that it belongs to, a lock, and checks before a run is resumed.

    with at_work("runs/model"):                                  # only one trainer at a time
        resumed = find_resumed("runs/model", resume=True)        # a checkpoint of the run that the folder belongs to
        superseded = superseded_checkpoints("runs/model", resumed, overwrite=False)

A run file (`diva_run.json`) in the folder and in each checkpoint has the run's id and settings. The id tells which run
a checkpoint belongs to. Without it, a second run in the same folder could resume from a checkpoint of the first run.
The Trainer, which keeps only the last checkpoints, could also delete those of the second run and keep those of the
first.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.trainer.checkpoints import RUN_FILE, Checkpoint, checkpoints_of, read_checkpoint

LOCK_FILE = ".diva.lock"
"""File in output_dir. A trainer holds a lock on it while it uses the folder."""

FIXED = frozenset(
    # the problems and their order
    "split problem_filter max_problems seed data_seed shuffle_dataset problem_sampler pool_revisit "
    # the groups, and the choice of their prompts
    "num_variants num_generations selector variant_prior aim difficulty_rule "
    # the prompts of the policy
    "hint_style hint_opening system_prompt instruction chat_template_kwargs "
    # the trained parameters, and the state of the optimizer
    "use_peft lora_r lora_alpha lora_target_modules lora_target_parameters lora_modules_to_save lora_task_type "
    "use_rslora use_dora load_in_8bit load_in_4bit optim optim_target_modules".split()
)
"""Settings that a resumed run must not change."""

FIXED_WITH_A_BASE = frozenset({"model_name_or_path", "model_revision"})
"""Settings that a resumed run must not change if it still uses the model that it started from, as the base of a LoRA
adapter or in a KL term (`beta`)."""

UNRELATED = frozenset(
    "store output_dir resume overwrite resume_from_checkpoint report_to run_name project disable_tqdm "
    "load_best_model_at_end metric_for_best_model greater_is_better use_cpu local_rank push_to_hub skip_memory_metrics "
    "num_completions_to_print trackio_space_id trackio_bucket_id trackio_static_space_id".split()
)
UNRELATED_PREFIXES = (
    "logging_",
    "log_",
    "save_",
    "eval_",
    "dataloader_",
    "hub_",
    "ddp_",
    "include_",
    "wandb_",
)
"""Prefixes of further settings such as those in `UNRELATED`. None of these settings affects what a run learns, so no
warning is given if a resumed run changes one."""


@dataclass(frozen=True, slots=True)
class RunFile:
    """The content of a run file.

    Attributes:
        run_id: id of the run.
        settings: all settings of the run by name, as JSON values.
        policy: how the policy is prompted and sampled (fields of `PolicyConfig`).
    """

    run_id: str
    settings: dict[str, Any] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: str | Path) -> None:
        """Write the file into a folder, atomically."""
        draft = Path(folder, f"{RUN_FILE}.tmp")
        draft.write_text(json.dumps(asdict(self), indent=1, default=str), encoding="utf-8")
        draft.replace(Path(folder, RUN_FILE))


def read_run_file(folder: str | Path) -> RunFile | None:
    """Return the run file of a folder; None if there is none, or if it cannot be read."""
    try:
        content = json.loads(Path(folder, RUN_FILE).read_text(encoding="utf-8"))
        return RunFile(str(content["run_id"]), dict(content["settings"]), dict(content["policy"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


class RunFileCallback(TrainerCallback):
    """Writes the run file into output_dir when training begins, and into each checkpoint."""

    def __init__(self, run: RunFile) -> None:
        self._run = run

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the run file into output_dir."""
        if state.is_world_process_zero:
            self._run.write(args.output_dir or ".")

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the run file into the checkpoint."""
        if state.is_world_process_zero:
            self._run.write(Path(args.output_dir or ".", f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"))


@contextmanager
def at_work(output_dir: str) -> Iterator[None]:
    """Create and lock a folder while the context is open, so that no other trainer can use it.

    The operating system releases the lock if the process dies.

    Raises:
        ConfigError: another trainer uses the folder, or it cannot be written to.
    """
    folder = Path(output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_FILE).open("a+", encoding="utf-8")
    except FileExistsError as error:
        raise ConfigError(f"output_dir {output_dir} is a file: give a folder") from error
    except OSError as error:
        raise ConfigError(f"output_dir {output_dir} cannot be written to: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ConfigError(
                f"another training run ({file.read().strip()}) is at work in {output_dir}: wait for its end, or give "
                "another --output_dir"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def find_resumed(output_dir: str, named: str | None = None, *, resume: bool) -> Checkpoint | None:
    """Return the checkpoint from which a run continues; None if a new run begins.

    Args:
        output_dir: folder of the run.
        named: folder of a checkpoint that the user names; None if the user names none.
        resume: whether to use the last complete checkpoint of the run that the folder belongs to. Not used if `named`
            is given.

    Raises:
        ConfigError: the named folder is not a complete checkpoint of `diva train`; or it is not clear which run to
            resume: no checkpoint is of the run that the folder belongs to, or checkpoints of several runs are in a
            folder without a run file.
    """
    if named is not None:
        found = read_checkpoint(named)
        if found is None or not found.whole or found.run_id is None:
            raise ConfigError(f"resume_from_checkpoint {named} is not a complete checkpoint of `diva train`")
        return found
    if not resume:
        return None
    own = read_run_file(output_dir)
    whole = [found for found in checkpoints_of(output_dir) if found.whole and found.run_id is not None]
    run_ids = sorted({str(found.run_id) for found in whole})
    if own is not None and own.run_id not in run_ids and run_ids:
        raise ConfigError(
            f"{output_dir} belongs to the run {own.run_id}, and its checkpoints are of {', '.join(run_ids)}: name one "
            "with --resume_from_checkpoint"
        )
    if own is None and len(run_ids) > 1:
        raise ConfigError(
            f"{output_dir} has checkpoints of several runs ({', '.join(run_ids)}): name one with "
            "--resume_from_checkpoint"
        )
    mine = [found for found in whole if own is None or found.run_id == own.run_id]
    return max(mine, key=lambda found: found.step, default=None)


@contextmanager
def told_how_to_continue(output_dir: str) -> Iterator[None]:
    """Give a KeyboardInterrupt a message that says how the interrupted run can be continued."""
    try:
        yield
    except KeyboardInterrupt as pressed:
        own = read_run_file(output_dir)
        steps = [c.step for c in checkpoints_of(output_dir) if c.whole and own and c.run_id == own.run_id]
        advice = (
            f"the same command with --resume true continues from step {max(steps)}"
            if steps
            else "there was no checkpoint yet, so the same command begins anew"
        )
        raise KeyboardInterrupt(advice) from pressed


def superseded_checkpoints(output_dir: str, resumed: Checkpoint | None, *, overwrite: bool) -> list[Path]:
    """Return the checkpoints in a folder that must be deleted before a run begins there.

    These are the checkpoints that a crash left incomplete and, with `overwrite`, those of other runs and those of later
    steps of this run. The Trainer, which keeps only the last checkpoints, would otherwise take them for its own.

    Args:
        output_dir: folder of the run.
        resumed: the checkpoint from which the run continues; None for a new run.
        overwrite: whether the user agrees that complete checkpoints are deleted.

    Raises:
        ConfigError: `overwrite` is false, and there are complete checkpoints of another run or of later steps.
    """
    found = checkpoints_of(output_dir)
    others = [c for c in found if not c.torn and (resumed is None or c.run_id != resumed.run_id)]
    if others and not overwrite:
        run_ids = sorted({c.run_id or "another program" for c in others})
        advice = ", --resume true to continue" if resumed is None and any(c.run_id for c in others) else ""
        raise ConfigError(
            f"{output_dir} has checkpoints of {', '.join(run_ids)}: give another --output_dir{advice}, or --overwrite "
            "true to delete them"
        )
    later = [c for c in found if not c.torn and resumed and c.step > resumed.step and c not in others]
    if later and not overwrite:
        names = ", ".join(c.folder.name for c in later)
        raise ConfigError(
            f"{output_dir} has checkpoints of this run after the one to continue from ({names}): give another "
            "--output_dir, or --overwrite true to delete them"
        )
    return [c.folder for c in found if c.torn or c in others or c in later]


def check_resumed_settings(run: RunFile, settings: Mapping[str, Any]) -> str:
    """Compare the settings of a resumed run with those at its start.

    Args:
        run: the run file of the checkpoint.
        settings: the settings of the resumed run, in the form of `RunFile.settings`.

    Returns:
        One line with the settings that have changed, without those in `UNRELATED`; empty if none has changed.

    Raises:
        ConfigError: a setting has changed that must not change (see `FIXED`).
    """
    fixed = FIXED
    if settings.get("use_peft") or settings.get("beta"):
        fixed |= FIXED_WITH_A_BASE
    changed = {
        name: f"{name} was {_shown(run.settings[name])} and is {_shown(value)}"
        for name, value in settings.items()
        if name in run.settings and run.settings[name] != value
    }
    refused = [text for name, text in changed.items() if name in fixed]
    if refused:
        raise ConfigError(
            f"the run {run.run_id} cannot be resumed with other settings: {'; '.join(refused)}. Set them as they were, "
            "or begin a new run in another --output_dir"
        )
    said = [
        text
        for name, text in changed.items()
        if name not in UNRELATED and not name.startswith(UNRELATED_PREFIXES)
    ]
    return "; ".join(said)


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as JSON values, so that they can be compared with those of a run file."""
    held: dict[str, Any] = json.loads(json.dumps(dict(settings), default=str))
    return held
