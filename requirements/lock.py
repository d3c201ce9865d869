"""Write the hash-pinned lock files from pyproject.toml: `make lock`.

One resolution covers every extra, so that the layers always fit together; each layer then lists only what
the layers below it do not. The files name versions and hashes, never a download host.
"""

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# Each layer: its extras, and the layers that are installed before it.
LAYERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "light": (("server",), ()),
    "build": (("build",), ("light",)),
    "worker": (("worker",), ("light", "build")),
    "embedded": (("embedded",), ("light",)),
    "dev": (("dev", "quantised"), ("light", "build", "worker", "embedded")),
}


def resolve(extras: tuple[str, ...], *constraints: str) -> dict[str, str]:
    """Resolve the extras for every supported Python; returns package -> its block of lock lines."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--quiet", "--universal"]
    command += ["--python-version", "3.11", "--generate-hashes", "--no-annotate", "--no-header"]
    command += [part for extra in extras for part in ("--extra", extra)]
    command += [part for path in constraints for part in ("--constraint", path)]
    text = subprocess.run(command, cwd=HERE.parent, check=True, capture_output=True, text=True).stdout
    blocks = re.split(r"\n(?=[a-z0-9])", text.strip())
    packages: dict[str, str] = {}
    for block in blocks:
        name = re.match(r"[a-z0-9][a-z0-9._-]*", block)
        if name is None:
            raise SystemExit(f"the resolver wrote a line that is no package: {block.splitlines()[0]!r}")
        # One package may be pinned twice, for different Pythons.
        packages[name.group()] = "\n".join(filter(None, [packages.get(name.group()), block]))
    return packages


def main() -> None:
    every_extra = tuple(extra for extras, _ in LAYERS.values() for extra in extras)
    whole = HERE / ".whole.lock"
    whole.write_text("\n".join(resolve(every_extra).values()) + "\n")
    try:
        written: dict[str, set[str]] = {}
        for layer, (extras, below) in LAYERS.items():
            packages = resolve(extras, str(whole))
            present = set().union(*(written[name] for name in below))
            rows = [block for name, block in packages.items() if name not in present]
            (HERE / f"{layer}.lock").write_text("\n".join(rows) + "\n")
            written[layer] = set(packages)
            print(f"requirements/{layer}.lock: {len(rows)} packages")
    finally:
        whole.unlink()


if __name__ == "__main__":
    main()
