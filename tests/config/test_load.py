"""Profiles and requests: which value takes precedence, and the messages of errors."""

from pathlib import Path
from typing import Any

import pytest

from launcher._util.errors import ConfigError
from launcher.config.load import ON_HOST, cluster_names, load_cluster, load_request, read_job_file
from launcher.config.origins import origins
from launcher.contract.variables import is_secret


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    (tmp_path / ".config/launcher/clusters").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    return {"HOME": str(tmp_path), "LAUNCHER_CLUSTERS": str(tmp_path / "mine")}


def profile(home: dict[str, str], name: str, text: str, where: str = "mine") -> None:
    (Path(home["HOME"]) / where / f"{name}.toml").write_text(text)


def request(home: dict[str, str], job: Path | None = None, **options: Any) -> Any:
    stated = read_job_file(job) if job else {}
    return load_request(options, environ=home, directory=Path(home["HOME"]), job=stated)


def test_every_shipped_profile_is_valid() -> None:
    for name in cluster_names({"HOME": "/nowhere"}):
        assert load_cluster(name, {"HOME": "/nowhere"}).description


def test_a_profile_changes_the_one_that_it_extends(home: dict[str, str]) -> None:
    profile(home, "gb", 'extends = "slurm"\ngpus_per_node = 4\n[directives]\nexclusive = true\n[env]\nA = "1"\n')
    found = load_cluster("gb", home)
    assert (found.name, found.gpus_per_node) == ("gb", 4)
    assert found.directives == {"gpus-per-node": True, "exclusive": True}
    assert found.env == {"OMP_NUM_THREADS": "1", "A": "1"}


def test_a_profile_leaves_out_what_the_extended_one_sets(home: dict[str, str]) -> None:
    profile(home, "base", 'extends = "slurm"\nnics_per_node = 8\n[env]\nA = "1"\nB = "2"\n')
    profile(home, "less", 'extends = "base"\nunset = ["nics_per_node", "env.A"]\n[env]\nC = "3"\n')
    less = load_cluster("less", home)
    assert less.nics_per_node is None
    assert {name: less.env.get(name) for name in "ABC"} == {"A": None, "B": "2", "C": "3"}
    assert ("env", "A") not in {each.key for each in origins("less", home)}
    for wrong in ('["nics_per_nod"]', '["env.Z"]', '"env"', "[1]"):
        profile(home, "wrong", f'extends = "base"\nunset = {wrong}\n')
        with pytest.raises(ConfigError, match="unset"):
            load_cluster("wrong", home)


def test_the_users_own_profile_hides_a_shipped_one(home: dict[str, str]) -> None:
    profile(home, "local", 'scheduler = "local"\ndescription = "second"\n', ".config/launcher/clusters")
    assert load_cluster("local", home).description == "second"
    profile(home, "local", 'scheduler = "local"\ndescription = "first"\n')
    assert load_cluster("local", home).description == "first"


def test_a_profile_is_named_by_its_file(home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "mine/site.toml").write_text('extends = "slurm"\naccount = "a"\n')
    (tmp_path / "elsewhere").mkdir()
    file = tmp_path / "elsewhere/ours.toml"
    file.write_text('extends = "site"\npartition = "p"\n')
    found = load_cluster(str(file), home)
    assert (found.name, found.account, found.partition) == ("ours", "a", "p")
    asked = load_request({"cluster": "elsewhere/ours.toml"}, environ=home, directory=tmp_path)
    assert asked.cluster == str(file)
    with pytest.raises(ConfigError, match="no such cluster profile"):
        load_cluster(str(tmp_path / "missing.toml"), home)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("gpus = 8\n", "gpus: unknown key; did you mean gpu?"),
        ("gpus_per_node = 0\n", "gpus_per_node: must be a whole number from 1 to 1024, not 0"),
        ('runtime = "docker"\n', "runtime: must be 'auto', 'bwrap', 'enroot', 'none' or 'pyxis'"),
        ('architecture = "sparc"\n', "architecture: must be 'aarch64' or 'x86_64'"),
        ('scratch = ""\n', "scratch: is empty"),
        ('[env]\nRANK = "0"\n', "RANK cannot be set: step.sh sets it for each rank"),
        ('[env]\nHF_TOKEN = "hf_x"\n', "looks like a secret"),
        ("= 8\n", "cannot be read"),
        ('extends = "broken"\n', "circle: broken -> broken"),
        ('extends = "nowhere"\n', "there is no cluster profile 'nowhere'"),
    ],
)
def test_a_wrong_profile_is_named_with_its_file(home: dict[str, str], text: str, sentence: str) -> None:
    profile(home, "broken", text)
    with pytest.raises(ConfigError) as caught:
        load_cluster("broken", home)
    assert sentence in caught.value.message
    assert "nowhere" in text or "extends" in text or "broken.toml" in (caught.value.where or "")


