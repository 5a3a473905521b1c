"""Native codes: a width for each channel, with GPTQ error feedback."""
