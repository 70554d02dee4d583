"""Prefect's server as a process that cannot outlive the one that started it.

Prefect starts a server for a flow that has none, and a SIGKILL of the flow leaves that server running for ever. The
one that is started here reads a pipe whose other end only its parent holds: whatever ends the parent closes the
pipe, on any system, and the server goes.

It answers only those who know its auth string, which is made at its start, and no page of another origin
(`flows/loopback.py`).

    prefect_api()
    curate(config)
"""

from __future__ import annotations

import atexit
import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

from diva_grpo.flows.loopback import guarded
from diva_grpo.schemas.exceptions import ServerError

PORT_TAKEN = 75
"""Exit code of a server that cannot listen (EX_TEMPFAIL)."""

GRACE_S = 60.0
"""Seconds that a server may take to end: the first one of a machine may be in the midst of making its database."""


def auth_file(port: int) -> Path:
    """Where a server with services keeps its auth string, for its UI and for `diva serve --pause`."""
    from prefect.settings import get_current_settings

    return get_current_settings().home / f"diva-serve-{port}.auth"


class BoundServer:
    """A Prefect server on loopback that ends with this process.

    Attributes:
        port: on which it listens.
        auth: the string that its clients must know: of PREFECT_SERVER_API_AUTH_STRING, or else made here.

    Args:
        port: 0 takes a free one.
        services: also schedule runs, mark late ones, and show the UI; without, it only keeps the record of runs.
        keep_days: days for which it keeps runs that have ended, with their logs, artifacts and events; None: for ever.

    Raises:
        ServerError: the port is taken, or the server did not start.
    """

    def __init__(self, port: int = 0, *, services: bool = False, keep_days: float | None = None) -> None:
        from prefect.settings import get_current_settings

        configured = get_current_settings().server.api.auth_string
        self.auth = configured.get_secret_value() if configured else f"diva:{secrets.token_urlsafe(24)}"
        self._services, self._keep_days = services, keep_days
        self._ending = threading.Event()
        self._process, self.port = self._start(port)

    @property
    def url(self) -> str:
        """Of the API, for `PREFECT_API_URL`."""
        return f"http://127.0.0.1:{self.port}/api"

    def keep_up(self) -> None:
        """Start it again on its port whenever it has died, until `close`."""
        threading.Thread(target=self._keep_up, name="keeps Prefect's server up", daemon=True).start()

    def _keep_up(self) -> None:
        while not self._ending.is_set():
            self._process.wait()
            if not self._ending.is_set():
                self._process, _ = self._start(self.port)

    def close(self) -> None:
        """End it."""
        self._ending.set()
        if self._services:
            auth_file(self.port).unlink(missing_ok=True)
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _start(self, port: int) -> tuple[subprocess.Popen[bytes], int]:
        from prefect.settings import get_current_settings

        kind = {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT_UI_ENABLED": "0"}
        defaults = {
            # Leases in memory would die with the server, and their slots stay taken.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # nothing is sent anywhere
            "PREFECT_SERVER_UI_API_URL": "/api",  # where the page itself came from, on any port and by any tunnel
        }
        closed = {"PREFECT_SERVER_API_AUTH_STRING": self.auth, "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ""}
        if self._keep_days:
            period = f"PT{self._keep_days * 86_400:.0f}S"
            defaults |= {
                "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
                "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": period,
                "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": period,
            }
        process = subprocess.Popen(
            # -P: nothing must be imported from the folder of this file.
            [sys.executable, "-P", __file__, str(port), *(["keep"] if self._services else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=defaults
            | os.environ
            | get_current_settings().to_environment_variables(exclude_unset=True)
            | ({} if self._services else kind)
            | closed,
            start_new_session=True,  # Ctrl-C is for the flow, which has yet to report its end
        )
        assert process.stdout
        with process.stdout:
            line = process.stdout.readline()
        if not line:
            code = process.wait()
            if code == PORT_TAKEN:
                raise ServerError(
                    f"port {port} is taken: choose another by --port, or, where a Prefect server listens there, set "
                    f"PREFECT_API_URL=http://127.0.0.1:{port}/api"
                )
            raise ServerError(
                f"Prefect's server did not start on port {port or 'any'} (exit code {code}): see the lines above, "
                "or start one by `prefect server start` and set PREFECT_API_URL"
            )
        return process, int(line)


def prefect_api(port: int = 0, *, services: bool = False, keep_days: float | None = None) -> str:
    """Where flows report: the server that is configured, or else one that ends with this process.

    Call it before a flow. URL and auth string are set for the whole process, as Prefect's threads do not see
    temporary settings.

    Args:
        port: of the server that is started; 0 takes a free one.
        services: as for `BoundServer`; such a server is also started again should it die.
        keep_days: as for `BoundServer`.

    Returns:
        The URL of the API.

    Raises:
        ServerError: it did not start.
    """
    from prefect.context import refresh_global_settings_context
    from prefect.settings import PREFECT_API_URL

    configured: str | None = PREFECT_API_URL.value()
    if configured:
        return configured
    server = BoundServer(port, services=services, keep_days=keep_days)
    # Handlers of threads come before these: what Prefect has yet to report is sent by then.
    atexit.register(server.close)
    if services:
        server.keep_up()
    else:
        os.environ.setdefault("PREFECT_UI_URL", "")  # there is none: no run is to be viewed at its address
    os.environ["PREFECT_API_URL"], os.environ["PREFECT_API_AUTH_STRING"] = server.url, server.auth
    refresh_global_settings_context()
    return server.url


def _keep(auth: str, path: Path) -> None:
    """Write an auth string to a file that only this user can read, in one act."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f"{path.name}.{os.getpid()}")
    with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{auth}\n")
    made.replace(path)


def main() -> None:
    """The server's process: `python server.py PORT [keep]`, with its parent at the other end of standard input.

    With `keep` its auth string is in `auth_file` before it answers, and after it has the port.
    """
    announce = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", int(sys.argv[1])))
    except OSError:
        sys.exit(PORT_TAKEN)
    # Before it listens: whoever connects has read this file, and not that of a server that was killed.
    if "keep" in sys.argv:
        _keep(os.environ["PREFECT_SERVER_API_AUTH_STRING"], auth_file(listener.getsockname()[1]))
    listener.listen(128)

    import uvicorn
    from fastapi import Request, Response
    from prefect.server.api.server import create_app

    ended = threading.Event()

    class Announced(uvicorn.Server):
        """A server that says its port once it answers."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                print(listener.getsockname()[1], file=announce, flush=True)
            announce.close()

    # From here on the end of the parent is noticed, even if it comes while the application is made.
    server: Announced | None = None

    def end_with_parent() -> None:
        sys.stdin.buffer.read()
        if server:
            server.should_exit = True
        if not ended.wait(GRACE_S if server else 0):
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    app = create_app(final=True)

    @app.middleware("http")
    async def soon(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        """Say when to come again where two writers met in SQLite: Prefect's client would wait for two seconds."""
        response = await go_on(request)
        if response.status_code == 503:
            response.headers.setdefault("Retry-After", "0.05")
        return response

    config = uvicorn.Config(guarded(app), log_level="error", lifespan="on", timeout_graceful_shutdown=5)
    server = Announced(config)
    server.run([listener])
    ended.set()


if __name__ == "__main__":
    main()
