"""A W&B server small enough to break: enough of it for the real client, which answers as `mode` says."""

import gzip
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

KEY = "0123456789" * 4


class Server(http.server.ThreadingHTTPServer):
    """Attributes: mode: good, hang, or the status that everything is answered with; seen: what the client sent."""

    daemon_threads = True

    def __init__(self, mode: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.mode, self.over = mode, threading.Event()
        self.seen: list[tuple[str, Any]] = []  # (GraphQL operation, its variables) or (path, body)
        self.keys: set[str] = set()

    def handle_error(self, request: Any, client_address: Any) -> None: ...  # of a client that has gone

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def sent(self, name: str) -> list[Any]:
        """What came by that operation or path."""
        return [what for found, what in [*self.seen] if re.search(name, found)]

    def rows(self) -> list[dict[str, Any]]:
        """The history that arrived."""
        files = [json.loads(body).get("files", {}) for body in self.sent("file_stream$")]
        return [json.loads(line) for file in files for line in file.get("wandb-history.jsonl", {}).get("content", [])]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: Any) -> None: ...

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.server.mode == "hang":
            self.server.over.wait()
            self.close_connection = True
            return None
        if self.server.mode != "good":
            return self._answer(int(self.server.mode), {"errors": [{"message": "broken"}]})
        if self.path != "/graphql":
            self.server.seen.append((self.path, body))
            return self._answer(200, {})
        asked = json.loads(body)
        name = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
        self.server.keys.add(self.headers.get("Authorization", ""))
        self.server.seen.append((name[1] if name else "", asked.get("variables") or {}))
        return self._answer(200, {"data": self._data(name[1] if name else "", asked.get("variables") or {})})

    do_GET = do_PUT = do_POST

    def _answer(self, status: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _data(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        url = self.server.url
        owner = {"id": "1", "name": "lab"}
        project = {"id": "2", "name": given.get("project") or "none", "entity": owner}
        if name == "UpsertBucket":
            run = {"id": "3", "name": given["name"], "displayName": given.get("displayName"), "project": project}
            return {"upsertBucket": {"bucket": run | {"config": "{}", "historyLineCount": 0}, "inserted": True}}
        if name == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{url}/put/{name}"} for name in given["files"]]
            return {"createRunFiles": {"runID": "3", "uploadHeaders": [], "files": files}}
        if name == "CreateArtifact":
            sequence = {"latestArtifact": None}
            return {"createArtifact": {"artifact": {"id": "4", "state": "PENDING", "artifactSequence": sequence}}}
        if name == "CreateArtifactManifest":
            file = {"id": "5", "uploadUrl": f"{url}/put/manifest", "uploadHeaders": []}
            return {"createArtifactManifest": {"artifactManifest": {"id": "6", "file": file}}}
        if name == "UpdateArtifactManifest":
            file = {"id": "5", "uploadUrl": f"{url}/put/manifest", "uploadHeaders": []}
            return {"updateArtifactManifest": {"artifactManifest": {"id": "6", "file": file}}}
        if name == "CreateArtifactFiles":
            edges = [
                {"node": {
                    "name": file["name"], "storagePath": file["name"], "uploadUrl": f"{url}/put/{file['name']}",
                    "uploadHeaders": [], "uploadMultipartUrls": None, "artifact": {"id": "4"},
                }}
                for file in given["input"]["artifactFiles"]
            ]  # fmt: skip
            return {"createArtifactFiles": {"files": {"edges": edges}}}
        if name == "CommitArtifact":
            return {"commitArtifact": {"artifact": {"id": "4", "digest": "0"}}}
        if name == "ArtifactByID":
            sequence = {"__typename": "ArtifactSequence", "name": "network", "project": project | {"internalId": "2"}}
            known = {
                "__typename": "Artifact",
                "id": "4",
                "artifactSequence": sequence,
                "artifactType": {"name": "model"},
            }
            known |= dict.fromkeys(("description", "metadata", "historyStep", "commitHash"))
            known |= {"state": "COMMITTED", "size": 1, "digest": "0", "digestAlgorithm": "MANIFEST_MD5", "fileCount": 1}
            known |= {"createdAt": "2026-01-01T00:00:00Z", "updatedAt": None, "versionIndex": 0}
            known |= {"ttlDurationSeconds": -2, "ttlIsInherited": True}
            return {"artifact": known | {"tags": [], "aliases": []}}
        viewer = {"id": "7", "entity": "lab", "username": "somebody", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": viewer, "serverInfo": {"features": []}, "model": None, "project": None, "entity": None}


@contextmanager
def serving(mode: str) -> Iterator[Server]:
    """A server of this machine, for as long as the block lasts."""
    server = Server(mode)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
