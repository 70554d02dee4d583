"""Count the tokens of a request before it is sent."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from diva_grpo.pipeline.teacher.prices import ImageRule, Price

# Tokens that OpenAI's chat format adds for each message, and for the beginning of the answer.
_PER_MESSAGE, _PER_REQUEST = 4, 3

_PIECE = re.compile(r"[^\W\d_]+|\d{1,3}|[^\w\s]+|_+|\n+")


def approximate_tokens(text: str) -> int:
    """Estimate the number of tokens of a text without a tokenizer.

    It counts words, groups of three digits, and pairs of other characters. On mathematical questions, solutions,
    prompts and JSON schemas the error was at most 6 % against OpenAI's `o200k_base`. The usual estimate, one token for
    four characters, was up to 28 % off.
    """
    return sum(_of_piece(piece) for piece in _PIECE.findall(text))


def _of_piece(piece: str) -> int:
    if piece.isspace() or piece.isdigit():
        return 1
    if piece.isalpha():
        return 1 + (len(piece) - 1) // 9 if piece.isascii() else max(1, len(piece.encode()) // 4)
    return (len(piece) + 1) // 2


class TokenCounter:
    """Counts tokens with the tokenizer of a model if that is available offline, else approximately.

    It looks for `tokenizer.json` in a folder of the model's name (a local model), then for the packages `bpe_openai`,
    which contains OpenAI's encodings, and `tiktoken`. `tiktoken` may download the encodings, so it is used only if
    TIKTOKEN_CACHE_DIR is set.

    Attributes:
        name: name of the tokenizer.
        text: function that counts the tokens of a text.
    """

    def __init__(self, model: str) -> None:
        self.name, self.text = _tokenizer(model) or ("an approximation", approximate_tokens)

    def request(self, parameters: dict[str, Any], images: ImageRule) -> int:
        """Prompt tokens of a chat completion request.

        Args:
            parameters: body of the request.
            images: how the model counts images.
        """
        tokens = _PER_REQUEST
        for message in parameters["messages"]:
            tokens += _PER_MESSAGE
            for part in _parts(message["content"]):
                tokens += self.text(part) if isinstance(part, str) else images.tokens(*part)
        if schema := parameters.get("response_format", {}).get("json_schema"):
            tokens += self.text(json.dumps(schema["schema"]))
        return tokens

    def most(self, parameters: dict[str, Any], price: Price, share: float = 1.0) -> float:
        """Largest possible cost of a request in dollars: its prompt, and a completion as long as it allows.

        Args:
            parameters: body of the request.
            price: price of the model.
            share: fraction of the price that is charged.
        """
        longest = parameters.get("max_completion_tokens") or parameters.get("max_tokens") or 0
        return price.cost(self.request(parameters, price.images), longest, share)


def _parts(content: Any) -> Iterator[str | tuple[int, int]]:
    """Yield the parts of a message: each text, and the (width, height) of each image in pixels."""
    if isinstance(content, str):
        yield content
        return
    for part in content:
        if part["type"] == "text":
            yield part["text"]
        else:
            encoded = part["image_url"]["url"].partition(",")[2]
            with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
                yield image.size


def _tokenizer(model: str) -> tuple[str, Callable[[str], int]] | None:
    """Name and counting function of a tokenizer of the model that works offline; None if there is none."""
    file = Path(model) / "tokenizer.json"
    if file.is_file():
        from tokenizers import Tokenizer

        local = Tokenizer.from_file(str(file))
        return str(file), lambda text: len(local.encode(text).ids)
    for package in ("bpe_openai", "tiktoken"):
        at_hand = find_spec(package) and (package != "tiktoken" or "TIKTOKEN_CACHE_DIR" in os.environ)
        if at_hand and (encoding := _encoding(package, model)):
            return f"{package}'s {encoding.name}", lambda text: len(encoding.encode_ordinary(text))
    return None


def _encoding(package: str, model: str) -> Any | None:
    """The encoding of an OpenAI model, from `bpe_openai` or `tiktoken`, which have the same functions.

    None for a model of another provider.
    """
    try:
        return import_module(package).encoding_for_model(model)
    except KeyError:
        return None
