"""diva-grpo: difficulty-adaptive variants for GRPO (arXiv 2603.01106)."""
