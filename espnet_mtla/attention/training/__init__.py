"""Attention in training: whole rows, with gradients, without a ``T x T`` matrix."""
