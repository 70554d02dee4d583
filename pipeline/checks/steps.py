"""Remove the labels of think steps, such as "Step 3:"."""

from __future__ import annotations

import re

_LABEL = re.compile(r"^[\s*#_(]*step\s+\d+[\s*_)]*[:.)–-]?[\s*_]*", re.IGNORECASE | re.MULTILINE)


def unlabelled(step: str) -> str:
    """Remove the labels from a think step of one or more lines, because their numbers are not results.

    >>> unlabelled("Step 3: -4 + 7 = 3"), unlabelled("**Step 2.** Add.")
    ('-4 + 7 = 3', 'Add.')
    """
    return _LABEL.sub("", step)
