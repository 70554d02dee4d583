"""The demo: the whole loop without an endpoint, with its scripted teacher and toy models."""
