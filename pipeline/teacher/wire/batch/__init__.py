"""The Batch API: half the price, answers within a day."""
