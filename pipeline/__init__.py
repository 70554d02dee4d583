"""Verbs on the data: ingest, generate, verify, label, grade, store. Plain functions, no orchestration."""

if __name__ != "diva_grpo.pipeline":  # imported from a checkout, where the folder stands at the top
    raise ImportError("`pipeline` is now `diva_grpo.pipeline` (see CHANGELOG.md)")
