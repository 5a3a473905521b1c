"""A server of a base and its adapters, which speaks OpenAI's protocol."""

KEY = "KRONQ_API_KEY"
"""Variable of the environment with a key that requests must have."""
