"""Answers that begin with a given text, their opening. The policy continues it, and rewards see both together."""

from __future__ import annotations

from typing import Any

import torch

from diva_grpo.trainer.asking import plain_generation
from diva_grpo.trainer.vision import SeeingGRPOTrainer


class OpenedGRPOTrainer(SeeingGRPOTrainer):
    """`GRPOTrainer` whose completions may begin with an opening: a text that the policy did not write.

    The opening is appended to the prompt as tokens (`_tokenize_prompts`), because the chat template would close an
    assistant message at the end of the prompt. After the generation, the opening is moved to the start of the
    completion, and masked from the loss as TRL masks the tokens of tools (`_generate`). So the prompt fields of vision
    models do not change, and rewards see the opening and the completion together.

    Attributes:
        openings: opening of each row of this process's next generation. An empty text, or an empty list for all rows,
            means no opening.
        written: number of tokens that the policy wrote in each row of this process's last generation, also in
            truncated answers. Tokens of openings and tools are not counted.
        ended: whether the answer in each row of the last generation ended, and was not truncated.
    """

    openings: list[str]
    written: list[int]
    ended: list[bool]
    _entropy_BT: torch.Tensor | None = None

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[Any, Any, dict[str, Any]]:
        prompt_ids, images, fields = super()._tokenize_prompts(prompts)
        if any(self.openings):
            opening = self._opening_ids()
            prompt_ids = [[*ids, *more] for ids, more in zip(prompt_ids, opening, strict=True)]
            # Fields with a value for each token (token_type_ids) get values for the new tokens.
            for name, values in fields.items():
                if isinstance(values, list) and values and isinstance(values[0], list):
                    fields[name] = [[*v, *[0] * len(more)] for v, more in zip(values, opening, strict=True)]
        return prompt_ids, images, fields

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        with plain_generation(self.accelerator.unwrap_model(self.model)):
            generated = super()._generate(prompts)
        tool_mask = generated[2]
        self.written = [sum(row) for row in tool_mask] if tool_mask else [len(ids) for ids in generated[1]]
        ends = {*self.eos_token_ids, self._tokenizer.pad_token_id}
        self.ended = [ids[-1] in ends for ids in generated[1]]
        if not any(self.openings):
            return tuple(generated)
        prompt_ids, completion_ids, _, completions, logprobs, extra, images, tool_images = generated
        opening = self._opening_ids()
        own = tool_mask or [[1] * len(ids) for ids in completion_ids]
        mask = [[0] * len(more) + row for more, row in zip(opening, own, strict=True)]
        prompt_ids = [ids[: len(ids) - len(more)] for ids, more in zip(prompt_ids, opening, strict=True)]
        completion_ids = [[*more, *ids] for more, ids in zip(opening, completion_ids, strict=True)]
        if logprobs is not None:
            logprobs = [[*[0.0] * len(more), *lp] for more, lp in zip(opening, logprobs, strict=True)]
        completions = [_opened(text, c) for text, c in zip(self.openings, completions, strict=True)]
        return prompt_ids, completion_ids, mask, completions, logprobs, extra, images, tool_images

    def _train_on_openings(self, output: dict[str, Any], advantage: float) -> None:
        """Include the tokens of the openings in the loss, all with the same advantage.

        With the advantage 0 they are anchored alone: only the KL penalty and the entropy bonus act on them.

        If the probability ratio is 1, the gradient of a clipped loss is that of the log-likelihood times the advantage.
        So the openings are learned as in supervised training, and the other tokens from the rewards. Source: UFT, arXiv
        2505.16984, where the hint length also decreases during training.

        Args:
            output: TRL's tensors after a generation; changed in place. If any row has an opening, `advantages` gets the
                shape (B, T), `tool_mask` becomes 1 for the tokens of openings, and `given_mask` (B, T) marks them.
            advantage: advantage of each token of an opening.
        """
        written_BT = output.get("tool_mask")
        if written_BT is None:
            output["given_mask"] = torch.zeros_like(output["completion_mask"])
            return
        given_BT = _given(output)
        output["given_mask"] = given_BT.to(output["completion_mask"])
        output["advantages"] = output["advantages"][:, None].masked_fill(given_BT, advantage)
        output["tool_mask"] = written_BT.masked_fill(given_BT, 1)
        # vLLM did not sample these tokens. TRL uses NaN for a token without a sampling probability; its ratio is 1.
        if "sampling_per_token_logps" in output:
            output["sampling_per_token_logps"] = output["sampling_per_token_logps"].masked_fill(
                given_BT, torch.nan
            )
        if "importance_sampling_ratio" in output:
            ratio_BT = output["importance_sampling_ratio"].expand(given_BT.shape)
            output["importance_sampling_ratio"] = ratio_BT.masked_fill(given_BT, 1.0)

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        logps, entropy_BT, *others = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self._entropy_BT = entropy_BT
        return logps, entropy_BT, *others

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        loss: torch.Tensor = super()._compute_loss(model, inputs)
        if self.model.training and self.args.hint_style == "prefix":
            self._log_entropy(inputs)
        self._entropy_BT = None
        return loss

    def _log_entropy(self, inputs: dict[str, Any]) -> None:
        """Log the mean entropy of the policy at the given tokens, which TRL's `entropy` leaves out unless trained on.

        Collective call: every process must make it, even if none of its rows has an opening.
        """
        given_BT = inputs["given_mask"].bool() if "given_mask" in inputs else _given(inputs)
        assert self._entropy_BT is not None  # TRL computes it with each loss
        total = self._entropy_BT.detach()[given_BT].sum()
        total, count = self.accelerator.reduce(
            torch.stack([total, given_BT.sum().to(total)]), reduction="sum"
        )
        if count:
            self._metrics["train"]["diva/given_entropy"].append((total / count).item())

    def _count_items(self, output: dict[str, Any]) -> None:
        """Recompute the number by which TRL divides some losses: the trained tokens of all processes.

        Collective call: every process must make it, even if none of its rows has an opening.
        """
        mask_BT = output["completion_mask"] * output.get("tool_mask", 1)
        output["num_items_in_batch"] = self.accelerator.gather(mask_BT.sum()).sum()

    def _opening_ids(self) -> list[list[int]]:
        return [
            self._tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
            for text in self.openings
        ]


def _given(side: dict[str, Any]) -> torch.Tensor:
    """Return (B, T) whether a token is one of an opening that is not trained on.

    If TRL leaves a truncated answer out of the loss, its `completion_mask` is 0, so its opening is left out too.
    """
    completion_BT: torch.Tensor = side["completion_mask"].bool()
    if "tool_mask" not in side:
        return torch.zeros_like(completion_BT)
    before_own_BT: torch.Tensor = side["tool_mask"].cumsum(dim=1) == 0
    return completion_BT & before_own_BT


def _opened(opening: str, completion: Any) -> Any:
    """Return a completion, plain or conversational, that starts with the opening."""
    if isinstance(completion, str):
        return opening + completion
    first, *rest = completion
    return [{**first, "content": opening + (first.get("content") or "")}, *rest]
