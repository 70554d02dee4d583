"""Steps of veRL's trainer without its workers: a script for veRL's environment.

What is veRL's own here: the configuration, PPOTrainerSync (data loader, batches, checkpoints), StatefulDataLoader,
NaiveRewardManager and the replay buffer. A script stands for the policy, a dictionary for TransferQueue (which needs a
Ray cluster), and nothing is trained.

    python verl_steps.py STORE HELD_OUT MODEL FOLDER

Prints JSON: what each step chose and logged, before and after a resume.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transfer_queue
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl import DataProto
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
from verl.trainer.ppo.reward import load_reward_manager
from verl.trainer.ppo.v1 import PPOTrainerSync
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from diva_grpo.schemas.exceptions import ConfigError

HOST = "pkg://diva_grpo.trainer.hosts.verl"
ROLLOUTS, STEPS = 4, 3


def configured(store: str, held_out: str, model: str, folder: str) -> Any:
    """veRL's configuration, as its command line makes it."""
    overrides = {
        "data.train_files": store,
        "data.val_files": held_out,
        "data.train_batch_size": 6,
        "data.dataloader_num_workers": 0,
        "data.custom_cls.path": HOST,
        "data.custom_cls.name": "StoreDataset",
        "+data.diva": "{variants: 1, selector: posterior, difficulty_rule: posterior, instruction: ' Box it.'}",
        "trainer.v1.sampler.custom_sampler.path": HOST,
        "trainer.v1.sampler.custom_sampler.name": "CurriculumBuffer",
        "reward.custom_reward_function.path": HOST,
        "reward.custom_reward_function.name": "compute_score",
        "actor_rollout_ref.model.path": model,
        "actor_rollout_ref.rollout.name": "vllm",
        "actor_rollout_ref.rollout.n": ROLLOUTS,
        "algorithm.adv_estimator": "grpo",
        "trainer.default_local_dir": folder,
        "trainer.total_epochs": 10,
    }
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", [f"{name}={value}" for name, value in overrides.items()])


