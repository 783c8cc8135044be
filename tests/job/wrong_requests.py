"""Wrong recipes, arguments, overrides and configurations, each with its own sentence: the table of test_check.py."""

from dataclasses import dataclass
from typing import Any

GOOD = """
from typing import Literal, Optional

from vanilla_gpt_pretrain import configure as vanilla


class Helper:
    pass


def configure(layers: int = 2, flag: bool = False, kind: Literal["small", "large"] = "small", sizes: list[int] = ()):
    cfg = vanilla()
    cfg.model.num_layers = layers
    return cfg


def required(path: str, *, width: Optional[int] = None):
    return vanilla()


def nothing():
    vanilla()


def dictionary():
    return {"model": 1}


def raises():
    helper(0)


def helper(number):
    return 1 / number


def exits():
    raise SystemExit("no licence")


answer = 42
"""
"""The recipe that the table's rows ask wrongly; it stands beside a copy of recipes/vanilla_gpt_pretrain.py."""

BROKEN = {
    "no_syntax.py": "def configure(:\n    pass\n",
    "no_import.py": "import os\nimport a_module_that_nobody_has\n",
    "no_start.py": "value = {}['absent']\n",
    "json.py": "def configure():\n    return None\n",
}


@dataclass(frozen=True)
class Wrong:
    """A wrong request: `says` must be in the message, `where` end its place, and `hint` be in the advice."""

    says: str
    function: str = "configure"
    path: str = "table_recipe.py"
    bridge: str = ""
    arguments: tuple[tuple[str, str], ...] = ()
    overrides: tuple[str, ...] = ()
    world_size: int = 1
    where: str = ""
    hint: str = ""

    def request(self, base: str) -> dict[str, Any]:
        """The row as bridge_process.py is asked, its recipe in the directory `base`."""
        recipe = {"bridge": self.bridge} if self.bridge else {"path": self.path, "function": self.function}
        return {
            "recipe": recipe,
            "base": base,
            "arguments": dict(self.arguments),
            "overrides": self.overrides,
            "world_size": self.world_size,
        }


ON_CPU = {
    "recipe": {"path": "vanilla_gpt_pretrain.py", "function": "configure"},
    "arguments": {},
    "overrides": ["model.context_parallel_size=2"],
    "options": {"device": "cpu"},
    "world_size": 2,
    "ranks_per_node": 2,
}
"""What can be trained on GPUs alone, asked for a job on CPU."""

RECIPES = (
    Wrong("absent.py does not exist", path="absent.py"),
    Wrong("is a directory, not a file", path="."),
    Wrong("the recipe is not valid Python: invalid syntax", path="no_syntax.py", where="no_syntax.py:1"),
    Wrong(
        "ModuleNotFoundError: No module named 'a_module_that_nobody_has'", path="no_import.py", where="no_import.py:2"
    ),
    Wrong("the recipe cannot be imported: KeyError: 'absent'", path="no_start.py", where="no_start.py:1"),
    Wrong("json.py has the name of an existing module", path="json.py", hint="rename"),
    Wrong("the recipe has no function 'configur'", function="configur", hint="table_recipe.py:configure"),
    Wrong("has a int, not a function, called 'answer'", function="answer"),
    Wrong("nothing() returned None", function="nothing", hint="return cfg"),
    Wrong(
        "dictionary() returned a dict, but a recipe must return Megatron Bridge's ConfigContainer",
        function="dictionary",
    ),
    Wrong("raises() failed: ZeroDivisionError: division by zero", function="raises", where="table_recipe.py:34"),
    Wrong("exits() failed: SystemExit: no licence", function="exits", where="table_recipe.py:38"),
    Wrong(
        "no recipe 'vanilla_gpt_pretrain_confg'",
        bridge="vanilla_gpt_pretrain_confg",
        hint="vanilla_gpt_pretrain_config",
    ),
    Wrong(
        "model.num_layers must be an integer of at least 1, and is 0",
        bridge="vanilla_gpt_pretrain_config",
        overrides=("model.num_layers=0",),
    ),
)

