"""Pages and artifacts for people: problems beside their variants, plots, Prefect's artifacts."""
