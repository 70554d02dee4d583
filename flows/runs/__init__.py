"""Prefect flows, their tasks over shards, their hooks and deployments."""
