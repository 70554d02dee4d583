"""Nobody else's orders: what a web page, another user or a run's parameters try on a `diva serve` at work."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prefect.client.base import PrefectHttpxSyncClient
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from diva_grpo.pipeline.store import VariantStore
from tests.support.chromium import browser, chromium, log_in
from tests.support.endpoints import Endpoint, listening, serving
from tests.support.prefect_processes import (
    free_port,
    hear_interrupts,
    home_with_database,
    marbles,
    of_home,
    processes_of,
    until,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to find processes"),
]

EVIL = "http://evil.example"
SECRET, OTHER_SECRET = "sk-secret-of-the-served-file-1", "sk-secret-of-another-thing-2"


@dataclass
class Served:
    """A `diva serve` at work.

    Attributes:
        port: of its server.
        auth: its auth string.
        deployment: id of the flow that it serves.
        config: that flow's parameters.
        thief: an endpoint of an attacker's.
        client: of someone who does not know the auth string.
    """

    port: int
    auth: str
    deployment: str
    config: dict[str, Any]
    thief: Endpoint
    client: httpx.Client

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A request by someone who knows the auth string, through Prefect's client.

        While another transaction has the database, the server answers 503, and its client asks again.
        """
        user, _, password = self.auth.partition(":")
        with PrefectHttpxSyncClient(timeout=60, raise_on_all_errors=False) as client:
            return client.request(method, self.url + path, auth=(user, password), **options)

    def runs(self) -> list[dict[str, Any]]:
        return list(self.ask("POST", "/api/flow_runs/filter", json={}).raise_for_status().json())

    def ordered(self) -> int:
        """Runs that a person or an attacker has ordered, beside the schedule's."""
        return sum(not run["auto_scheduled"] for run in self.runs())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("attacked")
    store, port = VariantStore(folder / "store", create=True), free_port()
    store.append(marbles("first", range(3, 5)))
    with ExitStack() as stack:
        home = next(homes := home_with_database(folder / "prefect"))
        stack.callback(next, homes, None)
        thief = stack.enter_context(serving(Endpoint()))
        teacher = {"model": "m", "base_url": "http://127.0.0.1:9/v1", "max_retries": 0}
        config = {"store": str(store.root), "teacher": teacher, "generate": {"kinds": ["reword"]}}
        flow = {"name": "often", "flow": "curate", "cron": "0 3 1 1 *", "parameters": config}
        file = folder / "serve.yaml"
        file.write_text(yaml.safe_dump({"deployments": [flow]}))
        keys = {"OPENAI_API_KEY": SECRET, "OTHER_API_KEY": OTHER_SECRET}
        command = [sys.executable, "-c", "from diva_grpo.flows.cli import main; main()", "serve", str(file)]
        log = stack.enter_context((folder / "log").open("wb"))
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            env=of_home(home) | keys,
            stdout=log,
            stderr=log,
            preexec_fn=hear_interrupts,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        kept = home / f"diva-serve-{port}.auth"
        until(kept.exists, 400, "the server is up")
        client = stack.enter_context(httpx.Client(timeout=60))
        found = Served(port, kept.read_text().strip(), "", config, thief, client)
        name = "/api/deployments/name/curate/often"
        until(lambda: found.ask("GET", name).status_code == 200, 300, "the flow is served")
        found.deployment = found.ask("GET", name).json()["id"]
        assert kept.stat().st_mode & 0o777 == 0o600
        assert not any(found.auth in " ".join(p.cmdline()) for p in processes_of(home)), "in nobody's `ps`"
        assert found.auth not in (folder / "log").read_text()
        yield found
        assert thief.requests == [], "nothing ever reached the attacker"


