"""The stages of curation: generate, verify, label, and what composes them (supply, top-up)."""
