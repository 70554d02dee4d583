"""The stages of curation (generate, verify, label), and the modules that combine them (curate, supply, top-up)."""
