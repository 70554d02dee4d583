"""Lines of the files that the Batch API returns."""

from __future__ import annotations

import pytest

from diva_grpo.pipeline.teacher.wire.batch.lines import read_line


@pytest.mark.parametrize(
    ("line", "outcome"),
    [
        (b"", None),
        (b"not json", None),
        (b"[1]", None),
        (b'{"no": "id"}', None),
        (b'{"custom_id": "k", "response": null, "error": {"code": "batch_expired"}}', ("timeout", True)),
        (b'{"custom_id": "k", "response": {"status_code": 429, "body": null}}', ("http_429", True)),
        (b'{"custom_id": "k", "response": {"status_code": 404, "body": "x"}}', ("http_404", False)),
        (b'{"custom_id": "k"}', ("timeout", True)),
    ],
)
def test_lines_of_all_kinds(line: bytes, outcome: tuple[str, bool] | None) -> None:
    told = read_line(line)
    assert (told and (told[1].outcome, told[2])) == outcome
