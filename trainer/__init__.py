"""The method: advantages, live difficulty, selection of variants, and the TRL trainer that uses them."""

import sys

if __name__ != "diva_grpo.trainer":  # imported as top-level `trainer`, from the root of a checkout
    _MOVED = "`trainer` is now `diva_grpo.trainer` (see CHANGELOG.md)"
    if sys.argv[0] == "-m":
        print(f"{_MOVED}: python -m diva_grpo.trainer", file=sys.stderr)
        sys.exit(2)
    raise ImportError(_MOVED)
