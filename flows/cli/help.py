"""Help texts with the options in groups by topic. Rarely used options appear only in `--help-all`."""

from __future__ import annotations

from typing import Any

import click

from diva_grpo.flows.verbs import VERBS


class VerbCommand(click.Command):
    """A command whose options are in groups; see `flows.verbs.Fields`."""

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        if self._rest():
            flag = click.Option(
                ["--help-all"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_show_all,
                help="Show all options, and exit.",
            )
            self.params.append(flag)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options in groups. The first group has the options that are not fields of a configuration."""
        rest = set() if ctx.meta.get(_ALL) else self._rest()
        groups: dict[str, list[tuple[str, str]]] = {"Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option) and param.name not in rest:
                groups.setdefault(self._title(param.name), []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def _title(self, option: str | None) -> str:
        groups = VERBS[self.name].fields if self.name in VERBS else ()
        names = {name: fields.title for fields in reversed(groups) for name, _ in fields.items()}
        return names.get(str(option), "Options")

    def _rest(self) -> set[str]:
        """Names of the options that only `--help-all` shows."""
        groups = VERBS[self.name].fields if self.name in VERBS else ()
        return {
            name
            for fields in groups
            if fields.first
            for name, _ in fields.items()
            if name not in fields.first
        }


_ALL = "diva_grpo.help_all"


def _show_all(ctx: click.Context, flag: click.Parameter, given: bool) -> None:
    if given:
        ctx.meta[_ALL] = True
        click.echo(ctx.get_help())
        ctx.exit()
