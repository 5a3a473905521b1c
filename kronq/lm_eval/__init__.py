"""lm-evaluation-harness with kronq's models: ``python -m kronq.lm_eval`` (extra ``[lm-eval]``).

The harness finds models by import alone, so this package is its command line with one more model.
"""
