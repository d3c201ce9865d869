"""Settings that do not fit are told as the variables that they are."""

import pytest

from control.settings import read_settings
from tests.language.test_cli import run
from vlyard.errors import InvalidInput


def test_each_variable_that_does_not_fit_is_named_with_what_is_wrong_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VLYARD_LEASE_SECONDS", "abc")
    monkeypatch.setenv("VLYARD_API_PORT", "99999")
    monkeypatch.setenv("VLYARD_HUB", "elsewhere")
    monkeypatch.setenv("VLYARD_DATABASE_URL", "mysql://user:hunter2@localhost")
    monkeypatch.setenv("VLYARD_REDIS_URL", "localhost:6379")

    with pytest.raises(InvalidInput) as caught:
        read_settings()

    told = {each.where: str(each) for each in caught.value.complaints}
    assert told.keys() == {
        f"VLYARD_{name}" for name in ("LEASE_SECONDS", "API_PORT", "HUB", "DATABASE_URL", "REDIS_URL")
    }
    assert "its value does not fit: it is no postgresql:// URL" in told["VLYARD_DATABASE_URL"]
    assert "its value does not fit: it is no redis:// URL" in told["VLYARD_REDIS_URL"]
    assert "hunter2" not in str(caught.value)
    assert told["VLYARD_LEASE_SECONDS"].startswith("VLYARD_LEASE_SECONDS: 'abc' does not fit: ")
    assert told["VLYARD_LEASE_SECONDS"].endswith("(correct it, or unset it for its default, 30)")
    assert "'99999'" in told["VLYARD_API_PORT"]
    assert "'huggingface' or 'modelscope'" in told["VLYARD_HUB"]


@pytest.mark.parametrize("words", [("migrate",), ("worker", "--device", "cpu")])
def test_a_command_with_a_setting_that_does_not_fit_ends_with_a_line_about_it_and_status_2(
    words: tuple[str, ...],
) -> None:
    ran = run(None, *words, VLYARD_LEASE_SECONDS="abc")

    assert (ran.returncode, ran.stdout) == (2, "")
    first, second = ran.stderr.splitlines()
    assert first == "error: The settings do not fit"
    assert second.startswith("  VLYARD_LEASE_SECONDS: 'abc' does not fit: ")
