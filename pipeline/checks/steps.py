"""Labels of think steps: "Step 3:" is not part of what the step says."""

from __future__ import annotations

import re

_LABEL = re.compile(r"^[\s*#_(]*step\s+\d+[\s*_)]*[:.)–-]?[\s*_]*", re.IGNORECASE | re.MULTILINE)


def unlabelled(step: str) -> str:
    """A think step, of one or more lines, without its labels, whose numbers are not results.

    >>> unlabelled("Step 3: -4 + 7 = 3"), unlabelled("**Step 2.** Add.")
    ('-4 + 7 = 3', 'Add.')
    """
    return _LABEL.sub("", step)
