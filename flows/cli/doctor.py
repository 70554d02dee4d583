"""`diva doctor`: read every file of a store and list what is damaged or missing."""

from __future__ import annotations

from pathlib import Path

import click

from diva_grpo.flows.cli.options import store_option
from diva_grpo.flows.cli.summary import conclude
from diva_grpo.pipeline.session.progress import progress_bar
from diva_grpo.schemas.command import diva
from diva_grpo.schemas.exceptions import StoreError


@click.command()
@store_option
@click.option("--repair", is_flag=True, help="Move damaged files to the store's folder `quarantine`.")
def doctor(store_dir: Path, repair: bool) -> None:
    """Read every file of a store and list those that are damaged, missing, left over or hold suspect records.

    A damaged file is moved to quarantine by --repair, with a report of what it held and of the command that made
    it; then the store opens again. Exits with 1 where something is damaged or missing.

    \b
    examples: diva doctor --store runs/store
              diva doctor --store runs/store --repair
    """
    from diva_grpo.pipeline.store import VariantStore
    from diva_grpo.pipeline.store.doctor import Fault

    with progress_bar(None, "files") as progress:
        findings = VariantStore(store_dir).examine(repair=repair, progress=progress)
    harmless = (Fault.LEFTOVER, Fault.SUSPECT)
    open_ones = [f for f in findings if f.fault not in harmless and f.moved_to is None]
    lines = [str(finding) for finding in findings]
    if not open_ones and any(finding.fault == Fault.SUSPECT for finding in findings):
        lines.append("every file is intact; see above which records are suspect")
    elif not open_ones:
        lines.append("all is well" if not findings else "the store is in order")
    conclude("\n".join(lines), {"findings": findings, "in_order": not open_ones})
    if any(finding.fault == Fault.DAMAGED for finding in open_ones):
        raise StoreError(
            f"files are damaged: `{diva('doctor', '--store', store_dir, '--repair')}` moves them to quarantine"
        )
    if open_ones:
        raise StoreError("something is missing or garbled: see above what brings it back")
