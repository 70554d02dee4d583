"""Write the files of a Python package that is an environment for `verifiers`.

The package contains the exported rows and their path. Its classes are in `diva_grpo.trainer.hosts.verifiers` (0.4) and
`verifiers_01`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from diva_grpo.pipeline.export.card import Tally
from diva_grpo.schemas.exceptions import ConfigError

REQUIRES = ("diva-grpo>=0.1", "verifiers>=0.1.14,!=0.2.*,!=0.3.*,<0.5")
"""SkyRL and tinker-cookbook use 0.1, prime-rl 0.4."""

_PROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{id}"
version = "0.1.0"
description = "An environment for verifiers, exported from a variant store by diva-grpo"
readme = "README.md"
requires-python = ">=3.11"
dependencies = [{requires}]
keywords = ["verifiers", "math", "grpo", "diva-grpo"]

[tool.setuptools]
packages = ["{module}"]

[tool.setuptools.package-data]
{module} = ["data/*.parquet"]
"""

_MODULE = '''\
"""Tasks for `verifiers` from a variant store, written by `diva export --preset verifiers`."""

from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).parent / "data"

if version("verifiers").startswith("0.1."):
    from functools import partial

    from diva_grpo.trainer.hosts.verifiers_01 import environment

    load_environment = partial(environment, FOLDER)
else:
    from diva_grpo.trainer.hosts.verifiers import StoreEnv, StoreHarness, StoreTaskset

    __all__ = ["StoreEnv", "StoreHarness", "Taskset"]

    class Taskset(StoreTaskset):
        """The rows in the folder `data`."""

        folder = FOLDER
'''

_USE = """\
## Use

Install `diva-grpo`, then this folder, into the environment of `verifiers`:

```sh
pip install {folder}
vf-eval {id} -n 8 -r 4 --model MODEL --client.base-url http://localhost:8000/v1 --no-push
vf-eval {id} --env.taskset.kinds '["original"]' --model MODEL --client.base-url http://localhost:8000/v1 --no-push
```

| option | meaning |
| --- | --- |
| `--env.taskset.split` | {splits} |
| `--env.taskset.kinds` | kinds to load: {kinds}; default: all |
| `--env.taskset.hint-steps` | of the variants with a hint, only those with these numbers of steps; default: all |

The commands are those of verifiers 0.4. For what loads environments by the interface of 0.1 (SkyRL, tinker-cookbook),
install `verifiers>=0.1.14,<0.2` first; the options are arguments:
`vf.load_environment("{id}", split="train", kinds=["original"], hint_steps=[1, 2])`.

In prime-rl:

```toml
[[orchestrator.train.source]]
name = "{id}"

[orchestrator.train.source.env.taskset]
id = "{id}"
kinds = ["original"]
```

The reward is 1 for a right answer and 0 for a wrong one. Where the grader cannot decide, a rollout fails (with
verifiers 0.1 it counts 0).
"""


def module_name(folder: Path) -> str:
    """Return the name of the package's module, which is made from the name of its folder.

    >>> module_name(Path("out/word-problems"))
    'word_problems'

    Raises:
        ConfigError: the name is not a valid module name, or another module has this name.
    """
    name = re.sub(r"\W", "_", folder.resolve().name.lower())
    if not name.isidentifier() or not name[0].isalpha():
        raise ConfigError(
            f"{folder}: the package gets the name of its folder, which must begin with a letter"
        )
    if name in sys.stdlib_module_names or name in ("verifiers", "diva_grpo"):
        raise ConfigError(
            f"{folder}: the package gets the name of its folder, and {name} is taken: choose another name"
        )
    return name


def write_package(path: Path, folder: Path, card: str, tally: Tally) -> None:
    """Write the files that turn a folder of rows (in `<module>/data`) into a package.

    Args:
        path: path of the folder while it is written.
        folder: final path of the folder. It gives the package its name and appears in the commands of the README.
        card: the dataset card, which becomes the beginning of the README.
        tally: counts of the rows.
    """
    module = module_name(folder)
    values = {
        "id": module.replace("_", "-"),
        "module": module,
        "folder": folder,
        "requires": ", ".join(f'"{requirement}"' for requirement in REQUIRES),
        "splits": ", ".join(f"`{split}`" for split in tally.splits()),
        "kinds": ", ".join(f"`{kind}`" for kind in sorted({kind for _, kind in tally.kinds})),
    }
    for name, text in {
        "pyproject.toml": _PROJECT.format(**values),
        f"{module}/__init__.py": _MODULE,
        "README.md": f"{card}\n{_USE.format(**values)}",
    }.items():
        (path / name).write_text(text, encoding="utf-8")
