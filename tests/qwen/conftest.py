"""Models for tests, loaded once."""

from pathlib import Path

import pytest
import torch

from workers.qwen.demo.architecture import build_untrained
from workers.qwen.loading import DEMO_FOLDER, LoadedModel, load_model


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Two OpenMP threads beside another busy process wait for each other far more than they compute."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def demo() -> LoadedModel:
    """The model that comes with the product."""
    return load_model(DEMO_FOLDER)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete checkpoint with random weights. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("models") / "untrained"
    build_untrained(folder, seed=1)
    return folder
