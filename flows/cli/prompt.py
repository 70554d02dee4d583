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

from diva_grpo.pipeline.store.catalog import View, example_queries
from diva_grpo.pipeline.store.sql import split_statements
from diva_grpo.schemas.exceptions import DivaError, QueryError

HELP = """\
A SELECT ends with a semicolon and may take several lines. Tab completes, the arrows find what was typed before.
.schema [VIEW]    views, or the columns of one
.examples [N]     useful queries, or run one
.quit             leave (or Ctrl-D); Ctrl-C drops a line, or ends a query that runs"""

_WORD = re.compile(r"[\w.]*$")
_TABLE_FOLLOWS = re.compile(r"\b(from|join|describe|summarize)\s+[\w.]*$", re.IGNORECASE)


class SqlCompleter(Completer):
    """Completes views after FROM and JOIN, columns behind a view's name or alias, and keywords.

    Columns of the views that the text names come first; where it names none, those of all views.
    """

    def __init__(self, views: Sequence[View]) -> None:
        self._views = {view.name: view for view in views}
        with duckdb.connect() as connection:
            rows = connection.execute(
                "SELECT upper(keyword_name) FROM duckdb_keywords() WHERE keyword_category = 'reserved' ORDER BY 1"
            ).fetchall()
        self._keywords = [name for (name,) in rows]

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """What may stand at the cursor."""
        before = document.text_before_cursor
        word = _WORD.search(before)
        written = word.group() if word else ""
        owner, dot, start = written.rpartition(".")
        if before.lstrip().startswith("."):
            offered = [(f".{name}", "") for name in ("schema", "examples", "help", "quit")]
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
        """Views by the names that the text gives them."""
        found = re.findall(rf"\b({'|'.join(self._views)})\s+(?:as\s+)?(\w+)", text, re.IGNORECASE)
        return {alias.lower(): view.lower() for view, alias in found}


def is_complete(text: str) -> bool:
    """Whether Enter ends the input: a command of the prompt, or a statement with its semicolon.

    >>> is_complete("SELECT 1"), is_complete("SELECT 1;"), is_complete("SELECT ';")
    (False, True, False)
    """
    text = text.strip()
    if not text or text.startswith("."):
        return True
    if not text.endswith(";"):
        return False
    try:
        split_statements(text)
    except QueryError as error:
        # A semicolon within quotes or a comment ends nothing; any other error is for the user to see.
        return "unterminated" not in str(error)
    return True


def history_file() -> Path:
    """Where the prompt's history is kept, by the XDG rule for a user's state."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "diva" / "sql_history"


def _history() -> History:
    file = history_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
    except OSError:  # a home that cannot be written to: the prompt works, and forgets
        return InMemoryHistory()
    return FileHistory(str(file))


def run_prompt(views: Sequence[View], run: Callable[[str], None]) -> None:
    """Read statements until the end of the input, and run each; an error is one line, and the prompt goes on.

    Args:
        views: for completion and `.schema`.
        run: prints the result of a statement; may raise DivaError, or KeyboardInterrupt to end a query.
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
    click.echo(".help says what there is", err=True)
    while True:
        try:
            text = session.prompt().strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if text in (".quit", ".exit"):
            return
        try:
            if text.startswith("."):
                _command(text, views, run)
            else:
                for statement in split_statements(text):
                    run(statement)
        except DivaError as error:
            click.echo(f"diva: {error}", err=True)
        except KeyboardInterrupt:
            click.echo("the query was ended", err=True)


def _command(text: str, views: Sequence[View], run: Callable[[str], None]) -> None:
    name, _, argument = text.partition(" ")
    argument = argument.strip().rstrip(";")
    if name == ".schema":
        click.echo(schema_text(views, argument or None))
    elif name == ".examples" and argument:
        run(example(argument))
    elif name == ".examples":
        click.echo(examples_text())
    elif name == ".help":
        click.echo(HELP)
    else:
        raise QueryError(f"no command {name}: .help says what there is")


def schema_text(views: Sequence[View], only: str | None = None) -> str:
    """Views and columns with types and descriptions; where one view is named, that one.

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
    """The page of useful queries, numbered."""
    return "\n\n".join(
        f"-- {number}. {title}\n{query}" for number, (title, query) in enumerate(example_queries().items(), 1)
    )


def example(number: str) -> str:
    """The query of that number on the page.

    Raises:
        QueryError: there is no such query.
    """
    queries = list(example_queries().values())
    if not number.isdecimal() or not 1 <= int(number) <= len(queries):
        raise QueryError(f"no example {number}: there are 1 to {len(queries)}")
    return queries[int(number) - 1]
