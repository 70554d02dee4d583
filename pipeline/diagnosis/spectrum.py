"""Read the spectrum of a store for `diva advise`, and format it with the recommendations as text or JSON."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from typing import Any

from diva_grpo.pipeline.diagnosis.advice import Labelled, Perplexity, Recommendation, Spectrum
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.label_model import LABEL_MODEL
from diva_grpo.pipeline.store.queries import answers
from diva_grpo.schemas.exceptions import ConfigError

_BAR = 40


def read_spectrum(
    store: VariantStore, rollouts: int, solver: str | None = None, perplexity: Perplexity | None = None
) -> Spectrum:
    """Read the spectrum of the labelled problems of a store.

    Args:
        store: the store.
        rollouts: number of rollouts that training makes for each prompt.
        solver: name of the solver whose labels are read; default the store's label model.
        perplexity: perplexity of the worked solutions; None if it was not measured.

    Raises:
        ConfigError: the store has no labels of this solver.
    """
    solver = solver or store.setting(LABEL_MODEL)
    rows = answers(store, ["spectrum"], {"solver_model": solver})["spectrum"] if solver else []
    if solver is None or not rows:
        raise ConfigError(
            "the store has no labels of problems: `diva label` measures them by an endpoint, "
            "`diva advise --policy PATH` by a local model"
        )
    of_solver = [{name: value for name, value in row.items() if name != "solver_model"} for row in rows]
    return Spectrum(solver, [Labelled(**row) for row in of_solver], rollouts, perplexity)


def as_text(spectrum: Spectrum, found: list[Recommendation], width: int = 100) -> str:
    """Return a spectrum and its recommendations as text.

    Args:
        spectrum: the spectrum.
        found: the recommendations, from `advise`.
        width: width of the recommendations, in characters.
    """
    largest = max(count for _, count in spectrum.histogram()) or 1
    samples = sorted({row.samples for row in spectrum.rows})
    of = f"{samples[0]} to {samples[-1]}" if len(samples) > 1 else f"{samples[0]}"
    lines = [f"{spectrum.problems} problems, {of} answers each by {spectrum.solver}; pass rates:"]
    lines += [
        f"  {name:>6}  {'█' * round(_BAR * count / largest):<{_BAR}} {count}"
        for name, count in spectrum.histogram()
    ]
    n, gap = spectrum.rollouts, spectrum.gap()
    lines += [
        f"below 1/{n}: {spectrum.below():.0%} of the problems; groups of {n} rollouts with a signal: "
        f"{spectrum.mixed():.0%}",
        f"gap: none between {gap.low:g} and {gap.high:g}" if gap else "gap: none",
    ]
    if samples[0] < n:
        lines.append(f"with fewer answers than {n} these are rough: diva label --samples {n} measures more")
    if spectrum.perplexity:
        at = spectrum.perplexity
        lines.append(
            f"perplexity at a token, {at.problems} problems: solutions {at.solutions:.2f}, own answers {at.own:.2f}"
        )
    for number, one in enumerate(found, start=1):
        for title, text in (("", one.action), ("because: ", one.because), ("measured: ", one.measured)):
            first = f"\n{number}. " if not title else "   "
            lines += textwrap.wrap(
                title + text + ("." if title else ""), width, initial_indent=first, subsequent_indent="   ",
                break_on_hyphens=False,
            )  # fmt: skip
    return "\n".join(lines)


def as_json(spectrum: Spectrum, found: list[Recommendation]) -> dict[str, Any]:
    """Return a spectrum and its recommendations as a dictionary that can be written as JSON."""
    gap = spectrum.gap()
    return {
        "solver": spectrum.solver,
        "rollouts": spectrum.rollouts,
        "problems": spectrum.problems,
        "pass_rates": dict(spectrum.histogram()),
        "below_1_over_n": spectrum.below(),
        "groups_with_a_signal": spectrum.mixed(),
        "gap": gap and list(gap),
        "perplexity": spectrum.perplexity and spectrum.perplexity._asdict(),
        "recommendations": [asdict(one) for one in found],
    }
