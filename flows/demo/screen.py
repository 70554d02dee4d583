"""The screen of results at the end of the demo: variants, costs and what the policy learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tabulate import tabulate

from diva_grpo.flows.demo.vision import VisionRun
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.queries import answer
from diva_grpo.schemas.command import word
from diva_grpo.trainer.evaluation.score import Score

_BAR = 30
_MOST_REASONS = 6


def _table(found: list[dict[str, Any]]) -> str:
    return tabulate(found, headers="keys", missingval="")


def _histogram(store: VariantStore, run_id: str) -> str:
    """Bars with the number of problems at each level of live difficulty, before the first and after the last visit."""
    rows = store.query(
        """
        WITH visited AS (
            SELECT problem_id, min_by(old_difficulty, step) AS before, max_by(new_difficulty, step) AS after
            FROM difficulty_events WHERE run_id = ? GROUP BY problem_id
        )
        SELECT level, count(*) FILTER (round(before) = level), count(*) FILTER (round(after) = level)
        FROM visited, range(1, 10) AS levels(level) GROUP BY level ORDER BY level
        """,
        [run_id],
    )
    largest = max(max(before, after) for _, before, after in rows) or 1

    def bar(count: int) -> str:
        return f"{'█' * round(_BAR * count / largest):<{_BAR}} {count:>3}"

    lines = [f"  {level}  {bar(before)}   {bar(after)}" for level, before, after in rows]
    return "\n".join([f"     {'before':<{_BAR + 4}}   after", *lines])


def _without_signal(store: VariantStore, run_id: str) -> tuple[float, float]:
    """Two shares of silent groups: among the groups of originals (slot 0), and among global groups, with variants."""
    [shares] = store.query(
        """
        WITH original AS (
            SELECT min(reward) = max(reward) AS silent FROM rollouts
            WHERE run_id = ? AND slot = 0 GROUP BY step, problem_id
        ), whole AS (
            SELECT min(reward) = max(reward) AS silent FROM rollouts WHERE run_id = ? GROUP BY step, problem_id
        )
        SELECT (SELECT avg(silent::INTEGER) FROM original), (SELECT avg(silent::INTEGER) FROM whole)
        """,
        [run_id, run_id],
    )
    return shares[0], shares[1]


def _vision(run: VisionRun) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in run.by_kind.items())
    first, last = run.digits
    return (
        f"a random LLaVA of {run.parameters / 1e6:.2f} M parameters, {run.steps} steps on {run.problems} figures;\n"
        f"rollouts: {kinds}\n"
        f"too small to solve any; its reward is for digits: {first:.0%} of its characters at first, {last:.0%} at last"
    )


def render_screen(
    store: VariantStore,
    run_id: str,
    before: Score,
    after: Score,
    store_dir: str,
    vision: VisionRun,
    page: Path,
) -> str:
    """The screen as text.

    Args:
        store: the demo's store.
        run_id: id of the training run.
        before: score of the model before the training.
        after: score of the trained model.
        store_dir: the store's folder, as a user would type it.
        vision: the training run with images.
        page: file of the page about the store and the training run.
    """
    variants, reasons = _table(answer(store, "variants")), _table(answer(store, "reasons")[:_MOST_REASONS])
    calls = answer(store, "calls")
    requests, tokens_in, tokens_out, dollars = (
        sum(row[name] or 0 for row in calls) for name in ("requests", "tokens_in", "tokens_out", "dollars")
    )
    alone, together = _without_signal(store, run_id)
    gain = after.pass_at_1 - before.pass_at_1
    error = (before.standard_error**2 + after.standard_error**2) ** 0.5
    store_option = f"--store {word(store_dir)}"
    first, last = (f"{s.pass_at_1:.3f} ± {s.standard_error:.3f}" for s in (before, after))
    return f"""
── Variants ──────────────────────────────────────────────────────────────────────────────
{variants}

{reasons}

── Teacher ───────────────────────────────────────────────────────────────────────────────
{requests:,} calls, {tokens_in:,} tokens in, {tokens_out:,} out: ${dollars:.2f} (the scripted teacher is free)

── Live difficulty (1 easiest, 9 hardest), problems ──────────────────────────────────────
{_histogram(store, run_id)}

── Training ──────────────────────────────────────────────────────────────────────────────
accuracy on {before.problems} held-out problems, {before.samples} answers each:
  before {first}    after {last}    gain {gain:+.3f}, {gain / error:.1f} standard errors
groups without a signal: {alone:.0%} of originals alone, {together:.0%} with their variants

── Images ────────────────────────────────────────────────────────────────────────────────
{_vision(vision)}

── The store ─────────────────────────────────────────────────────────────────────────────
{store_dir}; its page, to open in a browser: {page}; try
  diva sql "select kind, status, count(*) n from variants group by all" {store_option}
  diva sql "select variant_id, reason from variants where status = 'rejected' limit 5" {store_option}
  diva sql "select step, avg(accuracy) acc, avg(new_difficulty) d from difficulty_events group by 1 order by 1" \
{store_option}
"""
