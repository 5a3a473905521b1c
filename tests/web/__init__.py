"""The page in docs/web, driven in headless Chromium."""
