"""Take the screens in `data/screens/`: Prefect's UI after real runs on the project's own problems.

    python data/scripts/make_screens.py [--out data/screens] [--port 4265]

Starts a Prefect server in a temporary folder, curates with the scripted teacher (priced as gpt-4.1-mini, so that
there is a cost to be seen), lets a run fail by a setting, and takes pictures with headless Chromium, which it drives
by the DevTools protocol. Takes about two minutes.
"""

from __future__ import annotations

import base64
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, chdir
from pathlib import Path
from typing import NamedTuple

import click
from PIL import Image

DATA = Path(__file__).parents[1]
sys.path.insert(0, str(DATA.parent))
from tests.support.chromium import Browser, browser, log_in  # noqa: E402  # after sys.path: a module of this checkout, which is not installed

STORE = "textbook"
PROMPT_PRICE, COMPLETION_PRICE = 0.40, 1.60
"""Of gpt-4.1-mini, in dollars a million tokens."""

COLOURS = 64
PATIENCE_S = 60.0


class Screen(NamedTuple):
    """What is to be seen, where.

    Attributes:
        name: of the file.
        url: of the page.
        waits_for: text that is there once the page has its data.
        height: of the picture, in pixels.
        width: of the window; the picture is as wide as a part of it.
        part: selector of that element.
    """

    name: str
    url: str
    waits_for: str
    height: int
    width: int = 1280
    part: str = "main"


def take(tab: Browser, screen: Screen) -> bytes:
    """A picture of a page once it has its data and stands still."""
    size = {"width": screen.width, "height": screen.height}
    tab("Emulation.setDeviceMetricsOverride", **size, deviceScaleFactor=1, mobile=False)
    tab.open(screen.url, screen.waits_for)
    before, ends = "", time.monotonic() + PATIENCE_S
    while time.monotonic() < ends:
        time.sleep(0.5)
        box = tab.evaluate(
            f"document.querySelector({json.dumps(screen.part)}).getBoundingClientRect().toJSON()"
        )
        left, right = max(0, box["left"] - 8), min(screen.width, box["right"] + 8)
        clip = {"x": left, "y": 0, "scale": 1, "width": right - left, "height": screen.height}
        picture = tab("Page.captureScreenshot", format="png", clip=clip)["data"]
        if picture == before:
            return base64.b64decode(picture)
        before = picture
    raise RuntimeError(f"{screen.url} did not stand still within {PATIENCE_S:g} s")


def quantised(picture: bytes) -> bytes:
    """A PNG of few colours, which screens of text do not miss."""
    with Image.open(io.BytesIO(picture)) as image:
        small = io.BytesIO()
        image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def make_runs(store_dir: Path) -> None:
    """A curation that goes well, and one that fails by a setting that is missing."""
    from diva_grpo.flows.demo.run import _ingest_all
    from diva_grpo.flows.demo.scripted_teacher import MODEL, ScriptedTeacher, create_app, serve
    from diva_grpo.flows.runs.curate import curate
    from diva_grpo.pipeline.store import VariantStore
    from diva_grpo.schemas.config import TEXT_KINDS, CurateConfig, GenerateConfig, LabelConfig, TeacherConfig
    from diva_grpo.schemas.exceptions import ConfigError
    from diva_grpo.schemas.records import Kind

    store = VariantStore(store_dir, create=True)
    _ingest_all(store, DATA)
    prices = Path("prices.yaml")
    prices.write_text(f"{MODEL}: [{PROMPT_PRICE}, {COMPLETION_PRICE}]\n")
    script = ScriptedTeacher(store.problems(), wrong_share=0.1)
    with serve(create_app(script)) as url:
        config = CurateConfig(
            store=store_dir,
            teacher=TeacherConfig(model=MODEL, base_url=url, endpoint=MODEL, concurrency=32, prices=prices),
            generate=GenerateConfig(
                kinds=(*TEXT_KINDS, Kind.IMAGE),
                rewordings=3,
                image_operations=("rotate", "occlusion"),
                image_families=2,
            ),
            label=LabelConfig(samples=4),
            problem_filter="source = 'figures'",
            shard_size=10,
        )
        curate(config)
    try:
        curate(config.model_copy(update={"teacher": TeacherConfig(model="gpt-4.1-mini")}))
    except ConfigError as error:
        click.echo(f"failed, as it should: {error}")


def screens(store_dir: Path, ui: str) -> Iterator[Screen]:
    """What to take of the runs that there are.

    Args:
        store_dir: of the store.
        ui: where Prefect's pages are.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        runs = {run.state.is_failed(): run.id for run in client.read_flow_runs() if run.state}
        of_done = {a.key: a.id for a in client.read_artifacts() if a.flow_run_id == runs[False]}
    yield Screen("run", f"{ui}/runs/flow-run/{runs[False]}?tab=Artifacts", f"{STORE}-difficulty", 1040)
    yield Screen("failure", f"{ui}/runs/flow-run/{runs[True]}?tab=Details", "ConfigError", 720)
    heights = {"counts": ("think_step", 590), "reasons": ("leak", 560), "cost": ("solve", 480)}
    for name, (text, height) in (heights | {"difficulty": ("accepted", 760)}).items():
        page = f"{ui}/artifacts/artifact/{of_done[f'{STORE}-{name}']}"
        yield Screen(name, page, text, height, 1600, "main div.flex-1.min-w-0")
    page = (store_dir / "pages" / "problems.html").resolve().as_uri()
    yield Screen("problems", f"{page}#kind=image&problem=figures%2Ffigure-01", "rotate", 640, part="dialog")


@click.command(context_settings={"show_default": True})
@click.option(
    "--out", default=DATA / "screens", type=click.Path(path_type=Path), help="Folder of the pictures."
)
@click.option("--port", default=4265, help="Of the server.")
def main(out: Path, port: int) -> None:
    """Run the flows, and take the screens."""
    target = out.resolve()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, ExitStack() as stack:
        stack.enter_context(chdir(folder))  # so that messages name `runs/textbook`
        for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
            os.environ.pop(name, None)
        os.environ["PREFECT_HOME"] = f"{folder}/prefect"
        os.environ["PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT"] = "false"
        from diva_grpo.flows.runs.server import auth_file, prefect_api

        prefect_api(port, services=True)
        store_dir = Path("runs") / STORE
        store_dir.parent.mkdir()
        make_runs(store_dir)
        tab = stack.enter_context(browser(Path(folder) / "chromium"))
        target.mkdir(exist_ok=True)
        log_in(tab, f"http://127.0.0.1:{port}/v2", auth_file(port).read_text().strip())
        for screen in screens(store_dir, f"http://127.0.0.1:{port}/v2"):
            picture = quantised(take(tab, screen))
            (target / f"{screen.name}.png").write_bytes(picture)
            click.echo(f"{screen.name}.png: {len(picture) / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
