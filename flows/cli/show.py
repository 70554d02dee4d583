"""`diva show`: problems and their variants in the terminal, or as a page with their images."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from diva_grpo.flows.cli.options import store_option
from diva_grpo.flows.cli.summary import conclude

_PAGE = 20


@click.command()
@click.argument("problem_ids", nargs=-1, metavar="[PROBLEM_ID]...")
@store_option
@click.option("--problem-filter", "where", metavar="SQL", help="Condition on `problems`, instead of ids.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help=f"Only the first problems, by id.  [default: {_PAGE} without ids, with --html]",
)
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a page with the images, to open in a browser.",
)
def show(
    problem_ids: tuple[str, ...], store_dir: Path, where: str | None, limit: int | None, html: Path | None
) -> None:
    """Show problems beside all of their variants: kind, delta, verdicts, hints.

    A page has their images and rollouts too, and a search; pictures that do not fit into it are in a folder beside it.

    \b
    examples: diva show figures/figure-07 --store runs/store
              diva show --store runs/store --problem-filter "len(images) > 0" --html figures.html
    """
    from diva_grpo.flows.pages.look import as_text, look
    from diva_grpo.pipeline.store import VariantStore

    if problem_ids and where is not None:
        raise click.UsageError("give ids, or --problem-filter")
    if not problem_ids and html is None and where is None and limit is None:
        raise click.UsageError("give a PROBLEM_ID, --problem-filter or --limit; or --html FILE for a page")
    store = VariantStore(store_dir)
    chosen = tuple(dict.fromkeys(problem_ids))
    looked = look(store, chosen, where=where, limit=limit or (None if chosen else _PAGE))
    if html is None:
        conclude("\n\n".join(map(as_text, looked)), {"problems": looked})
        return
    from diva_grpo.flows.pages.page import write_problems

    title = f"Problems and their variants: {store_dir.name}"
    written = write_problems(store, html, title, [one.problem.problem_id for one in looked])
    variants = sum(len(one.variants) for one in looked)
    text = f"{written.problems} problems with {variants} variants in {html} ({written.size / 1e6:.1f} MB)"
    conclude(text, {"page": html, "variants": variants, **asdict(written)})
