"""Pages and artifacts for users: problems with their variants, plots, and the artifacts in Prefect's UI."""
