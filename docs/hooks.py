"""What `make docs` adds: the reference, made from the code; the notebook as a page; formulas as MathML."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import diva_grpo
from diva_grpo.flows.cli import PHASES, cli
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.catalog import describe_views
from diva_grpo.schemas import config as pipeline_settings
from diva_grpo.schemas import policy as policy_settings

_FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$`\w])\$(?!\s)([^$`\n]+?)(?<!\s)\$(?![\w$])", re.DOTALL)
_FENCE = re.compile(r"(^```.*?^```\n|`[^`\n]+`)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the reference, and the notebook's."""
    for name, lines in {
        "reference/commands": _commands(),
        "reference/configuration": _configuration(),
        "reference/views": _views(),
        "reference/python": _python(),
        "start/notebook": _notebook(Path(config.docs_dir, "start", "notebook.ipynb")),
    }.items():
        files.append(File.generated(config, f"{name}.md", content="\n".join(lines) + "\n"))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace formulas outside of code by MathML, which browsers show without a script."""
    pieces = _FENCE.split(markdown)
    pieces[::2] = [_FORMULA.sub(_mathml, piece) for piece in pieces[::2]]
    return "".join(pieces)


def _mathml(found: re.Match[str]) -> str:
    block, inline = found.groups()
    return convert(block or inline, display="block" if block else "inline")


def _notebook(path: Path) -> Iterator[str]:
    first, *others = json.loads(path.read_text("utf-8"))["cells"]
    yield f"{''.join(first['source'])}\n\n[Download the notebook]({path.name}){{: download }}\n"
    for cell in others:
        text = "".join(cell["source"])
        yield f"```python\n{text}\n```\n" if cell["cell_type"] == "code" else f"{text}\n"


def _commands() -> Iterator[str]:
    yield "# Commands\n\nEvery command with all of its options, as `--help-all` prints them.\n"
    for title, names in PHASES.items():
        yield f"## {title}\n"
        for name in names:
            command = cli.commands[name]
            # All of TRL's options are TRL's to document, and take seconds to load.
            flag = "--help" if name == "train" else "--help-all"
            flag = flag if any(flag in option.opts for option in command.params) else "--help"
            shown = CliRunner().invoke(cli, [name, flag], prog_name="diva", terminal_width=100)
            yield f"### diva {name}\n\n```text\n{shown.output.rstrip()}\n```\n"


def _configuration() -> Iterator[str]:
    yield "# Configuration\n\nThe settings of commands and flows, as keys of YAML files and fields in Python.\n"
    found = [
        value
        for module in (pipeline_settings, policy_settings)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, BaseModel) and value.__module__ == module.__name__
    ]
    for model in found:
        if model.model_fields:
            yield f"## {model.__name__}\n\n{(model.__doc__ or '').split('>>>')[0].strip()}\n"
            yield "| field | default | meaning |\n| --- | --- | --- |"
            for field, info in model.model_fields.items():
                default = "required" if info.default is PydanticUndefined else f"`{_plain(info.default)}`"
                yield f"| `{field}` | {default} | {_cell(info.description or '')} |"
            yield ""


def _plain(value: object) -> str:
    if isinstance(value, BaseModel):
        return f"{type(value).__name__}()"
    return ", ".join(map(str, value)) if isinstance(value, tuple) and value else str(value)


def _views() -> Iterator[str]:
    yield "# Views\n\nWhat `diva sql` can name, in the order of the loop.\n"
    with tempfile.TemporaryDirectory() as folder:
        for view in describe_views(VariantStore(f"{folder}/store", create=True)):
            yield f"## {view.name}\n\n{view.description}\n\n| column | type | meaning |\n| --- | --- | --- |"
            yield from (f"| `{c.name}` | {_cell(c.type)} | {_cell(c.description)} |" for c in view.columns)
            yield ""


def _python() -> Iterator[str]:
    yield "# Python\n\nThe public interface, `diva_grpo.__all__`.\n"
    for name in diva_grpo.__all__:
        documented = (getattr(diva_grpo, name).__doc__ or "").strip()
        yield f"## {name}\n\n```text\n{documented}\n```\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
