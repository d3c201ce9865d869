"""Putting a LoRA adapter, as PEFT saves it, onto a model in memory. It knows no checkpoint's folder and no job.

An adapter comes from somebody else, as a checkpoint does: it is compared with the model before it changes it, and
only those of its settings that change nothing, or that are understood here, are followed.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from workers.qwen.checkpoint import PICKLES, Header, headers, read_json, refused

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

# What says how the adapter's tensors become a change of the weights.
_FOLLOWED = (
    "r", "lora_alpha", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "rank_pattern",
    "alpha_pattern", "use_rslora", "use_dora", "fan_in_fan_out", "bias", "modules_to_save",
)  # fmt: skip
# What was of use while it was trained, or names where it came from.
_OF_THE_TRAINING = frozenset({
    "peft_type", "task_type", "inference_mode", "base_model_name_or_path", "revision", "auto_mapping", "peft_version",
    "lora_dropout", "init_lora_weights", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    "runtime_config", "megatron_core", "qalora_group_size", "ensure_weight_tying",
})  # fmt: skip
# These begin with the base's weights as they are. The others (PiSSA, OLoRA, ...) change them before they train.
_HARMLESS_BEGINNINGS = (True, False, None, "gaussian", "orthogonal", "eva", "lora_ga")

_PREFIX, _WRAPPED = "base_model.model.", ".base_layer."
_KEY = re.compile(r"(?P<module>.+)\.(?P<part>lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|weight|bias)")
_WHOLE = frozenset({"weight", "bias"})  # parts that are whole tensors, not changes
_LINEAR = frozenset({"lora_A", "lora_B"})
_EYES = "model.visual."  # the vision tower and the merger
_WORDS_IN, _WORDS_OUT = "model.language_model.embed_tokens", "lm_head"
_WORDS = frozenset({_WORDS_IN, _WORDS_OUT})
_WITHOUT_SUFFIX = frozenset({"lora_embedding_A", "lora_embedding_B"})


def check_adapter(folder: Path, base: Any, base_name: str) -> tuple[str, ...]:
    """Compare an adapter with the model that it is for, whose tensors may be without data; reads headers alone.

    Returns notes. Raises `InvalidInput` that names the file, the setting, or the first tensor that does not fit with
    both shapes.
    """
    if not folder.is_dir():
        raise refused(folder.name, "there is no such folder", "choose another adapter")
    if not (folder / CONFIG).is_file():
        raise refused(folder.name, f"it has no {CONFIG}", "give a LoRA adapter as PEFT saves it")
    config = read_json(folder / CONFIG)
    _check_settings(f"{folder.name}/{CONFIG}", config)
    if not (folder / WEIGHTS).is_file():
        raise refused(folder.name, *_missing(folder))
    _check_tensors(f"{folder.name}/{WEIGHTS}", headers(folder / WEIGHTS), base)
    meant = str(config.get("base_model_name_or_path") or "")
    if Path(meant).name in {"", base_name}:
        return ()
    return (f"the adapter says that it is for {Path(meant).name}, and was put on {base_name}",)


def added_bytes(folder: Path, weights: Mapping[str, int], float_width: int) -> int:
    """What a checked adapter takes beside its base in memory, about, with floats of that many bytes.

    `weights` are the bytes of the base's parameters by their names.
    """
    dora = bool(read_json(folder / CONFIG).get("use_dora"))
    tied = f"{_WORDS_OUT}.weight" not in weights
    added: dict[object, int] = {}
    merged = set()
    for name, header in headers(folder / WEIGHTS).items():
        module, part = _place(name)
        if part in _WHOLE or (part in _LINEAR and _stays(module, dora=dora)):
            one_of_both = tied and module in _WORDS and _WRAPPED in name
            added[_WORDS if one_of_both else name] = header.bytes_as(float_width)
        else:
            merged.add(module)
    places = {_WORDS_OUT: _WORDS_IN} if tied else {}
    return sum(added.values()) + sum(weights.get(f"{places.get(name, name)}.weight", 0) for name in merged)


def replaced(folder: Path) -> frozenset[str]:
    """The parameters for which a checked adapter brings a whole tensor, not a change, by their names in the base."""
    places = [_place(name) for name in headers(folder / WEIGHTS)]
    return frozenset(f"{module}.{part}" for module, part in places if part in _WHOLE)


def merge_adapter(folder: Path, base: Any) -> Any:
    """Put a checked adapter onto a model, and return that model with changed weights.

    Raises `InvalidInput` where a tensor of the adapter holds no numbers, or where PEFT finds no place for it.
    """
    return _putting_on(folder, base, lambda adapted: adapted.merge_and_unload(safe_merge=True))


def put_beside(folder: Path, model: Any) -> Any:
    """Put a checked adapter onto a model, and return that model with its weights as they are, as far as that goes.

    A linear layer of the language model keeps its weights and gets a small layer beside it. What pictures are seen
    with, what is no linear layer, and what DoRA scales, is merged into a new tensor. Raises as `merge_adapter`.
    """
    return _putting_on(folder, model, lambda adapted: _unwrapped(adapted.get_base_model()))


class Beside(nn.Module):
    """A linear layer with what an adapter adds to it: x W' + b + (x A') B'. x: (..., in), the sum: (..., out)."""

    def __init__(self, linear: nn.Linear, down: torch.Tensor, up: torch.Tensor) -> None:
        """`down` is A', (in, r); `up` is B' times the adapter's scale, (r, out)."""
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(down, requires_grad=False)
        self.up = nn.Parameter(up, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        said: torch.Tensor = self.linear(x)
        return said + (x @ self.down) @ self.up


def _putting_on(folder: Path, model: Any, finish: Callable[[Any], Any]) -> Any:
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict  # heavy, and only for those who need it

    tensors = load_file(folder / WEIGHTS)
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise refused(f"{folder.name}/{WEIGHTS}", f"the tensor {name} holds NaN or infinity", "train it again")
    config = read_json(folder / CONFIG)
    wanted = {name: config[name] for name in _FOLLOWED if config.get(name) is not None}
    changed = {_place(name)[0] for name in tensors if ".lora_" in name}
    try:
        if changed & _WORDS:
            _take_words_apart(model)
            wanted["target_modules"] = _all_targets(config, changed)
        adapted = get_peft_model(model, LoraConfig(**wanted, lora_dropout=0.0, inference_mode=True))
        left = set_peft_model_state_dict(adapted, tensors)
        _expect_all_used(folder, tensors, left)
        return finish(adapted).eval()
    except (ValueError, TypeError, LookupError, RuntimeError, AttributeError) as damage:
        if isinstance(damage, torch.OutOfMemoryError):
            raise
        first = next(iter(str(damage).splitlines()), "") or type(damage).__name__
        raise refused(folder.name, f"it cannot be put on the model: {first}", "save the adapter again") from damage


def _take_words_apart(model: Any) -> None:
    """Give what may be one tensor of words in and out two parameters over the same memory: each can then change alone.

    PEFT's merge would add what changes one of them to both.
    """
    out = model.get_output_embeddings()
    out.weight = nn.Parameter(out.weight.detach(), requires_grad=False)
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False


def _all_targets(config: Mapping[str, Any], changed: Collection[str]) -> Any:
    """The modules that an adapter changes, with the words out, which `ensure_weight_tying` leaves unsaid."""
    targets: Any = config.get("target_modules")
    if not config.get("ensure_weight_tying") or _WORDS_OUT not in changed:
        return targets
    return rf"(?:{targets})|{_WORDS_OUT}" if isinstance(targets, str) else [*targets, _WORDS_OUT]


def _unwrapped(model: Any) -> Any:
    """The model with plain modules in place of PEFT's."""
    from peft.tuners.lora import LoraLayer
    from peft.utils import ModulesToSaveWrapper

    for name, layer in [each for each in model.named_modules() if isinstance(each[1], LoraLayer)]:
        model.set_submodule(name, _plain(name, layer))
    for name, saved in [each for each in model.named_modules() if isinstance(each[1], ModulesToSaveWrapper)]:
        model.set_submodule(name, saved.modules_to_save[saved.active_adapter])
    if hasattr(model, "peft_config"):
        del model.peft_config
    return model


def _plain(name: str, layer: Any) -> nn.Module:
    base: nn.Module = layer.get_base_layer()
    (adapter,) = layer.active_adapters
    if not isinstance(base, nn.Linear) or not _stays(name, dora=layer.use_dora[adapter]):
        layer.merge(safe_merge=True)  # into a copy: the base's own tensor may be another model's, too
        return base
    down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight * layer.scaling[adapter]
    like: Any = base.weight
    return Beside(base, *(each.detach().T.contiguous().to(like) for each in (down, up)))


def _stays(module: str, *, dora: bool) -> bool:
    """Whether a linear layer keeps its weights when an adapter is put beside them."""
    return not dora and not module.startswith(_EYES)


def _check_settings(where: str, config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        what = f"the peft_type is {config.get('peft_type', 'unknown')!r}, not 'LORA'"
        raise refused(where, what, "give a LoRA adapter, or merge it yourself")
    if config.get("init_lora_weights") not in _HARMLESS_BEGINNINGS:
        what = f"it began as {config['init_lora_weights']!r}, which changes the base's weights"
        raise refused(where, what, "save it as a plain LoRA adapter")
    for name, value in config.items():
        if value and name not in _OF_THE_TRAINING and name not in _FOLLOWED:
            raise refused(where, f"it sets {name}, which is not supported", "merge the adapter yourself")


def _check_tensors(where: str, found: Mapping[str, Header], base: Any) -> None:
    modules = dict(base.named_modules())
    if not found:
        raise refused(where, "it holds no tensors", "save the adapter again")
    for name, header in found.items():
        module, part = _place(name)
        fix = "it is for another base model: choose that one"
        if module not in modules:
            raise refused(where, f"the tensor {name} changes {module or name!r}, which the model does not have", fix)
        if part == "lora_magnitude_vector" and isinstance(modules[module], nn.Embedding):
            what = f"the tensor {name} scales each column of {module} over all its rows, which is not supported"
            raise refused(where, what, "train it without use_dora, or merge the adapter yourself")
        expected = _SHAPES[part](modules[module]) if part else None
        if expected is None:
            raise refused(where, f"the tensor {name} is not one of LoRA's", "save the adapter again")
        if len(header.shape) != len(expected) or any(
            want not in {None, has} for want, has in zip(expected, header.shape, strict=True)
        ):
            shape = tuple("r" if want is None else want for want in expected)
            what = f"the tensor {name} has the shape {_shown(header.shape)}, and the model needs {_shown(shape)}"
            raise refused(where, what, fix)


def _place(name: str) -> tuple[str, str]:
    """The module that a tensor changes, and which part of its change it is."""
    bare = name.removeprefix(_PREFIX)
    stem = bare.removesuffix(".weight")
    found = _KEY.fullmatch(stem) if stem != bare else None
    if found is None or found["part"] in _WHOLE | _WITHOUT_SUFFIX:
        found = _KEY.fullmatch(bare)
    return (found["module"].removesuffix(".base_layer"), found["part"]) if found else ("", "")


_Shape = tuple[int | None, ...]  # None: the adapter's rank


def _down(module: nn.Module) -> _Shape | None:
    if isinstance(module, nn.Linear):
        return (None, module.in_features)
    if isinstance(module, nn.Conv3d):
        return (None, module.in_channels, *module.kernel_size)
    return None


def _up(module: nn.Module) -> _Shape | None:
    if isinstance(module, nn.Linear):
        return (module.out_features, None)
    if isinstance(module, nn.Conv3d):
        return (module.out_channels, None, 1, 1, 1)
    return None


def _embedding(first: str) -> Callable[[nn.Module], _Shape | None]:
    def shape(module: nn.Module) -> _Shape | None:
        if not isinstance(module, nn.Embedding):
            return None
        return (None, module.num_embeddings) if first == "rank" else (module.embedding_dim, None)

    return shape


def _whole(part: str) -> Callable[[nn.Module], _Shape | None]:
    def shape(module: nn.Module) -> _Shape | None:
        tensor = getattr(module, part, None)
        return tuple(tensor.shape) if isinstance(tensor, torch.Tensor) else None

    return shape


def _magnitude(module: nn.Module) -> _Shape | None:
    if isinstance(module, nn.Linear):
        return (module.out_features,)
    if isinstance(module, nn.Conv3d):
        return (1, module.out_channels, 1, 1, 1)
    return None


_SHAPES: Mapping[str, Callable[[nn.Module], _Shape | None]] = {
    "lora_A": _down,
    "lora_B": _up,
    "lora_embedding_A": _embedding("rank"),
    "lora_embedding_B": _embedding("width"),
    "lora_magnitude_vector": _magnitude,
    "weight": _whole("weight"),
    "bias": _whole("bias"),
}


def _expect_all_used(folder: Path, tensors: Mapping[str, torch.Tensor], left: Any) -> None:
    where = f"{folder.name}/{WEIGHTS}"
    if left.unexpected_keys:
        what = f"the tensor {left.unexpected_keys[0]} is of no module that {CONFIG} names"
        raise refused(where, what, "save the adapter again")
    lacking = sorted(_own(left.missing_keys))
    if lacking:
        what = f"it lacks {len(lacking)} of its {len(tensors) + len(lacking)} tensors, the first is {lacking[0]}"
        raise refused(where, what, "save the adapter again")


def _own(keys: list[str]) -> Iterator[str]:
    """Of what PEFT did not find in the adapter's file, that which belongs to it and not to the base."""
    return (key for key in keys if ".lora_" in key or ".modules_to_save." in key)


def _missing(folder: Path) -> tuple[str, str]:
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        return f"it has no {WEIGHTS}, only {pickles[0]}, and a pickle can run code when it is read", "save it anew"
    return f"it has no {WEIGHTS}", "copy the whole adapter"


def _shown(shape: tuple[object, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
