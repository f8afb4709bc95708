"""The application without a socket: rows, races, refusals, cancelled races, load."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from asgi import Client, Reply, with_client

from anytime_cls.classifier import AnytimeClassifier
from anytime_cls.plan.budget import Budget
from anytime_cls.plan.options import RaceOptions
from anytime_cls.serving import upload
from anytime_cls.serving.app import make_app
from anytime_cls_cli.main import main

SURE = RaceOptions(rule="paired", max_orders=8)
LONG = RaceOptions(rule="fixed", max_orders=4096, orders="uniform")  # more than any test waits for


@pytest.fixture(scope="module")
def classifier(tiny_model_dir: Path) -> Iterator[AnytimeClassifier]:
    loaded = AnytimeClassifier.load(str(tiny_model_dir), "cpu")
    loaded.warm_up()
    yield loaded


async def metrics(client: Client) -> dict[str, float]:
    """Every sample by its name and labels."""
    reply = await client.get("/metrics")
    assert reply.status == 200 and reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = [line for line in reply.body.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def until(client: Client, name: str, value: float) -> None:
    while (await metrics(client))[name] != value:
        await asyncio.sleep(0.01)


class Gate:
    """Holds a classifier's races back until it is opened. brief: each then takes one pass, not its budget."""

    def __init__(self, classifier: AnytimeClassifier, monkeypatch: pytest.MonkeyPatch, brief: bool = False):
        self.open, self.raced = threading.Event(), []
        inner = classifier.classify

        def classify(source: Any, plan: Any, *rest: Any) -> Any:
            assert self.open.wait(30)
            self.raced.append(plan.budget)
            return inner(source, replace(plan, budget=Budget(1, "passes")) if brief else plan, *rest)

        monkeypatch.setattr(classifier, "classify", classify)


def test_a_row_is_what_classify_prints(classifier, tiny_model_dir, photo, capsys):
    from anytime_cls_cli.serve import _row
    from anytime_cls_cli.show.output import About

    args = ["--model", str(tiny_model_dir), "--device", "cpu", "--rule", "paired", "--max-orders", "8"]
    assert main(["classify", str(photo), *args, "--json", "--top", "3"]) == 0
    printed = json.loads(capsys.readouterr().out)

    async def test(client: Client) -> None:
        reply = await client.post("/classify?top=3", photo.read_bytes(), content_type="image/jpeg")
        assert reply.status == 200 and reply.headers["content-type"] == "application/json"
        row = reply.json()
        assert list(row) == list(printed) and row["path"] == "-" and len(row["ranking"]) == 3
        for key in ("label", "index", "stop", "orders", "passes", "full_passes", "model", "schema"):
            assert row[key] == printed[key], key
        assert row["probability"] == pytest.approx(printed["probability"], rel=1e-4)
        parts = dict(part.split(";dur=") for part in reply.headers["server-timing"].split(", "))
        assert float(parts["queue"]) >= 0 and float(parts["race"]) > 0

    with_client(make_app(classifier, SURE, partial(_row, About(classifier.plan(SURE)))), test)


def test_a_race_is_told_update_by_update_and_ends_with_the_row(classifier, photo):
    async def test(client: Client) -> None:
        reply = await client.post("/race", photo.read_bytes())
        assert reply.status == 200 and reply.headers["content-type"].startswith("text/event-stream")
        *updates, (name, row) = reply.events()
        assert name == "row" and {kind for kind, _ in updates} == {"update"}
        left = [update["classes_left"] for _, update in updates]
        passes = [update["passes"] for _, update in updates]
        elapsed = [update["elapsed"] for _, update in updates]
        assert left == sorted(left, reverse=True) and passes == sorted(passes) and elapsed == sorted(elapsed)
        last = updates[-1][1]
        assert (last["leader"], last["orders"], last["passes"]) == (
            row["label"],
            row["orders"],
            row["passes"],
        )
        assert last["probability"] == pytest.approx(row["probability"])
        assert last["classes"] == len(last["standings"]) == 10
        assert sum(standing["alive"] for standing in last["standings"]) == last["classes_left"]

    with_client(make_app(classifier, SURE), test)


