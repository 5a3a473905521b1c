"""The web page in which adapters swap on one base: put together, and served to a browser."""
