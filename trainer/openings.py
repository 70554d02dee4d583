"""Answers that open with given text: generated from, shown to the rewards, and trained on only where one asks."""

from __future__ import annotations

from typing import Any

import torch

from diva_grpo.trainer.asking import plain_generation
from diva_grpo.trainer.vision import SeeingGRPOTrainer


class OpenedGRPOTrainer(SeeingGRPOTrainer):
    """`GRPOTrainer` whose completions may begin with a text that the policy did not write.

    A trailing assistant message would be closed by the chat template, so the opening is appended to the
    prompt as tokens (`_tokenize_prompts`). Behind the generation it is moved to the front of the completion
    and masked from the loss as TRL masks the tokens of tools (`_generate`), so that prompt fields of vision
    models stay as they are and rewards see opening and completion together.

    Attributes:
        openings: text for each row of this process's next generation; empty texts, or an empty list, open
            nothing.
        written: tokens that the policy wrote in each row of this process's last generation. Without openings, texts
            of tools, and whether or not a truncated answer is trained on.
        ended: whether each row of the last generation has ended, and was not truncated.
    """

    openings: list[str]
    written: list[int]
    ended: list[bool]

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[Any, Any, dict[str, Any]]:
        prompt_ids, images, fields = super()._tokenize_prompts(prompts)
        if any(self.openings):
            opening = self._opening_ids()
            prompt_ids = [[*ids, *more] for ids, more in zip(prompt_ids, opening, strict=True)]
            # Fields with a value for each token (token_type_ids) grow with them.
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
        """Take the given tokens into the loss, each with one advantage, beside those that the policy wrote.

        Where the ratio is 1, a clipped loss has the gradient of the log-likelihood times the advantage: given steps
        are learnt as in supervised training, the rest by its rewards (UFT, arXiv 2505.16984, there with a hint
        length that falls with time).

        Args:
            output: TRL's tensors after a generation. Where there is an opening, `advantages` become (B, T), and
                given tokens count in `tool_mask`.
            advantage: of each given token.
        """
        written_BT = output.get("tool_mask")
        if written_BT is None:
            return
        # A truncated answer that TRL leaves out of the loss has no token in `completion_mask` either.
        given_BT = (written_BT.cumsum(dim=1) == 0) & output["completion_mask"].bool()
        output["advantages"] = output["advantages"][:, None].masked_fill(given_BT, advantage)
        output["tool_mask"] = written_BT.masked_fill(given_BT, 1)
        # vLLM sampled none of them: NaN is TRL's own for a token without evidence, and no ratio corrects it.
        if "sampling_per_token_logps" in output:
            output["sampling_per_token_logps"] = output["sampling_per_token_logps"].masked_fill(
                given_BT, torch.nan
            )
        if "importance_sampling_ratio" in output:
            ratio_BT = output["importance_sampling_ratio"].expand(given_BT.shape)
            output["importance_sampling_ratio"] = ratio_BT.masked_fill(given_BT, 1.0)

    def _count_items(self, output: dict[str, Any]) -> None:
        """Count anew what TRL divides some losses by: the tokens that are trained on, of all processes.

        It gathers, and so is for every process, those whose rows have no opening too.
        """
        mask_BT = output["completion_mask"] * output.get("tool_mask", 1)
        output["num_items_in_batch"] = self.accelerator.gather(mask_BT.sum()).sum()

    def _opening_ids(self) -> list[list[int]]:
        return [
            self._tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
            for text in self.openings
        ]


def _opened(opening: str, completion: Any) -> Any:
    """A completion, plain or conversational, with its opening in front."""
    if isinstance(completion, str):
        return opening + completion
    first, *rest = completion
    return [{**first, "content": opening + (first.get("content") or "")}, *rest]
