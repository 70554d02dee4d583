-- Useful queries on a store. Run one by its number (`diva sql --example 3 --store DIR`), or paste it into the
-- prompt of `diva sql --store DIR`; `diva sql --schema --store DIR` says what each column means. `diva report`,
-- `diva status`, the artifacts and the demo show their results, and find them by the names in brackets.

-- ## Problems, with and without an accepted variant, by source and split [problems]
SELECT p.source, p.split, count(*) AS problems,
       count(*) FILTER (EXISTS (FROM variants v WHERE v.problem_id = p.problem_id AND v.status = 'accepted'))
           AS with_variants
FROM problems p GROUP BY ALL ORDER BY ALL;

-- ## Rows of the sources that were rejected, by reason [rejects]
SELECT source, reason, count(*) AS rows, min(row_number) AS first_row
FROM rejects GROUP BY ALL ORDER BY rows DESC, source, reason;

-- ## Variants by kind and status, with the share accepted of those decided [variants]
SELECT coalesce(kind, 'all') AS kind, count(*) FILTER (status = 'candidate') AS candidate,
       count(*) FILTER (status = 'accepted') AS accepted, count(*) FILTER (status = 'rejected') AS rejected,
       count(*) FILTER (status = 'failed') AS failed,
       format('{:.0f} %', 100 * avg((status = 'accepted')::INTEGER) FILTER (status IN ('accepted', 'rejected')))
           AS share_accepted
FROM variants GROUP BY ROLLUP (kind) HAVING count(*) > 0 ORDER BY GROUPING(kind), variants.kind;

-- ## Why variants were not accepted, with an example of each [reasons]
SELECT count(*) AS variants, kind, status, regexp_extract(reason, '^[a-z_0-9]+') AS "by", min(reason) AS example
FROM variants WHERE reason IS NOT NULL AND status IN ('rejected', 'failed')
GROUP BY kind, status, "by" ORDER BY variants DESC, kind, status, "by";

-- ## Pass rate of each check, by judging model [checks]
SELECT check_name, model, count(*) AS verdicts, count(*) FILTER (passed) AS passed,
       count(*) FILTER (passed IS NULL) AS undecided, round(avg(passed::INTEGER), 3) AS pass_rate
FROM verdicts GROUP BY ALL ORDER BY ALL;

-- ## Labels of each solver, by kind, with mean pass rate and difficulty [labels]
SELECT solver_model, subject_kind, count(*) AS labels, round(avg(pass_rate), 3) AS pass_rate,
       round(avg(difficulty), 2) AS difficulty
FROM labels GROUP BY ALL ORDER BY ALL;

-- ## Rank correlation (Spearman) of the level that people gave a problem with its measured difficulty [agreement]
WITH labelled AS (
    SELECT p.source, l.solver_model, p.human_level AS human, l.difficulty AS measured
    FROM problems p JOIN labels l ON l.subject_id = p.problem_id WHERE p.human_level IS NOT NULL
), ranked AS (
    SELECT source, solver_model,
        rank() OVER (PARTITION BY source, solver_model ORDER BY human)
            + (count(*) OVER (PARTITION BY source, solver_model, human) - 1) / 2 AS human_rank,
        rank() OVER (PARTITION BY source, solver_model ORDER BY measured)
            + (count(*) OVER (PARTITION BY source, solver_model, measured) - 1) / 2 AS measured_rank
    FROM labelled
)
SELECT source, solver_model, count(*) AS problems,
    CASE WHEN count(DISTINCT human_rank) > 1 AND count(DISTINCT measured_rank) > 1
        THEN corr(human_rank, measured_rank) END AS spearman
FROM ranked GROUP BY source, solver_model ORDER BY source, solver_model;

-- ## Difficulty of the problems as measured, in a histogram of levels, for each solver [difficulty]
SELECT *, bar(problems, 0, max(problems) OVER (PARTITION BY solver_model), 30) AS histogram
FROM (
    SELECT solver_model, round(difficulty)::INTEGER AS level, count(*) AS problems
    FROM labels WHERE subject_kind = 'original' GROUP BY ALL
) ORDER BY solver_model, level;

