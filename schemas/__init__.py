"""Nouns: frozen models of every record and configuration, with the Arrow schemas derived from them."""

if __name__ != "diva_grpo.schemas":  # imported from a checkout, where the folder stands at the top
    raise ImportError("`schemas` is now `diva_grpo.schemas` (see CHANGELOG.md)")
