"""The testbed `lock`: a regime in which the method can pay, since no rollout without a hint is ever right."""
