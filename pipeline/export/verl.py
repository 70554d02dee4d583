"""How veRL scores exported rows: by its own rule for a known data set, or by a reward file of ours.

veRL selects its rule by `data_source` (`verl.utils.reward_score.default_compute_score`) and refuses unknown names. For
rows of such sources the export writes a file that calls our grader, as veRL's `reward.custom_reward_function` (earlier
releases read `custom_reward_function`, which `main_ppo` of 0.9.1 ignores).
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
    """veRL's name of a source; the source's own name if veRL has none."""
    return KNOWN.get(source.lower(), source)


def is_known(name: str) -> bool:
    """Whether veRL has a rule for the answers of a `data_source`."""
    return name in KNOWN.values() or name.startswith(("aime", "numina_"))


def reward_path(out: Path) -> Path:
    """Path of the reward file of an export: in its folder, or next to its file."""
    return out / "reward.py" if out.is_dir() else out.with_name(f"{out.name}.reward.py")


def write_reward_file(out: Path, names: Iterable[str]) -> str | None:
    """Write the reward file if veRL does not know one of the names.

    Returns:
        The line of veRL's configuration that names the file; None if veRL has its own rules.
    """
    if all(map(is_known, names)):
        return None
    path = reward_path(out).resolve()
    settings = {"path": path, "name": "compute_score"}
    line = " ".join(f"reward.custom_reward_function.{name}={value}" for name, value in settings.items())
    path.write_text(_REWARD_FILE.format(line=line), encoding="utf-8")
    return line
