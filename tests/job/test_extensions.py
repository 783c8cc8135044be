"""CUDA extensions are missed before the model is built."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from launcher.job.errors import UserError
from launcher.job.model import extensions


def config(fused: bool) -> SimpleNamespace:
    return SimpleNamespace(model=SimpleNamespace(gradient_accumulation_fusion=fused))


def test_apex_is_asked_for_where_gradients_are_accumulated_by_its_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(UserError, match="needs APEX's fused_weight_gradient_mlp_cuda") as caught:
        extensions.require(config(fused=True))
    assert "model.gradient_accumulation_fusion=false" in (caught.value.hint or "")
    extensions.require(config(fused=False))
    extensions.require(SimpleNamespace(model=SimpleNamespace(transformer=SimpleNamespace())))
    (tmp_path / "fused_weight_gradient_mlp_cuda.py").touch()
    extensions.require(config(fused=True))
