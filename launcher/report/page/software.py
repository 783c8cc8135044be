"""The section about what has run: packages of the training stack, the user's code, the resolved configuration."""

from collections.abc import Sequence

from launcher.contract.files import read_object, read_text
from launcher.report.page.content import Block, LogExcerpt, Subject, Table, Text, as_mapping, text_of

_LIMIT = 1 << 20
"""The largest configuration that is shown, in bytes."""


def software(subject: Subject) -> Sequence[Block]:
    """Return the packages that the newest attempt has noted, the changes of the code, and the configuration."""
    return [*_packages(subject), *_changes(subject), *_configuration(subject)]


def _packages(subject: Subject) -> list[Block]:
    noted = _of_attempts(subject, "megatron")
    packages = dict(as_mapping(noted.get("packages")))
    packages.setdefault("megatron-core", noted.get("core"))
    packages.setdefault("megatron-bridge", noted.get("bridge"))
    rows = [(name, text_of(version)) for name, version in sorted(packages.items()) if version]
    if commit := noted.get("core_commit"):
        rows.append(("megatron-core commit", text_of(commit)))
    return [Table("Packages of rank 0", ("Package", "Version"), tuple(rows))] if rows else []


def _of_attempts(subject: Subject, name: str) -> dict[str, object]:
    """Return a record of the newest attempt that has it."""
    for attempt in reversed(subject.run.attempts()):
        if (found := read_object(getattr(attempt, name))) is not None:
            return found
    return {}


def _changes(subject: Subject) -> list[Block]:
    source = as_mapping(subject.run.plan.get("source"))
    diff = text_of(source.get("diff"))
    if not diff.strip():
        return []
    commit = text_of(source.get("commit")) or "no commit"
    return [LogExcerpt(f"Changes of the code since {commit}", tuple(diff.splitlines()), folded=True)]


def _configuration(subject: Subject) -> list[Block]:
    for attempt in reversed(subject.run.attempts()):
        try:
            text = read_text(attempt.config, limit=_LIMIT, errors="replace")
        except FileNotFoundError:
            continue  # not written yet: an earlier attempt's is shown
        except OSError as error:
            return [Text(f"The configuration {error.strerror}: {attempt.config}", "warning")]
        return [LogExcerpt(f"Configuration of attempt {attempt.name}", tuple(text.splitlines()), folded=True)]
    return []
