"""Tests of `pipeline.session`."""
