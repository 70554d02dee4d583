"""What all shards of a run share: endpoints, budget and references. Also the cost estimate of a run (`--dry-run`)."""
