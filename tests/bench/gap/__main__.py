"""Make the runs of the testbed `gap`, and the page of what they show.

python -m tests.bench.gap --out runs/gap --arms grpo,dapo,signal,response,uniform
python -m tests.bench.gap --out runs/gap --spectra gap --arms grpo,response --seeds 2
python -m tests.bench.gap --out runs/gap --results tests/bench/gap/results      keep the figures there

It may be killed at any time: what is done stays, and a run that was cut short starts again.
"""

from __future__ import annotations

from tests.bench.bed_command import Testbed, run
from tests.bench.gap.run import prepare, train_run
from tests.bench.gap.summary import write_page

GAP = Testbed(
    module="tests.bench.gap",
    description=__doc__.splitlines()[0],
    option="spectra",
    cases=("gap", "smooth", "rare"),
    parse=str,
    name=str,
    prepare=prepare,
    train_run=train_run,
    write_page=write_page,
)

if __name__ == "__main__":
    run(GAP)
