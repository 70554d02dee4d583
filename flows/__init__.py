"""Thin Prefect flows over `pipeline`, and the `diva` command."""

import os

# The server that Prefect starts for a run without one makes its database first: on a new or busy machine that
# takes longer than the 20 s that Prefect would wait. Here, since Prefect reads it when it is imported. A user's own
# setting wins.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