ARGUMENTS = (
    Wrong("configure() has no argument 'layer'; it has layers, flag", arguments=(("layer", "3"),)),
    Wrong("argument layers=1e3: it takes an integer, not '1e3'", arguments=(("layers", "1e3"),)),
    Wrong("argument flag=maybe: it takes true or false", arguments=(("flag", "maybe"),)),
    Wrong("argument kind=medium: it takes one of small, large", arguments=(("kind", "medium"),)),
    Wrong("argument sizes=[a]: it takes a list, each an integer", arguments=(("sizes", "[a]"),)),
    Wrong("required() needs 'path', which is not given", function="required", hint="path=..."),
    Wrong(
        "argument width=wide: it takes an integer or null",
        function="required",
        arguments=(("path", "x"), ("width", "wide")),
    ),
    Wrong(
        "vanilla_gpt_pretrain_config() takes no arguments",
        bridge="vanilla_gpt_pretrain_config",
        arguments=(("path", "x"),),
    ),
)

OVERRIDES = (
    Wrong("train.train_iters takes an integer or null, not the string 'abc'", overrides=("train.train_iters=abc",)),
    Wrong("not the float 1000.0", overrides=("train.train_iters=1e3",), hint="train.train_iters=1000"),
    Wrong("train.micro_batch_size takes an integer or null, not true", overrides=("train.micro_batch_size=true",)),
    Wrong("train.exit_signal takes one of", overrides=("train.exit_signal=SIGUSR3",), hint="train.exit_signal=SIGUSR2"),
    Wrong("checkpoint.ckpt_format takes one of torch, torch_dist", overrides=("checkpoint.ckpt_format=zarr",)),
    Wrong("model.attention_backend takes one of flash", overrides=("model.attention_backend=flsh",), hint="flash"),
    Wrong("model.params_dtype takes a data type", overrides=("model.params_dtype=bf61",)),
    Wrong("logger.wandb_project takes a string or null, not 7", overrides=("logger.wandb_project=7",), hint='="7"'),
    Wrong("profiling.profile_ranks takes a list", overrides=("profiling.profile_ranks=0",), hint="=[0]"),
    Wrong("profiling.profile_ranks is a list, whose items have no keys", overrides=("profiling.profile_ranks.0=1",)),
    Wrong("model.init_method takes an object that only a recipe can give", overrides=("model.init_method=normal",)),
    Wrong("model.activation_func takes one of", overrides=("model.activation_func=rleu",), hint="relu"),
    Wrong("train.nope is unknown: TrainingConfig has no field 'nope'", overrides=("+train.nope=1",)),
    Wrong(
        "trian.train_iters is unknown: there is no such section",
        overrides=("trian.train_iters=1",),
        hint="train.train_iters",
    ),
    Wrong("train.lr is unknown", overrides=("train.lr=1e-3",), hint="optimizer.lr"),
    Wrong(
        "overwritten by dataset.seq_length before training",
        overrides=("dataset.sequence_length=128", "dataset.seq_length=64"),
    ),
    Wrong("dataset.split_matrix is computed by", overrides=("dataset.split_matrix=null",)),
    Wrong("train.train_iters has no keys below it", overrides=("train.train_iters.x=1",)),
    Wrong("ft.enable_ft is unknown", overrides=("ft={enable_ft:true}",), hint="ft.enable_ft_package"),
    Wrong("peft is null in this recipe, and its class is not clear", overrides=("peft.dim=8",), hint="_target_"),
    Wrong("a new CommOverlapConfig also needs comm_overlap.tp_comm_overlap", overrides=("comm_overlap.bucket_size=1",)),
    Wrong("peft takes a PEFT, but", overrides=("peft={_target_:megatron.bridge.training.config.RNGConfig}",)),
    Wrong("peft cannot be made from _target_ no.such.Thing", overrides=("peft={_target_:no.such.Thing}",)),
    Wrong("ft is replaced as a whole after", overrides=("ft.enable_ft_package=true", "ft=null")),
    Wrong("train takes a set of keys {...}, not null", overrides=("train=null",)),
    Wrong("env_vars takes a mapping, each value", overrides=("env_vars.A=[1]",)),
    Wrong(
        "is a sweep over several values",
        overrides=("train.train_iters=1,2",),
        where="override 1: train.train_iters=1,2",
    ),
    Wrong("would delete a key", overrides=("~train.train_iters",)),
    Wrong("Hydra's grammar does not read 'checkpoint.save=/x=y'", overrides=("checkpoint.save=/x=y",), hint='"/x=y"'),
    Wrong("'train.train_iters' is not of the form KEY=VALUE", overrides=("train.train_iters",)),
    Wrong("is not a dotted name", overrides=("train@x=1",)),
    Wrong("says that the value is missing", overrides=("checkpoint.save=???",)),
    Wrong(
        "Environment variable 'NOBODY_SETS_THIS' not found", overrides=("checkpoint.save=${oc.env:NOBODY_SETS_THIS}",)
    ),
    Wrong("Recursive interpolation", overrides=("train.train_iters=${train.train_iters}",)),
)

