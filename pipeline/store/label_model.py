"""The store's label model: the solver whose labels determine the measured offsets and the first live difficulty."""

from __future__ import annotations

from typing import Final

LABEL_MODEL: Final = "label_model"
"""Name of the setting whose value is the solver's model name."""


def by_label_model(schema: str = "") -> str:
    """Return the SQL condition on `labels` that keeps the rows of the label model.

    Args:
        schema: Schema of the view `settings`; needed only if it is not in the search path.
    """
    settings = f"{schema}.settings" if schema else "settings"
    return f"solver_model = (SELECT value FROM {settings} WHERE name = '{LABEL_MODEL}')"


BY_LABEL_MODEL: Final = by_label_model()
"""The condition of `by_label_model` for views in the search path."""

JOIN_LABEL_MODEL: Final = f"JOIN settings s ON s.value = l.solver_model WHERE s.name = '{LABEL_MODEL}'"
"""The same condition for rows `l` of `labels`, as a join. Views use it because they may not contain a scalar sub-query
(see the comment in `views.py`)."""
