"""Versions of the store's schema, and how the rows of an older one are read as those of this one.

A new version is due where a column changes its name, type or meaning, or leaves. A column that is only
added needs none, if it may be NULL: parts without it are read as NULL. `tests/store/test_store_versions.py` pins
the schema, and has a store of each version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

SCHEMA_VERSION = 2
"""Version of the parts that this program writes; it reads those up to it."""


@dataclass(frozen=True)
class Migration:
    """One step from a version to the next.

    Attributes:
        version: that it leads to.
        name: what it does, in a few words.
        columns: by table, new or changed columns as SQL over the columns of the version before.
        dropped: by table, columns that leave.
    """

    version: int
    name: str
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    dropped: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def of(self, table: str, rows: str) -> str:
        """A SELECT of the table's rows as they are after this step.

        Args:
            table: its name.
            rows: a SELECT of its rows in the version before.
        """
        changed, dropped = self.columns.get(table, {}), self.dropped.get(table, ())
        if not changed and not dropped:
            return rows
        # By a condition, since a column that is changed need not be there before, nor in every part.
        leaving = ", ".join(f"'{name}'" for name in sorted({*changed, *dropped}))
        kept = f"COLUMNS(lambda name: name NOT IN ({leaving}))"
        new = [f'{expression} AS "{name}"' for name, expression in changed.items()]
        return f"SELECT {', '.join([kept, *new])} FROM ({rows})"


MIGRATIONS: tuple[Migration, ...] = (
    Migration(2, "names of parts contain version, rows and the hash of the content; the columns stay"),
)


def migrated(table: str, version: int, rows: str, migrations: Iterable[Migration] = MIGRATIONS) -> str:
    """A SELECT of rows of an older version as rows of the present one.

    Args:
        table: its name.
        version: of the rows.
        rows: a SELECT of them as they were written.
        migrations: all steps, in order.
    """
    for step in migrations:
        if step.version > version:
            rows = step.of(table, rows)
    return rows
