"""The KV cache, and attention of new tokens over it."""