@pytest.mark.parametrize("words", [("--api-key=of-mine",), ("--wandb-api-key", "of-mine"), ("--hub_token", "of-mine")])
def test_a_secret_among_arguments_of_megatron_is_refused(
    home: dict[str, str], tmp_path: Path, words: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError, match="looks like a secret") as raised:
        load_request({"mlm_arguments": words}, environ=home, directory=tmp_path)
    assert "of-mine" not in raised.value.message
    harmless = ("--use-token-drop", "--tokenizer-type", "x=1")
    assert load_request({"mlm_arguments": harmless}, environ=home, directory=tmp_path).mlm_arguments == harmless


def test_the_first_layer_that_says_it_wins(home: dict[str, str], tmp_path: Path) -> None:
    job = tmp_path / "job.toml"
    job.write_text('recipe = "r/x.py"\nnodes = 4\naccount = "job"\nassignments = ["a=1", "b=1"]\n')
    config = tmp_path / ".config/launcher/config.toml"
    config.write_text('account = "config"\n')
    assert request(home, job).account == "config"
    (tmp_path / "launcher.toml").write_text('account = "directory"\n')
    assert request(home, job).account == "directory"
    assert request({**home, "LAUNCHER_ACCOUNT": "variable"}, job).account == "variable"
    found = request({**home, "LAUNCHER_ACCOUNT": "variable"}, job, account="option", assignments=("a=2",))
    assert (found.account, found.nodes, found.assignments) == ("option", 4, ("b=1", "a=2"))
    assert found.recipe == str(tmp_path / "r/x.py")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"env": ("HF_TOKEN=hf_x",)}, "pass it on by name: --env HF_TOKEN"),
        ({"env": ("RANK=1",)}, "RANK is set for each rank"),
        ({"env": ("LAUNCHER_RUN_DIR=/x",)}, "is set for each rank"),
        ({"env": ("1A=1",)}, "not a name of an environment variable"),
        ({"name": "a b"}, "a run's name is"),
        ({"name": "-a"}, "a run's name is"),
        ({"time": "two hours"}, "is not a time limit"),
        ({"nodes": 0}, "must be a whole number from 1 to 100000, not 0"),
    ],
)
def test_a_wrong_request_is_refused(home: dict[str, str], options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        request(home, **options)
    assert sentence in caught.value.message


def test_a_job_files_keys_all_count(home: dict[str, str], tmp_path: Path) -> None:
    job = tmp_path / "job.toml"
    job.write_text(
        'time = 30\ncheck_config = false\nresume = "old"\nallow_checkpoint_load = true\nmounts = ["/a"]\n'
        'nsys_args = ["--one"]\n[sbatch]\nexclusive = true\nmem = "8G"\n'
    )
    found = request(home, job, nsys_args=("--two",), mounts=("/b",), sbatch={"mem": False, "hold": True})
    assert (found.time, found.check_config, found.resume, found.allow_checkpoint_load) == ("30", False, "old", True)
    assert (found.mounts, found.nsys_args) == (("/a", "/b"), ("--one", "--two"))
    assert found.sbatch == {"exclusive": True, "mem": False, "hold": True}


def test_unknown_keys_of_a_job_file_are_named_once_with_the_nearest(home: dict[str, str], tmp_path: Path) -> None:
    job = tmp_path / "job.toml"
    job.write_text("tiem = 30\ncheck-config = true\nzzz = 1\n")
    with pytest.raises(ConfigError) as caught:
        request(home, job)
    assert caught.value.message == (
        "tiem: unknown key; did you mean time?; check-config: unknown key; did you mean check_config?; zzz: unknown key"
    )
    assert (caught.value.hint or "").count("known keys") + (caught.value.hint or "").count("Known keys") == 1
    assert caught.value.where == str(job)


def test_keys_are_not_listed_where_one_is_near(home: dict[str, str], tmp_path: Path) -> None:
    job = tmp_path / "job.toml"
    job.write_text("tiem = 30\n")
    with pytest.raises(ConfigError, match=r"tiem: unknown key; did you mean time\?") as caught:
        request(home, job)
    assert caught.value.hint is None


@pytest.mark.parametrize(
    ("name", "question"),
    [("aws-p55", "Did you mean aws-p5 or "), ("oci", "Did you mean oci-b200 or "), ("nowhere", "`launcher clusters")],
)
def test_of_an_unknown_profile_the_nearest_names_are_asked(home: dict[str, str], name: str, question: str) -> None:
    with pytest.raises(ConfigError, match=f"there is no cluster profile '{name}'") as caught:
        load_cluster(name, home)
    hint = caught.value.hint or ""
    assert hint.startswith(question)
    assert "`launcher clusters list` shows all profiles" in hint
    assert len(hint) < 250


def test_a_wrong_default_is_named_by_its_variable_or_file(home: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="LAUNCHER_TIME: 'soon' is not a time limit"):
        request({**home, "LAUNCHER_TIME": "soon"})
    (tmp_path / "launcher.toml").write_text("acount = 'a'\n")
    with pytest.raises(ConfigError, match="acount: unknown key; did you mean account"):
        request(home)


@pytest.mark.parametrize("value", ["30", "30:00", "1:00:00", "1-12", "1-12:30", "1-12:30:00", "UNLIMITED"])
def test_slurms_time_limits_are_taken(home: dict[str, str], value: str) -> None:
    assert request(home, time=value).time == value


def test_the_value_of_a_refused_secret_is_not_repeated(home: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        request(home, env=("HF_TOKEN=hf_canary",))
    assert "hf_canary" not in str(caught.value)


def test_what_belongs_to_one_run_is_refused_as_a_default(home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "launcher.toml").write_text("nodes = 4\n")
    with pytest.raises(ConfigError, match="nodes: belongs to one run"):
        request(home)


def test_secret_names() -> None:
    assert all(map(is_secret, ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "db_password")))
    assert not any(map(is_secret, ("PATH", "NCCL_DEBUG", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM", "MONKEY")))


def test_defaults_of_ship_are_added_to_what_is_stated_and_left_out_for_bridges_recipes(tmp_path: Path) -> None:
    (tmp_path / "launcher.toml").write_text('ship = ["conf"]\n')
    stated = {"recipe": "x.py", "ship": ("data",)}
    assert load_request(stated, environ={"HOME": "/h"}, directory=tmp_path).ship == ("conf", "data")
    assert load_request({"recipe": "bridge:x"}, environ={"HOME": "/h"}, directory=tmp_path).ship == ()
    environ = {"LAUNCHER_SHIP": "a:b", "HOME": "/h"}
    assert load_request({"recipe": "x.py"}, environ=environ, directory=tmp_path).ship == ("a", "b")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('suffix = "-ib"\ninterface = "ib0"', "one of suffix, interface and command gives the address"),
        ('ports = "100-200"', "ports are 1024 to 65535"),
        ('ports = "3000-2000"', "the first one first"),
        ('ports = "3000"', "rendezvous.ports"),
        ('suffix = "$(x)"', "rendezvous.suffix"),
        ('interface = "a b"', "rendezvous.interface"),
        ('address = "n1"', "unknown key"),
    ],
)
def test_a_wrong_rendezvous_is_refused(home: dict[str, str], text: str, sentence: str) -> None:
    profile(home, "wrong", f'extends = "slurm"\n[rendezvous]\n{text}\n')
    with pytest.raises(ConfigError) as caught:
        load_cluster("wrong", home)
    assert sentence in caught.value.message


def test_a_rendezvous_is_layered_as_other_tables(home: dict[str, str]) -> None:
    profile(home, "base", 'extends = "slurm"\n[rendezvous]\ninterface = "ib0"\n')
    profile(home, "more", 'extends = "base"\n[rendezvous]\nports = "6000-6999"\n')
    found = load_cluster("more", home).rendezvous
    assert (found.interface, found.port_range) == ("ib0", (6000, 6999))
    assert load_cluster("slurm", home).rendezvous.port_range == (20000, 28999)


def test_an_unknown_fabric_is_refused_with_what_is_missing(home: dict[str, str]) -> None:
    profile(home, "wrong", 'extends = "slurm"\nfabric = "tofu"\n')
    with pytest.raises(ConfigError) as caught:
        load_cluster("wrong", home)
    assert "fabric: must be 'efa'" in caught.value.message
    for words in ("what NCCL has to select", "below [env]", "launcher help fabric"):
        assert words in (caught.value.hint or "")


def test_what_another_machine_states_is_stronger_than_the_presets_of_the_host(home: dict[str, str]) -> None:
    (Path(home["HOME"]) / ".config/launcher/config.toml").write_text('partition = "debug"\nnotify = "mail"\n')
    job = Path(home["HOME"], "job.toml")
    job.write_text('recipe = "small.py"\npartition = "gpu"\nname = "small"\n')
    found = request({**home, ON_HOST: "1", "LAUNCHER_ACCOUNT": "host"}, job, run_root="/runs")
    assert (found.partition, found.notify, found.account, found.run_root) == ("gpu", "mail", "host", "/runs")
    assert request(home, job).partition == "debug", "otherwise a job file is the weaker one"
