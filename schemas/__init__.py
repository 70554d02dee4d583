"""Nouns: frozen models of every record and configuration, with the Arrow schemas derived from them."""
