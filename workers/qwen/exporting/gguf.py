"""The format of llama.cpp, by llama.cpp's own converter, `convert_hf_to_gguf.py`, where the operator has it.

It is in llama.cpp's repository, in the source package of llama-cpp-python (`vendor/llama.cpp`), and as a program of its
own in the package convert-hf-to-gguf. VLyard runs what the operator names, and imports none of it.

A Qwen3-VL becomes two files: the language model, and what sees (`mmproj`).
"""

import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from vlyard.errors import Complaint, InvalidInput
from workers.qwen.exporting.folder import CARD, write_sums
from workers.qwen.programs import last_words, run_program

TYPE = "f16"
LANGUAGE, SEES = f"model-{TYPE}.gguf", f"mmproj-{TYPE}.gguf"
_FILES: Mapping[str, tuple[str, ...]] = {LANGUAGE: (), SEES: ("--mmproj",)}
_ABOUT = f"""\
## For llama.cpp

`{LANGUAGE}` is the language model, and `{SEES}` what sees:
`llama-mtmd-cli -m {LANGUAGE} --mmproj {SEES} --image <a picture> -p "<a question>"`.
"""


def require_converter(converter: Path | None) -> None:
    """Raise `InvalidInput` that says why gguf is not available, and what would make it so."""
    if converter is None:
        what = "gguf is not available here: the workers have no converter"
        fix = "ask the operator to set VLYARD_GGUF_CONVERTER to llama.cpp's convert_hf_to_gguf.py, or to the program "
        fix += "that the package convert-hf-to-gguf installs"
        raise _refused(what, fix)
    if not converter.is_file():
        raise _refused("llama.cpp's converter is not there", "ask the operator to look at VLYARD_GGUF_CONVERTER")


def to_gguf(whole: Path, output: Path, converter: Path | None, check: Callable[[], None]) -> Mapping[str, str]:
    """Write both files of the model in the `whole` folder; returns the SHA-256 of all files of `output`.

    Raises `InvalidInput` with the converter's last words where it fails.
    """
    require_converter(converter)
    output.mkdir()
    said = output.with_name(f"{output.name}.said.txt")
    for name, more in _FILES.items():
        words = [str(whole), "--outtype", TYPE, "--outfile", str(output / name), *more]
        if run_program([*_program(converter), *words], said, check) or not (output / name).is_file():
            raise _refused(f"llama.cpp's converter failed: {last_words(said)}", "export safetensors")
    card = (whole / CARD).read_text(encoding="utf-8").replace("library_name: transformers", "library_name: gguf")
    (output / CARD).write_text(
        re.sub(r"## Ask it\n.*?```\n", lambda _: _ABOUT, card, flags=re.DOTALL), encoding="utf-8"
    )
    return write_sums(output)


def _program(converter: Path | None) -> tuple[str, ...]:
    """A script runs with this Python; what a package has installed knows its own."""
    is_script = converter is None or converter.suffix == ".py" or not os.access(converter, os.X_OK)
    return (sys.executable, str(converter)) if is_script else (str(converter),)


def _refused(what: str, fix: str) -> InvalidInput:
    return InvalidInput("The export cannot have this format", [Complaint("/spec/format", what, fix)])
