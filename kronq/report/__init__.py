"""Size and error of quantized adapters: exact weight error, its lower bound, tables and plots."""
