"""`cmd_args` of a MegatronBridge test: CloudAI's 75 fields with its types and defaults, and notes on fields."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from launcher.contract.values import nearest

T = TypeVar("T")

Swept: TypeAlias = T | list[T] | None
"""One value, or a list of values: an axis of a sweep."""


@dataclass(frozen=True)
class Note:
    """What is said about a field: that it has no effect, or what it became that its name does not show."""

    field: str
    text: str
    level: Literal["info", "warning"] = "warning"

    def __str__(self) -> str:
        return f"{self.field}: {self.text}"


class MegatronBridgeCmdArgs(BaseModel):
    """What setup_experiment.py is to be called with. Fields that CloudAI does not know are kept, as there.

    The order of the fields is the order of a sweep's axes.
    """

    model_config = ConfigDict(extra="allow")

    gpu_type: str = "gb200"
    log_dir: str = ""
    container_image: str = ""
    num_gpus: int = 8
    enable_vboost: bool | None = False
    dryrun: bool | None = False
    enable_nsys: bool | None = False

    domain: str | None = None
    hidden_size: int | None = None
    num_layers: int | None = None
    pipeline_model_parallel_layout: str | None = None
    first_k_dense_replace: int | None = None

    model_family_name: Annotated[str, Field(validate_default=True)] = ""
    model_recipe_name: Annotated[str, Field(validate_default=True)] = ""
    use_recipes: bool | None = None
    task: str = "pretrain"
    compute_dtype: str = "bf16"
    fp8_recipe: str | None = None
    hf_token: str = ""
    nemo_home: str | None = None
    wandb_key: str | None = None
    wandb_project_name: str | None = None
    wandb_entity_name: str | None = None
    wandb_experiment_name: str | None = None
    wandb_save_dir: str | None = None

    max_retries: int | None = 1

    use_tokendrop: Swept[bool] = None
    use_megatron_fsdp: Swept[bool] = None
    cuda_graph_impl: Swept[str] = None
    cuda_graph_scope: Swept[str] = None

    tp: Swept[int] = None
    pp: Swept[int] = None
    cp: Swept[int] = None
    vp: Swept[int] = None
    ep: Swept[int] = None
    et: Swept[int] = None

    mb: Swept[int] = None
    gb: Swept[int] = None
    seq_length: Swept[int] = None

    lr: Swept[float] = None
    min_lr: Swept[float] = None
    warmup_iters: Swept[int] = None

    pretrained_checkpoint: str | None = None
    save_dir: str | None = None
    load_dir: str | None = None
    save_interval: int | None = None
    most_recent_k: int | None = None
    save_config_filepath: str | None = "/nemo_run/configs/ConfigContainer.yaml"

    data: str | None = None
    dataset_paths: Swept[str] = None
    dataset_root: str | None = None
    index_mapping_dir: str | None = None
    dataset_name: str | None = None
    packed_sequence: bool | None = None
    head_only: bool | None = None
    tokenizer_type: str | None = None
    tokenizer_model: str | None = None
    vocab_size: int | None = None

    pytorch_profiler: bool | None = None
    profiling_start_step: int | None = None
    profiling_stop_step: int | None = None
    record_memory_history: bool | None = None
    profiling_gpu_metrics: bool | None = None
    profiling_ranks: int | str | list[int] | None = None
    nsys_trace: Swept[str] = None
    nsys_extra_args: Swept[str] = None

    nccl_ub: Swept[bool] = None

    moe_a2a_overlap: Swept[bool] = None
    max_steps: int | None = 10
    recompute_num_layers: Swept[int] = None
    activation_offload_layers: Swept[int] = None
    recompute_modules: Swept[str] = None

    num_distributed_optimizer_instances: int | None = None

    config_variant: str | None = None
    list_config_variants: bool | None = None

    @field_validator("model_family_name", "model_recipe_name")
    @classmethod
    def _not_empty(cls, text: str, info: ValidationInfo) -> str:
        if not text.strip():
            raise ValueError(f"cmd_args.{info.field_name} is required, and empty")
        return text.strip()

    @property
    def unknown(self) -> dict[str, str | None]:
        """Return the keys that CloudAI has no field for, each with the nearest field's name where one is near."""
        names = type(self).model_fields
        return {key: next(iter(nearest(key, names, count=1)), None) for key in self.model_extra or {}}

    def is_stated(self, name: str) -> bool:
        """Return whether the file states this field: only then it has an effect, but for the six forced ones."""
        return name in self.model_fields_set

    def value(self, name: str) -> Any:
        """Return a field's value where the file states it, else None."""
        return getattr(self, name) if name in self.model_fields_set else None


FIELDS = tuple(MegatronBridgeCmdArgs.model_fields)
"""Names of the 75 fields, in CloudAI's order."""

SECRETS = ("hf_token", "wandb_key")
"""Fields whose values go into the job's environment and nowhere else."""
