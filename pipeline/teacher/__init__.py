"""The teacher: a client for an LLM at an OpenAI-compatible endpoint.

`client.Teacher` sends requests and reads the answers. `journal` keeps all answers. `wire` sends live requests or uses
the Batch API.
"""
