"""The arithmetic behind docs/results: medians, ratios round by round, bars, and a run that goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import certificates, registrations
from bench.journal import Journal
from bench.measure import LoadError, Result, check_messages
from bench.peers import PeerError
from bench.report import COSTS, SERVERS, Figure, make_report, summarize, to_markdown
from bench.servers import mosquitto_line


def journal_of(path: Path, measurement: str, figure: str, values: dict[str, list[float]]) -> Journal:
    journal = Journal(path / "journal.jsonl")
    for server, rounds in values.items():
        for number, value in enumerate(rounds, start=1):
            result: Result = {figure: value}
            journal.once(measurement, server, number, lambda result=result: result)  # type: ignore[misc]
    return journal


def test_ratio_is_the_median_of_the_rounds_not_the_ratio_of_the_medians(tmp_path: Path) -> None:
    values = {"Muster": [10.0, 30.0, 40.0], "Mosquitto": [20.0, 20.0, 100.0]}
    journal = journal_of(tmp_path, "window 1", "server_us_per_message", values)
    (row,) = summarize(journal, COSTS[:1])
    assert row["values"]["Muster"] == {"median": 30.0, "min": 10.0, "max": 40.0}
    assert row["ratios"] == {"Mosquitto": 0.5}


@pytest.mark.parametrize(("own", "met"), [(13.0, True), (13.2, False)])
def test_bar_on_a_ratio(tmp_path: Path, own: float, met: bool) -> None:
    journal = journal_of(tmp_path, "window 1", "server_us_per_message", {"Muster": [own], "Mosquitto": [10.0]})
    assert summarize(journal, COSTS[:1])[0]["met"] is met


@pytest.mark.parametrize(("own", "met"), [(30.0, True), (30.5, False)])
def test_bar_on_a_value(tmp_path: Path, own: float, met: bool) -> None:
    journal = journal_of(tmp_path, "idle", "kib_per_connection", {"Muster": [own], "Mosquitto": [1.0]})
    assert summarize(journal, COSTS[3:])[0]["met"] is met


def test_a_figure_without_its_peer_meets_no_bar(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, "window 1", "server_us_per_message", {"Muster": [1.0]})
    assert summarize(journal, COSTS[:1])[0]["met"] is None


def test_report_names_a_missed_bar(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, "window 1", "server_us_per_message", {"Muster": [20.0], "Mosquitto": [10.0]})
    facts = {"date": "d", "command": "c", "machine": {"cores": 2}, "rounds": 1}
    scale = {"connections": 1, "payload_bytes": 1, "idle_connections": 1, "servers": SERVERS}
    text = to_markdown({**facts, **scale, "figures": summarize(journal, COSTS[:1])})
    assert "| CPU a message, window 1, µs | 20.00 | 10.00 | - | 2.00 | - | ≤ 1.3 x Mosquitto: **missed** |" in text


def test_bars_are_held_against_the_second_server(tmp_path: Path) -> None:
    figure = Figure("CPU a message, µs", "one link", "us", 1, 0.4)
    journal = journal_of(tmp_path, "one link", "us", {"Muster": [20.0, 30.0], "RabbitMQ": [100.0, 60.0]})
    made = make_report(journal, {"links": 5}, {}, "c", figures=[figure], servers=["Muster", "RabbitMQ"])
    text = to_markdown(made, "AMQP", "On {links} links.")
    assert text.startswith("# AMQP of ")
    assert "\nOn 5 links.\n" in text
    row = "| CPU a message, µs | 25.0 (20.0-30.0) | 80.0 (60.0-100.0) | 0.35 | ≤ 0.4 x RabbitMQ: met |"
    assert f"| | Muster | RabbitMQ | to RabbitMQ | asked |\n| --- | --- | --- | --- | --- |\n{row}\n" in text


def test_a_figure_that_a_peer_does_not_have_is_left_open(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, "load", "us", {"RabbitMQ": [1.0]})
    journal.once("load", "Muster", 1, lambda: {"us": 2.0, "read_us": 3.0})
    (row,) = summarize(journal, [Figure("read", "load", "read_us", 1)], ["Muster", "RabbitMQ"])
    assert (list(row["values"]), row["ratios"]) == (["Muster"], {})


def test_stopped_run_measures_only_what_is_left(tmp_path: Path) -> None:
    journal_of(tmp_path, "window 1", "acks_per_s", {"Muster": [1.0]})
    again = Journal(tmp_path / "journal.jsonl")
    assert again.once("window 1", "Muster", 1, lambda: pytest.fail("was measured before")) == {"acks_per_s": 1.0}
    assert not again.holds("window 1", "Muster", 2)


@pytest.mark.parametrize(("sent", "acked", "delivered"), [(10, 9, 9), (10, 10, 9), (10, 10, 11)])
def test_figures_of_a_run_that_lost_or_doubled_messages_are_refused(sent: int, acked: int, delivered: int) -> None:
    with pytest.raises(LoadError):
        check_messages("run", {"sent_total": sent, "acked_total": acked, "delivered_total": delivered}, read_along=True)


def test_password_line_is_what_mosquitto_reads() -> None:
    user, _, hashed = mosquitto_line("device-1", "secret").strip().partition(":")
    empty, kind, iterations, salt, digest = hashed.split("$")
    assert (user, empty, kind, iterations, len(salt), len(digest)) == ("device-1", "", "7", "101", 16, 88)


def test_connects_with_certificates_are_told_with_their_ratio_and_bar() -> None:
    def storms(*costs: float) -> list[Result]:
        return [{certificates.COST: cost, "connects_per_s": 1000.0} for cost in costs]

    results = {
        certificates.FIRST: {"Muster": storms(1.2, 1.4, 3.0), "Mosquitto": storms(1.0, 1.0, 1.0)},
        certificates.AGAIN: {"Muster": storms(1.2, 1.2, 1.2), "Mosquitto": storms(1.0, 1.2, 1.0)},
        certificates.THUMBPRINT: {"Muster": storms(0.7, 0.8, 0.9)},
    }
    text = certificates.to_markdown(results, {"cores": 2})
    assert "| certificate, first time | 1.400 (1.200-3.000) | 1.000 (1.000-1.000) | 1.40 | ≤ 1.3: **missed** |" in text
    assert "| certificate, again | 1.200 (1.200-1.200) | 1.000 (1.000-1.200) | 1.20 | ≤ 1.3: met |" in text
    assert "| thumbprint | 0.800 (0.700-0.900) | - | - |  | 1,000 | - |" in text


@pytest.mark.parametrize(
    ("stack", "part"),
    [
        (["run (uvloop)", "find (muster/identity/trust.py:1)", "verify (OpenSSL/crypto.py:2)"], "verification"),
        (["judge (muster/heads/mqtt_connect.py:1)", "_get (muster/stores/sqlite/identities.py:2)"], "registry"),
        (["step_handshake (muster/heads/tls.py:1)", "step (muster/heads/secure.py:2)"], "TLS"),
        (["_open (muster/heads/mqtt.py:1)"], "MQTT, verdict, session"),
        (["run (uvloop)"], "event loop and the rest"),
    ],
)
def test_the_part_of_a_connect_that_a_stack_belongs_to(stack: list[str], part: str) -> None:
    assert certificates.part_of(stack) == part


def test_a_device_that_is_not_in_the_one_hub_that_it_was_told_ends_a_run_of_registrations() -> None:
    registrations.check_places({"a": "one", "b": "two"}, {"a": ["one"], "b": ["two"], "older": ["one", "two"]})
    for found in ({}, {"a": ["two"]}, {"a": ["one", "two"]}, {"a": ["one", "one"]}):
        with pytest.raises(PeerError, match="1 devices"):
            registrations.check_places({"a": "one"}, found)


def test_registrations_are_told_with_their_ratio_and_their_spread(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    for number, (base, cost) in enumerate([(1000.0, 2000.0), (1000.0, 5000.0), (2000.0, 6000.0)], 1):
        counts = [100, 200, 300] if number < 3 else [0, 0, 600]
        result = {"us": cost, "per_s": 50.0, "busy": 0.25, "polls": 1.0, "hubs": counts, "ms": [1.0] * 599 + [90.0]}
        journal.once(registrations.CONNECT, "Muster", number, lambda base=base: {"us": base})  # type: ignore[misc]
        journal.once(registrations.REGISTER, "Muster", number, lambda result=result: result)  # type: ignore[misc]
    removed = {"devices": 1800, "told_before": 9, "told_meanwhile": 8, "failed": 0, "hubs": [600, 1200, 0]}
    journal.once(registrations.UNLINKED, "Muster", 1, lambda: removed)
    made = registrations.make_report(journal, "Muster")
    assert (made["devices"], made["p50_ms"], made["p99_ms"], made["most_ms"]) == (1800, 1.0, 1.0, 90.0)
    text = registrations.to_markdown(made, {"cores": 2}, "c")
    row = "| registration, with TLS and 1.000 polls | 5,000 (2,000-6,000) | 3.00 (2.00-5.00) | ≤ 4: met |"
    assert row in text
    assert "| third.example | 3 | 1,200 | 900 | 0 |" in text
    assert "Chi-square of the spread: 200.00 (≤ 13.8: **missed**)" in text
