"""Overrides for a request to the job's half, from the texts that a user would write."""

from collections.abc import Sequence

from launcher.contract.overrides import key_of, to_record
from launcher.contract.records.request import OverrideRecord
from launcher.contract.values import Refused, parse


def override_records(texts: Sequence[str]) -> list[OverrideRecord]:
    """What argv.json holds of overrides; a text that cannot be parsed has no value, so that the job refuses it."""
    records: list[OverrideRecord] = []
    for text in texts:
        try:
            records.append(to_record(parse(text)))
        except Refused:
            records.append({"key": key_of(text), "text": text})
    return records
