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

-- ## The teacher's rate: requests, failures and dollars by minute [rate]
SELECT time_bucket(INTERVAL 1 MINUTE, created_at) AS minute, count(*) AS requests,
       count(*) FILTER (outcome <> 'ok') AS failed, round(sum(cost_usd), 6) AS dollars
FROM calls GROUP BY ALL ORDER BY ALL;

-- ## Runs of each verb, how they ended and how long they took [runs]
SELECT kind, outcome, count(*) AS runs, max(started_at)::TIMESTAMP(0) AS last_started,
       round(avg(date_diff('millisecond', started_at, ended_at)) / 1000, 1) AS mean_seconds
FROM runs GROUP BY ALL ORDER BY ALL;

-- ## Accuracy in training, step by step: originals beside their variants, and those with a hint among these [accuracy]
SELECT r.run_id, r.step, round(avg(r.accuracy) FILTER (r.slot = 0), 3) AS originals,
       round(avg(r.accuracy) FILTER (r.slot > 0), 3) AS variants,
       round(avg(r.accuracy) FILTER (v.kind = 'think_step'), 3) AS hinted,
       round(avg((v.kind IS NOT DISTINCT FROM 'think_step')::INTEGER), 3) AS share_hinted,
       round(avg(r.reward), 3) AS reward
FROM rollouts r LEFT JOIN variants v USING (variant_id) GROUP BY ALL ORDER BY ALL;

-- ## Steps of training: seconds, completions and tokens [steps]
SELECT run_id, step, round(seconds, 2) AS seconds, rollouts, completion_tokens, round(loss, 4) AS loss
FROM train_steps ORDER BY ALL;

-- ## Silent groups (all rewards equal), by kind of the prompt [silent]
SELECT g.run_id, coalesce(v.kind, 'original') AS kind, count(*) AS groups, round(avg(g.silent::INTEGER), 3) AS silent
FROM groups g LEFT JOIN variants v USING (variant_id) GROUP BY ALL ORDER BY ALL;

-- ## How live difficulty moved over a run [movement]
SELECT run_id, step, count(*) AS problems, round(avg(old_difficulty), 2) AS before,
       round(avg(new_difficulty), 2) AS after
FROM difficulty_events GROUP BY ALL ORDER BY ALL;

-- ## The hardest problems by live difficulty, with their questions [hardest]
SELECT d.run_id, d.problem_id, d.difficulty, d.step, left(p.text, 80) AS question
FROM live_difficulty d JOIN problems p USING (problem_id)
ORDER BY d.difficulty DESC, d.run_id, d.problem_id LIMIT 20;

-- ## Scores of each evaluation, latest run first, with the standard error over problems [scores]
SELECT e.run_id, e.step, e.split, count(*) AS problems, round(avg(e.correct / e.samples), 3) AS accuracy,
       round(stddev_samp(e.correct / e.samples) / sqrt(count(*)), 3) AS standard_error
FROM evaluations e LEFT JOIN runs r USING (run_id) WHERE e.samples > 0
GROUP BY e.run_id, e.step, e.split, r.started_at ORDER BY r.started_at DESC NULLS LAST, e.run_id, e.step DESC, e.split;

-- ## How many accepted variants the problems have [supply]
SELECT accepted, count(*) AS problems, bar(problems, 0, max(problems) OVER (), 30) AS histogram
FROM (
    SELECT p.problem_id, count(v.variant_id) AS accepted
    FROM problems p LEFT JOIN variants v ON v.problem_id = p.problem_id AND v.status = 'accepted'
    GROUP BY p.problem_id
) GROUP BY accepted ORDER BY accepted;

-- ## Problems without an accepted variant, the hardest first [unsupplied]
SELECT p.problem_id, round(l.difficulty, 2) AS difficulty, left(p.text, 80) AS question
FROM problems p
LEFT JOIN labels l ON l.subject_id = p.problem_id
                  AND l.solver_model = (SELECT value FROM settings WHERE name = 'label_model')
WHERE NOT EXISTS (FROM variants v WHERE v.problem_id = p.problem_id AND v.status = 'accepted')
ORDER BY l.difficulty DESC NULLS LAST, p.problem_id LIMIT 20;

-- ## Kinds of a problem that are still short of what was asked for, the most tries first [shortages]
SELECT problem_id, kind, wanted, accepted, tries, reason
FROM shortages WHERE accepted < wanted ORDER BY tries DESC, problem_id, kind LIMIT 20;

-- ## Variants that a single check rejected, by check [single_check]
SELECT check_name, count(*) AS variants, min(variant_id) AS example
FROM (
    SELECT variant_id, min(check_name) AS check_name FROM verdicts WHERE NOT passed
    GROUP BY variant_id HAVING count(DISTINCT check_name) = 1
) GROUP BY check_name ORDER BY variants DESC, check_name;

