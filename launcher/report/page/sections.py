"""The sections of a page, in order."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from launcher._util.errors import LauncherError
from launcher.report.page.captures import captures
from launcher.report.page.content import Block, Section, Subject, Text
from launcher.report.page.evaluations import evaluations
from launcher.report.page.nodes import nodes
from launcher.report.page.outcome import outcome
from launcher.report.page.overview import overview
from launcher.report.page.phases import phases
from launcher.report.page.plan import plan_section
from launcher.report.page.software import software
from launcher.report.page.training import training


@dataclass(frozen=True)
class SectionMaker:
    """A possible section of a page; `make` returns its blocks, none if the section does not apply to the run."""

    name: str
    title: str
    make: Callable[[Subject], Sequence[Block]]


SECTIONS = (
    SectionMaker("overview", "Overview", overview),
    SectionMaker("outcome", "Outcome", outcome),
    SectionMaker("training", "Training", training),
    SectionMaker("evaluations", "Evaluations", evaluations),
    SectionMaker("phases", "Phases", phases),
    SectionMaker("nodes", "Nodes", nodes),
    SectionMaker("profiles", "Profiles", captures),
    SectionMaker("software", "Software and configuration", software),
    SectionMaker("plan", "Plan", plan_section),
)


def sections_of(subject: Subject, makers: Iterable[SectionMaker] = SECTIONS) -> tuple[Section, ...]:
    """Return the sections that have blocks. A section that fails holds the error instead, and the others remain."""
    made = (Section(maker.name, maker.title, _blocks(subject, maker)) for maker in makers)
    return tuple(section for section in made if section.blocks)


def _blocks(subject: Subject, maker: SectionMaker) -> tuple[Block, ...]:
    try:
        return tuple(maker.make(subject))
    except (LauncherError, OSError) as error:
        return (Text(f"This section could not be created: {error}", "warning"),)