def test_a_budget_may_come_with_the_request(classifier, photo):
    async def test(client: Client) -> None:
        rows = [
            (await client.post(f"/classify{q}", photo.read_bytes())).json() for q in ("", "?budget=20passes")
        ]
        assert rows[0]["stop"] == "max-orders" and rows[0]["passes"] == 80
        assert rows[1]["stop"] == "budget" and rows[1]["passes"] <= 20

    with_client(make_app(classifier, RaceOptions(rule="fixed", max_orders=8, orders="uniform")), test)


@pytest.mark.parametrize(
    ("target", "status", "says"),
    [
        ("/classify?budget=7", 400, "cannot read the budget '7': write it as 0.5s"),
        ("/race?budget=-1s", 400, "cannot read the budget"),
        ("/classify?top=0", 400, "top is a number of classes from 1"),
        ("/classify?top=many", 400, "top: "),
        ("/elsewhere", 404, "POST an image to /classify"),
        ("/healthz", 405, "POST an image to /classify"),
    ],
)
def test_what_makes_no_sense_is_one_line(classifier, photo, target, status, says):
    async def test(client: Client) -> None:
        reply = await client.post(target, photo.read_bytes())
        assert reply.status == status and list(reply.json()) == ["error"]
        assert says in reply.json()["error"] and "\n" not in reply.json()["error"]

    with_client(make_app(classifier, SURE), test)


@pytest.mark.parametrize("path", ["/classify", "/race"])
@pytest.mark.parametrize("cut", [0, 1, 700])
def test_a_bad_image_is_one_line_and_the_next_is_raced(classifier, photo, path, cut):
    async def test(client: Client) -> None:
        reply = await client.post(path, photo.read_bytes()[:cut])
        assert reply.status == 422 and list(reply.json()) == ["error"] and "\n" not in reply.json()["error"]
        assert (await client.post(path, photo.read_bytes())).status == 200
        seen = await metrics(client)
        assert seen[f'anytime_cls_requests_total{{path="{path}",code="422"}}'] == 1
        assert seen["anytime_cls_held"] == seen["anytime_cls_cancelled_total"] == 0
        assert seen["anytime_cls_up"] == 1

    with_client(make_app(classifier, SURE), test)


@pytest.mark.parametrize(("size", "declared"), [(101, False), (101, True), (999, False), (1, True)])
def test_an_upload_that_is_too_large_is_not_kept(classifier, size, declared):
    async def test(client: Client) -> None:
        length = {"content_length": str(max(size, 999))} if declared else {}
        reply = await client.post("/classify", bytes(size), **length)
        assert reply.status == 413 and reply.json() == {"error": "more than 100 bytes: scale the image down"}
        assert reply.headers["connection"] == "close"

    with_client(make_app(classifier, SURE, max_bytes=100), test)


def test_a_form_is_refused_with_what_to_send(classifier, photo):
    async def test(client: Client) -> None:
        kind = "multipart/form-data; boundary=x"
        reply = await client.post("/classify", photo.read_bytes(), content_type=kind)
        assert reply.status == 415 and "--data-binary @photo.jpg" in reply.json()["error"]

    with_client(make_app(classifier, SURE), test)


def test_an_upload_that_never_ends_gives_up_its_place(classifier, photo, monkeypatch):
    monkeypatch.setattr(upload, "SECONDS", 0.1)

    async def test(client: Client) -> None:
        stuck = client.call("/classify", photo.read_bytes()[:99], whole=False)
        await until(client, "anytime_cls_held", 1)
        assert (await client.post("/classify", photo.read_bytes())).status == 429
        assert (await stuck.task).status == 408
        left = client.call("/classify", photo.read_bytes()[:99], whole=False)
        left.leave()
        await left.task
        assert (await client.post("/classify", photo.read_bytes())).status == 200

    with_client(make_app(classifier, SURE, limit=1), test)


