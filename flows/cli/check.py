"""`diva check`: check that everything a run needs is available, before the run costs anything."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from diva_grpo.flows.cli.help import VerbCommand
from diva_grpo.flows.cli.options import Address
from diva_grpo.flows.cli.settings import teacher_of, verb_options
from diva_grpo.flows.cli.summary import conclude

_MARKS = {True: "ok", False: "FAILED", None: "-"}


@click.command(cls=VerbCommand)
@click.option("--store", "store_dir", type=Address(), help="Folder of the store, to check it too.")
@verb_options("check")
def check(store_dir: Path | None, **values: Any) -> None:
    """Check endpoint, store, disk, torch, extras and Prefect, one line each.

    With --model it sends a short request in each of three output modes, as the stages would, and again without each
    parameter that the endpoint refuses; if the first fails, no other. Is it reachable, does it know the model, which
    output modes does it answer in, what is its price, how long does an answer take? Exits with 1 if something that was
    asked for fails. The files of a store are `diva doctor`'s.

    \b
    examples: diva check --store runs/store --base-url http://localhost:8000/v1 --model qwen
              diva check
    """
    from diva_grpo.flows import checks

    found = [*checks.extras(), checks.torch_device(), checks.disk(store_dir or Path()), checks.prefect()]
    if store_dir is not None:
        found.append(checks.store(store_dir))
    if values["model"] or values["teacher_config"]:
        found += checks.endpoint(teacher_of(values))
    width = max(len(one.name) for one in found)
    lines = [f"{one.name:<{width}}  {_MARKS[one.passed]:<6}  {one.said}" for one in found]
    conclude("\n".join(lines), [one._asdict() for one in found])
    if any(one.passed is False for one in found):
        sys.exit(1)
