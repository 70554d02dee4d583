"""Labels of think steps: "Step 3:" is not part of what the step says."""

from __future__ import annotations

import re

_LABEL = re.compile(r"^[\s*#_(]*step\s+\d+[\s*_)]*[:.)–-]?[\s*_]*", re.IGNORECASE | re.MULTILINE)


def unlabelled(step: str) -> str:
    """A think step, of one line or several, without its labels: their numbers are no result.

    >>> unlabelled("Step 3: -4 + 7 = 3"), unlabelled("**Step 2.** Add.")
    ('-4 + 7 = 3', 'Add.')
    """
    return _LABEL.sub("", step)
