"""Prompts, chat template and sampling of a policy, the same in training, evaluation and labelling.

They are defined by `PolicyConfig`. Training stores it in the run file and in the run's record. `known_policy` reads it
from a model folder or checkpoint, so that evaluation and labelling use the same values, unless the user gives others.
The sampling settings in the model's own generation_config are never used (see `plain_generation`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig

from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.policy import PolicyConfig
from diva_grpo.trainer.prompts import PromptBuilder
from diva_grpo.trainer.run_folder import read_run_file

_make_config: Any = GenerationConfig  # Any, because transformers has no types for its constructor

_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
"""Fields of a model's generation_config that are not about sampling."""


_NOT_HERE = {
    "num_return_sequences": "set --num_generations (training) or --samples (evaluation)",
    "stop_strings": "an answer ends at the end tokens of the model",
}
"""Options of transformers' `generate` that cannot work, and what to do instead."""


def known_policy(path: str) -> PolicyConfig | None:
    """Return the `PolicyConfig` with which the policy in a folder was trained.

    None if the folder has no run file of `diva train`.
    """
    run = read_run_file(path)
    return PolicyConfig.from_kept(run.policy) if run and run.policy else None


def template_digest(processing: Any) -> str | None:
    """Return a digest of the chat template of a tokenizer or processor; None if it has none."""
    template = processing.chat_template
    if template is None:
        return None
    return hashlib.sha256(str(template).encode()).hexdigest()[:16]


def prompts_of(policy: PolicyConfig, *, chat: bool) -> PromptBuilder:
    """Return the builder of a policy's prompts.

    Args:
        policy: prompt options of the policy.
        chat: whether the model has a chat template.

    Raises:
        ConfigError: the policy has a system prompt or arguments of the chat template, but the model has no chat
            template.
    """
    if policy.chat_template_kwargs and not chat:
        raise ConfigError(
            "the model has no chat template, so chat_template_kwargs would have no effect: leave them out"
        )
    return PromptBuilder(
        chat=chat,
        system=policy.system_prompt,
        instruction=policy.instruction,
        hint_style=policy.hint_style,
        hint_opening=policy.hint_opening,
    )


def check_generation_kwargs(given: Mapping[str, Any]) -> None:
    """Check that options for transformers' `generate` have an effect.

    Raises:
        ConfigError: `GenerationConfig` has no such option, or it cannot work here.
    """
    known = _make_config()
    for name in given:
        if not hasattr(known, name):
            raise ConfigError(f"generation_kwargs: transformers' GenerationConfig has no option {name!r}")
        if name in _NOT_HERE:
            raise ConfigError(f"generation_kwargs: {name} is not supported: {_NOT_HERE[name]}")


def sampling(policy: PolicyConfig, model: Any, tokenizer: Any) -> GenerationConfig:
    """Return the generation settings of a policy, the same as those of TRL's trainer. Use with `plain_generation`.

    Args:
        policy: sampling options of the policy.
        model: the model. An answer ends at its end tokens and at that of the tokenizer.
        tokenizer: tokenizer of the model.

    Raises:
        ConfigError: an option has no effect (see `check_generation_kwargs`).
    """
    check_generation_kwargs(policy.generation_kwargs)
    ends = model.generation_config.eos_token_id
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    if tokenizer.eos_token_id not in ends:
        ends = [tokenizer.eos_token_id, *ends]
    chosen: dict[str, Any] = {"do_sample": False}
    if policy.temperature > 0:
        chosen = {
            "do_sample": True,
            "temperature": policy.temperature,
            "top_p": policy.top_p,
            "top_k": policy.top_k,
            "min_p": policy.min_p,
        }
    image_token = getattr(model.config, "image_token_id", None)
    if image_token is not None:  # a sampled image token would have no image
        chosen["suppress_tokens"] = [image_token]
    made: GenerationConfig = _make_config(
        max_new_tokens=policy.max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends,
        repetition_penalty=policy.repetition_penalty,
        disable_compile=True,
        **{**chosen, **policy.generation_kwargs},
    )
    return made


@contextmanager
def plain_generation(model: Any) -> Iterator[None]:
    """Disable the sampling settings of a model's own generation_config while the context is open.

    Otherwise `generate` would use them for options that its caller does not set (min_p, no_repeat_ngram_size and
    others), which vLLM does not do. They are restored afterwards, so they are saved with the model.
    """
    if hasattr(model, "get_base_model"):  # a LoRA adapter around the model
        model = model.get_base_model()
    kept = model.generation_config
    model.generation_config = _make_config(**{name: getattr(kept, name) for name in _TOKENS})
    try:
        yield
    finally:
        model.generation_config = kept


def unapplied(model: Any, policy: PolicyConfig) -> str:
    """Return the sampling settings of a model's own generation_config that differ from the policy's, as one line.

    Args:
        model: the model.
        policy: sampling options of the policy.

    Returns:
        Names and values, such as "temperature 0.7, top_k 20"; empty if nothing differs.
    """
    own: GenerationConfig = model.generation_config
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    wanted = {
        name: value for name in names if (value := getattr(own, name)) not in (None, getattr(policy, name))
    }
    if not own.do_sample:  # without sampling, only the repetition penalty has an effect
        wanted = {name: value for name, value in wanted.items() if name == "repetition_penalty"}
    return ", ".join(f"{name} {value:g}" for name, value in wanted.items())
