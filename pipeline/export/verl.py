"""How veRL scores exported rows: by the name of the data set that it knows, or by a reward file that is ours.

veRL picks its rule by `data_source` (`verl.utils.reward_score.default_compute_score`) and refuses names that it does
not know. For rows of such sources a file is written that calls our grader, as veRL's `custom_reward_function`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

KNOWN: Mapping[str, str] = MappingProxyType(
    {
        "gsm8k": "openai/gsm8k",
        "math": "DigitalLearningGmbH/MATH-lighteval",
        "math-lighteval": "DigitalLearningGmbH/MATH-lighteval",
        "math-500": "HuggingFaceH4/MATH-500",
        "math500": "HuggingFaceH4/MATH-500",
        "geometry3k": "hiyouga/geometry3k",
        "geo3k": "hiyouga/geometry3k",
        "dapo-math-17k": "math_dapo",
        "math_dapo": "math_dapo",
    }
)
"""veRL's `data_source` by the name of a source in the store, in lower case."""

_REWARD_FILE = '''"""Reward function for veRL, written by `diva export`. It needs the package diva-grpo.

    {line}
"""

from diva_grpo.pipeline.grade import grade


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    """1.0 where the response has the reference answer, else 0.0."""
    options = (extra_info or {{}}).get("options")
    return grade(solution_str, ground_truth, options=() if options is None else list(options)).score or 0.0
'''


def data_source(source: str) -> str:
    """veRL's name of a source; its own where veRL knows none."""
    return KNOWN.get(source.lower(), source)


def is_known(name: str) -> bool:
    """Whether veRL has a rule for a `data_source`, of those that are for answers of problems."""
    return name in KNOWN.values() or name.startswith(("aime", "numina_"))


def reward_path(out: Path) -> Path:
    """Where the reward file of an export is: in its folder, or beside the file."""
    return out / "reward.py" if out.is_dir() else out.with_name(f"{out.name}.reward.py")


def write_reward_file(out: Path, names: Iterable[str]) -> str | None:
    """Write the reward file where veRL does not know one of the names.

    Returns:
        The line of veRL's configuration that names the file; None where veRL has its own rules.
    """
    if all(map(is_known, names)):
        return None
    path = reward_path(out).resolve()
    line = f"custom_reward_function.path={path} custom_reward_function.name=compute_score"
    path.write_text(_REWARD_FILE.format(line=line), encoding="utf-8")
    return line
