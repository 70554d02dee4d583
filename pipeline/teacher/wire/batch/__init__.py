"""Exchanges by OpenAI's Batch API, which costs half the price and answers within a day."""
