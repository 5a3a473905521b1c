"""The page in kronq/web/page, driven in headless Chromium."""
