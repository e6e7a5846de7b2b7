"""Measures server.py: python load_test.py RUN/export --rate 200 --seconds 30

Starts the server on one core and sends requests of one symbol at fixed times, whether or not earlier ones are
answered. The time of a request counts from when it was due, so waiting in a queue counts.
"""

import argparse
import http.client
import json
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

CONNECTIONS = 16


def random_bars(count):
    """CSV of a random walk on weekdays."""
    rng = np.random.default_rng(0)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.015, count)))
    opening = close * np.exp(rng.normal(0, 0.005, count))
    high, low = np.maximum(opening, close) * 1.005, np.minimum(opening, close) * 0.995
    days = np.busday_offset("2010-01-04", np.arange(count))
    volume = rng.integers(1e5, 1e7, count)
    rows = zip(days, opening, high, low, close, volume, strict=True)
    lines = (",".join([str(day), *(f"{price:.4f}" for price in prices), str(v)]) for day, *prices, v in rows)
    return "\n".join(["date,open,high,low,close,volume", *lines]).encode()


def resident_bytes(pid):
    """Memory of a process; None where /proc is not there."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def cpu_seconds(pid):
    """Processor time that a process has taken; None where /proc is not there."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return None


def start(folder, core=None):
    """The server's process and its port."""
    command = [sys.executable, str(Path(__file__).with_name("server.py")), str(folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    if not line:
        sys.exit("load_test.py: the server did not start")
    if core is not None and hasattr(os, "sched_setaffinity"):
        for thread in os.listdir(f"/proc/{process.pid}/task"):
            os.sched_setaffinity(int(thread), {core})
    return process, int(line.rsplit(":", 1)[1])


def send(port, body, rate, count):
    """Milliseconds from when each request was due, and the number of those not answered with 200."""
    due, spent, failed = queue.SimpleQueue(), [], []

    def work():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while (at := due.get()) is not None:
            try:
                connection.request("POST", "/forecast", body)
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    failed.append(answer.status)
            except (OSError, http.client.HTTPException) as error:
                failed.append(repr(error))
                connection.close()
            spent.append(1000 * (time.perf_counter() - at))
        connection.close()

    workers = [threading.Thread(target=work) for _ in range(CONNECTIONS)]
    for worker in workers:
        worker.start()
    begin = time.perf_counter()
    for number in range(count):
        at = begin + number / rate
        time.sleep(max(0.0, at - time.perf_counter()))
        due.put(at)
    for _ in workers:
        due.put(None)
    for worker in workers:
        worker.join()
    return np.array(spent), failed, count / (time.perf_counter() - begin)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("folder")
    parser.add_argument("--rate", type=float, default=200, help="requests a second")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--history", type=int, default=300, help="bars in a request")
    parser.add_argument("--core", type=int, default=0, help="the one that the server runs on")
    given = parser.parse_args()
    process, port = start(given.folder, given.core)
    try:
        body = random_bars(given.history)
        send(port, body, given.rate, int(given.rate))  # what is allocated once is allocated now
        before, begun = resident_bytes(process.pid), cpu_seconds(process.pid)
        spent, failed, rate = send(port, body, given.rate, int(given.rate * given.seconds))
        after, ended = resident_bytes(process.pid), cpu_seconds(process.pid)
    finally:
        process.terminate()
        process.wait()
    found = {
        "requests": len(spent),
        "per_second": round(rate, 1),
        "p50_ms": round(float(np.percentile(spent, 50)), 2),
        "p99_ms": round(float(np.percentile(spent, 99)), 2),
        "max_ms": round(float(spent.max()), 2),
        "errors": len(failed),
        "cpu_ms_per_request": None if begun is None else round(1000 * (ended - begun) / len(spent), 2),
        "memory_mb": None if before is None else round(after / 1e6, 1),
        "memory_growth_mb": None if before is None else round((after - before) / 1e6, 2),
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
