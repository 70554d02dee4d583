"""Thin Prefect flows over `pipeline`, and the `diva` command."""

import os

if __name__ != "diva_grpo.flows":  # imported from a checkout as the top-level package `flows`
    raise ImportError("`flows` is now `diva_grpo.flows` (see CHANGELOG.md)")

# If no server is configured, Prefect starts one for the run. That server first creates its database, which on a new or
# busy machine takes longer than the 20 s that Prefect waits by default. The variable is set here because Prefect reads
# it when it is imported. A value that the user has set is kept.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