CONFIGURATIONS = (
    Wrong(
        "4 ranks cannot be divided by TP 3 x PP 1 x CP 1 = 3",
        overrides=("model.tensor_model_parallel_size=3",),
        world_size=4,
    ),
    Wrong(
        "global_batch_size=9 is not a multiple of micro-batch size 2 x data-parallel size 2 = 4",
        overrides=("train.global_batch_size=9", "train.micro_batch_size=2"),
        world_size=2,
        hint="8",
    ),
    Wrong(
        "train.global_batch_size must be an integer of at least 1, and is 0", overrides=("train.global_batch_size=0",)
    ),
    Wrong("train.train_iters must be an integer of at least 0, and is -3", overrides=("train.train_iters=-3",)),
    Wrong(
        "model.num_layers=3 cannot be divided by model.pipeline",
        overrides=("model.num_layers=3", "model.pipeline_model_parallel_size=2"),
        world_size=2,
    ),
    Wrong(
        "model.virtual_pipeline_model_parallel_size=2 needs a pipeline",
        overrides=("model.virtual_pipeline_model_parallel_size=2",),
    ),
    Wrong("model.hidden_size=255 cannot be divided", overrides=("model.hidden_size=255",)),
    Wrong("cannot be divided by model.num_query_groups=3", overrides=("model.num_query_groups=3",)),
    Wrong(
        "num_attention_heads (4) must be a multiple of tensor_model_parallel_size (8)",
        overrides=("model.tensor_model_parallel_size=8",),
        world_size=8,
    ),
    Wrong("model.seq_length=64 and dataset.seq_length=128 differ", overrides=("dataset.seq_length=128",)),
    Wrong(
        "model.seq_length=66 cannot be divided by 2 x model.context",
        overrides=("model.seq_length=66", "dataset.seq_length=66", "model.context_parallel_size=2"),
        world_size=2,
    ),
    Wrong("but the model has no experts", overrides=("model.expert_model_parallel_size=2",), world_size=2),
    Wrong(
        "2 ranks cannot be divided by ETP 1 x EP 4 x PP 1 = 4",
        overrides=("model.num_moe_experts=4", "model.expert_model_parallel_size=4"),
        world_size=2,
    ),
    Wrong(
        "model.num_moe_experts=3 cannot be divided",
        overrides=("model.num_moe_experts=3", "model.expert_model_parallel_size=2"),
        world_size=2,
    ),
    Wrong(
        "model.moe_router_topk=8 of model.num_moe_experts=4",
        overrides=("model.num_moe_experts=4", "model.moe_router_topk=8"),
    ),
    Wrong("Unknown mixed-precision recipe", overrides=("mixed_precision=bf17_mixed",)),
    Wrong("One of train_iters, train_samples", overrides=("train.train_iters=null",)),
    Wrong("Pretrained checkpoint /nowhere does not exist", overrides=("checkpoint.pretrained_checkpoint=/nowhere",)),
    Wrong(
        "profile_step_end (2) must be >= profile_step_start (5)",
        overrides=("profiling.profile_step_start=5", "profiling.profile_step_end=2"),
    ),
    Wrong(
        "the condition self.end_weight_decay >= self.start_weight_decay is false "
        "(self.end_weight_decay=0.1, self.start_weight_decay=0.5)",
        overrides=(
            "scheduler.start_weight_decay=0.5",
            "scheduler.end_weight_decay=0.1",
            "scheduler.weight_decay_incr_style=linear",
        ),
        where="megatron/bridge/training/config.py:413",
    ),
    Wrong(
        "eval_global_batch_size (3) must be divisible",
        overrides=("validation.eval_global_batch_size=3", "train.micro_batch_size=2"),
    ),
)

TABLE = (*RECIPES, *ARGUMENTS, *OVERRIDES, *CONFIGURATIONS)
