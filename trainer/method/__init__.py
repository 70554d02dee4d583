"""The method, independent of trainer, model and store: advantages, live difficulty, choice of problems and variants."""
