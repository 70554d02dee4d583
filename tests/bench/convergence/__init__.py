"""Does DIVA-GRPO learn faster than GRPO, and by how much: a testbed for one CPU, its runs and their page."""
