"""The interactive prompt of `diva sql`: history, completion, statements over several lines."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import click
import duckdb
from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from diva_grpo.pipeline.store.catalog import View
from diva_grpo.pipeline.store.queries import queries
from diva_grpo.pipeline.store.sql import split_statements
from diva_grpo.schemas.exceptions import DivaError, QueryError

HELP = """\
A SELECT ends with a semicolon and may take several lines. Tab completes; the arrow keys recall earlier input.
.schema [VIEW]    list the views, or the columns of one
.examples [NAME]  list useful queries, or run one by its name or number
help              show this (also .help)
exit, quit        leave (also .exit, .quit, Ctrl-D); Ctrl-C discards a line, or stops a running query"""

_COMMANDS = ("schema", "examples", "help", "quit", "exit")
_COMMAND = re.compile(r"\.(\w*)\s*(.*?)[\s;]*|(exit|quit|help)[\s;]*", re.IGNORECASE | re.DOTALL)
_WORD = re.compile(r"[\w.]*$")
_TABLE_FOLLOWS = re.compile(r"\b(from|join|describe|summarize)\s+[\w.]*$", re.IGNORECASE)


class SqlCompleter(Completer):
    """Complete views after FROM and JOIN, columns after a view's name or alias and a dot, and elsewhere any of them.

    Elsewhere it offers columns first, then views and keywords. The columns are those of the views that the text names,
    or those of all views if it names none.
    """

    def __init__(self, views: Sequence[View]) -> None:
        self._views = {view.name: view for view in views}
        with duckdb.connect() as connection:
            rows = connection.execute(
                "SELECT upper(keyword_name) FROM duckdb_keywords() WHERE keyword_category = 'reserved' ORDER BY 1"
            ).fetchall()
        self._keywords = [name for (name,) in rows]

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Yield the completions at the cursor."""
        before = document.text_before_cursor
        word = _WORD.search(before)
        written = word.group() if word else ""
        owner, dot, start = written.rpartition(".")
        if before.lstrip().startswith("."):
            offered = [(f".{name}", "") for name in _COMMANDS]
            start = before.lstrip()
        elif dot:
            offered = self._columns([self._aliases(document.text).get(owner.lower(), owner)])
        elif _TABLE_FOLLOWS.search(before):
            offered = [(name, view.description) for name, view in self._views.items()]
        elif start:
            named = set(re.findall(r"\w+", document.text.lower())) & self._views.keys()
            offered = self._columns(sorted(named) or list(self._views))
            offered += [(name, view.description) for name, view in self._views.items()]
            offered += [(keyword, "") for keyword in self._keywords]
        else:
            offered = []
        shown = dict(offered)  # a column that several views have is offered once
        for name, meaning in shown.items():
            if name.lower().startswith(start.lower()):
                yield Completion(name, start_position=-len(start), display_meta=meaning)

    def _columns(self, names: Iterable[str]) -> list[tuple[str, str]]:
        views = [self._views[name.lower()] for name in names if name.lower() in self._views]
        return [
            (column.name, f"{column.type}: {column.description}") for view in views for column in view.columns
        ]

    def _aliases(self, text: str) -> dict[str, str]:
        """The view's name for each alias in the text."""
        found = re.findall(rf"\b({'|'.join(self._views)})\s+(?:as\s+)?(\w+)", text, re.IGNORECASE)
        return {alias.lower(): view.lower() for view, alias in found}


def is_complete(text: str) -> bool:
    """Whether Enter ends the input: it is empty, a command of the prompt, or a statement that ends with a semicolon.

    >>> is_complete("SELECT 1"), is_complete("SELECT 1;"), is_complete("SELECT ';"), is_complete("exit")
    (False, True, False, True)
    """
    text = text.strip()
    if not text or _COMMAND.fullmatch(text):
        return True
    if not text.endswith(";"):
        return False
    try:
        split_statements(text)
    except QueryError as error:
        # A semicolon within quotes or a comment does not end the statement. Other errors end the input, so that
        # running it shows them to the user.
        return "unterminated" not in str(error)
    return True


