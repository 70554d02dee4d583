"""How veRL scores exported rows: by its own rule if it knows the data set, else by a reward file that we write.

veRL selects its rule by the column `data_source` (`verl.utils.reward_score.default_compute_score`) and raises an error
for unknown names. For such rows the export writes a file that calls our grader. veRL loads it by its setting
`reward.custom_reward_function` (earlier releases read `custom_reward_function`, which `main_ppo` of 0.9.1 ignores).
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
"""veRL's `data_source` for known sources. The keys are names of sources in the store, in lower case."""

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
    """Return veRL's `data_source` for a source; the name of the source if veRL does not know it."""
    return KNOWN.get(source.lower(), source)


def is_known(name: str) -> bool:
    """Whether veRL has a rule that scores the answers of a `data_source`."""
    return name in KNOWN.values() or name.startswith(("aime", "numina_"))


def reward_path(out: Path) -> Path:
    """Return the path of the reward file: in the exported folder, or next to the exported file."""
    return out / "reward.py" if out.is_dir() else out.with_name(f"{out.name}.reward.py")


def write_reward_file(out: Path, names: Iterable[str]) -> str | None:
    """Write the reward file if veRL has no rule for one of the data sources.

    Args:
        out: the exported file or folder.
        names: the `data_source` values of the rows.

    Returns:
        The settings that make veRL use the file, in one line; None if veRL has a rule for every name.
    """
    if all(map(is_known, names)):
        return None
    path = reward_path(out).resolve()
    settings = {"path": path, "name": "compute_score"}
    line = " ".join(f"reward.custom_reward_function.{name}={value}" for name, value in settings.items())
    path.write_text(_REWARD_FILE.format(line=line), encoding="utf-8")
    return line
