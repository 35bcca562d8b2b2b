"""Llama with MTLA as a Transformers model."""
