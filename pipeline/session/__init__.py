"""What a run shares: its teacher, its limits and budget, and its rehearsal (`--dry-run`)."""
