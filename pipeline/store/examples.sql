-- Useful queries on a store. Run one by its number (`diva sql --example 3 --store DIR`), or paste it into the
-- prompt of `diva sql --store DIR`; `diva sql --schema --store DIR` says what each column means.

-- ## Problems, with and without an accepted variant, by source and split
SELECT p.source, p.split, count(*) AS problems,
       count(*) FILTER (EXISTS (FROM variants v WHERE v.problem_id = p.problem_id AND v.status = 'accepted'))
           AS with_variants
FROM problems p GROUP BY ALL ORDER BY ALL;

-- ## Rows of the sources that were rejected, by reason
SELECT source, reason, count(*) AS rows, min(row_number) AS first_row
FROM rejects GROUP BY ALL ORDER BY rows DESC, source, reason;

-- ## Variants by kind and status, with the share accepted of those decided
SELECT kind, count(*) AS variants,
       count(*) FILTER (status = 'accepted') AS accepted,
       count(*) FILTER (status = 'rejected') AS rejected,
       count(*) FILTER (status = 'failed') AS failed,
       round(avg((status = 'accepted')::INTEGER) FILTER (status IN ('accepted', 'rejected')), 3) AS accepted_share
FROM variants GROUP BY kind ORDER BY kind;

-- ## Why variants were rejected, with an example of each
SELECT kind, regexp_extract(reason, '^[a-z_0-9]+') AS why, count(*) AS variants, min(reason) AS example
FROM variants WHERE status = 'rejected' GROUP BY ALL ORDER BY variants DESC, kind, why;

-- ## Pass rate of each check
SELECT check_name, count(*) AS verdicts, count(*) FILTER (passed) AS passed,
       count(*) FILTER (passed IS NULL) AS undecided, round(avg(passed::INTEGER), 3) AS pass_rate
FROM verdicts GROUP BY check_name ORDER BY check_name;

-- ## Difficulty of the problems as measured, in a histogram of levels, for each solver
SELECT *, bar(problems, 0, max(problems) OVER (PARTITION BY solver_model), 30) AS histogram
FROM (
    SELECT solver_model, round(difficulty)::INTEGER AS level, count(*) AS problems
    FROM labels WHERE subject_kind = 'original' GROUP BY ALL
) ORDER BY solver_model, level;

-- ## Designed against measured difficulty offset, by kind
SELECT kind, count(*) AS labelled, round(avg(delta_designed), 2) AS designed,
       round(avg(delta_measured), 2) AS measured, round(avg(delta), 2) AS in_use,
       round(CASE WHEN isfinite(corr(delta_designed, delta_measured)) THEN corr(delta_designed, delta_measured) END, 2)
           AS correlation
FROM variants WHERE delta_measured IS NOT NULL GROUP BY kind ORDER BY kind;

-- ## Shortage: problems whose accepted variants lie furthest from the offset that brings them to the middle
SELECT p.problem_id, round(l.difficulty, 2) AS difficulty, round(5 - l.difficulty, 2) AS wanted,
       round(arg_min(v.delta, abs(v.delta - (5 - l.difficulty))), 2) AS nearest,
       round(min(abs(v.delta - (5 - l.difficulty))), 2) AS distance
FROM problems p
JOIN labels l ON l.subject_id = p.problem_id
             AND l.solver_model = (SELECT value FROM settings WHERE name = 'label_model')
JOIN variants v ON v.problem_id = p.problem_id AND v.status = 'accepted'
GROUP BY p.problem_id, l.difficulty ORDER BY distance DESC, p.problem_id LIMIT 20;

-- ## What the endpoints cost, by model and purpose
SELECT model, purpose, count(*) AS calls, count(*) FILTER (outcome <> 'ok') AS failures,
       sum(prompt_tokens)::BIGINT AS prompt_tokens, sum(completion_tokens)::BIGINT AS completion_tokens,
       round(sum(cost_usd), 4) AS usd, round(median(latency_s), 2) AS median_latency_s
FROM calls GROUP BY ALL ORDER BY usd DESC NULLS LAST, model, purpose;

-- ## Runs of each verb, how they ended and how long they took
SELECT kind, outcome, count(*) AS runs, max(started_at)::TIMESTAMP(0) AS last_started,
       round(avg(date_diff('millisecond', started_at, ended_at)) / 1000, 1) AS mean_seconds
FROM runs GROUP BY ALL ORDER BY ALL;

-- ## Accuracy in training, step by step: originals beside their variants
SELECT r.run_id, r.step, round(avg(r.accuracy) FILTER (r.slot = 0), 3) AS originals,
       round(avg(r.accuracy) FILTER (r.slot > 0), 3) AS variants, round(avg(r.reward), 3) AS reward
FROM rollouts r GROUP BY ALL ORDER BY ALL;

-- ## Groups without a signal (all rollouts right, or all wrong), by kind of the prompt
SELECT run_id, kind, count(*) AS groups, round(avg((least_reward = most_reward)::INTEGER), 3) AS without_signal
FROM (
    SELECT r.run_id, r.step, r.problem_id, r.slot, coalesce(any_value(v.kind), 'original') AS kind,
           min(r.reward) AS least_reward, max(r.reward) AS most_reward
    FROM rollouts r LEFT JOIN variants v USING (variant_id) GROUP BY ALL
) GROUP BY ALL ORDER BY ALL;

-- ## How live difficulty moved over a run
SELECT run_id, step, count(*) AS problems, round(avg(old_difficulty), 2) AS before,
       round(avg(new_difficulty), 2) AS after
FROM difficulty_events GROUP BY ALL ORDER BY ALL;

-- ## The hardest problems by live difficulty, with their questions
SELECT d.run_id, d.problem_id, d.difficulty, d.step, left(p.text, 80) AS question
FROM live_difficulty d JOIN problems p USING (problem_id)
ORDER BY d.difficulty DESC, d.run_id, d.problem_id LIMIT 20;

-- ## Scores of each evaluation, with the standard error over problems
SELECT run_id, step, split, count(*) AS problems, round(avg(correct / samples), 3) AS accuracy,
       round(stddev_samp(correct / samples) / sqrt(count(*)), 3) AS standard_error
FROM evaluations WHERE samples > 0 GROUP BY ALL ORDER BY ALL;
