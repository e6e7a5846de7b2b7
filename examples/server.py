"""An HTTP server of forecasts from an export alone, with onnxruntime and numpy: python server.py RUN/export

    curl --data-binary @AAPL.csv 'http://127.0.0.1:8000/forecast?symbol=AAPL'

POST /forecast takes bars as serve.py does and answers with a list of forecasts. Bars that can't be forecast
get 422 and {"error": "..."}, too many 413. GET /health says which weights are served. Requests are computed
one after the other on one thread. There is no encryption and no login: put it behind a proxy that has them.
"""

import argparse
import contextlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from serve import BadBars, Forecaster, TooManyRows

MAX_BYTES = 2_000_000
MAX_CONNECTIONS = 64
SECONDS = 10  # that a client may be silent


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = SECONDS
    wbufsize = 1 << 16  # an answer in one packet
    disable_nagle_algorithm = True
    error_content_type = "application/json"
    error_message_format = '{"error": "%(message)s"}'

    def do_GET(self):
        if urlsplit(self.path).path != "/health":
            return self.answer(404, {"error": "no such path: GET /health or POST /forecast"})
        manifest = self.server.forecaster.manifest
        return self.answer(
            200, {"status": "ok", "sha256": manifest["sha256"], "horizons": manifest["horizons"]}
        )

    def do_POST(self):
        length = self.headers.get("Content-Length", "")
        if (
            not (length.isascii() and length.isdigit() and len(length) < 20)
            or "Transfer-Encoding" in self.headers
        ):
            return self.answer(411, {"error": "Content-Length is missing"}, close=True)
        if int(length) > MAX_BYTES:
            return self.answer(413, {"error": f"more than {MAX_BYTES:,} bytes"}, close=True)
        content = self.rfile.read(int(length))
        if len(content) < int(length):
            self.close_connection = True
            return None
        url = urlsplit(self.path)
        if url.path != "/forecast":
            return self.answer(404, {"error": "no such path: GET /health or POST /forecast"})
        symbol = parse_qs(url.query).get("symbol", [""])[0]
        try:
            with self.server.turn:
                found = self.server.forecaster(content, symbol)
        except TooManyRows as error:
            return self.answer(413, {"error": str(error)})
        except BadBars as error:
            return self.answer(422, {"error": str(error)})
        except Exception as error:
            print(
                f"server.py: {type(error).__name__} at a request of {length} bytes",
                file=sys.stderr,
                flush=True,
            )
            return self.answer(500, {"error": "internal error"})
        return self.answer(200, found)

    def answer(self, status, body, close=False):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if close:  # what follows was not read
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """A line per request would be most of the work."""


class Server(ThreadingHTTPServer):
    """A thread per connection, so many at most; one request is computed at a time."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address, forecaster):
        self.forecaster = forecaster
        self.turn = threading.Lock()
        self.free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, Handler)

    def process_request(self, request, client_address):
        if self.free.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        request.settimeout(1)
        with contextlib.suppress(OSError):
            request.sendall(
                b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
        self.shutdown_request(request)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free.release()

    def handle_error(self, request, client_address):
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):  # a client that went away is no error
            print(f"server.py: {type(error).__name__}", file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(description="Forecasts over HTTP from the folder of an export.")
    parser.add_argument("folder")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free")
    given = parser.parse_args()
    try:
        server = Server((given.host, given.port), Forecaster(given.folder))
    except (OSError, ValueError) as error:
        sys.exit(f"server.py: {error}")
    print(f"listening on http://{given.host}:{server.server_address[1]}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    main()
