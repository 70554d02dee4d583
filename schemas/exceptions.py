"""Errors that a user can cause or must fix. Each message is one line that says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager


class DivaError(Exception):
    """Base of every error that the command line prints as one line instead of a traceback."""


class ConfigError(DivaError, ValueError):
    """A setting, or a combination of settings, that cannot work. The command exits with 2."""


class MissingExtraError(ConfigError, ImportError):
    """A package of one of this project's extras is not installed, such as torch of the extra `train`."""

    @classmethod
    @contextmanager
    def named_for(cls, what: str, extra: str | None = None) -> Iterator[None]:
        """Replace the import error of such a package by a one-line error. Other errors are not changed.

        Args:
            what: the command that needs the extra, such as `diva generate`.
            extra: the extra to name in the message; default: the first extra that contains the package.

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
    from importlib.metadata import requires  # rarely needed, and slow to load

    for requirement in requires("diva-grpo") or ():
        found = re.match(r"""([\w.-]+).*extra == ['"]([\w-]+)['"]""", requirement)
        if found and found[1].lower().replace("-", "_") == module:
            return found[2]
    return None


class SourceError(DivaError, ValueError):
    """A data source cannot be read at all. Invalid rows of a readable source become rejects instead."""


class StoreError(DivaError, RuntimeError):
    """The store is missing, damaged, or has a schema version that cannot be read."""


class QueryError(DivaError, ValueError):
    """A query is refused, or fails in DuckDB."""


class TeacherError(DivaError, RuntimeError):
    """The LLM endpoint cannot be used at all. A single failed answer is recorded as data and raises no error."""


class OutageError(TeacherError):
    """The endpoint refuses all requests, because credit, key or model is missing. No further requests are sent."""


class RecipeError(DivaError, ValueError):
    """A recipe cannot be applied to its problem's images."""


class TargetError(DivaError, RuntimeError):
    """A target on another machine cannot be written."""


class BudgetError(DivaError, RuntimeError):
    """A run has used up its budget (`--max-cost`). All answers are kept. The command exits with 1."""


class TrainingError(DivaError, RuntimeError):
    """A training run has run out of memory or disk space. Its checkpoints are kept. The command exits with 1."""


class ServerError(DivaError, RuntimeError):
    """Prefect's server does not start, or does not answer."""
