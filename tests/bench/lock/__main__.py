"""Make the runs of the testbed `lock`, and the page of what they show.

python -m tests.bench.lock --out runs/lock                          all arms, lengths and seeds
python -m tests.bench.lock --out runs/lock --lengths 8 --arms grpo,signal,uniform --seeds 2
python -m tests.bench.lock --out runs/lock --lengths 4-own --arms grpo,response         own rules for each step
python -m tests.bench.lock --out runs/lock --results tests/bench/lock/results      keep the figures there

It may be killed at any time: what is done stays, and a run that was cut short starts again.
"""

from __future__ import annotations

from operator import attrgetter

from tests.bench.bed_command import Testbed, run
from tests.bench.lock.run import Case, prepare, train_run
from tests.bench.lock.summary import write_page

LOCK = Testbed(
    module="tests.bench.lock",
    description=__doc__.splitlines()[0],
    option="lengths",
    cases=("8", "2", "4"),
    parse=Case.parse,
    name=attrgetter("name"),
    prepare=prepare,
    train_run=train_run,
    write_page=write_page,
)

if __name__ == "__main__":
    run(LOCK)
