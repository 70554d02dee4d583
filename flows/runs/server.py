"""Run Prefect's server as a process that cannot outlive its parent.

If no server is configured, Prefect starts one for a flow, and that server keeps running after a SIGKILL of the flow.
The server of this module reads a pipe whose other end only its parent holds. When the parent ends for any reason, the
system closes the pipe, and the server exits.

The server answers only requests with its auth string, and refuses web pages of another origin (`flows/loopback.py`).

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

from diva_grpo.flows.configured_server import no_answer, unreachable
from diva_grpo.flows.loopback import guarded
from diva_grpo.schemas.exceptions import ServerError

PORT_TAKEN = 75
"""Exit code of a server process that cannot bind its port (EX_TEMPFAIL)."""

GRACE_S = 60.0
"""Seconds that a server may take to end. The first server on a machine may still be creating its database."""


def auth_file(port: int) -> Path:
    """The file with the auth string of a server with services. Users of the UI and `diva serve --pause` read it."""
    from prefect.settings import get_current_settings

    return get_current_settings().home / f"diva-serve-{port}.auth"


class BoundServer:
    """A Prefect server on loopback that ends with this process.

    Attributes:
        port: the port on which it listens.
        auth: the auth string that clients must send: PREFECT_SERVER_API_AUTH_STRING, or a random one if that is unset.

    Args:
        port: the port to listen on; 0 chooses a free port.
        services: True: the server also schedules runs, marks late runs and shows the UI. False: it only records runs.
        keep_days: days for which ended runs are kept, with their logs, artifacts and events; None keeps them forever.

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
        """The URL of the API, for `PREFECT_API_URL`."""
        return f"http://127.0.0.1:{self.port}/api"

    def keep_up(self) -> None:
        """Restart the server on the same port whenever it dies, until `close` is called."""
        threading.Thread(target=self._keep_up, name="keeps Prefect's server up", daemon=True).start()

    def _keep_up(self) -> None:
        while not self._ending.is_set():
            self._process.wait()
            if not self._ending.is_set():
                self._process, _ = self._start(self.port)

    def close(self) -> None:
        """End the server, and kill it if it has not ended after `GRACE_S` seconds."""
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
            # Leases in memory would be lost when the server dies, and their concurrency slots would stay taken.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # send no usage statistics
            "PREFECT_SERVER_UI_API_URL": "/api",  # relative to the page, so that any port or tunnel works
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
            # -P: import nothing from the folder of this file.
            [sys.executable, "-P", __file__, str(port), *(["keep"] if self._services else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=defaults
            | os.environ
            | get_current_settings().to_environment_variables(exclude_unset=True)
            | ({} if self._services else kind)
            | closed,
            start_new_session=True,  # Ctrl-C must not end the server: the flow still reports its end to it
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
    """Make sure that flows have a Prefect server: the configured one, or else a new one that ends with this process.

    Call it before a flow. It sets URL and auth string for the whole process, because Prefect's threads do not see
    temporary settings.

    Args:
        port: the port of a new server; 0 chooses a free port.
        services: as for `BoundServer`. A new server with services is also restarted if it dies.
        keep_days: as for `BoundServer`.

    Returns:
        The URL of the API.

    Raises:
        ServerError: the configured server cannot be reached, the port is taken, or the new server did not start.
    """
    from prefect.context import refresh_global_settings_context
    from prefect.settings import PREFECT_API_URL

    configured: str | None = PREFECT_API_URL.value()
    if configured:
        if reason := unreachable(configured):
            raise ServerError(no_answer(configured, reason))
        return configured
    server = BoundServer(port, services=services, keep_days=keep_days)
    # Exit handlers of threads run before those of `atexit`, so Prefect has sent all its reports by then.
    atexit.register(server.close)
    if services:
        server.keep_up()
    else:
        os.environ.setdefault("PREFECT_UI_URL", "")  # no UI, so Prefect prints no links to it
    os.environ["PREFECT_API_URL"], os.environ["PREFECT_API_AUTH_STRING"] = server.url, server.auth
    refresh_global_settings_context()
    return server.url


def _keep(auth: str, path: Path) -> None:
    """Write an auth string to a file that only this user can read. The file appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f"{path.name}.{os.getpid()}")
    with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{auth}\n")
    made.replace(path)


def main() -> None:
    """Run the server process: `python server.py PORT [keep]`.

    The process reads a pipe from its parent on standard input, and exits when that pipe is closed. It prints its
    port on standard output as soon as it answers requests. With `keep`, it writes its auth string to `auth_file`
    after it has bound the port and before it accepts connections.
    """
    announce = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # all other output goes to standard error
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", int(sys.argv[1])))
    except OSError:
        sys.exit(PORT_TAKEN)
    # Written before it listens, so that a client that can connect never reads the old file of a killed server.
    if "keep" in sys.argv:
        _keep(os.environ["PREFECT_SERVER_API_AUTH_STRING"], auth_file(listener.getsockname()[1]))
    listener.listen(128)

    import uvicorn
    from fastapi import Request, Response
    from prefect.server.api.server import create_app

    ended = threading.Event()

    class Announced(uvicorn.Server):
        """A server that prints its port once it answers requests."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                print(listener.getsockname()[1], file=announce, flush=True)
            announce.close()

    # From here on the end of the parent is noticed, even while the application is still being created.
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
        """Let clients retry after 0.05 s when SQLite was locked (503). Prefect's client would wait two seconds."""
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
