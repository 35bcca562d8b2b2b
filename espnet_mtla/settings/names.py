"""What a packed model's files are called."""

WEIGHTS = "model.safetensors"
CONFIG = "config.yaml"
DECODE = "decode.yaml"
README = "README.md"
