"""Errors that a user can cause or must act on. Each message is one line that says what to do."""


class DivaError(Exception):
    """Base of every error that the command line prints as one line instead of a traceback."""


class ConfigError(DivaError, ValueError):
    """A setting, or a combination of settings, that cannot work. The command exits with 2."""


class SourceError(DivaError, ValueError):
    """A data source that cannot be read at all (bad rows of a readable source become rejects)."""


class StoreError(DivaError, RuntimeError):
    """The store is missing, damaged, or of another version."""


class QueryError(DivaError, ValueError):
    """A query that is refused or fails in the engine."""


class TeacherError(DivaError, RuntimeError):
    """The LLM endpoint cannot be used at all (one failed answer is data, not an error)."""


class RecipeError(DivaError, ValueError):
    """A recipe that cannot be rendered on its problem's images."""


class TargetError(DivaError, RuntimeError):
    """A place outside of this machine that cannot be written to."""


class BudgetError(DivaError, RuntimeError):
    """A run has spent what `--max-cost` allows it; all answers are kept. The command exits with 1."""


class ServerError(DivaError, RuntimeError):
    """Prefect's server does not start, or does not answer."""
