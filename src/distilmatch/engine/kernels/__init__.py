"""What computes the pairs of a folded head: compiled, Triton, PyTorch; and which one is taken."""