-- ## Ladders: pass rate by the number of think steps that are given, beside that of the same problems without a hint [ladders]
SELECT solution_steps, step AS steps_given, count(*) AS hints, round(avg(pass_rate), 3) AS pass_rate,
       round(avg(original_pass_rate), 3) AS without_hint
FROM (
    SELECT solution_steps, original_pass_rate, unnest(steps) AS step, unnest(pass_rates) AS pass_rate FROM ladders
) GROUP BY ALL ORDER BY ALL;

-- ## Problems that a hint helps most: the best pass rate on the ladder less that of the problem [helped]
SELECT problem_id, solution_steps, accepted, original_pass_rate, list_max(pass_rates) AS best_pass_rate,
       round(list_max(pass_rates) - original_pass_rate, 3) AS gain
FROM ladders WHERE gain IS NOT NULL ORDER BY gain DESC, problem_id LIMIT 20;

-- ## The latest runs: seconds, and scores where they were evaluated [latest]
SELECT run_id, kind, model, outcome, started_at::TIMESTAMP(0) AS started, round(seconds, 1) AS seconds,
       scored_step, round(accuracy, 3) AS accuracy
FROM runs ORDER BY started_at DESC, run_id LIMIT 20;

-- ## What each run cost, and the dollars for each of its calls [costs]
SELECT c.run_id, c.kind, sum(c.calls)::BIGINT AS calls, sum(c.failures)::BIGINT AS failures,
       round(sum(c.cost_usd), 4) AS usd, round(sum(c.cost_usd) / sum(c.calls), 6) AS usd_per_call,
       any_value(round(r.seconds, 1)) AS seconds
FROM costs c JOIN runs r USING (run_id) GROUP BY c.run_id, c.kind ORDER BY usd DESC NULLS LAST, c.run_id;

-- ## Dollars and tokens by day [days]
SELECT created_at::DATE AS day, model, count(*) AS calls, round(sum(cost_usd), 4) AS usd,
       sum(prompt_tokens + completion_tokens)::BIGINT AS tokens
FROM calls GROUP BY ALL ORDER BY ALL;

-- ## Problems that cost most [expensive]
SELECT c.problem_id, count(*) AS calls, round(sum(c.cost_usd), 4) AS usd,
       (SELECT count(*) FROM variants v WHERE v.problem_id = c.problem_id AND v.status = 'accepted') AS accepted
FROM calls c GROUP BY c.problem_id ORDER BY usd DESC NULLS LAST, c.problem_id LIMIT 20;

-- ## Silent groups step by step, and why they are silent [silent_steps]
SELECT run_id, step, count(*) AS groups, round(avg(silent::INTEGER), 3) AS silent,
       count(*) FILTER (silent_why = 'all right') AS all_right, count(*) FILTER (silent_why = 'all wrong') AS all_wrong,
       count(*) FILTER (silent_why = 'truncated') AS truncated, count(*) FILTER (silent_why = 'no answer') AS no_answer,
       count(*) FILTER (silent_why = 'equal rewards') AS equal_rewards, count(*) FILTER (silent_why = 'no reward') AS no_reward
FROM groups GROUP BY ALL ORDER BY ALL;

-- ## Problems whose groups were always silent, with the visits that were lost [always_silent]
SELECT run_id, problem_id, count(DISTINCT step) AS visits, count(*) AS groups,
       count(*) FILTER (silent_why IN ('all wrong', 'truncated', 'no answer')) AS none_right
FROM groups GROUP BY ALL HAVING bool_and(silent) ORDER BY groups DESC, run_id, problem_id LIMIT 20;

-- ## What training changed: accuracy on the original at the first and the last visit of each problem [learnt]
SELECT run_id, problem_id, count(*) AS visits, arg_min(accuracy, step) AS first_accuracy,
       arg_max(accuracy, step) AS last_accuracy, round(last_accuracy - first_accuracy, 3) AS change
FROM groups WHERE slot = 0 AND accuracy IS NOT NULL GROUP BY ALL ORDER BY change, run_id, problem_id LIMIT 20;

-- ## Pass rates in training beside the label's, by kind of variant [transfer]
SELECT g.run_id, v.kind, count(*) AS groups, round(avg(g.accuracy), 3) AS in_training,
       round(avg(l.pass_rate), 3) AS by_label
FROM groups g JOIN variants v USING (variant_id)
LEFT JOIN labels l ON l.subject_id = g.variant_id
                  AND l.solver_model = (SELECT value FROM settings WHERE name = 'label_model')
GROUP BY ALL ORDER BY ALL;

-- ## Length of completions in training, right ones beside wrong ones [lengths]
SELECT run_id, step, round(avg(completion_tokens) FILTER (accuracy = 1)) AS tokens_right,
       round(avg(completion_tokens) FILTER (accuracy = 0)) AS tokens_wrong, max(completion_tokens) AS longest,
       round(avg((finish = 'truncated')::INTEGER), 3) AS truncated
