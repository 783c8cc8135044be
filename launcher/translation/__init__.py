"""Megatron-LM's command lines as configurations of Megatron Bridge, and back."""
