"""An isotonic fit of the offsets of image variants, so that an offset never falls as the strength of the change grows.

Pass rates that are measured from a few samples vary at random. A stronger blur may therefore appear easier than a
weaker one. When a snapshot is taken, the offsets (`delta`) of each problem and family of operations (the same names
and images) are replaced by their isotonic regression over the strengths, weighted by their inverse variances (see
`pipeline.store.views`). Designed offsets already rise with the strength, so families without a label are not changed.
"""

from __future__ import annotations

from statistics import NormalDist

from diva_grpo.pipeline.difficulty.design import DESIGN_SD

# Width of a 90 % interval of the normal distribution, in standard deviations.
_INTERVAL_SDS = 2 * NormalDist().inv_cdf(0.95)

WEIGHT = f"power({_INTERVAL_SDS} / (v.delta_high - v.delta_low), 2) + 1 / {DESIGN_SD**2}"
"""SQL: the inverse variance of the offset in use, for a row `v` of `variants`; NULL if nothing was measured."""

# `fitted` uses the max-min formula of isotonic regression. Its value at strength s is the maximum over i <= s of the
# minimum over j >= s of the weighted mean offset of the strengths i to j. Rounding errors cannot make it fall.
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
"""SQL that replaces `delta` in a snapshot's table `accepted` by the fitted offset, and drops the column `weight`."""