class Queue:
    """In place of TransferQueue: the calls that veRL's buffer and ours make, on dictionaries of this process."""

    def __init__(self) -> None:
        self.tags: defaultdict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        self.rows: dict[str, dict[str, Any]] = {}
        for name in ("kv_batch_put", "kv_batch_get", "kv_list", "kv_clear"):
            setattr(transfer_queue, name, getattr(self, name))

    def kv_batch_put(self, keys: Sequence[str], partition_id: str, tags: Sequence[dict[str, Any]]) -> None:
        """Add to the tags of keys."""
        for key, tag in zip(keys, tags, strict=True):
            self.tags[partition_id][key] = {**self.tags[partition_id].get(key, {}), **tag}

    def kv_batch_get(
        self, keys: Sequence[str], partition_id: str, select_fields: Sequence[str]
    ) -> TensorDict:
        """Columns of keys."""
        return list_of_dict_to_tensordict(
            [{name: self.rows[key][name] for name in select_fields} for key in keys]
        )

    def kv_list(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Tags by partition and key."""
        return {partition: dict(tags) for partition, tags in self.tags.items()}

    def kv_clear(self, keys: Sequence[str], partition_id: str) -> None:
        """Forget keys."""
        for key in keys:
            del self.tags[partition_id][key]
            self.rows.pop(key, None)


class ScriptedPolicy:
    """In place of veRL's agent loop: answers, has veRL's reward manager score, and puts the rollouts into the queue."""

    def __init__(self, config: Any, tokenizer: Any, queue: Queue) -> None:
        self.tokenizer, self.queue = tokenizer, queue
        self.manager = load_reward_manager(config, tokenizer)

    def generate_sequences(self, batch: TensorDict) -> None:
        """Rollouts of each prompt; of problem i the first i are right, and of its variants one more."""
        for number in range(len(batch)):
            prompt = {
                name: batch[name][number]
                for name in ("raw_prompt", "extra_info", "reward_model", "data_source")
            }
            prompt = {name: getattr(value, "data", value) for name, value in prompt.items()}
            uid = getattr(batch["uid"][number], "data", batch["uid"][number])
            for sample in range(ROLLOUTS):
                key, row = f"{uid}_{sample}_0", self._rollout(prompt, sample)
                self.queue.rows[key] = {**row, **prompt, "uid": uid}
                tag = {"status": "success", "response_len": len(row["responses"])}
                self.queue.kv_batch_put([key], "train", [tag])
            self.queue.kv_batch_put([uid], "train", [{"status": "finished"}])

    def _rollout(self, prompt: dict[str, Any], sample: int) -> dict[str, Any]:
        info, truth = prompt["extra_info"], prompt["reward_model"]["ground_truth"]
        right = sample < info["index"] % ROLLOUTS + (info["kind"] != "original")
        said = f"\\boxed{{{truth}}}" if right else "\\boxed{-1}"
        asked = self.tokenizer.apply_chat_template(
            prompt["raw_prompt"], add_generation_prompt=True, tokenize=True, return_dict=False
        )
        response = self.tokenizer(said, add_special_tokens=False)["input_ids"]
        scored = self._scored(prompt, response)
        rollout: dict[str, Any] = AgentLoopOutput(
            prompt_ids=asked,
            response_ids=response,
            response_mask=[1] * len(response),
            reward_score=scored["reward_score"],
            metrics=AgentLoopMetrics(),
            extra_fields={"reward_extra_info": scored["reward_extra_info"]},
        ).as_dict()
        return rollout

    def _scored(self, prompt: dict[str, Any], response: list[int]) -> dict[str, Any]:
        columns = {}
        for name in ("extra_info", "reward_model", "data_source"):
            columns[name] = np.empty(1, object)
            columns[name][0] = prompt[name]
        ids = torch.tensor([response])
        tensors = TensorDict({"responses": ids, "attention_mask": torch.ones_like(ids)}, batch_size=1)
        data = DataProto(batch=tensors, non_tensor_batch=columns)
        found: dict[str, Any] = self.manager.loop.run_until_complete(self.manager.run_single(data))
        return found


class NoWorkers:
    """In place of veRL's worker group: has no weights to keep."""

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""


def prepared(config: Any, queue: Queue) -> PPOTrainerSync:
    """veRL's trainer with its data, and without its workers."""
    trainer = PPOTrainerSync(config)
    trainer._init_tokenizer()
    trainer._init_dataloader()
    trainer.replay_buffer.poll_interval = 0.01
    trainer.actor_rollout_wg = NoWorkers()
    trainer.agent_loop_manager = ScriptedPolicy(config, trainer.tokenizer, queue)
    trainer._load_checkpoint()
    return trainer


def steps(trainer: PPOTrainerSync, count: int) -> list[dict[str, Any]]:
    """What came of some steps."""
    found = []
    for _ in range(count):
        trainer.global_steps += 1
        trainer.prepare_step()
        choice = trainer.train_dataset.dataframe.choice
        ids = trainer.train_dataset.curriculum.problem_ids
        batch, metrics = trainer.replay_buffer.sample(trainer.global_steps, "train", 6)
        trainer.agent_loop_manager.queue.kv_clear(batch.keys, "train")
        found.append(
            {
                "rollouts": len(batch.keys),
                "problems": [ids[number] for number in choice.problem_P],
                "variants": [
                    [choice.variant_id(place, slot) for slot in range(2)]
                    for place in range(len(choice.problem_P))
                ],
                "metrics": metrics,
            }
        )
    return found


def refusal(config: Any, changes: dict[str, Any], draws: int = 0) -> str:
    """What is said of a configuration that cannot work."""
    for name, value in changes.items():
        OmegaConf.update(config, name, value, force_add=True)
    try:
        trainer = PPOTrainerSync(config)
        trainer._init_tokenizer()
        trainer._init_dataloader()
        for _ in range(draws):
            trainer._fetch_one_gen_batch()
    except ConfigError as error:
        return str(error)
    return "none"


def refusals(*where: str) -> list[str]:
    """Messages, in the order of the test that reads them."""
    return [
        refusal(configured(*where), {"data.diva.selectr": "paper"}),
        refusal(configured(*where), {"data.diva.aim": "some"}),
        refusal(configured(*where), {"data.diva.selector": "best"}),
        refusal(configured(*where), {"data.diva.split": "dev"}),
        refusal(configured(*where), {"data.dataloader_num_workers": 2}),
        refusal(configured(*where), {"data.train_batch_size": 5}, draws=1),
        refusal(configured(*where), {"data.train_batch_size": 18}),
        refusal(configured(*where), {}, draws=2),
        refusal(configured(*where), {"trainer.v1.trainer_mode": "colocate_async"}),
    ]


def main(store: str, held_out: str, model: str, folder: str) -> None:
    """Three steps, a checkpoint, three more; and the last three again from the checkpoint."""
    asyncio.set_event_loop(asyncio.new_event_loop())
    config = configured(store, held_out, model, folder)
    queue = Queue()
    trainer = prepared(config, queue)
    before = steps(trainer, STEPS)
    trainer._save_checkpoint()
    after = steps(trainer, STEPS)
    difficulty = trainer.train_dataset.curriculum.live.difficulty.tolist()
    trainer.train_dataset.close()
    resumed = prepared(config, queue)
    again = steps(resumed, STEPS)
    resumed.train_dataset.close()
    result = {
        "before": before,
        "after": after,
        "again": again,
        "difficulty": difficulty,
        "difficulty_again": resumed.train_dataset.curriculum.live.difficulty.tolist(),
        "held_out": len(resumed.val_dataset),
        "prompt": resumed.val_dataset[0]["raw_prompt"],
        "steps_per_epoch": resumed.steps_per_epoch,
        "files": sorted(path.name for path in Path(folder).rglob("*") if path.is_file()),
        "refusals": refusals(store, held_out, model, folder),
        "imported": [name for name in ("trl", "openai", "prefect") if name in sys.modules],
    }
    (Path(folder) / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
