"""A plain model folder from a GGUF file: weights dequantised, to train from and to serve.

    python -m tests.support.plain_model SmolLM2-135M-Instruct.Q4_1.gguf runs/smollm2

It needs the package `gguf` beside transformers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def write_plain_model(gguf: Path, folder: Path) -> None:
    """Save model and tokenizer of a GGUF file as a folder without quantisation.

    Its generation config samples from all tokens, as training does: a server takes what a request leaves open from it.
    """
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    del read.config.quantization_config  # else the copy counts as quantised, and cannot be trained
    models: Any = AutoModelForCausalLM  # untyped there
    plain = models.from_config(read.config)
    plain.load_state_dict(read.state_dict())
    plain.generation_config.update(do_sample=True, top_k=0)
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    write_plain_model(Path(sys.argv[1]), Path(sys.argv[2]))