-- ## Designed against measured difficulty offset, by kind [offsets]
SELECT kind, count(*) AS labelled, round(avg(delta_designed), 2) AS designed,
       round(avg(delta_measured), 2) AS measured, round(avg(delta), 2) AS in_use,
       round(CASE WHEN isfinite(corr(delta_designed, delta_measured)) THEN corr(delta_designed, delta_measured) END, 2)
           AS correlation
FROM variants WHERE delta_measured IS NOT NULL GROUP BY kind ORDER BY kind;

-- ## Shortage: problems whose accepted variants lie furthest from the offset that brings them to the middle [shortage]
SELECT p.problem_id, round(l.difficulty, 2) AS difficulty, round(5 - l.difficulty, 2) AS wanted,
       round(arg_min(v.delta, abs(v.delta - (5 - l.difficulty))), 2) AS nearest,
       round(min(abs(v.delta - (5 - l.difficulty))), 2) AS distance
FROM problems p
JOIN labels l ON l.subject_id = p.problem_id
             AND l.solver_model = (SELECT value FROM settings WHERE name = 'label_model')
JOIN variants v ON v.problem_id = p.problem_id AND v.status = 'accepted'
GROUP BY p.problem_id, l.difficulty ORDER BY distance DESC, p.problem_id LIMIT 20;

-- ## What the endpoints cost, by purpose and model [calls]
SELECT purpose, model, count(*) AS requests, count(*) FILTER (outcome <> 'ok') AS failed,
       sum(prompt_tokens)::BIGINT AS tokens_in, sum(completion_tokens)::BIGINT AS tokens_out,
       round(median(latency_s), 2) AS median_seconds, round(sum(cost_usd), 4) AS dollars
FROM calls GROUP BY purpose, model ORDER BY dollars DESC NULLS LAST, requests DESC, purpose, model;

-- ## Runs of each verb, how they ended and how long they took [runs]
SELECT kind, outcome, count(*) AS runs, max(started_at)::TIMESTAMP(0) AS last_started,
       round(avg(date_diff('millisecond', started_at, ended_at)) / 1000, 1) AS mean_seconds
FROM runs GROUP BY ALL ORDER BY ALL;

-- ## Accuracy in training, step by step: originals beside their variants [accuracy]
SELECT r.run_id, r.step, round(avg(r.accuracy) FILTER (r.slot = 0), 3) AS originals,
       round(avg(r.accuracy) FILTER (r.slot > 0), 3) AS variants, round(avg(r.reward), 3) AS reward
FROM rollouts r GROUP BY ALL ORDER BY ALL;

-- ## Silent groups (all rollouts right, or all wrong), by kind of the prompt [silent]
SELECT run_id, kind, count(*) AS groups, round(avg((least_reward = most_reward)::INTEGER), 3) AS silent
FROM (
    SELECT r.run_id, r.step, r.problem_id, r.slot, coalesce(any_value(v.kind), 'original') AS kind,
           min(r.reward) AS least_reward, max(r.reward) AS most_reward
    FROM rollouts r LEFT JOIN variants v USING (variant_id) GROUP BY ALL
) GROUP BY ALL ORDER BY ALL;

-- ## How live difficulty moved over a run [movement]
SELECT run_id, step, count(*) AS problems, round(avg(old_difficulty), 2) AS before,
       round(avg(new_difficulty), 2) AS after
FROM difficulty_events GROUP BY ALL ORDER BY ALL;

-- ## The hardest problems by live difficulty, with their questions [hardest]
SELECT d.run_id, d.problem_id, d.difficulty, d.step, left(p.text, 80) AS question
FROM live_difficulty d JOIN problems p USING (problem_id)
ORDER BY d.difficulty DESC, d.run_id, d.problem_id LIMIT 20;

-- ## Scores of each evaluation, latest run first, with the standard error over problems [scores]
SELECT e.run_id AS run, e.step, e.split, count(*) AS problems, round(avg(e.correct / e.samples), 3) AS accuracy,
       round(stddev_samp(e.correct / e.samples) / sqrt(count(*)), 3) AS standard_error
FROM evaluations e LEFT JOIN runs r USING (run_id) WHERE e.samples > 0
GROUP BY e.run_id, e.step, e.split, r.started_at ORDER BY r.started_at DESC NULLS LAST, run, e.step DESC, e.split;
