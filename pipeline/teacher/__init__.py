"""The teacher: an external LLM behind an OpenAI-compatible endpoint, and all that its answers pass through.

`client.Teacher` asks; what was ever answered is in the `journal`; an exchange is `live` or by `batch`.
"""
