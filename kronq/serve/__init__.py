"""A server of a base and its adapters, which speaks OpenAI's protocol."""
