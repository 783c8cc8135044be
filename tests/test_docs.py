"""The documents name what exists, their commands parse, and generated pages are those of the code."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from launcher import __version__
from launcher._util import toml
from launcher.cli.main import COMMANDS, command_parser, main
from launcher.cli.parser import parse
from launcher.config.image import ImageSpec
from launcher.config.load import load_cluster
from launcher.config.load import parse as parse_model
from launcher.config.request import Request
from launcher.sweep.file import load_sweep

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "containers/README.md", ROOT / "configs/models/README.md"]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
GENERATED = "<!-- Written by `make reference`"


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE), re.M
    )
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {re.sub(r"[- ]+", "-", heading).strip("-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", page.read_text()):
        led_to = page.parent / target if target else page
        assert led_to.exists(), target
        assert not anchor or anchor in anchors(led_to), f"{target}#{anchor}"


OTHERS = {("docs/performance-guide.md", "launcher/planning/environment_lint_rules.py")}
"""Pages of other projects."""


def test_pages_that_the_code_names_exist() -> None:
    files = [ROOT / "Dockerfile", ROOT / "mkdocs.yml", ROOT / "Makefile"]
    for folder in ("launcher", "templates", "containers", "configs", "recipes", "tools", "benchmarks"):
        files += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".j2", ".sh", ".conf", ".md")]
    named = {(name, name_of(file)) for file in files for name in re.findall(r"\bdocs/[\w/-]+\.md\b", file.read_text())}
    assert named
    assert [each for each in sorted(named - OTHERS) if not (ROOT / each[0]).is_file()] == []


ABSENT = {"containers/python/wheels"}
"""Made by a user."""
TOPS = "launcher|tests|templates|configs|tools|benchmarks|requirements|containers|recipes"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_of_the_project_that_a_page_names_exist(page: Path) -> None:
    # Names with capitals stand for others: configs/schemas/bridge-VERSION.json.
    named = re.findall(rf"`((?:{TOPS})/[a-z0-9_./-]+)`", page.read_text())
    inside = "|".join(sorted(path.name for path in (ROOT / "launcher").iterdir() if path.is_dir()))
    named += [f"launcher/{name}" for name in re.findall(rf"`((?:{inside})/[a-z0-9_./]+)`", page.read_text())]
    assert [name for name in named if not (ROOT / name).exists() and name not in ABSENT] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_sentence_has_a_line_of_its_own(page: Path) -> None:
    prose = re.sub(r"^```.*?^```|^ {4}.*?$|^\|.*?$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    prose = re.sub(r"`[^`\n]*`", "`x`", re.sub(r"^[ #]*\d+\. ", "", prose, flags=re.MULTILINE))
    assert not re.findall(r"^.*[a-z0-9)`][.?!] +[A-Z`].*$", prose, re.MULTILINE)


def test_the_architecture_names_every_package() -> None:
    text = (ROOT / "docs/explanation/architecture.md").read_text()
    named = set(re.findall(r"^\| `launcher/(\w+)`", text, re.MULTILINE))
    assert named == {path.parent.name for path in (ROOT / "launcher").glob("*/__init__.py")}


def test_every_page_is_on_the_site() -> None:
    named = set(re.findall(r"- ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert named == {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.is_relative_to(ROOT / "docs")}


def test_generated_pages_are_those_of_the_code() -> None:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "tools/reference.py")
    assert spec and spec.loader
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    pages = reference.pages()
    directory = ROOT / "docs/reference"
    assert {path.name for path in directory.glob("*.md") if path.read_text().startswith(GENERATED)} == set(pages)
    for name, text in pages.items():
        assert (directory / name).read_text() == text, f"docs/reference/{name} differs from the code: make reference"


def test_the_changelog_has_the_version() -> None:
    headings = re.findall(r"^## \[(.+?)\](.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == ("Unreleased", "")
    assert headings[1][0] == __version__
    assert re.fullmatch(r" - \d{4}-\d\d-\d\d", headings[1][1])


def test_the_readme_has_every_command() -> None:
    table = set(re.findall(r"^\| `launcher ([\w-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert table == set(COMMANDS)


def commands() -> list[str]:
    """Calls of `launcher` in code blocks, continued lines put together."""
    found = []
    for page in (page for page in PAGES if not page.read_text().startswith(GENERATED)):
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text().replace("\\\n", " "), re.MULTILINE | re.DOTALL):
            # Where a block shows prompts, the other lines are output.
            prompt = "$ " if "$ " in block else ""
            found += [line.removeprefix("$ ") for line in block.splitlines() if line.startswith(f"{prompt}launcher ")]
    return found


@pytest.mark.parametrize("command", commands())
def test_commands_in_the_documents_are_understood(command: str) -> None:
    _, verb, *arguments = shlex.split(command, comments=True)
    parsed = parse(command_parser(verb), arguments)
    assert vars(parsed)


@pytest.mark.parametrize(
    "command",
    [one for one in commands() if re.match("launcher plan recipes/(?!.*--check-config).*--cluster local", one)],
)
def test_plans_in_the_documents_can_be_made(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    misspelt = "train.train_iter=" in command
    assert main(shlex.split(command, comments=True)[1:]) == (2 if misspelt else 0)


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs/tutorial/first-day.md"], ids=name_of)
def test_the_first_installation_has_what_the_first_commands_need(page: Path) -> None:
    text = page.read_text()
    (extras,) = re.findall(r"^    uv tool install '\S+\[(.+)\]'", text, re.MULTILINE)
    assert "launcher page" in text and "--in-job-on" in text
    assert {"analysis", "tasks"} <= set(extras.split(","))


def toml_blocks() -> list[str]:
    texts = (page.read_text() for page in PAGES)
    return [block for text in texts for block in re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]


@pytest.mark.parametrize("block", toml_blocks())
def test_files_in_the_documents_are_valid(block: str, tmp_path: Path) -> None:
    if "extends = " in block:
        (tmp_path / "mine.toml").write_text(block)
        assert load_cluster("mine", {"HOME": "/nowhere", "LAUNCHER_CLUSTERS": str(tmp_path)})
    elif "dockerfile = " in block:
        assert parse_model(ImageSpec, toml.loads(block), where="the block")
    elif "[axes" in block:
        (tmp_path / "sweep.toml").write_text(block)
        assert load_sweep(tmp_path / "sweep.toml")
    else:
        assert parse_model(Request, toml.loads(block), where="the block")


@pytest.mark.parametrize(
    "target",
    sorted(set(re.findall(r"(?:`|^ *)make (\w+)", "\n".join(page.read_text() for page in PAGES), re.MULTILINE))),
)
def test_make_targets_in_the_documents_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
