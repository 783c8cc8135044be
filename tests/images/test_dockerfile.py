"""The Dockerfile: what it pins, that linters and buildah accept it, and its Debian part built for real."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launcher._util import toml
from tests.images.cpu_image import REQUIREMENTS
from tests.images.engine_home import EngineHome
from tests.images.images import debian_root
from tests.support.limits import seconds

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "Dockerfile"
SCRIPTS = sorted([*(ROOT / "containers").glob("*.sh"), *(ROOT / "containers/python").glob("*.sh")])
# Set by the builder for each platform.
AUTOMATIC = {"TARGETARCH"}
# May be empty: they say where packages come from, not which.
EMPTY = {"PIP_INDEX_URL", "PIP_NO_INDEX", "TORCH_INDEX"}
BASES = ("BASE_IMAGE", "CPU_BASE")
CPU_STAGES = ("cpu-base", "cpu-tools", "cpu")

DIGEST = re.compile(r"[^@:]+:[^@]+@sha256:[0-9a-f]{64}")


def instructions() -> list[str]:
    """The Dockerfile's instructions, each in one line, without comments."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    return [line.strip() for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]


def defaults() -> dict[str, str]:
    """The ARGs before the first FROM, with their defaults."""
    found: dict[str, str] = {}
    for line in instructions():
        if line.startswith("FROM "):
            return found
        name, _, value = line.removeprefix("ARG ").partition("=")
        found[name] = value
    raise AssertionError("no FROM")


def stages() -> dict[str, list[str]]:
    """The instructions of each stage, by its name; the first is its FROM."""
    found: dict[str, list[str]] = {}
    for line in instructions():
        if match := re.fullmatch(r"FROM \S+ AS (\S+)", line):
            found[match[1]] = []
        if found:
            found[list(found)[-1]].append(line)
    return found


def test_every_argument_is_declared_and_pinned() -> None:
    pinned = defaults()
    assert all(value for name, value in pinned.items() if name not in EMPTY)
    for name, stage in stages().items():
        declared = {line.split()[1].partition("=")[0] for line in stage if line.startswith("ARG ")}
        assert declared <= set(pinned) | AUTOMATIC, name
        used = {each for line in stage[1:] for each in re.findall(r"\$\{(\w+)\}", line)} - {"PATH"}
        assert used <= declared, name
        scripts = re.findall(r"source=(containers/\w+\.sh)", " ".join(stage))
        needed = {each for script in scripts for each in re.findall(r"\$\{(\w+):\?\}", (ROOT / script).read_text())}
        assert needed <= declared, name


def test_every_stage_begins_with_a_pinned_base_or_another_stage() -> None:
    known: set[str] = set()
    for name, stage in stages().items():
        origin = stage[0].split()[1]
        assert origin in known | {f"${{{base}}}" for base in BASES}, name
        known.add(name)
    assert len(known) == sum(line.startswith("FROM ") for line in instructions())
    assert all(DIGEST.fullmatch(defaults()[base]) for base in BASES)
    assert list(known) and "latest" not in DOCKERFILE.read_text()


def test_the_cpu_stages_come_first_and_use_nothing_of_nvidias_or_the_networks_but_packages() -> None:
    """First, because some engines build the stages that stand above the target, needed or not."""
    assert tuple(stages())[: len(CPU_STAGES)] == CPU_STAGES
    lines = [line for name in CPU_STAGES for line in stages()[name]]
    assert not [line for line in lines if "nvcr" in line or "BASE_IMAGE" in line]
    scripts = {each for line in lines for each in re.findall(r"source=(containers/[\w/.]+\.sh)", line)}
    assert scripts == {"containers/system.sh", "containers/check.sh"}
    for script in (*scripts, "containers/python/packages.sh", "containers/python/cpu.sh"):
        assert "://" not in (ROOT / script).read_text(), script


def test_what_a_git_server_gives_is_the_pinned_commit() -> None:
    fetching = [script for script in SCRIPTS if "git fetch" in script.read_text()]
    assert [script.name for script in fetching] == ["experts.sh"]
    text = fetching[0].read_text()
    assert re.findall(r"git fetch .* (\S+)$", text, re.MULTILINE) == ['"$DEEPEP_COMMIT"']
    assert '[[ $(git rev-parse HEAD) == "$DEEPEP_COMMIT" ]]' in text
    assert re.fullmatch(r"[0-9a-f]{40}", defaults()["DEEPEP_COMMIT"])


@pytest.mark.parametrize("spec", sorted((ROOT / "configs/images").glob("*.toml")), ids=lambda path: path.stem)
def test_descriptions_of_images_fit_the_dockerfile(spec: Path) -> None:
    values = toml.loads(spec.read_text())
    assert (ROOT / values["context"] / values["dockerfile"]).is_file()
    assert values["target"] in stages()
    arguments = values.get("build_args", {})
    assert set(arguments) <= set(defaults())
    if "BASE_IMAGE" in arguments:
        assert DIGEST.fullmatch(arguments["BASE_IMAGE"])
        assert arguments["BASE_IMAGE"] in DOCKERFILE.read_text(), "the Dockerfile names its other base"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_downloads_are_compared_with_a_pinned_sum(script: Path) -> None:
    text = script.read_text().replace("\\\n", " ")
    downloads = re.findall(r"^ *(?:curl|wget) .*?--output (\S+)", text, re.MULTILINE)
    assert len(downloads) == len(re.findall(r"\b(?:curl|wget) -", text))
    for file in downloads:
        check = re.search(
            rf'^echo "\$(\w+)  {re.escape(file)}" \| sha(?:256|512)sum --check --strict', text, re.MULTILINE
        )
        assert check is not None, file
        assert re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{128}", defaults()[check[1]])
    assert "git clone" not in text


