"""What the flows share: the release of what an error holds."""

from __future__ import annotations

import pytest

from diva_grpo.flows.released import Released


@pytest.mark.timeout(30)
def test_a_chain_of_errors_that_leads_back_is_released_once() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    with pytest.raises(ValueError, match="first"), Released():
        raise first
