"""The sections of a page, in its order."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from launcher._util.errors import LauncherError
from launcher.report.page.captures import captures
from launcher.report.page.content import Block, Section, Subject, Text
from launcher.report.page.outcome import outcome
from launcher.report.page.overview import overview
from launcher.report.page.phases import phases
from launcher.report.page.plan import plan_section
from launcher.report.page.training import training


@dataclass(frozen=True)
class SectionMaker:
    """A section that a page can have; `make` gives its blocks, none where the run has nothing to say about it."""

    name: str
    title: str
    make: Callable[[Subject], Sequence[Block]]


SECTIONS = (
    SectionMaker("overview", "Overview", overview),
    SectionMaker("outcome", "Outcome", outcome),
    SectionMaker("training", "Training", training),
    SectionMaker("phases", "Phases", phases),
    SectionMaker("profiles", "Profiles", captures),
    SectionMaker("plan", "Plan", plan_section),
)


def sections_of(subject: Subject, makers: Iterable[SectionMaker] = SECTIONS) -> tuple[Section, ...]:
    """The sections that have something to say. One that fails says why: what the others know is worth a page."""
    made = (Section(maker.name, maker.title, _blocks(subject, maker)) for maker in makers)
    return tuple(section for section in made if section.blocks)


def _blocks(subject: Subject, maker: SectionMaker) -> tuple[Block, ...]:
    try:
        return tuple(maker.make(subject))
    except (LauncherError, OSError) as error:
        return (Text(f"This section could not be made: {error}", "warning"),)
