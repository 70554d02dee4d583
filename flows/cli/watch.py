"""`diva watch`: serve the page of a store during a run."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import click

from diva_grpo.flows.cli.options import runs_option, store_option
from diva_grpo.flows.cli.summary import conclude


@click.command()
@store_option
@runs_option
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="To listen on.  [default: a free one]")
def watch(store_dir: Path, runs: tuple[str, ...], port: int) -> None:
    """Serve the page of `diva report` on this machine during a run; ends with Ctrl-C.

    The page renews itself while a curation or a training run is at work. Only who knows its address, which is printed
    at the start, can open it. From another machine: ssh -L PORT:127.0.0.1:PORT HOST.

    \b
    example: diva watch --store runs/store
    """
    from diva_grpo.flows.pages.live import Live, LiveServer
    from diva_grpo.pipeline.store import VariantStore

    with LiveServer(Live(VariantStore(store_dir), runs), port) as server, suppress(KeyboardInterrupt):
        conclude(f"open {server.url}", {"url": server.url})
        server.serve_forever()
