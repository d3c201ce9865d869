"""Somebody with an API key, who talks to the API in the test's own process."""

import hashlib
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
from starlette.testclient import TestClient


@dataclass(frozen=True)
class Visitor:
    """One team's key at one API."""

    client: TestClient
    team: UUID
    key: str

    def call(self, method: str, path: str, headers: dict[str, str] | None = None, **more: Any) -> Any:
        """Send a request with the key; returns the response, redirects unfollowed."""
        sent = {"Authorization": f"Bearer {self.key}", **(headers or {})}
        return self.client.request(method, path, headers=sent, follow_redirects=False, **more)

    def get(self, path: str, **more: Any) -> Any:
        return self.call("GET", path, **more)

    def post(self, path: str, body: Any = None, **more: Any) -> Any:
        return self.call("POST", path, json=body, **more)

    def submit(self, **spec: Any) -> dict[str, Any]:
        """Submit a job (a no-op where the spec names no kind), which must be accepted; returns it."""
        reply = self.post("/v1/jobs", {"spec": {"kind": "noop", **spec}})
        assert reply.status_code == 202, reply.text
        return dict(reply.json())

    def announce(self, content: bytes, name: str = "street.jpg", media_type: str = "image/jpeg") -> dict[str, Any]:
        """Announce a file; returns its artefact, with the upload link."""
        digest = hashlib.sha256(content).hexdigest()
        body = {"name": name, "bytes": len(content), "sha256": digest, "media_type": media_type}
        reply = self.post("/v1/artefacts", body)
        assert reply.status_code == 201, reply.text
        return dict(reply.json())

    def upload(self, content: bytes, name: str = "street.jpg") -> dict[str, Any]:
        """Upload a file and complete it; returns its artefact."""
        artefact = self.announce(content, name)
        assert send(artefact, content).is_success
        return dict(self.post(f"/v1/artefacts/{artefact['id']}/complete").json())


def send(artefact: dict[str, Any], content: bytes) -> httpx.Response:
    """PUT content to an artefact's upload link, with the headers that it asks for."""
    upload = artefact["upload"]
    headers = {**upload["headers"], "Content-Length": str(len(content))}
    return httpx.request(upload["method"], upload["url"], content=content, headers=headers, trust_env=False)
