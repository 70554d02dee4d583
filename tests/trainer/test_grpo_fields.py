"""Every field of the installed TRL's `GRPOConfig`: it works, it is refused, or it is not of this trainer.

A release of TRL with a field that no table below names fails `test_no_field_is_missing`.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from trl import GRPOConfig

from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.trainer.config import DivaGRPOConfig
from tests.support.tiny_text_model import planted_store
from tests.support.tiny_training import SETTINGS, coin_reward, loss_inputs, make_trainer

ROOT = Path(__file__).parents[2]

TWICE = {"num_iterations": 2}  # the second pass over the same rollouts has ratios other than 1
KL: dict[str, Any] = {"beta": 0.1}
ADAPTIVE = {"use_adaptive_entropy": True, "entropy_coef": 0.1, "entropy_target": 9.0}
FALLING: dict[str, Any] = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 9e-3}}
WARMED = {"lr_scheduler_type": "linear"}
TWO_REWARDS = {"advantage": "grpo", "weights": 2}

CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "learning_rate": (5e-3, {}), "lr_scheduler_type": ("constant", {}),
    "lr_scheduler_kwargs": ({"min_lr": 5e-4}, FALLING),
    "warmup_steps": (2, WARMED), "optim": ("sgd", {}), "optim_args": ("momentum=0.9", {"optim": "sgd"}),
    "weight_decay": (0.5, {}), "adam_beta1": (0.1, {}), "adam_beta2": (0.1, {}), "adam_epsilon": (1.0, {}),
    "max_grad_norm": (1e-6, {"optim": "sgd"}), "neftune_noise_alpha": (5.0, {}), "seed": (4, {}),
    "data_seed": (9, {}), "shuffle_dataset": (False, {}), "max_steps": (3, {}),
    "num_generations": (2, {}), "max_completion_length": (4, {}), "temperature": (0.5, {}), "top_p": (0.5, {}),
    "top_k": (3, {}), "min_p": (0.9, {}), "repetition_penalty": (2.0, {}),
    "generation_kwargs": ({"typical_p": 0.2}, {}),
    "generation_batch_size": (32, {}), "steps_per_generation": (2, {}), "gradient_accumulation_steps": (2, {}),
    "per_device_train_batch_size": (32, {}), "num_iterations": (2, {"learning_rate": 1e-2}),
    "beta": (0.5, TWICE), "epsilon": (1e-6, TWICE), "epsilon_high": (1e-6, TWICE), "delta": (0.5, TWICE),
    "use_bias_correction_kl": (False, {**KL, **TWICE}),
    "sync_ref_model": (True, {**KL, "ref_model_sync_steps": 1}),
    "ref_model_mixup_alpha": (0.1, {**KL, "sync_ref_model": True, "ref_model_sync_steps": 1}),
    "ref_model_sync_steps": (2, {**KL, "sync_ref_model": True, "max_steps": 3}),
    "loss_type": ("dr_grpo", {}), "importance_sampling_level": ("sequence", {**TWICE, "loss_type": "grpo"}),
    "sapo_temperature_neg": (5.0, {"loss_type": "sapo", **TWICE}),
    "sapo_temperature_pos": (5.0, {"loss_type": "sapo", **TWICE}),
    "vespo_k_pos": (9.0, {"loss_type": "vespo", **TWICE}), "vespo_lambda_pos": (9.0, {"loss_type": "vespo", **TWICE}),
    "vespo_k_neg": (9.0, {"loss_type": "vespo", **TWICE}), "vespo_lambda_neg": (9.0, {"loss_type": "vespo", **TWICE}),
    "mask_truncated_completions": (True, {}), "top_entropy_quantile": (0.2, {}), "entropy_coef": (0.5, {}),
    "use_adaptive_entropy": (True, {"entropy_coef": 0.1, "entropy_target": 1.0}),
    "entropy_coef_max": (0.1, ADAPTIVE), "entropy_coef_delta": (0.4, ADAPTIVE), "entropy_target": (1.0, ADAPTIVE),
    "scale_rewards": ("none", {"advantage": "grpo"}),
    "multi_objective_aggregation": ("normalize_then_sum", TWO_REWARDS),
    "reward_weights": ([1.0, 0.25], TWO_REWARDS),
}  # fmt: skip
"""A field, a value other than that of `trained`, and settings under which it must change the trained weights."""

SEEN = {
    "test_trainer": {
        "test_options_train": "log_completions mask_truncated_completions beta",
        "test_evaluation_during_training_and_tensorboard": "eval_strategy eval_steps report_to "
        "per_device_eval_batch_size logging_strategy logging_steps",
    },
    "test_not_finite": {"test_the_run_ends_and_the_last_checkpoint_stays": "save_strategy save_steps output_dir"},
    "test_resume_elsewhere": {"test_a_resumed_run_ends_as_the_unbroken_one": "resume_from_checkpoint"},
    "test_grpo_fields": {
        "test_an_epoch_has_each_problem_once": "num_train_epochs",
        "test_generation_is_told_what_was_set": "cache_implementation",
        "test_settings_of_the_model_and_of_evaluation": "disable_dropout cast_lm_head_to_fp32 num_generations_eval "
        "model_init_kwargs eval_on_start load_best_model_at_end metric_for_best_model eval_delay greater_is_better "
        "save_total_limit "
        "gradient_checkpointing activation_checkpointing use_cpu disable_tqdm bf16",
        "test_the_chat_template_is_told_what_was_set": "chat_template_kwargs",
        "test_rows_may_come_from_workers": "dataloader_num_workers",
        "test_padding_changes_no_weight": "pad_to_multiple_of",
    },
}  # fmt: skip
"""Fields by the test that sees them at work."""

INHERITED = {
    "TRL reads it beside `entropy_coef_max`, once the entropy has crossed its target, as no short run does": """
        entropy_coef_min
    """,
    "TRL's own code reads it at a place that this trainer does not override (start-up, logging, saving)": """
        trust_remote_code router_aux_loss_coef log_multimodal num_completions_to_print log_unique_prompts
        log_completions_hub_repo max_tool_calling_iterations use_liger_kernel liger_kernel_config
        gradient_checkpointing_kwargs activation_checkpointing_kwargs off_policy_mask_threshold
    """,
    "transformers' Trainer reads it at a place that neither TRL nor this trainer overrides": """
        optim_target_modules fp16 bf16_full_eval fp16_full_eval tf32 torch_compile
        torch_compile_backend torch_compile_mode use_cache torch_empty_cache_steps logging_first_step
        log_on_each_node logging_nan_inf_filter log_level log_level_replica run_name project trackio_space_id
        trackio_bucket_id trackio_static_space_id save_only_model save_on_each_node enable_jit_checkpoint push_to_hub
        hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision ignore_data_skip
        restore_callback_states_from_checkpoint full_determinism dataloader_pin_memory
        dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order
        average_tokens_across_devices ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers
        ddp_static_graph ddp_backend ddp_timeout debug skip_memory_metrics local_rank
    """,
    "as before, and never run here: it needs vLLM": """
        use_vllm vllm_mode vllm_model_impl vllm_enable_sleep_mode vllm_structured_outputs_regex vllm_server_base_url
        vllm_server_host vllm_server_port vllm_server_timeout vllm_group_port vllm_gpu_memory_utilization
        vllm_max_model_length vllm_tensor_parallel_size vllm_importance_sampling_correction
        vllm_importance_sampling_mode vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min
        vllm_importance_sampling_cap
    """,
    "as before, and never run here: it needs several GPUs, or a GPU that can page its cache": """
        ds3_gather_for_generation fsdp fsdp_config deepspeed parallelism_config
        use_transformers_continuous_batching transformers_continuous_batching_config use_transformers_paged
    """,
}

REFUSED: dict[str, tuple[Any, str]] = {
    "remove_unused_columns": (True, "need the columns of the problems"),
    "label_smoothing_factor": (0.1, "of rewards, not of labels"),
    "train_sampling_strategy": ("sequential", "--shuffle_dataset false"),
    "accelerator_config": ({"split_batches": True}, "split_batches=true"),
    "auto_find_batch_size": (True, "auto_find_batch_size is not supported"),
}
"""Fields that cannot work, a value, and words of the line."""

NO_CONCERN = {
    "the loss is computed by TRL, and no labels or predictions leave a step": """
        label_names prediction_loss_only eval_do_concat_batches eval_use_gather_object eval_accumulation_steps
        include_for_metrics batch_eval_metrics include_num_input_tokens_seen
    """,
    "TRL's sampler leaves out an incomplete generation batch, and knows no lengths": """
        dataloader_drop_last length_column_name
    """,
    "flags for scripts of transformers": "do_train do_eval do_predict",
}


def named(tables: dict[str, str]) -> list[str]:
    return [name for text in tables.values() for name in text.split()]


def test_no_field_is_missing() -> None:
    seen = [name for tests in SEEN.values() for name in named(tests)]
    table = {*CHANGES, *seen, *named(INHERITED), *REFUSED, *named(NO_CONCERN)}
    assert table == {field.name for field in fields(GRPOConfig)}
    once = [*named(INHERITED), *REFUSED, *named(NO_CONCERN)]
    assert len(once) == len(set(once))
    assert not set(once) & {*CHANGES, *seen}


def test_what_is_said_to_see_a_field_is_there() -> None:
    for module, tests in SEEN.items():
        found = importlib.import_module(f"tests.trainer.{module}")
        assert [name for name in tests if not hasattr(found, name)] == [], module


@pytest.mark.parametrize("name", REFUSED)
def test_a_field_is_refused(name: str, tmp_path: Path) -> None:
    value, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        DivaGRPOConfig(**{**SETTINGS, "output_dir": str(tmp_path), name: value})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale_rewards": "none"}, "scale_rewards=none has no effect on advantage=diva"),
        ({"scale_rewards": "batch", "advantage": "dr_grpo"}, "set --advantage grpo"),
        ({"scale_rewards": "none", "advantage": "dgpo"}, "advantage=dgpo"),
        ({"scale_rewards": "some"}, "choose one of group, batch, none"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "set --advantage grpo"),
        (
            {"multi_objective_aggregation": "normalize_then_sum", "advantage": "grpo", "refill_rounds": 1},
            "--refill_rounds 0",
        ),
        ({"multi_objective_aggregation": "sum"}, "sum_then_normalize"),
    ],
    ids=str,
)
def test_scaling_that_would_have_no_effect_is_refused(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        DivaGRPOConfig(**{**SETTINGS, "output_dir": str(tmp_path), **options}).settled(variants=True)
    assert "\n" not in str(error.value)


def ascii_share(completions: list[str], **columns: Any) -> list[float]:
    """A second reward."""
    return [sum(sign.isalnum() for sign in text) / 6 for text in completions]


def trained(model: Path, folder: Path, options: dict[str, Any]) -> torch.Tensor:
    store = planted_store(folder / "store", problems=12)
    rewards = [coin_reward, ascii_share][: options.get("weights", 1)]
    rest = {name: value for name, value in options.items() if name != "weights"}
    settings = {"max_steps": 2, "learning_rate": 1e-2, "reward_max": 2.0, **rest}
    trainer = make_trainer(store, model, folder / "out", rewards=rewards, **settings)
    trainer.train()
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_field_changes_what_is_trained(model_path: Path, tmp_path: Path) -> None:
    before: dict[str, torch.Tensor] = {}
    unchanged = []
    for name, (value, options) in CHANGES.items():
        if (key := str(options)) not in before:
            before[key] = trained(model_path, tmp_path / f"before-{len(before)}", options)
        after = trained(model_path, tmp_path / name, {**options, name: value})
        if torch.equal(after, before[key]):
            unchanged.append(name)
    assert unchanged == []


def test_padding_changes_no_weight(model_path: Path, tmp_path: Path) -> None:
    """But for the order of sums, which plain gradient descent does not amplify."""
    plain = {"optim": "sgd", "learning_rate": 1.0}
    began = torch.cat(
        [p.detach().flatten() for p in AutoModelForCausalLM.from_pretrained(model_path).parameters()]
    )
    one = trained(model_path, tmp_path / "one", plain)
    other = trained(model_path, tmp_path / "other", {**plain, "pad_to_multiple_of": 16})
    assert (one - began).abs().max() > 1e-3
    assert torch.allclose(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale_rewards": "none"},
        {"scale_rewards": "batch"},
        {"multi_objective_aggregation": "normalize_then_sum", "reward_weights": [1.0, 0.5]},
    ],
    ids=str,
)
def test_grpo_s_advantages_are_those_of_trl(
    options: dict[str, Any], model_path: Path, tmp_path: Path
) -> None:
    def sometimes(completions: list[str], **columns: Any) -> list[float | None]:
        return [None if i % 5 == 0 else value for i, value in enumerate(ascii_share(completions))]

    store = planted_store(tmp_path / "store")
    trainer: Any = make_trainer(
        store, model_path, tmp_path / "out", rewards=[coin_reward, sometimes], advantage="grpo", max_steps=2,
        advantage_eps=1e-4, **options,
    )  # fmt: skip
    theirs: list[list[float]] = []
    put = trainer._put_advantages

    def keep(batch: Any) -> None:
        theirs.append(batch.output["advantages"].tolist())
        put(batch)

    trainer._put_advantages = keep
    seen = loss_inputs(trainer)
    trainer.train()
    for batch, expected in zip(seen, theirs, strict=True):
        assert sorted(batch["advantages"].tolist()) == pytest.approx(sorted(expected), abs=2e-5)
        assert any(abs(value) > 0.1 for value in expected)


def test_an_epoch_has_each_problem_once(model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store")
    trainer = make_trainer(store, model_path, tmp_path / "out", max_steps=-1, num_train_epochs=2)
    trainer.train()
    counts = store.query("SELECT problem_id, count(DISTINCT step) FROM rollouts GROUP BY problem_id")
    assert trainer.state.global_step == 8
    assert {count for _, count in counts} == {2}


def test_generation_is_told_what_was_set(model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store")
    told: dict[str, Any] = {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
    }
    trainer = make_trainer(
        store,
        model_path,
        tmp_path / "out",
        cache_implementation="static",
        generation_kwargs={"num_beams": 1},
        **told,
    )
    expected = {
        **told,
        "cache_implementation": "static",
        "num_beams": 1,
        "max_new_tokens": 6,
        "do_sample": True,
    }
    assert {name: getattr(trainer.generation_config, name) for name in expected} == expected


def test_the_chat_template_is_told_what_was_set(chat_model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store")
    trainer = make_trainer(
        store, chat_model_path, tmp_path / "out", max_steps=1, chat_template_kwargs={"enable_thinking": False}
    )
    template = trainer.processing_class.chat_template
    trainer.processing_class.chat_template = (
        template + "{% if not enable_thinking %}<think></think>{% endif %}"
    )
    seen = loss_inputs(trainer)
    trainer.train()
    [prompt] = trainer.processing_class.batch_decode(seen[0]["prompt_ids"][:1])
    assert prompt.endswith("<assistant><think></think>")


def test_rows_may_come_from_workers(model_path: Path, tmp_path: Path) -> None:
    """In a process of its own: a worker that is forked beside a service of Prefect's ends with status 1."""
    planted_store(tmp_path / "store")
    program = (
        "import sys; from pathlib import Path; from diva_grpo.pipeline.store import VariantStore\n"
        "from tests.support.tiny_training import make_trainer\n"
        "store, model, output = map(Path, sys.argv[1:])\n"
        "trainer = make_trainer(VariantStore(store), model, output, max_steps=2, dataloader_num_workers=1)\n"
        "print(trainer.get_train_dataloader().num_workers, trainer.train().global_step)"
    )
    arguments = [str(tmp_path / "store"), str(model_path), str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "1 2"


def test_settings_of_the_model_and_of_evaluation(model_path: Path, tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store")
    trainer = make_trainer(
        store, model_path, tmp_path / "out", eval_problems=4, eval_strategy="steps", eval_steps=1, eval_on_start=True,
        eval_delay=2, num_generations_eval=2, per_device_eval_batch_size=4, disable_dropout=True,
        cast_lm_head_to_fp32=True, model_init_kwargs={"dtype": "float32"}, gradient_checkpointing=True,
        save_strategy="steps", save_steps=1, save_total_limit=1, load_best_model_at_end=True,
        metric_for_best_model="eval_completions/mean_length", greater_is_better=False,
    )  # fmt: skip
    assert trainer.model.lm_head.weight.dtype == torch.float32
    trainer.train()
    assert trainer.model.is_activation_checkpointing
    evaluated = [log["step"] for log in trainer.state.log_history if "eval_reward" in log]
    assert evaluated == [0, 2, 3, 4]
    assert trainer.state.best_metric == min(
        log["eval_completions/mean_length"]
        for log in trainer.state.log_history
        if log.get("step", 0) > 1 and "eval_reward" in log
    )
    assert len(list((tmp_path / "out").glob("checkpoint-*"))) <= 2
