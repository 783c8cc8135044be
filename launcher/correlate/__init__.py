"""Megatron-LM beside Megatron Bridge: translating arguments, running both, and comparing them."""
