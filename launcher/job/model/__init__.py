"""The model: architectures, initial weights, checkpoints and the forward step."""
