"""What a recipe asks of Hugging Face's hub, answered here with stand-ins: no network, no architecture, only a note.

A recipe takes its model from the hub (`AutoBridge.from_hf_pretrained(ID).to_megatron_provider(...)`) and then sets what
is its own: parallel sizes, batch sizes, precision. Only the latter is wanted here, so the model may be any.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

_VOCABULARY = 1 << 17
_EXPERTS = 8


class Hub:
    """Notes what was asked for; one for each recipe."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def note(self, name: Any) -> None:
        """Note a model, a configuration or a tokenizer by its hub name, once."""
        if str(name) not in self.asked:
            self.asked.append(str(name))


class Anything:
    """Takes and gives any attribute; where a number or a length is asked for it is one."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = Anything()
        object.__setattr__(self, name, value)
        return value

    def __call__(self, *_arguments: Any, **_keywords: Any) -> "Anything":
        """Return this object: calling anything gives anything."""
        return self

    def __len__(self) -> int:
        return 1

    def __index__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Any]:
        return iter(())


def model_class() -> type:
    """Return the class of stand-in models: Bridge's own provider with its defaults and with every other attribute."""
    from megatron.bridge.models.gpt_provider import GPTModelProvider

    class Model(GPTModelProvider):  # type: ignore[misc]
        """`stated` are the names of the attributes that were set after it was made: those that the recipe decided."""

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if "stated" in self.__dict__:
                self.__dict__["stated"].add(name)

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__") or name == "stated":
                raise AttributeError(name)
            self.__dict__[name] = value = Anything()
            return value

        def to_text_provider(self) -> "Model":
            """Return the text part of a vision-language model."""
            return self

        def __deepcopy__(self, memo: dict[int, Any]) -> "Model":
            twin = object.__new__(type(self))
            twin.__dict__.update({name: copy.deepcopy(value, memo) for name, value in self.__dict__.items()})
            return twin

    return Model


def is_standin(model: Any) -> bool:
    """Whether a configuration's model is one of those made here."""
    return "stated" in vars(model)


@contextlib.contextmanager
def offline(hub: Hub) -> Iterator[None]:
    """Answer what recipes call, for the length of the block."""
    cls = model_class()

    def model(*_arguments: Any, **_keywords: Any) -> Any:
        # What some look at: the vocabulary, to make the tokenizer as large, and recipes of experts, whether there are
        # any before they choose their dispatcher.
        made = cls(num_layers=1, hidden_size=1, num_attention_heads=1, vocab_size=_VOCABULARY, num_moe_experts=_EXPERTS)
        vars(made)["stated"] = set()
        return made

    def bridge(_cls: type, name: Any, *_arguments: Any, **_keywords: Any) -> Any:
        if not isinstance(name, Anything):  # a configuration that was asked for before
            hub.note(name)
        found = Anything()
        object.__setattr__(found, "to_megatron_provider", model)
        return found

    def anything(_cls: type, name: Any, *_arguments: Any, **_keywords: Any) -> Any:
        hub.note(name)
        return Anything()

    with contextlib.ExitStack() as stack:
        for owner, name, answer in _asked(bridge, anything):
            stack.enter_context(mock.patch.object(owner, name, classmethod(answer)))
        for owner, name, note in _diffusion(hub, model):
            stack.enter_context(mock.patch.object(owner, name, note))
        yield


def _asked(bridge: Callable[..., Any], anything: Callable[..., Any]) -> Iterator[tuple[type, str, Callable[..., Any]]]:
    import transformers
    from megatron.bridge import AutoBridge

    yield AutoBridge, "from_hf_pretrained", bridge
    yield AutoBridge, "from_hf_config", bridge
    for name in ("AutoConfig", "AutoTokenizer", "AutoProcessor"):
        yield getattr(transformers, name), "from_pretrained", anything


def _diffusion(hub: Hub, model: Callable[..., Any]) -> Iterator[tuple[type, str, Callable[..., Any]]]:
    """Flux has loaders of its own, since Bridge 0.6."""
    try:
        from megatron.bridge.diffusion.conversion.flux.flux_bridge import FluxBridge
        from megatron.bridge.diffusion.conversion.flux.flux_hf_pretrained import PreTrainedFlux
    except ImportError:
        return
    yield PreTrainedFlux, "__init__", lambda _self, name, *_arguments, **_keywords: hub.note(name)
    yield FluxBridge, "provider_bridge", lambda _self, *_arguments, **_keywords: model()