def test_more_than_is_held_is_shed_with_when_to_come_back(classifier, photo, monkeypatch):
    gate = Gate(classifier, monkeypatch)

    async def test(client: Client) -> None:
        calls = [client.call("/classify", photo.read_bytes()) for _ in range(3)]
        await until(client, "anytime_cls_held", 3)
        shed = [await client.post(path, photo.read_bytes()) for path in ("/classify", "/race")]
        for reply in shed:
            assert reply.status == 429 and reply.json()["error"].startswith("3 requests are held already")
            assert 1 <= int(reply.headers["retry-after"]) <= 60
        gate.open.set()
        assert [(await call.task).status for call in calls] == [200, 200, 200]
        assert (await client.post("/classify", photo.read_bytes())).status == 200
        assert (await metrics(client))["anytime_cls_held"] == 0

    with_client(make_app(classifier, SURE, limit=3), test)


@pytest.mark.parametrize("path", ["/classify", "/race"])
def test_who_leaves_ends_the_race_and_the_next_begins(classifier, photo, path):
    async def test(client: Client) -> None:
        call, waiting = (client.call(path, photo.read_bytes()) for _ in range(2))
        while path == "/race" and not call.reply.body:
            await asyncio.sleep(0.01)
        await until(client, "anytime_cls_held", 2)
        waiting.leave()
        await until(client, "anytime_cls_held", 1)
        call.leave()
        row = (await client.post("/classify?budget=20passes", photo.read_bytes())).json()
        assert row["stop"] == "budget"
        await asyncio.gather(call.task, waiting.task)
        seen = await metrics(client)
        assert seen["anytime_cls_cancelled_total"] == 2 and seen["anytime_cls_held"] == 0
        assert sum(n for name, n in seen.items() if "decisions_total" in name) == 1
        assert not any(name == "row" for name, _ in call.reply.events())

    with_client(make_app(classifier, LONG), test)


def test_a_client_that_does_not_read_keeps_no_place(classifier, photo):
    async def test(client: Client) -> None:
        slow = client.call("/race", photo.read_bytes())
        slow.reading.clear()
        while not slow.reply.status:
            await asyncio.sleep(0.01)
        await until(client, "anytime_cls_held", 0)
        assert (await client.post("/classify", photo.read_bytes())).status == 200
        assert not slow.task.done()
        slow.reading.set()
        assert (await slow.task).events()[-1][0] == "row"
        assert (await metrics(client))["anytime_cls_held"] == 0

    with_client(make_app(classifier, SURE, limit=1), test)


def test_waiting_counts_against_a_budget_in_seconds(classifier, photo, monkeypatch):
    """The first is held back for longer than the others' budgets: they get what can be had at once."""
    gate = Gate(classifier, monkeypatch)

    async def test(client: Client) -> None:
        calls = [client.call(f"/classify?budget={b}", photo.read_bytes()) for b in ("9passes", "0.2s", "30s")]
        await until(client, "anytime_cls_waiting", 2)
        await asyncio.sleep(0.3)
        gate.open.set()
        replies: list[Reply] = [await call.task for call in calls[:2]]
        assert [reply.json()["stop"] for reply in replies] == ["budget", "budget"]
        assert replies[1].json()["prefix"] or replies[1].json()["orders"] >= 1
        assert float(replies[1].headers["server-timing"].split(";dur=")[1].split(",")[0]) > 200
        while len(gate.raced) < 3:
            await asyncio.sleep(0.01)
        calls[2].leave()
        await calls[2].task

    with_client(make_app(classifier, LONG), test)
    assert gate.raced[1].amount == pytest.approx(1e-3)
    assert 0 < gate.raced[2].amount < 29.8  # less than was asked for: it waited


