"""The scoring engine: folded heads, the kernels that run them, pairs, one against many and all against all."""
