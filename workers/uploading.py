"""Sends a folder to a hub: run as a program of its own, so that it can be stopped; it imports nothing of VLyard.

`python -P uploading.py <file>` reads what to do from that JSON file, the token from the environment, as every program
of Hugging Face does, and writes what came of it into the file in place of that.
"""

import json
import sys
from pathlib import Path
from typing import Any

from httpx2 import HTTPError
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

_REFUSED, _BROKEN = (401, 403), 500  # HTTP


def main(note: Path) -> None:
    """Send, and write the commit, or which sort of thing went wrong, and in which words."""
    asked = json.loads(note.read_text(encoding="utf-8"))
    note.write_text(json.dumps(_sent(asked)), encoding="utf-8")


def _sent(asked: dict[str, Any]) -> dict[str, str]:
    hub = HfApi(endpoint=asked["endpoint"] or None)
    try:
        hub.create_repo(asked["repository"], private=asked["private"], exist_ok=True)
        done = hub.upload_folder(
            repo_id=asked["repository"], folder_path=asked["folder"], commit_message="An export of VLyard"
        )
    except HFValidationError as error:
        return {"failed": "name", "words": _first(error)}
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        sort = "token" if status in _REFUSED else "hub" if status >= _BROKEN else "refused"
        return {"failed": sort, "words": f"{status}: {_first(error)}"}
    except (HTTPError, OSError) as error:
        return {"failed": "hub", "words": _first(error)}
    except ValueError as error:  # what the hub says of the card's head, on several lines
        return {"failed": "refused", "words": " ".join(str(error).split())}
    return {"revision": str(done.oid)}


def _first(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


if __name__ == "__main__":
    main(Path(sys.argv[1]))
