"""Thin Prefect flows over `pipeline`, and the `diva` command."""
