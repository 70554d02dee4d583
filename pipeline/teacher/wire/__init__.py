"""Exchanges with an endpoint: live requests with their rate limits, or the Batch API; and how responses are read."""
