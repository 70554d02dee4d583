"""The same store on an object store, against a local server that speaks S3."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from click.testing import CliRunner
from moto.server import ThreadedMotoServer

from diva_grpo.flows.cli import cli
from diva_grpo.pipeline.store import VariantStore, run_select
from diva_grpo.pipeline.store.doctor import Fault
from diva_grpo.pipeline.store.files.places import LISTS
from diva_grpo.pipeline.teacher.journal import Journal
from diva_grpo.schemas.exceptions import ConfigError, QueryError, StoreError
from diva_grpo.schemas.records import RECORDS, Problem, Verdict
from tests.support.store_records import fill, variant

BUCKET = "diva"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """An S3 server on loopback."""
    # Its lines of requests would go to the handlers of a flow that an earlier test has run, whose stream is closed.
    logging.getLogger("werkzeug").propagate = False
    made = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    made.start()
    host, port = made.get_host_and_port()
    yield f"http://{host}:{port}"
    made.stop()


@pytest.fixture
def url(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty prefix of a bucket."""
    settings = {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "DIVA_CACHE": str(tmp_path / "cache"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    return f"s3://{BUCKET}/{tmp_path.name}/it's a store"


@pytest.fixture
def store(url: str) -> VariantStore:
    """A store with rows in every table."""
    made = VariantStore(url, create=True)
    fill(made)
    return made


def _keys(store: VariantStore, folder: str = "") -> list[str]:
    prefix = f"{store.place.url.removeprefix(f's3://{BUCKET}/')}/{folder}"
    listed = boto3.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=prefix)
    return [item["Key"].removeprefix(prefix) for item in listed.get("Contents", [])]


def test_says_the_same_as_a_folder(store: VariantStore, tmp_path: Path) -> None:
    local = VariantStore(tmp_path / "local", create=True)
    fill(local)
    assert store.checksums() == local.checksums()
    again = VariantStore(Path(store.place.url))  # as the command line gives it, with one slash
    assert again.place.url == store.place.url
    assert [again.read(record) for record in RECORDS] == [local.read(record) for record in RECORDS]
    assert {key.split("/")[0] for key in _keys(store)} == {record.table for record in RECORDS} | {
        "images",
        LISTS,
    }


def test_snapshots_images_runs_and_journal_work(store: VariantStore) -> None:
    parts = store.snapshot().parts
    store.append([variant(5)])
    assert [v.variant_id for v in store.snapshot(parts).candidates(["w/0"]).rows()] == ["w/0:reword:01"]
    digest = store.read(Problem)[0].images[0].hash
    assert store.image_path(digest).read_bytes() == b"no picture, but bytes"
    assert store.image_path(digest).is_relative_to(store.place.local)
    with pytest.raises(StoreError, match="image 000000000000 is missing from s3://"):
        store.image_path("0" * 64)
    with store.run("label", "{}") as run_id, Journal.of_store(store):
        pass
    assert store.query("SELECT outcome FROM runs WHERE run_id = ?", [run_id]) == [("ok",)]
    assert "journal.sqlite" not in _keys(store)


@pytest.mark.slow
def test_compaction_and_doctor(store: VariantStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = store.checksums()
    done = store.compact()
    assert done.merged > done.made > 3
    assert store.checksums() == before
    assert VariantStore(store.place.url).compact(grace_s=0).removed == done.merged
    assert store.checksums() == before
    assert [f for f in store.examine() if f.fault == Fault.DAMAGED] == []
    [name] = [name for name in store.place.names("settings") if "empty" not in name]
    client, key = boto3.client("s3"), f"{store.place.url.removeprefix(f's3://{BUCKET}/')}/settings/{name}"
    content = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    client.put_object(Bucket=BUCKET, Key=key, Body=content[:-20])
    monkeypatch.setenv("DIVA_CACHE", str(tmp_path / "another machine"))
    again = VariantStore(store.place.url)
    with pytest.raises(StoreError) as caught:
        again.setting("label_model")
    assert "diva doctor" in str(caught.value)
    [found] = [f for f in again.examine(repair=True) if f.fault == Fault.DAMAGED]
    assert found.path == f"settings/{name}"
    assert again.setting("label_model") is None
    assert sorted(key.split("/")[-1] for key in _keys(store, "quarantine/")) == sorted(["report.json", name])


def test_a_users_sql_reads_this_store_and_nothing_else_in_the_bucket(store: VariantStore) -> None:
    assert run_select(store, "SELECT count(*) AS n FROM problems").to_pylist() == [{"n": 2}]
    boto3.client("s3").put_object(Bucket=BUCKET, Key="secret.csv", Body=b"a,b\n1,2\n")
    with pytest.raises(QueryError):
        run_select(store, f"SELECT * FROM read_csv('s3://{BUCKET}/secret.csv')")
    with pytest.raises(QueryError):
        run_select(store, f"SELECT * FROM read_text('{Path(__file__)}')")


def test_the_command_takes_a_url(store: VariantStore) -> None:
    outcome = CliRunner().invoke(
        cli, ["sql", "select count(*) as n from variants", "--store", store.place.url]
    )
    assert outcome.exit_code == 0, outcome.exception
    assert outcome.output.split() == ["n", "---", "2"]


_WRITE = """
import sys
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import Verdict
store = VariantStore(sys.argv[1])
for i in range(10):
    store.append([Verdict(variant_id=f"{sys.argv[2]}-{i}", check_name="c", sample=n, passed=True) for n in range(3)])
"""


@pytest.mark.slow
def test_writers_on_several_machines_beside_a_reader_and_a_compaction(url: str) -> None:
    store = VariantStore(url, create=True)
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITE, url, name], stderr=subprocess.PIPE, text=True)
        for name in "abc"
    ]
    seen = 0
    while any(writer.poll() is None for writer in writers):
        [(rows, appends)] = store.query("SELECT count(*), count(DISTINCT variant_id) FROM verdicts")
        assert rows == 3 * appends
        assert rows >= seen
        seen = rows
        store.compact()
    assert [writer.communicate()[1] for writer in writers] == [""] * 3
    assert len(store.read(Verdict)) == 3 * 10 * 3


def test_faults_are_one_line(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match=r"no store at .*s3://"):
        VariantStore(url)
    with pytest.raises(StoreError, match=r"cannot be (read|written): ") as caught:
        VariantStore("s3://no-such-bucket/x", create=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="use a folder, s3:// or gs://"):
        VariantStore("nothing://x/y")
    with pytest.raises(ConfigError, match="use a folder, s3:// or gs://"):
        VariantStore("http://127.0.0.1:9/x", create=True)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="cannot be read: ") as caught:
        VariantStore(url)
    assert "\n" not in str(caught.value)
