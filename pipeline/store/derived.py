"""SQL of the derived views, which are computed from other views (`schemas.views` describes their columns)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from diva_grpo.pipeline.store.label_model import JOIN_LABEL_MODEL
from diva_grpo.schemas.views import Cost, Group, Ladder, LiveDifficulty

_LIVE_DIFFICULTY = """
SELECT run_id, problem_id, new_difficulty AS difficulty, uncertainty, step FROM difficulty_events
QUALIFY row_number() OVER (PARTITION BY run_id, problem_id ORDER BY step DESC) = 1
"""

# A truncated completion usually has no answer. It counts as truncated, not as one without an answer.
_GROUPS = """
SELECT run_id, step, problem_id, slot, variant_id, rollouts, rewards, reward, accuracy,
       least IS NOT DISTINCT FROM most AS silent,
       CASE WHEN most IS NULL THEN 'no reward' WHEN least < most THEN NULL
            WHEN all_right THEN 'all right' WHEN NOT all_wrong THEN 'equal rewards'
            WHEN 2 * truncated >= rollouts THEN 'truncated' WHEN 2 * no_answer >= logged THEN 'no answer'
            ELSE 'all wrong' END AS silent_why,
       completion_tokens, unjudged, truncated, no_answer
FROM (
    SELECT run_id, step, problem_id, slot, any_value(variant_id) AS variant_id, count(*)::INTEGER AS rollouts,
           list(reward ORDER BY sample) AS rewards, avg(reward) AS reward, avg(accuracy) AS accuracy,
           min(reward) AS least, max(reward) AS most, coalesce(min(accuracy) = 1, false) AS all_right,
           coalesce(max(accuracy) = 0, false) AS all_wrong, avg(completion_tokens) AS completion_tokens,
           count(*) FILTER (accuracy IS NULL)::INTEGER AS unjudged,
           CASE WHEN count(finish) > 0 THEN count(*) FILTER (finish = 'truncated') END::INTEGER AS truncated,
           CASE WHEN count(graded_outcome) > 0
               THEN count(*) FILTER (graded_outcome = 'no_answer' AND finish = 'ended') END::INTEGER AS no_answer,
           count(graded_outcome) AS logged
    FROM rollouts GROUP BY run_id, step, problem_id, slot
)
"""

_PASS_RATE = f"(SELECT l.subject_id, l.pass_rate FROM labels l {JOIN_LABEL_MODEL})"
_LADDERS = f"""
SELECT v.problem_id, max(v.hint_total)::INTEGER AS solution_steps, count(*)::INTEGER AS hints,
       count(*) FILTER (v.status = 'accepted')::INTEGER AS accepted,
       coalesce(list(v.hint_steps ORDER BY v.hint_steps, v.variant_id) FILTER (v.status = 'accepted'), []) AS steps,
       coalesce(list(l.pass_rate ORDER BY v.hint_steps, v.variant_id) FILTER (v.status = 'accepted'), [])
           AS pass_rates,
       any_value(o.pass_rate) AS original_pass_rate
FROM variants v LEFT JOIN {_PASS_RATE} l ON l.subject_id = v.variant_id
LEFT JOIN {_PASS_RATE} o ON o.subject_id = v.problem_id
WHERE v.kind = 'think_step' GROUP BY v.problem_id
"""

# A killed run has no end time. It gets the calls up to the start of the next run.
_COSTS = """
SELECT r.run_id, r.kind, c.model, c.purpose, count(*) AS calls, count(*) FILTER (c.outcome <> 'ok') AS failures,
       sum(c.prompt_tokens)::BIGINT AS prompt_tokens, sum(c.completion_tokens)::BIGINT AS completion_tokens,
       sum(c.cost_usd) AS cost_usd
FROM (
    SELECT run_id, kind, started_at,
           CASE WHEN ended_at IS NOT NULL THEN ended_at WHEN outcome = 'running' THEN 'infinity'::TIMESTAMP
                ELSE coalesce(lead(started_at) OVER (ORDER BY started_at), 'infinity'::TIMESTAMP) END AS until
    FROM runs WHERE kind NOT IN ('ingest', 'train', 'eval')
) r JOIN calls c ON c.created_at >= r.started_at AND c.created_at <= r.until
GROUP BY r.run_id, r.kind, c.model, c.purpose
"""

SCORES = """
SELECT run_id, max(step) AS step, arg_max(accuracy, step) AS accuracy
FROM (SELECT run_id, step, avg(correct / samples) AS accuracy FROM evaluations WHERE samples > 0
      GROUP BY run_id, step) GROUP BY run_id
"""
"""SELECT of the last evaluated step of each run, and the mean accuracy over problems at that step."""

DERIVED_SQL: Mapping[str, str] = MappingProxyType(
    {LiveDifficulty.view: _LIVE_DIFFICULTY, Group.view: _GROUPS, Ladder.view: _LADDERS, Cost.view: _COSTS}
)
"""The SELECT of each derived view, by the name of the view."""