def history_file() -> Path:
    """The file with the prompt's history, in the user's state folder by the XDG rule."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "diva" / "sql_history"


def _history() -> History:
    file = history_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
    except OSError:  # the folder cannot be written: the prompt works without saving its history
        return InMemoryHistory()
    return FileHistory(str(file))


def run_prompt(views: Sequence[View], run: Callable[[str], object]) -> None:
    """Read statements and run each, until the end of the input. An error is printed as one line, and reading goes on.

    Args:
        views: the views, for completion and `.schema`.
        run: prints the result of a statement. It may raise DivaError, or KeyboardInterrupt if a query is stopped.
    """
    session: PromptSession[str] = PromptSession(
        "diva> ",
        history=_history(),
        completer=SqlCompleter(views),
        complete_while_typing=False,
        auto_suggest=AutoSuggestFromHistory(),
        prompt_continuation=lambda width, line, wrapped: "...> ".rjust(width),
    )
    session.multiline = Condition(lambda: not is_complete(session.default_buffer.text))
    click.echo("help lists the commands of this prompt, exit leaves it", err=True)
    while True:
        try:
            text = session.prompt().strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        command = _COMMAND.fullmatch(text)
        name = (command[1] or command[3] or "").lower() if command else ""
        if name in ("quit", "exit"):
            return
        try:
            if command:
                _do(name, command[2] or None, views, run)
            else:
                for statement in split_statements(text):
                    run(statement)
        except DivaError as error:
            click.echo(f"diva: {error}", err=True)
        except KeyboardInterrupt:
            click.echo("the query was stopped", err=True)


def _do(name: str, argument: str | None, views: Sequence[View], run: Callable[[str], object]) -> None:
    """Run a command of the prompt other than `quit` and `exit`.

    Args:
        name: name of the command.
        argument: its argument; None without one.
        views: the views, for `schema`.
        run: prints the result of a query.

    Raises:
        QueryError: there is no such command, view or example.
    """
    if name == "schema":
        click.echo(schema_text(views, argument))
    elif name == "examples" and argument:
        run(example(argument))
    elif name == "examples":
        click.echo(examples_text())
    elif name == "help":
        click.echo(HELP)
    else:
        raise QueryError(f"no command .{name}: there are {', '.join(f'.{known}' for known in _COMMANDS)}")


def schema_text(views: Sequence[View], only: str | None = None) -> str:
    """The views and their columns, with types and descriptions, as text.

    Args:
        views: the views.
        only: name of the one view to describe; None: all.

    Raises:
        QueryError: there is no such view.
    """
    found = [view for view in views if only in (None, view.name)]
    if not found:
        raise QueryError(f"no view {only}: there are {', '.join(view.name for view in views)}")
    blocks = []
    for view in found:
        width = max(len(column.name) for column in view.columns)
        kind = max(len(column.type) for column in view.columns)
        lines = [f"  {c.name:<{width}}  {c.type:<{kind}}  {c.description}" for c in view.columns]
        blocks.append("\n".join([f"{view.name}: {view.description}", *lines]))
    return "\n\n".join(blocks)


def examples_text() -> str:
    """The named queries as text, with numbers from 1."""
    return "\n\n".join(
        f"-- {number}. {query.title} [{name}]\n{query.sql}"
        for number, (name, query) in enumerate(queries().items(), 1)
    )


def example(name: str) -> str:
    """The SQL of a named query.

    Args:
        name: name of the query, or its number from 1.

    Raises:
        QueryError: there is no such query.
    """
    names = list(queries())
    if name.isdecimal() and 1 <= int(name) <= len(names):
        name = names[int(name) - 1]
    if name not in names:
        raise QueryError(f"no example {name}: there are 1 to {len(names)}, or by name: {', '.join(names)}")
    return queries()[name].sql
