"""An isotonic fit of the deltas of image variants, applied when a snapshot is taken: they never fall with the strength.

Measured pass rates of a few samples scatter, so that a stronger blur may appear easier than a weaker one. For one
problem and one family of operations (their names and images), the deltas of the snapshot are the isotonic regression
of the deltas in use over the strengths, weighted by their inverse variances (see `pipeline.store.views`). Designed
deltas already rise with the strength, so families without a label are not changed.
"""

from __future__ import annotations

from statistics import NormalDist

from diva_grpo.pipeline.difficulty.design import DESIGN_SD

# From the ends of the 90 % interval to its standard deviation.
_INTERVAL_SDS = 2 * NormalDist().inv_cdf(0.95)

WEIGHT = f"power({_INTERVAL_SDS} / (v.delta_high - v.delta_low), 2) + 1 / {DESIGN_SD**2}"
"""SQL: the inverse variance of the delta in use of a row `v` of `variants`; NULL where nothing was measured."""

# `fitted` is the max-min formula: at each level the largest, over levels up to it, of the smallest mean from there
# over it and on. Whatever the rounding, it cannot fall.
MONOTONE = f"""
CREATE TABLE dosed AS
    SELECT problem_no, variant_no, coalesce(weight, 1 / {DESIGN_SD**2}) AS weight, delta,
           (recipe->>'images', list_sort(recipe->>'$.operations[*].name')) AS family,
           list_avg((recipe->>'$.operations[*].strength')::DOUBLE[]) AS strength
    FROM accepted WHERE recipe IS NOT NULL AND delta IS NOT NULL
    QUALIFY bool_or(weight IS NOT NULL) OVER (PARTITION BY problem_no, family);
CREATE TABLE levels AS
    SELECT problem_no, family, strength, sum(weight) AS weight, sum(weight * delta) AS moment
    FROM dosed GROUP BY ALL;
CREATE TABLE sums AS
    SELECT problem_no, family, strength, sum(weight) OVER upto AS weight_upto, sum(moment) OVER upto AS moment_upto,
           weight_upto - weight AS weight_before, moment_upto - moment AS moment_before
    FROM levels WINDOW upto AS (PARTITION BY problem_no, family ORDER BY strength);
CREATE TABLE fitted AS
    WITH least AS (
        SELECT this.problem_no, this.family, this.strength, low.strength AS low_strength,
               min((high.moment_upto - low.moment_before) / (high.weight_upto - low.weight_before)) AS mean
        FROM sums this JOIN sums low USING (problem_no, family) JOIN sums high USING (problem_no, family)
        WHERE low.strength <= this.strength AND this.strength <= high.strength
        GROUP BY ALL
    )
    SELECT problem_no, family, strength, max(mean) AS delta FROM least GROUP BY ALL;
UPDATE accepted SET delta = fitted.delta
    FROM dosed JOIN fitted USING (problem_no, family, strength) WHERE dosed.variant_no = accepted.variant_no;
ALTER TABLE accepted DROP COLUMN weight;
DROP TABLE dosed; DROP TABLE levels; DROP TABLE sums; DROP TABLE fitted;
"""
"""SQL that replaces `delta` in the table `accepted` of a snapshot, and drops its column `weight`."""
