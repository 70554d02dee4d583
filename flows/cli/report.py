"""`diva report`: report the state of a store, in the terminal or as an HTML page."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from diva_grpo.flows.cli.options import runs_option, store_option
from diva_grpo.flows.cli.summary import conclude, next_of
from diva_grpo.pipeline.session.progress import progress_bar
from diva_grpo.schemas.exceptions import ConfigError


@click.command()
@store_option
@runs_option
@click.option(
    "--html", "page", type=click.Path(path_type=Path, dir_okay=False), help="Write a page of HTML instead."
)
def report(store_dir: Path, runs: tuple[str, ...], page: Path | None) -> None:
    """The state of a store on one page: problems, variants, checks, difficulty, costs, runs, training.

    The page of HTML needs no network: headline numbers, curves of training, curation, and every problem beside its
    variants and rollouts. Pictures that do not fit into it are in a folder beside it. `diva watch` serves the same
    page during a run.

    \b
    examples: diva report --store runs/store
              diva report --store runs/store --html report.html
    """
    from diva_grpo.pipeline.store import VariantStore

    store = VariantStore(store_dir)
    if page is None:
        if runs:
            raise ConfigError("--run is for a page: give --html FILE too")
        from diva_grpo.pipeline.store.report import EMPTY, as_rows, as_text, sections

        with progress_bar(None, "tables") as progress:
            found = []
            for section in sections(store):
                found.append(section)
                progress(1)
        conclude(as_text(found) or EMPTY, as_rows(found), next_of(store, store_dir))
        return
    from diva_grpo.flows.pages.page import write_report

    with progress_bar(None, "problems") as progress:
        written = write_report(store, page, runs, progress)
    left_out = written.problems - written.detailed
    rest = f" ({left_out:,} of them without variants and rollouts: the page is full)" if left_out else ""
    text = f"{written.problems:,} problems{rest} in {page} ({written.size / 1e6:.1f} MB)"
    conclude(text, {"page": page, **asdict(written)}, next_of(store, store_dir))