def _orders(served: Served) -> list[tuple[str, str, dict[str, Any]]]:
    """What an attacker asks the server for."""
    config = served.config | {"teacher": {"model": "x", "base_url": served.thief.url}}
    return [
        ("POST", f"/api/deployments/{served.deployment}/create_flow_run", {"parameters": {"config": config}}),
        ("PATCH", f"/api/deployments/{served.deployment}", {"entrypoint": "os.system"}),
        ("POST", "/api/deployments/filter", {}),
        ("POST", "/api/flow_runs/filter", {}),
        ("GET", "/api/variables/name/x", {}),
        ("GET", "/api/admin/settings", {}),
        ("DELETE", f"/api/deployments/{served.deployment}", {}),
        ("POST", "/api//flow_runs/filter", {}),
        ("POST", "/api/flow_runs/filter?x=/api/health", {}),
    ]


FOREIGN: list[dict[str, str]] = [
    {"Origin": EVIL},
    {"Origin": "null"},
    {"Origin": "http://localhost:1"},
    {"Origin": "http://127.0.0.1"},
    {"Origin": "http://127.0.0.1.evil.example"},
    {"Host": "evil.example"},
    {"Host": "evil.example:4200"},
    {"Host": "127.0.0.1@evil.example"},
    {"Host": "127.0.0.1.evil.example"},
    {"Host": "[bad"},
    {"Host": ""},
    {"Host": "evil.example", "Origin": "http://evil.example"},
]


def test_who_does_not_know_the_auth_string_is_refused(served: Served) -> None:
    wrong = [None, "Basic ZGl2YTp3cm9uZw==", "Bearer x", "Basic", "Basic \N{LATIN SMALL LETTER E WITH ACUTE}"]
    for (method, path, body), auth in itertools.product(_orders(served), wrong):
        headers = {b"Authorization": auth.encode()} if auth else {}
        answer = served.client.request(method, served.url + path, json=body, headers=headers)
        assert answer.status_code == 401, (path, auth, answer.text)
    assert served.ordered() == 0


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_foreign_pages_are_refused_even_with_the_auth_string(served: Served, headers: dict[str, str]) -> None:
    for method, path, body in _orders(served):
        answer = served.ask(method, path, json=body, headers=headers)
        assert answer.status_code in (400, 403), (path, answer.status_code, answer.text)
        assert not [name for name in answer.headers if name.startswith("access-control-")]
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    answer = served.ask("OPTIONS", "/api/flow_runs/filter", headers=headers | preflight)
    assert answer.status_code in (400, 403)
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert served.ordered() == 0


@pytest.mark.parametrize("path", ["/api/events/in", "/api/events/out", "/api/logs/out"])
def test_web_sockets_are_refused_too(served: Served, path: str) -> None:
    url, prefect = f"ws://127.0.0.1:{served.port}{path}", [Subprotocol("prefect")]
    with pytest.raises(InvalidStatus, match="403"), connect(url, subprotocols=prefect, origin=Origin(EVIL)):
        pass
    with connect(url, subprotocols=prefect) as socket:
        socket.send(json.dumps({"type": "auth", "token": "wrong"}))
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=20)


PAGE = """<!doctype html><title>evil</title><form id=f method=post target=x action="URL"></form>
<iframe name=x></iframe><script>
async function attack() {
  const said = [], json = {"content-type": "application/json"}, body = JSON.stringify(BODY);
  const tries = {
    read: () => fetch("BASE/api/deployments/filter", {method: "POST", headers: json, body: "{}"}),
    get: () => fetch("BASE/api/health"),
    json: () => fetch("URL", {method: "POST", headers: json, body}),
    plain: () => fetch("URL", {method: "POST", headers: {"content-type": "text/plain"}, body}),
    opaque: () => fetch("URL", {method: "POST", mode: "no-cors", credentials: "include", body}),
    socket: () => new Promise((open, fail) => {
      const socket = new WebSocket("BASE/api/events/in".replace("http", "ws"), "prefect");
      socket.onopen = open; socket.onerror = () => fail("closed");
    }),
  };
  for (const [name, attempt] of Object.entries(tries))
    said.push(name + ": " + await attempt().then(a => a.type || "open", () => "refused"));
  f.submit();
  await new Promise(done => setTimeout(done, 1000));
  return said.join(", ");
}
</script><p>An innocent page"""


