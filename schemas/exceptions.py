"""Errors that a user can cause or must fix. Each message is one line that says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import requires


class DivaError(Exception):
    """Base of every error that the command line prints as one line instead of a traceback."""


class ConfigError(DivaError, ValueError):
    """A setting, or a combination of settings, that cannot work. The command exits with 2."""


class MissingExtraError(ConfigError, ImportError):
    """A package of one of our extras is not installed, such as torch of `train`."""

    @classmethod
    @contextmanager
    def named_for(cls, what: str, extra: str | None = None) -> Iterator[None]:
        """Turn the failed import of such a package into one line. Other errors are not changed.

        Args:
            what: the command that needs the extra, such as `diva generate`.
            extra: the extra to name; default: the one of the package.

        Raises:
            MissingExtraError: the package of an extra is not installed.
        """
        try:
            yield
        except ModuleNotFoundError as error:
            found = _extra_of((error.name or "").partition(".")[0])
            if found is None:
                raise
            needed = extra or found
            message = f"{what} needs the extra {needed}: pip install 'diva-grpo[{needed}]'"
            raise cls(message) from error


def _extra_of(module: str) -> str | None:
    """The first extra that contains a module, by the requirements of the installed package."""
    for requirement in requires("diva-grpo") or ():
        found = re.match(r"""([\w.-]+).*extra == ['"]([\w-]+)['"]""", requirement)
        if found and found[1].lower().replace("-", "_") == module:
            return found[2]
    return None


class SourceError(DivaError, ValueError):
    """A data source that cannot be read at all (bad rows of a readable source become rejects)."""


class StoreError(DivaError, RuntimeError):
    """The store is missing, damaged, or of another version."""


class QueryError(DivaError, ValueError):
    """A query that is refused or fails in the engine."""


class TeacherError(DivaError, RuntimeError):
    """The LLM endpoint cannot be used at all (one failed answer is data, not an error)."""


class OutageError(TeacherError):
    """The endpoint refuses every request, because credit, key or model is missing. Nothing more is sent."""


class RecipeError(DivaError, ValueError):
    """A recipe that cannot be rendered on its problem's images."""


class TargetError(DivaError, RuntimeError):
    """A target on another machine that cannot be written."""


class BudgetError(DivaError, RuntimeError):
    """A run has spent the budget of `--max-cost`; all answers are kept. The command exits with 1."""


class TrainingError(DivaError, RuntimeError):
    """A training run that has no memory or disk left; its checkpoints are kept. The command exits with 1."""


class ServerError(DivaError, RuntimeError):
    """Prefect's server does not start, or does not answer."""
