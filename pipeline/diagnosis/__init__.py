"""Why a training run does not learn: facts of the run, rules over them, findings with examples and what to do."""
