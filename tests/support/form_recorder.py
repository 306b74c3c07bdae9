"""Records the forms that real clients send, as rows of ``tests/vectors/recorded_forms.toml``.

    python -m tests.support.form_recorder > tests/vectors/recorded_forms.toml

It needs Chromium and curl; httpx and requests come with the development environment. Each client sends the same things: several files of
one field, an input in which nothing was chosen, a file without content, and names with letters of several scripts, quotes, backslashes,
percent signs and line breaks. What they mean is added by hand: ``files`` and ``fields``, read from the bytes.
"""

import base64
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

import httpx
import requests

PAGE: Final = """<!doctype html><meta charset="utf-8"><title>forms</title><script>
const file = (content, name, type) => new File([content], name, {type});
const forms = {
  "several files": [
    ["title", "Ein Titel"], ["files", [file("one", "one.txt", "text/plain"), file("zwei\\r\\n--", "zwei.bin", "")]], ["end", ""]
  ],
  "no file chosen": [["before", "1"], ["file", []], ["after", "2"]],
  "a file without content": [["file", [file("", "empty.txt", "text/plain")]]],
  "names in several scripts": [["größe", "λόγος"], ["ファイル", [file("x", "Grüße 文件 🐈 e\\u0301.txt", "text/plain")]]],
  "quotes and line breaks in names": [["a\\"b\\nc", "v\\nw"], ["f\\"\\r\\ng", [file("x", "q\\"uote\\nbreak.txt", "text/plain")]]],
  "backslashes and percent signs in names": [["a\\\\b%22%0A", "1"], ["f\\\\", [file("x", "back\\\\", ""), file("y", "100%22.txt", "")]]],
  "the charset": [["_charset_", ""], ["text", "ü"]],
  "a page archive": [["file", [file("x", "page.mhtml", "multipart/related")]]],
};
function submit(name, pairs, charset) {
  return new Promise(done => {
    const frame = document.createElement("iframe");
    frame.name = name;
    document.body.append(frame);
    const form = document.body.appendChild(document.createElement("form"));
    Object.assign(form, {method: "post", enctype: "multipart/form-data", action: "/" + encodeURIComponent(name), target: name});
    if (charset) form.acceptCharset = charset;
    for (const [key, value] of pairs) {
      const input = document.createElement(typeof value === "string" && value.includes("\\n") ? "textarea" : "input");
      input.name = key;
      if (typeof value === "string") {
        if (key === "_charset_") input.type = "hidden";
        input.value = value;
      } else {
        input.type = "file";
        input.multiple = true;
        const chosen = new DataTransfer();
        value.forEach(each => chosen.items.add(each));
        input.files = chosen.files;
      }
      form.append(input);
    }
    frame.onload = done;
    form.submit();
  });
}
window.onload = async () => {
  for (const [name, pairs] of Object.entries(forms)) await submit(name, pairs);
  await submit("another charset", [["_charset_", ""], ["text", "ü€"]], "windows-1252");
  const data = new FormData();
  data.append("script", new Blob(["from a script"]));
  data.append("named", file("x", "folder/inner.txt", "text/plain"));
  await fetch("/sent by a script", {method: "POST", body: data});
  await fetch("/done", {method: "POST"});
};
</script><body>"""

Row = tuple[str, str, bytes]


@contextmanager
def recording() -> Iterator[tuple[str, list[Row], threading.Event]]:
    """Serve the page and keep what is posted: the name in the path, the type, the body. The event is the page's end."""
    rows: list[Row] = []
    is_done = threading.Event()

    class Recorder(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(PAGE.encode())

        def do_POST(self) -> None:
            if self.headers.get("transfer-encoding") == "chunked":
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size + 2)[:-2]
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.path == "/done":
                is_done.set()
            else:
                rows.append((unquote(self.path[1:]), self.headers["content-type"], body))
            self._answer(b"ok")

        def _answer(self, content: bytes) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", rows, is_done
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def record_chromium(url: str, is_done: threading.Event) -> str:
    program = shutil.which("chromium")
    if program is None:
        sys.exit("Chromium is needed: apt-get install chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}"]
        with subprocess.Popen([program, *options, url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
            is_ended = is_done.wait(60)
            browser.terminate()
    if not is_ended:
        sys.exit("Chromium did not send every form.")
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split(" built")[0]


def record_curl(url: str, folder: Path) -> str:
    for name in ("plain.txt", 'q"uote.txt', "back\\slash.txt", "Grüße.txt", "empty"):
        (folder / name).write_bytes(b"" if name == "empty" else b"content")
    for name, fields in {
        "several files": ["text=hello", "file=@plain.txt;type=text/plain", "file=@empty", "other=@Grüße.txt"],
        "quotes and backslashes": ['file=@"q\\"uote.txt"', 'file=@"back\\\\slash.txt"', 'a"b=1'],
        "a path as the name": ["file=@plain.txt;filename=C:\\dir\\a.txt", "file=@plain.txt;filename=../../etc/passwd"],
    }.items():
        for option in ([], ["--form-escape"]):
            arguments = [part for field in fields for part in ("-F", field)]
            target = quote(name + "".join(option))
            subprocess.run(["curl", "-sSf", "-o", "/dev/null", *option, *arguments, f"{url}/{target}"], cwd=folder, check=True)
    return subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout.split(" (")[0]


FILES: Final = [
    ("file", ("one.txt", b"one", "text/plain")),
    ("file", ("Grüße 文件.txt", b"two\r\n--", None)),
    ("file", ('q"uote\nbreak\\slash.txt', b"", "text/plain")),
    ("größe", ("x.bin", b"\x00\xff", "application/octet-stream")),
]


def record_library(post: Callable[..., object], package: str, url: str) -> str:
    post(f"{url}/several files", data={"title": "Ein Täxt", 'a"b\nc': "1"}, files=FILES)
    post(f"{url}/bytes without a name", files={"file": b"content"})
    post(f"{url}/no name", files={"field": (None, b"a field")})
    return f"{package} {version(package)}"


def print_rows(client: str, rows: list[Row]) -> None:
    for name, content_type, body in rows:
        print(f"\n[[form]]\nname = {json.dumps(f'{client}: {name}', ensure_ascii=False)}\ntype = {json.dumps(content_type)}")
        print(f'base64 = "{base64.b64encode(body).decode()}"')


def main() -> None:
    """Record every client and print the rows, without what they mean."""
    print("# Recorded by `python -m tests.support.form_recorder`, which says what was sent. The keys are those of forms.toml.")
    with recording() as (url, rows, is_done), tempfile.TemporaryDirectory() as folder:
        clients: list[Callable[[], str]] = [
            lambda: record_chromium(url, is_done),
            lambda: record_curl(url, Path(folder)),
            lambda: record_library(httpx.post, "httpx", url),
            lambda: record_library(requests.post, "requests", url),
        ]
        for record in clients:
            client = record()
            print_rows(client, rows)
            rows.clear()


if __name__ == "__main__":
    main()
