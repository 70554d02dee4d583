"""The store's label model: the solver whose labels give measured offsets and the first live difficulty."""

from __future__ import annotations

from typing import Final

LABEL_MODEL: Final = "label_model"
"""Name of the setting that holds the solver's model name."""


def by_label_model(schema: str = "") -> str:
    """Return the SQL condition on `labels` that keeps the rows of the label model.

    Args:
        schema: Of the view `settings`, if it is not in the search path.
    """
    settings = f"{schema}.settings" if schema else "settings"
    return f"solver_model = (SELECT value FROM {settings} WHERE name = '{LABEL_MODEL}')"


BY_LABEL_MODEL: Final = by_label_model()
"""The same condition, for the views of one store."""

JOIN_LABEL_MODEL: Final = f"JOIN settings s ON s.value = l.solver_model WHERE s.name = '{LABEL_MODEL}'"
"""The same for rows `l` of `labels` as a join, for views: no view may hold a scalar sub-query (`views.py` says why)."""
