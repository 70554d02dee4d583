"""The group of all commands. A command's module is imported when the command is looked up, so that each starts fast."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import click

from diva_grpo.flows.cli.summary import with_summary

_MODULES = {"eval": "evaluate"}
"""The modules of `flows.cli` that do not have the name of their command."""


class _Commands(UserDict[str, click.Command]):
    """The commands by name. `data` has those that were looked up.

    Args:
        names: names of all commands.
        without_summary: see `Phases`.
    """

    def __init__(self, names: Sequence[str], without_summary: Collection[str]) -> None:
        super().__init__()
        self._names = names
        self._without_summary = without_summary

    def __missing__(self, name: str) -> click.Command:
        if name not in self._names:
            raise KeyError(name)
        module = _MODULES.get(name, name.replace("-", "_"))
        command: click.Command = getattr(import_module(f"diva_grpo.flows.cli.{module}"), module)
        if name not in self._without_summary:
            with_summary(command)
        self.data[name] = command
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names


class Phases(click.Group):
    """A group of commands whose help lists the commands by phase.

    Args:
        phases: for the title of each phase, the names of its commands.
        without_summary: names of the commands that make no summary. The others get `--quiet` and `--json`.
    """

    def __init__(
        self,
        *args: Any,
        phases: Mapping[str, Sequence[str]],
        without_summary: Collection[str] = (),
        **values: Any,
    ) -> None:
        names = [name for phase in phases.values() for name in phase]
        super().__init__(*args, **values | {"commands": _Commands(names, without_summary)})
        self._phases = phases

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands of each phase under the phase's title."""
        width = formatter.width - 6 - max(map(len, self.commands))
        for title, names in self._phases.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(width)) for name in names])
