"""The job of `bench_teacher` by `bespokelabs-curator`, for comparison.

Run it by the Python of an environment that has `bespokelabs-curator`, on the URL that this prints:

    python -m tests.bench.fast_endpoint --delay 0.2
    OTHER/bin/python tests/bench/bench_curator.py URL 600

Its tokenizer would be fetched from the network: here it counts words, which costs it less.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import tiktoken


class _Words:
    def encode(self, text: str, **_: Any) -> list[str]:
        return text.split()


def main() -> None:
    url, requests = sys.argv[1], int(sys.argv[2])
    os.environ |= {"OPENAI_API_KEY": "none", "CURATOR_VIEWER": "0", "TELEMETRY_ENABLED": "false"}
    os.environ |= {"CURATOR_DISABLE_CACHE": "1", "CURATOR_DISABLE_RICH_DISPLAY": "1"}
    tiktoken.get_encoding = tiktoken.encoding_for_model = lambda *_, **__: _Words()
    from bespokelabs import curator
    from datasets import Dataset

    class Reword(curator.LLM):  # type: ignore[misc]  # curator has no types
        def prompt(self, row: dict[str, int]) -> str:
            return f"Reword: Tom has {row['number']} apples."

        def parse(self, row: dict[str, int], response: str) -> dict[str, Any]:
            return {"number": row["number"], "text": response}

    limits = {
        "max_requests_per_minute": 10**6,
        "max_tokens_per_minute": 10**9,
        "max_concurrent_requests": 256,
    }
    teacher = Reword(
        model_name="m", backend="openai", backend_params={"base_url": url, "api_key": "none"} | limits
    )
    started = time.perf_counter()
    teacher(Dataset.from_dict({"number": list(range(requests))}))
    print(f"curator: {requests / (time.perf_counter() - started):.0f} requests/s")


if __name__ == "__main__":
    main()
