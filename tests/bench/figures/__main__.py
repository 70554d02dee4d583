"""Make the runs of the testbed `figures`, and the page of what they show.

python -m tests.bench.figures --out runs/figures
python -m tests.bench.figures --out runs/figures --arms grpo,response --seeds 2
python -m tests.bench.figures --out runs/figures --results tests/bench/figures/results      keep the figures there

It may be killed at any time: what is done stays, and a run that was cut short starts again.
"""

from __future__ import annotations

from tests.bench.bed_command import Testbed, run
from tests.bench.figures.run import CASE, prepare, train_run
from tests.bench.figures.summary import write_page

FIGURES = Testbed(
    module="tests.bench.figures",
    description=__doc__.splitlines()[0],
    option="cases",
    cases=(CASE,),
    parse=str,
    name=str,
    prepare=prepare,
    train_run=train_run,
    write_page=write_page,
    arms=("grpo", "augmented", "response", "paper"),
)

if __name__ == "__main__":
    run(FIGURES)