FROM rollouts GROUP BY ALL ORDER BY ALL;

-- ## What `diva diagnose` judges a run by: groups of originals, of hinted prompts and of others, step by step [training]
SELECT g.run_id, g.step, CASE WHEN g.variant_id = 'original' THEN 'original' WHEN v.kind = 'think_step' THEN 'hinted'
                              ELSE 'other' END AS prompt,
       count(*) AS groups, sum(g.rollouts)::BIGINT AS rollouts, avg(g.accuracy) AS accuracy,
       coalesce(var_pop(g.accuracy), 0) AS accuracy_variance, count(g.accuracy) AS judged_groups,
       avg(g.reward) AS reward, coalesce(var_pop(g.reward), 0) AS reward_variance, count(g.reward) AS rewarded_groups,
       avg(g.completion_tokens) AS completion_tokens, sum(g.unjudged)::BIGINT AS unjudged,
       coalesce(sum(t.not_right), 0)::BIGINT AS truncated_not_right, coalesce(sum(g.no_answer), 0)::BIGINT AS no_answer,
       coalesce(sum(g.rollouts) FILTER (g.no_answer IS NOT NULL), 0)::BIGINT AS graded,
       count(*) FILTER (g.silent_why = 'all right') AS all_right,
       count(*) FILTER (g.silent_why = 'all wrong') AS all_wrong,
       count(*) FILTER (g.silent) AS silent
FROM groups g LEFT JOIN (
    SELECT run_id, step, problem_id, slot, count(*) AS not_right FROM rollouts
    WHERE finish = 'truncated' AND accuracy IS DISTINCT FROM 1 GROUP BY ALL
) t USING (run_id, step, problem_id, slot)
LEFT JOIN variants v USING (variant_id) GROUP BY ALL ORDER BY ALL;

-- ## Gradient, entropy and seconds of each step of training [gradients]
SELECT run_id, step, loss, grad_norm, entropy, round(seconds, 3) AS seconds FROM train_steps ORDER BY ALL;

-- ## Reward functions, and in how many groups each tells rollouts apart [reward_functions]
SELECT run_id, function, count(*) AS groups, count(*) FILTER (least < most) AS differing, min(least) AS least,
       max(most) AS most
FROM (
    SELECT run_id, step, problem_id, slot, function, min(value) AS least, max(value) AS most
    FROM (
        SELECT run_id, step, problem_id, slot, function,
               TRY_CAST(json_extract_string(reward_parts, '$."' || function || '"') AS DOUBLE) AS value
        FROM (SELECT *, unnest(json_keys(reward_parts)) AS function FROM rollouts WHERE reward_parts IS NOT NULL)
    ) GROUP BY ALL
) GROUP BY ALL ORDER BY ALL;

-- ## Ids of problems in rollouts that the store has no problem of [unknown_problems]
SELECT r.run_id, r.problem_id, count(*) AS rollouts
FROM rollouts r ANTI JOIN problems p USING (problem_id) GROUP BY ALL ORDER BY ALL;

-- ## How answers in logged completions were graded, and how they were found [graded]
SELECT run_id, graded_outcome, graded_how, count(*) AS rollouts, count(*) FILTER (finish = 'truncated') AS truncated
FROM rollouts WHERE graded_outcome IS NOT NULL GROUP BY ALL ORDER BY run_id, rollouts DESC, graded_outcome, graded_how;

-- ## What `diva advise` judges by: problems by right answers of their label, with solutions and hints [spectrum]
SELECT l.solver_model, l.samples, l.correct, count(*) AS problems,
       count(*) FILTER (len(p.solution_steps) > 0) AS with_solution, count(h.problem_id) AS with_hints,
       count(*) FILTER (h.steps_left = 1) AS one_step_left, count(m.best) AS hints_labelled,
       count(*) FILTER (m.best > 0) AS hints_help
FROM labels l JOIN problems p ON p.problem_id = l.subject_id
LEFT JOIN (
    SELECT problem_id, min(hint_total - hint_steps) AS steps_left FROM variants
    WHERE kind = 'think_step' AND status = 'accepted' AND hint_steps < hint_total GROUP BY problem_id
) h USING (problem_id)
LEFT JOIN (
    SELECT v.problem_id, o.solver_model, max(o.pass_rate) AS best FROM variants v JOIN labels o ON o.subject_id = v.variant_id
    WHERE v.kind = 'think_step' AND v.status = 'accepted' AND v.hint_steps < v.hint_total GROUP BY ALL
) m ON m.problem_id = p.problem_id AND m.solver_model = l.solver_model
GROUP BY ALL ORDER BY ALL;
