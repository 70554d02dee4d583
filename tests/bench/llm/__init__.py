"""The testbed `llm`: a real small language model on problems that it cannot do without hints."""
