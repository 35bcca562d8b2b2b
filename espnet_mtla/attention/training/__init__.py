"""Attention over whole rows, with gradients and without a ``T x T`` matrix."""
