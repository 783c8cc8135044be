"""A submission with a key is found again: what an interrupted try has made is its own."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.api.once import _made_before
from launcher.contract.files import write_json


@pytest.mark.parametrize("comment", ["launcher:1:a", '{"APS": 1, "launcher": "launcher:1:a"}'])
def test_a_directory_of_the_same_submission_is_used_again(tmp_path: Path, comment: str) -> None:
    write_json(tmp_path / "plan.json", {"token": "launcher:1:a", "directives": [["comment", comment]]})

    def prepared(token: str, resumed: object = None) -> Any:
        return SimpleNamespace(plan=SimpleNamespace(run_dir=str(tmp_path), token=token), resumed=resumed)

    found = _made_before(prepared("launcher:1:a"))
    assert found is not None
    assert found.path == tmp_path
    assert _made_before(prepared("launcher:1:b")) is None
    assert _made_before(prepared("launcher:1:a", resumed=object())) is None
