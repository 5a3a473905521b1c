"""Files: safetensors, outputs that appear whole or not at all, and examples of text."""
