"""Find out why a training run does not learn: rules judge the facts of the run, and give findings with examples."""
