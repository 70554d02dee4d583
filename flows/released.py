"""Free what the stack frames of an exception hold.

Prefect keeps exceptions until the process ends. Their frames would keep DuckDB connections open, and DuckDB reports
every object that still exists at exit as leaked, after the message of the error.

    with Released():
        flow(config)
"""

from __future__ import annotations

import traceback

from diva_grpo.schemas.exceptions import DivaError


class Released:
    """A context that clears the stack frames of an exception that leaves it.

    A `DivaError` also loses its traceback, which nobody prints: cleared frames still hold the closures of their
    functions.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        chain: list[BaseException] = []
        link = error
        while link is not None and link not in chain:  # a chain may be circular: `raise error from error`
            chain.append(link)
            traceback.clear_frames(link.__traceback__)
            if isinstance(error, DivaError):
                link.__traceback__ = None
            link = link.__cause__ or link.__context__
