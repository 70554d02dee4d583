"""How a policy is asked, in training and after it: its prompts, its chat template, and how answers are sampled.

`PolicyConfig` is the definition. Training keeps it in the run file and with the run; `known_policy` reads it back from
a model folder or checkpoint, so that evaluation and labels ask as training did, unless options say otherwise. None of
them applies the sampling settings of the model's own generation_config (`plain_generation`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig

from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.policy import PolicyConfig
from diva_grpo.trainer.prompts import PromptBuilder
from diva_grpo.trainer.run_folder import read_run_file

_make_config: Any = GenerationConfig  # transformers leaves its constructor untyped

_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
"""What a model's generation_config says beside how to sample."""


def known_policy(path: str) -> PolicyConfig | None:
    """How the policy in a folder was asked in its training; None where the folder is none of `diva train`."""
    run = read_run_file(path)
    return PolicyConfig.from_kept(run.policy) if run and run.policy else None


def template_digest(processing: Any) -> str | None:
    """Digest of the chat template of a tokenizer or processor; None where it has none."""
    template = processing.chat_template
    if template is None:
        return None
    return hashlib.sha256(str(template).encode()).hexdigest()[:16]


def prompts_of(policy: PolicyConfig, *, chat: bool) -> PromptBuilder:
    """The builder of a policy's prompts.

    Args:
        policy: how it is asked.
        chat: whether the model has a chat template.

    Raises:
        ConfigError: a system prompt, or arguments of the chat template, for a model without one.
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


def sampling(policy: PolicyConfig, model: Any, tokenizer: Any) -> GenerationConfig:
    """How answers are sampled, as TRL's trainer does it: on top of `plain_generation`.

    Args:
        policy: how it is asked.
        model: whose end tokens end an answer, beside the tokenizer's.
        tokenizer: of the model.
    """
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
    if image_token is not None:  # a sampled one would have no image
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
    """While open, what a model's own generation_config says of sampling does not act; it is saved with the model still.

    `generate` fills from it what its caller leaves open (min_p, no_repeat_ngram_size and more), and vLLM does not.
    """
    if hasattr(model, "get_base_model"):  # an adapter around it
        model = model.get_base_model()
    kept = model.generation_config
    model.generation_config = _make_config(**{name: getattr(kept, name) for name in _TOKENS})
    try:
        yield
    finally:
        model.generation_config = kept


def unapplied(model: Any, policy: PolicyConfig) -> str:
    """What a model's own generation_config says of sampling, other than the policy does; empty where nothing.

    Args:
        model: with its generation_config.
        policy: how it is asked.
    """
    own: GenerationConfig = model.generation_config
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    wanted = {
        name: value for name in names if (value := getattr(own, name)) not in (None, getattr(policy, name))
    }
    if not own.do_sample:  # these act on sampling alone
        wanted = {name: value for name, value in wanted.items() if name == "repetition_penalty"}
    return ", ".join(f"{name} {value:g}" for name, value in wanted.items())