def test_no_setting_of_the_fabric_is_baked_in() -> None:
    for line in instructions():
        if line.startswith("ENV "):
            assert not re.search(r"\b(NCCL|FI|UCX|OMPI|NVSHMEM)_\w+=", line), line


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint") or str(Path(sys.executable).with_name("hadolint"))
    if not Path(hadolint).exists():
        pytest.skip("needs hadolint")
    done = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_scripts_are_clean(script: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck: apt-get install shellcheck")
    done = subprocess.run(["shellcheck", "--shell=bash", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_context_holds_the_scripts_and_nothing_else(shared_home: EngineHome, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    # A Dockerfile from elsewhere: the context's own .dockerignore decides what is sent.
    ignore = [f"--ignorefile={ROOT / '.dockerignore'}", "--file", str(tmp_path / "Dockerfile")]
    name = "localhost/launcher-test-context:1"
    assert build(shared_home, *ignore, "--tag", name, context=ROOT).returncode == 0
    listing = shared_home.podman("save", "--format", "oci-dir", "--quiet", "--output", str(tmp_path / "image"), name)
    assert listing == ""
    sent = set()
    for blob in (tmp_path / "image/blobs/sha256").iterdir():
        tar = subprocess.run(["tar", "-tf", str(blob)], capture_output=True, text=True)
        sent |= {line.removeprefix("./") for line in tar.stdout.splitlines() if not line.endswith("/")}
    sources = {each for line in instructions() for each in re.findall(r"(?:source=|COPY --chmod=\S+ )([\w./-]+)", line)}
    for source in sources:
        assert any(file == source or file.startswith(f"{source}/") for file in sent), source
    assert {file for file in sent if not file.startswith("containers/")} == set(REQUIREMENTS)
    assert not [file for file in sent if file.startswith("containers/enroot")]


def test_the_cpu_target_asks_for_no_other_base(shared_home: EngineHome, debian_base: str) -> None:
    """The default of the other base is not to be had here, and a build that wanted it would say so."""
    arguments = ["--build-arg", f"CPU_BASE={debian_base}", "--build-arg", "TARGETARCH=s390x"]
    done = build(shared_home, "--target", "cpu", *arguments, context=ROOT)
    assert done.returncode != 0
    assert "neither amd64 nor arm64: 's390x'" in done.stdout + done.stderr
    assert "nvcr" not in done.stdout + done.stderr


def build(home: EngineHome, *words: str, context: Path) -> subprocess.CompletedProcess[str]:
    import os

    env = {**os.environ, **home.environment}
    argv = ["buildah", "bud", "--layers", *words, str(context)]
    return subprocess.run(argv, capture_output=True, text=True, env=env, timeout=seconds(280))


@pytest.fixture
def debian_base(shared_home: EngineHome, tmp_path: Path) -> str:
    """The Debian root as an image of the engine."""
    name = "localhost/launcher-test-debian:1"
    if not any(line.endswith(name) for line in shared_home.names()):
        archive = tmp_path / "debian.tar"
        excluded = [f"--exclude=./{name}/*" for name in ("dev", "proc", "sys", "run")]
        subprocess.run(["tar", "-C", str(debian_root()), *excluded, "-c", "-f", str(archive), "."], check=True)
        shared_home.podman("import", "--quiet", str(archive), name)
        archive.unlink()
    return name


def test_buildah_understands_it_and_another_architecture_is_refused(shared_home: EngineHome, debian_base: str) -> None:
    arguments = ["--build-arg", f"BASE_IMAGE={debian_base}", "--build-arg", "TARGETARCH=s390x"]
    done = build(shared_home, "--target", "base", *arguments, context=ROOT)
    assert done.returncode != 0
    assert "neither amd64 nor arm64: 's390x'" in done.stdout + done.stderr


@pytest.mark.soak
def test_what_needs_no_nvidia_is_built_on_debian(shared_home: EngineHome, debian_base: str, tmp_path: Path) -> None:
    """The stages base and tools, then check.sh, with packages of Debian and wheels from beside the script."""
    context = tmp_path / "context"
    for path in ("Dockerfile", ".dockerignore", *REQUIREMENTS):
        (context / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, context / path)
    shutil.copytree(ROOT / "containers", context / "containers")
    wheels = context / "containers/python/wheels"
    argv = ["python3", "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:"]
    argv += ["--python-version=3.11", f"--dest={wheels}", f"--requirement={ROOT / 'containers/python/tools.txt'}"]
    fetched = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path)
    if fetched.returncode:
        pytest.skip(f"pip could not fetch the wheels: {fetched.stderr[-300:]}")
    name = "localhost/launcher-test-tools:1"
    arguments = ["--build-arg", f"BASE_IMAGE={debian_base}", "--build-arg", "PIP_NO_INDEX=1"]
    done = build(shared_home, "--target", "tools", *arguments, "--tag", name, context=context)
    assert done.returncode == 0, done.stderr[-3000:]
    required = "viztracer submitit py-spy rdma-core"
    (context / "Dockerfile").write_text(
        f"FROM {name}\nRUN --mount=type=bind,source=containers,target=/mnt bash /mnt/check.sh --only nsys {required} "
        f"--require {required} && cat /etc/launcher/versions.json\n"
    )
    done = build(shared_home, context=context)
    assert done.returncode == 0, done.stderr[-3000:]
    assert '"submitit": "1.5.4"' in done.stdout
    assert '"moe_backends": []' in done.stdout
    assert re.search(r"^nsys +missing", done.stdout, re.MULTILINE)
