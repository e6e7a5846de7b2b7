"""examples/server.py: forecasts over HTTP from an export alone; what is wrong with a request, in one line."""

import http.client
import json
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from bars import write_bars
from serving import EXAMPLES, command, example
from waiting import wait_for

pytestmark = pytest.mark.slow

HEADER = "date,open,high,low,close,volume"


class Client:
    """A server's process, and requests to it."""

    def __init__(self, process, port):
        self.process, self.port = process, port

    def connect(self):
        return closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60))

    def post(self, body, path="/forecast"):
        with self.connect() as connection:
            return answered(connection, "POST", path, body)

    def get(self, path):
        with self.connect() as connection:
            return answered(connection, "GET", path)


def answered(connection, method, path, body=None):
    connection.request(method, path, body.encode() if isinstance(body, str) else body)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


@pytest.fixture(scope="module")
def server(run, tmp_path_factory):
    log = tmp_path_factory.mktemp("server") / "stderr"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            command("server", run / "export", "--port", "0"), stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    port = int(process.stdout.readline().rsplit(":", 1)[1])
    yield Client(process, port)
    assert process.poll() is None  # nothing ended it
    process.terminate()
    process.wait()
    process.stdout.close()
    assert log.read_text() == ""


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "PLAIN.csv"
    write_bars(path, seed=5)
    return path.read_text()


def test_bars_get_their_forecasts(server, run, plain):
    expected = example("serve").Forecaster(run / "export")(plain.encode(), "ABC")
    assert server.post(plain, "/forecast?symbol=ABC") == (200, expected)
    bars = [dict(zip(HEADER.split(","), line.split(","), strict=True)) for line in plain.split()[1:]]
    assert server.post(json.dumps({"symbol": "ABC", "bars": bars})) == (200, expected)
    assert server.post("\ufeff" + plain.replace("\n", "\r\n"), "/forecast?symbol=ABC") == (200, expected)
    assert [row["horizon"] for row in expected] == [3, 5, 10]


def test_it_says_that_it_is_well_and_what_it_serves(server, run):
    manifest = json.loads((run / "export/manifest.json").read_text())
    expected = {"status": "ok", "sha256": manifest["sha256"], "horizons": [3, 5, 10]}
    assert server.get("/health") == (200, expected)


def edited(row, column, value):
    """Makes bars in which one value is another."""

    def edit(plain):
        lines = [line.split(",") for line in plain.split()]
        lines[row][column] = value
        return "\n".join(map(",".join, lines))

    return edit


def as_json(**changes):
    def edit(plain):
        lines = [line.split(",") for line in plain.split()[1:]]
        columns = {
            name: list(values)
            for name, values in zip(HEADER.split(","), zip(*lines, strict=True), strict=True)
        }
        return json.dumps({"bars": {**columns, **changes}})

    return edit


def lines(edit):
    return lambda plain: "\n".join(edit(plain.split()))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edited(0, 4, "price"), "the column close is missing"),
        (edited(0, 0, "when"), "the column date is missing"),
        (edited(0, 1, "close"), "'close' is there twice"),
        (lines(lambda rows: rows[:30]), "29 bars, where the model needs 42"),
        (lines(lambda rows: rows[:1]), "no bars"),
        (lambda plain: "", "no bars"),
        (lambda plain: "{}", "bars"),
        (lambda plain: "[]", "no bars"),
        (lambda plain: '{"bars": 5}', "no bars"),
        (lambda plain: '{"bars": [1, 2]}', "row 1 is not an object"),
        (lambda plain: '{"bars": {"date": "2024-01-31"}}', "neither a list of bars nor"),
        (lambda plain: '{"symbol": 5, "bars": [{}]}', "symbol is not text"),
        (lambda plain: '{"bars": [', "neither CSV nor JSON"),
        (lambda plain: "[" * 100_000, "neither CSV nor JSON"),
        (lambda plain: b"\xff\xfe" + plain.encode(), "neither CSV nor JSON"),
        (lambda plain: b"\x89PNG\r\n\x1a\n\x00\x00", "neither CSV nor JSON"),
        (lines(lambda rows: [rows[0], *rows[:0:-1]]), "dates must increase"),
        (lines(lambda rows: [*rows, rows[-1]]), "dates must increase"),
        (edited(9, 0, "2020-13-01"), "date"),
        (edited(9, 0, "1/4/1999"), "row 9: date is '1/4/1999'"),
        (edited(9, 0, ""), "row 9: date is ''"),
        (edited(9, 1, "n/a"), "row 9: open is 'n/a'"),
        (edited(9, 1, ""), "row 9: open is ''"),
        (edited(9, 2, "nan"), "row 9: high is 'nan'"),
        (edited(9, 2, "inf"), "row 9: high is 'inf'"),
        (edited(9, 3, "-1"), "a price is 0 or below"),
        (edited(9, 3, "0"), "a price is 0 or below"),
        (edited(9, 5, "-1"), "the volume is below 0"),
        (edited(9, 5, "1e300"), "too large"),
        (edited(9, 2, "9999"), "5 times off"),
        (edited(9, 3, "120"), "the high is below the low"),
        (edited(9, 4, "150"), "open or close is outside low to high"),
        (lines(lambda rows: [*rows[:9], rows[9] + ",7", *rows[10:]]), "row 9 has 7 values, the header 6"),
        (as_json(close=[1.0]), "columns differ in length"),
        (as_json(volume=[None] * 160), "row 1: volume is 'None'"),
        (as_json(volume=[True] * 160), "row 1: volume is 'True'"),
        (as_json(volume=[[]] * 160), "row 1: volume is '[]'"),
        (as_json(volume=[10**400] * 160), "row 1: volume is '1000"),
        (as_json(date=[20240131] * 160), "row 1: date is '20240131'"),
        (as_json(symbol=[5] * 160), "row 1: symbol is not text"),
        (as_json(adj_close=[0] * 160), "adj_close is 0 or below"),
        (as_json(adj_close=["x"] * 160), "adj_close is 'x'"),
    ],
)  # fmt: skip
def test_bad_bars_are_refused_in_a_line(server, plain, edit, message):
    with server.connect() as connection:
        status, answer = answered(connection, "POST", "/forecast", edit(plain))
        assert answered(connection, "POST", "/forecast", plain)[0] == 200  # the connection stays
    assert status == 422 and set(answer) == {"error"}, answer
    assert message in answer["error"] and "\n" not in answer["error"] and len(answer["error"]) < 400


