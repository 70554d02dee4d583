"""Thin Prefect flows over `pipeline`, and the `diva` command."""

import os

if __name__ != "diva_grpo.flows":  # imported from a checkout, where the folder stands at the top
    raise ImportError("`flows` is now `diva_grpo.flows` (see CHANGELOG.md)")

# The server that Prefect starts for a run without one makes its database first: on a new or busy machine that
# takes longer than the 20 s that Prefect would wait. Here, since Prefect reads it when it is imported. A user's own
# setting wins.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
