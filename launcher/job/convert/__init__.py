"""Conversion between a Hugging Face directory and a Megatron checkpoint, with a report of how exact it was.

`python3 entrypoint.py --convert REQUEST` starts one process for each rank of the model (program.py), reports its
progress on standard output, as events (contract/events.py), and leaves either the complete result or nothing of
that name. The mapping of tensors is Megatron Bridge's own; the launcher checks whether it lost anything (parity.py,
logits.py).
"""
