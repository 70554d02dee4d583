"""Immutable data models of all records and configurations, and the Arrow schemas derived from them."""

if __name__ != "diva_grpo.schemas":  # imported from a checkout as the top-level package `schemas`
    raise ImportError("`schemas` is now `diva_grpo.schemas` (see CHANGELOG.md)")