@pytest.mark.skipif(chromium() is None, reason="there is no Chromium")
@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "rebound.example"])
def test_a_page_in_a_browser_gives_no_orders(served: Served, tmp_path: Path, name: str) -> None:
    method, path, body = _orders(served)[0]
    assert method == "POST"
    base = f"http://{name}:{served.port}"
    text = PAGE.replace("URL", base + path).replace("BASE", base).replace("BODY", json.dumps(body))
    with (
        listening(_page(text)) as url,
        browser(tmp_path, "--host-resolver-rules=MAP *.example 127.0.0.1") as tab,
    ):
        tab.open(url.replace("127.0.0.1", "evil.example"), "An innocent page")
        said = tab.evaluate("attack()")
    assert (
        said == "read: refused, get: refused, json: refused, plain: refused, opaque: opaque, socket: refused"
    )
    assert served.ordered() == 0
    assert served.thief.requests == []


@pytest.mark.skipif(chromium() is None, reason="there is no Chromium")
def test_a_name_that_is_bound_to_this_machine_again_gives_no_orders(served: Served, tmp_path: Path) -> None:
    """DNS rebinding: the page of the server itself, under a name of the attacker's, is of the same origin."""
    _, path, body = _orders(served)[0]
    with browser(tmp_path, "--host-resolver-rules=MAP *.example 127.0.0.1") as tab:
        tab.open(f"http://rebound.example:{served.port}/", "names another machine")
        order = {"method": "POST", "headers": {"content-type": "application/json"}, "body": json.dumps(body)}
        assert tab.evaluate(f"fetch({path!r}, {json.dumps(order)}).then(a => a.status)") == 403
    assert served.ordered() == 0


@pytest.mark.skipif(chromium() is None, reason="there is no Chromium")
def test_the_ui_opens_with_the_auth_string(served: Served, tmp_path: Path) -> None:
    with browser(tmp_path) as tab:
        log_in(tab, f"http://localhost:{served.port}/v2", served.auth)
        tab.open(f"http://localhost:{served.port}/v2/deployments", "often")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"teacher": {"base_url": "THIEF"}}, "OPENAI_API_KEY may not be sent to THIEF"),
        ({"teacher": {"key_env": "OTHER_API_KEY"}}, "OTHER_API_KEY may not be sent to http://127.0.0.1:9"),
        (
            {"teacher": {"endpoint": "e", "routes": [{"base_url": "THIEF", "key_env": "OTHER_API_KEY"}]}},
            "OTHER_API_KEY may not be sent to THIEF",
        ),
    ],
    ids=["url", "key", "route"],
)
def test_parameters_of_a_run_cannot_send_a_key_elsewhere(
    served: Served, changes: dict[str, dict[str, Any]], named: str
) -> None:
    """Even those of someone who knows the auth string."""
    text = json.dumps(changes).replace("THIEF", served.thief.url)
    config = served.config | {k: served.config.get(k, {}) | v for k, v in json.loads(text).items()}
    order = {"parameters": {"config": config}, "state": {"type": "SCHEDULED"}}
    path = f"/api/deployments/{served.deployment}/create_flow_run"
    run = served.ask("POST", path, json=order).raise_for_status().json()["id"]

    def state() -> dict[str, Any]:
        return dict(served.ask("GET", f"/api/flow_runs/{run}").json()["state"])

    until(lambda: state()["type"] in ("FAILED", "COMPLETED", "CRASHED", "CANCELLED"), 300, "the run ends")
    said = state()["message"]
    assert named.replace("THIEF", served.thief.url.removesuffix("/v1")) in said
    assert served.thief.requests == []


def _page(text: str) -> ThreadingHTTPServer:
    """A web server of one page."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)
