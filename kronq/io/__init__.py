"""Files: safetensors, the cache, outputs that are never half-written, and examples of text."""