def test_who_waits_finds_an_equal_part_of_what_is_left(classifier, photo, monkeypatch):
    gate = Gate(classifier, monkeypatch, brief=True)

    async def test(client: Client) -> None:
        calls = [client.call("/classify?budget=1passes", photo.read_bytes())]
        await until(client, "anytime_cls_held", 1)
        calls += [
            client.call(f"/classify?budget={b}", photo.read_bytes())
            for b in ("6000s", "5000s", "4000s", "10h")
        ]
        await until(client, "anytime_cls_waiting", 4)
        for call in calls[2:]:
            call.leave()
        await until(client, "anytime_cls_waiting", 1)
        calls[2:] = [
            client.call(f"/classify?budget={b}", photo.read_bytes()) for b in ("5000s", "600s", "10h")
        ]
        await until(client, "anytime_cls_waiting", 4)
        gate.open.set()
        assert (await calls[0].task).status == 200
        assert (await calls[1].task).status == 200  # a third of the 600 s that the second behind it has
        for call in calls[2:]:
            call.leave()
            await call.task

    with_client(make_app(classifier, LONG), test)
    assert 100 < gate.raced[1].amount <= 200  # whatever waiting took of it


def test_what_races_take_beside_their_budgets_is_held_back(classifier, photo, monkeypatch):
    """Every race takes 0.1 s longer than it may: soon all are given less."""
    inner, given = classifier.classify, []

    def classify(source: Any, plan: Any, *rest: Any) -> Any:
        given.append(plan.budget.amount)
        time.sleep(plan.budget.amount + 0.1)
        return inner(source, replace(plan, budget=Budget(1, "passes")), *rest)

    monkeypatch.setattr(classifier, "classify", classify)

    async def test(client: Client) -> None:
        for _ in range(8):
            await client.post("/classify?budget=0.5s", photo.read_bytes())

    with_client(make_app(classifier, LONG), test)
    assert max(given) <= 0.5 and given[-1] < max(given) - 0.03


def test_a_race_that_fails_is_told_and_the_next_is_tried(classifier, photo, monkeypatch):
    inner, failures = classifier.classify, iter([RuntimeError("the device\nis lost"), MemoryError()])

    def classify(*args: Any) -> Any:
        for error in failures:
            raise error
        return inner(*args)

    monkeypatch.setattr(classifier, "classify", classify)

    async def test(client: Client) -> None:
        assert (await client.get("/healthz")).json()["status"] == "ok"
        reply = await client.post("/classify", photo.read_bytes())
        assert reply.status == 500 and "RuntimeError: the device is lost" in reply.json()["error"]
        health = await client.get("/healthz")
        assert health.status == 503 and "the device is lost" in health.json()["status"]
        assert (await client.post("/race", photo.read_bytes())).status == 500
        assert (await client.post("/race", photo.read_bytes())).status == 200
        health = await client.get("/healthz")
        assert health.status == 200 and health.json()["model"] == "tiny" and health.json()["classes"] == 10

    with_client(make_app(classifier, SURE), test)


def test_what_is_held_is_answered_before_the_server_ends(classifier, photo, monkeypatch):
    gate, calls = Gate(classifier, monkeypatch), []

    async def test(client: Client) -> None:
        calls.extend(client.call("/classify", photo.read_bytes()) for _ in range(3))
        await until(client, "anytime_cls_held", 3)
        threading.Timer(0.2, gate.open.set).start()

    with_client(make_app(classifier, SURE), test)
    assert len(gate.raced) == 3


def test_times_fall_into_buckets(classifier, photo):
    async def test(client: Client) -> None:
        for _ in range(3):
            await client.post("/classify", photo.read_bytes())
        seen = await metrics(client)
        buckets = [n for name, n in seen.items() if name.startswith("anytime_cls_answer_seconds_bucket")]
        assert buckets == sorted(buckets) and buckets[-1] == seen["anytime_cls_answer_seconds_count"] == 3
        assert seen["anytime_cls_answer_seconds_sum"] > 0 and seen["anytime_cls_passes_total"] > 0
        assert seen['anytime_cls_requests_total{path="/classify",code="200"}'] == 3

    with_client(make_app(classifier, SURE), test)


def test_the_page_is_here_and_asks_no_other_host(classifier):
    async def test(client: Client) -> None:
        for path, kind in (("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")):
            reply = await client.get(path)
            assert reply.status == 200 and reply.headers["content-type"].startswith(kind)
            assert "default-src 'none'" in reply.headers["content-security-policy"]
            assert b"//" not in reply.body.replace(b"\n//", b"").replace(b"; //", b"")  # comments alone

    with_client(make_app(classifier, SURE), test)
