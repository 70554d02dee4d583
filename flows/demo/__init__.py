"""The demo: the whole loop, from curation to training, without an endpoint, with a scripted teacher and toy models."""
