"""The two pairs of command lines of Megatron Bridge's page on Megatron-LM, as printed there, and smaller sizes of them.

It needs the standard library alone: benchmarks/gpu_correlate.py runs them on machines without pytest.
"""

import shlex

FIRST_PAIR = shlex.split(
    "--num-layers 2 --hidden-size 256 --num-attention-heads 4 --ffn-hidden-size 1024 --seq-length 512 "
    "--max-position-embeddings 512 --micro-batch-size 4 --global-batch-size 32 --train-iters 10 --lr 3e-4 "
    "--min-lr 3e-5 --seed 1234 --tokenizer-type NullTokenizer --vocab-size 32000 --mock-data --bf16 "
    "--use-mcore-models --log-interval 1 --eval-interval 10 --eval-iters 2"
)
FIRST_BRIDGE = shlex.split(
    "model.num_layers=2 model.hidden_size=256 model.num_attention_heads=4 model.ffn_hidden_size=1024 "
    "model.seq_length=512 dataset.seq_length=512 train.micro_batch_size=4 train.global_batch_size=32 "
    "train.train_iters=10 optimizer.lr=3e-4 optimizer.min_lr=3e-5 rng.seed=1234 scheduler.lr_warmup_iters=1 "
    "scheduler.lr_decay_iters=10 logger.log_interval=1 validation.eval_interval=10 validation.eval_iters=2"
)
SECOND_PAIR = shlex.split(
    "--tensor-model-parallel-size 2 --sequence-parallel --num-layers 4 --hidden-size 256 --num-attention-heads 4 "
    "--seq-length 1024 --max-position-embeddings 1024 --micro-batch-size 2 --global-batch-size 16 --train-iters "
    "10 --lr 1e-4 --tokenizer-type NullTokenizer --vocab-size 1024 --mock-data --bf16 --use-mcore-models "
    "--log-interval 1 --eval-interval 10 --eval-iters 2"
)
SECOND_BRIDGE = shlex.split(
    "model.tensor_model_parallel_size=2 model.sequence_parallel=true model.num_layers=4 model.hidden_size=256 "
    "model.num_attention_heads=4 model.ffn_hidden_size=1024 model.seq_length=1024 dataset.seq_length=1024 "
    "train.micro_batch_size=2 train.global_batch_size=16 train.train_iters=10 scheduler.lr_warmup_iters=2 "
    "scheduler.lr_decay_iters=10 logger.log_interval=1 validation.eval_interval=10 validation.eval_iters=2"
)
SEVEN = {
    "scheduler.lr_warmup_iters",
    "scheduler.lr_decay_style",
    "optimizer.adam_beta2",
    "scheduler.start_weight_decay",
    "scheduler.end_weight_decay",
    "model.bias_activation_fusion",
    "model.bias_dropout_fusion",
    "model.cross_entropy_loss_fusion",
}
"""Seven settings; the weight decay is two keys."""

SMALLER = {
    "--hidden-size": "64",
    "--ffn-hidden-size": "256",
    "--seq-length": "64",
    "--max-position-embeddings": "64",
    "--micro-batch-size": "2",
    "--global-batch-size": "4",
}
"""Values of Megatron-LM's arguments for a busy machine."""
