"""Versions of the store's schema, and migrations that read rows of older versions as rows of the present one.

A new version is needed when a column is removed, or changes its name, type or meaning. A new column that may be NULL
needs no new version: parts without the column are read as NULL. `tests/store/test_store_versions.py` tests that the
schema is unchanged, and reads a store of each version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

SCHEMA_VERSION = 2
"""Schema version of the parts that this program writes. It reads parts of this and all earlier versions."""


@dataclass(frozen=True)
class Migration:
    """A migration from one schema version to the next.

    Attributes:
        version: the schema version after the migration.
        name: a short description of the change.
        columns: for each table, the new or changed columns, as SQL over the columns of the previous version.
        dropped: for each table, the names of the columns that are removed.
    """

    version: int
    name: str
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    dropped: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def of(self, table: str, rows: str) -> str:
        """SQL that selects the rows of a table in the version after this migration.

        Args:
            table: name of the table.
            rows: SQL that selects the rows in the previous version.
        """
        changed, dropped = self.columns.get(table, {}), self.dropped.get(table, ())
        if not changed and not dropped:
            return rows
        # A condition on names, because a changed column need not exist in the previous version or in every part.
        leaving = ", ".join(f"'{name}'" for name in sorted({*changed, *dropped}))
        kept = f"COLUMNS(lambda name: name NOT IN ({leaving}))"
        new = [f'{expression} AS "{name}"' for name, expression in changed.items()]
        return f"SELECT {', '.join([kept, *new])} FROM ({rows})"


MIGRATIONS: tuple[Migration, ...] = (
    Migration(2, "names of parts contain version, rows and the hash of the content; the columns stay"),
)


def migrated(table: str, version: int, rows: str, migrations: Iterable[Migration] = MIGRATIONS) -> str:
    """SQL that selects rows of an older version as rows of the present version.

    Args:
        table: name of the table.
        version: schema version of the rows.
        rows: SQL that selects the rows as they were written.
        migrations: all migrations, in order of their versions.
    """
    for step in migrations:
        if step.version > version:
            rows = step.of(table, rows)
    return rows
