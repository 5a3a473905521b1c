"""The user's own task: scoring adapters on it, and the smallest file that still does it."""
