"""Verbs on the data: ingest, generate, verify, label, grade, store. Plain functions, no orchestration."""