def test_too_much_is_refused_before_it_is_read(server, plain):
    rows = "\n".join([HEADER, *["2020-01-01,1,1,1,1,1"] * 20_001])
    status, answer = server.post(rows)
    assert status == 413 and "20,001 bars" in answer["error"]
    status, answer = server.post(json.dumps({"bars": {"date": ["2020-01-01"] * 20_001}}))
    assert status == 413 and "20,001 bars" in answer["error"]
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
        raw.sendall(b"POST /forecast HTTP/1.1\r\nContent-Length: 999999999999\r\n\r\n")
        assert b" 413 " in raw.makefile("rb").readline()


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"POST /forecast HTTP/1.1\r\n\r\n", 411),
        (b"POST /forecast HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 411),
        (b"POST /forecast HTTP/1.1\r\nContent-Length: x\r\n\r\n", 411),
        (b"POST /forecast HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", 411),
        (b"POST /elsewhere HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", 404),
        (b"GET /forecast HTTP/1.1\r\n\r\n", 404),
        (b"DELETE /forecast HTTP/1.1\r\n\r\n", 501),
        (b"nonsense\r\n\r\n", 400),
    ],
)
def test_other_requests_get_their_status(server, request_line, status):
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
        raw.sendall(request_line)
        assert f" {status} ".encode() in raw.makefile("rb").read(200) or status == 400
    assert server.get("/health")[0] == 200


def test_a_client_that_goes_away_leaves_it_running(server, plain):
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(b"POST /forecast HTTP/1.1\r\nContent-Length: 50000\r\n\r\n" + plain.encode()[:100])
    assert server.post(plain)[0] == 200


def test_more_connections_than_it_takes_are_refused_until_some_are_free(server):
    most = example("server").MAX_CONNECTIONS
    assert server.get("/health")[0] == 200
    held = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(most)]
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as refused:
            assert b" 503 " in refused.makefile("rb").readline()
    finally:
        for one in held:
            one.close()

    def is_free():
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
            raw.sendall(b"GET /health HTTP/1.0\r\n\r\n")
            return b" 200 " in raw.makefile("rb").readline()

    wait_for(is_free)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_requests(server, plain):
    resident = example("load_test").resident_bytes
    rows = plain.split()

    def send(count):
        with server.connect() as connection:
            for number in range(count):
                body = "\n".join(rows[: 50 + number % 100]) if number % 10 else "nonsense"
                status, _ = answered(connection, "POST", "/forecast", body)
                assert status == (200 if number % 10 else 422)

    send(300)
    before = resident(server.process.pid)
    send(2000)
    assert resident(server.process.pid) - before < 8_000_000


def test_the_load_test_reports_its_measurements(run):
    done = subprocess.run(
        [sys.executable, EXAMPLES / "load_test.py", run / "export", "--rate", "20", "--seconds", "2"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["requests"] == 40 and found["errors"] == 0
    assert 0 < found["p50_ms"] <= found["p99_ms"] <= found["max_ms"]


@pytest.mark.parametrize("damage", ["nothing there", "no manifest", "no bars"])
def test_a_folder_that_it_cannot_serve_is_refused_in_a_line(run, here, damage):
    folder = here / "export"
    if damage != "nothing there":
        folder.mkdir()
    if damage == "no bars":
        (folder / "manifest.json").write_text('{"bars": null, "bars_unavailable": "it has none"}')
    done = subprocess.run(command("server", folder, "--port", "0"), capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("server.py: ")
    assert len(done.stderr.splitlines()) == 1
