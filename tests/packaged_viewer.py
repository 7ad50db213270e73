"""Start `tilevault serve` as it was installed, and see that it answers with the viewer.

    python -P tests/packaged_viewer.py ARCHIVE

Run by `make package` with the interpreter of the environment into which the wheel was installed.
"""

import json
import re
import subprocess
import sys
import urllib.request


def fetch(url: str) -> str:
    """The body of a 200."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        return str(answer.read().decode())


def main(archive: str) -> int:
    """0 where the page, and every file that it names, come from the installed package."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "tilevault.workflows.cli",
        "serve",
        archive,
        "--port",
        "0",
        "--json",
    ]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    url = json.loads(server.stdout.readline())["url"]
    try:
        page = fetch(url)
        named = re.findall(r'(?:src|href)="(viewer/[^"]+)"', page)
        if not any(name.endswith(".js") for name in named):
            print("the installed server answers without the viewer", file=sys.stderr)
            return 1
        size = sum(len(fetch(url + name)) for name in named)
    finally:
        server.terminate()
        server.wait()
    print(f"the installed server answers with the viewer: {len(named)} files, {size} characters")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
