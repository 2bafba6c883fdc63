"""A real JupyterLab and a real browser for tests: open a notebook, run cells, act, look."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat

from workbench._util import PROJECT

TOKEN = "only-for-tests"
ARTIFACTS = PROJECT / "build" / "screenshots"
# Said by JupyterLab itself or by a missing favicon, whatever the notebook does.
_NOT_OURS = (
    "favicon",
    "404 (Not Found)",
    "ResizeObserver",
    "WebGL",
    "GPU stall",
    "GL Driver",
    "preload",
    "debugger state",
)


def has_chromium() -> bool:
    """Say whether there is a browser; where one is required, its absence is an error."""
    if shutil.which("chromium"):
        return True
    if os.environ.get("WORKBENCH_REQUIRE_BROWSER"):
        raise RuntimeError("WORKBENCH_REQUIRE_BROWSER is set and there is no chromium")
    return False


def free_port() -> int:
    """Return a port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(url: str, server: subprocess.Popen, seconds: int = 120) -> bool:
    """Wait until a server answers there; say whether it did before it ended or the time was over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url, timeout=2)
            return True
        time.sleep(0.5)
    return False


def launched(playwright):
    """Return a Chromium that draws WebGL without a GPU."""
    return playwright.chromium.launch(
        executable_path=shutil.which("chromium"),
        args=[
            "--no-sandbox",
            "--use-angle=swiftshader",
            "--enable-unsafe-swiftshader",
            "--ignore-gpu-blocklist",
        ],
    )


def lit(page, count):
    """Wait until the map and the table of a page both have so many selected."""
    page.wait_for_function(
        "s => [...document.querySelectorAll('.workbench .pager .label')].some(e => e.innerText.includes(s))",
        arg=f"{count:,} selected",
    )
    page.wait_for_function(
        "s => document.querySelector('.workbench-map')?.ariaLabel?.includes(s)",
        arg=f", {count} selected",
    )


def painted(page):
    """Say of each view of a page which of map, table and histogram have nothing on them."""
    return page.evaluate(
        """() => [...document.querySelectorAll('.workbench-map')].map(map => {
          const view = map.closest('.jp-OutputArea-output') ?? map.parentElement;
          const ink = map.width && new Uint32Array(map.getContext('2d').getImageData(0, 0, map.width, map.height).data.buffer)
            .some(pixel => pixel);
          const there = {map: ink, rows: view.querySelector('tbody tr'), bars: view.querySelector('.js-plotly-plot .bars path')};
          return Object.keys(there).filter(name => !there[name]).join();
        })"""
    )


class Lab:
    """A JupyterLab server on a folder of its own, and a browser."""

    def __init__(self, folder: Path) -> None:
        from playwright.sync_api import sync_playwright

        self.folder = folder
        self.port = free_port()
        private = {
            name: str(folder / ".jupyter" / name)
            for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR",
                         "JUPYTERLAB_WORKSPACES_DIR")
        }  # fmt: skip
        environment = (
            os.environ
            | private
            | {"WORKBENCH_HOME": str(folder / "home"), "PYTHONWARNINGS": "ignore"}
        )
        settings = (
            folder / ".jupyter" / "JUPYTERLAB_SETTINGS_DIR" / "@jupyterlab" / "apputils-extension"
        )
        settings.mkdir(parents=True)
        (settings / "notification.jupyterlab-settings").write_text(
            '{"fetchNews": "false", "checkForUpdates": false}'
        )
        self._log = (folder / "lab.log").open("w")
        self._server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={self.port}", "--allow-root",
             f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}", "--expose-app-in-browser"],
            env=environment, stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.url = f"http://127.0.0.1:{self.port}"
        try:
            if not answers(f"{self.url}/api/status?token={TOKEN}", self._server):
                raise RuntimeError(
                    f"JupyterLab did not start: {(folder / 'lab.log').read_text()[-2000:]}"
                )
            self._playwright = sync_playwright().start()
            self.browser = launched(self._playwright)
        except BaseException:
            self._server.terminate()
            raise

    def close(self) -> None:
        self.browser.close()
        self._playwright.stop()
        self._server.terminate()
        try:
            self._server.wait(20)
        except subprocess.TimeoutExpired:  # a busy machine
            self._server.kill()
        self._log.close()

    def open(self, name: str, cells: list[str] | None = None, *, width: int = 1300) -> Notebook:
        """Open a notebook of these cells, or one that lies in the folder."""
        if cells is not None:
            notebook = nbformat.v4.new_notebook(
                metadata={
                    "kernelspec": {
                        "name": "python3",
                        "display_name": "Python 3",
                        "language": "python",
                    }
                },
                cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
            )
            nbformat.write(notebook, self.folder / f"{name}.ipynb")
        page = self.browser.new_page(viewport={"width": width, "height": 1400})
        return Notebook(page, f"{self.url}/lab/tree/{name}.ipynb?token={TOKEN}&reset", name)


class Notebook:
    """An open notebook."""

    def __init__(self, page, url: str, name: str) -> None:
        self.page, self.name, self.errors = page, name, []
        page.on(
            "console", lambda message: message.type == "error" and self.errors.append(message.text)
        )
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(url)
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=90_000)
        page.wait_for_function("() => window.jupyterapp")
        # A narrow window has no room to spare for the file browser.
        self.command("application:toggle-left-area") if page.locator(
            ".jp-FileBrowser"
        ).is_visible() else None
        page.wait_for_function(
            "() => window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
            timeout=90_000,
        )

    def command(self, command: str, **arguments: object) -> None:
        self.page.evaluate(
            "([c, a]) => window.jupyterapp.commands.execute(c, a)", [command, arguments]
        )

    def theme(self, name: str) -> None:
        """Change to "Light" or "Dark"."""
        self.command("apputils:change-theme", theme=f"JupyterLab {name}")
        self.page.wait_for_function(
            f"() => document.body.dataset.jpThemeName === 'JupyterLab {name}'"
        )
        self.page.wait_for_timeout(600)

    def run_all(self, seconds: float = 120) -> None:
        """Run all cells and wait until they are done."""
        self.command("notebook:run-all-cells")
        self.page.wait_for_timeout(300)
        self.wait_idle(seconds)

    def wait_idle(self, seconds: float = 120) -> None:
        self.page.wait_for_function(
            "() => ![...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].some(e => e.innerText.includes('*'))",
            timeout=seconds * 1000,
        )

    def start(self) -> None:
        """Run all cells without waiting: the promise, which would be awaited, is dropped."""
        self.page.evaluate(
            "() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }"
        )

    def python(self, expression: str, seconds: float = 60) -> object:
        """Evaluate an expression in the kernel and return its value by JSON."""
        value = self.page.evaluate(
            """async code => {
              const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
              const future = kernel.requestExecute({code, store_history: false});
              let text = '';
              future.onIOPub = m => {
                if (m.header.msg_type === 'stream' && m.content.name === 'stdout') text += m.content.text;
                if (m.header.msg_type === 'error') text += 'ERROR ' + m.content.ename + ': ' + m.content.evalue;
              };
              await future.done;
              return text;
            }""",
            f"import json as _json; print(_json.dumps({expression}))",
        )
        assert not value.startswith("ERROR"), value
        return json.loads(value)

    def eventually(self, expression: str, wanted, seconds: float = 30):
        """Wait until what the kernel says of an expression satisfies `wanted`; return it."""
        deadline = time.monotonic() + seconds
        while True:
            value = self.python(expression)
            if wanted(value):
                return value
            assert time.monotonic() < deadline, f"{expression} is still {value!r}"
            self.page.wait_for_timeout(200)

    def picture(self, name: str, selector: str = ".workbench >> nth=0") -> Path:
        """Write a picture of a widget, and return its path."""
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        path = ARTIFACTS / f"{name}.png"
        part = self.page.locator(selector)
        part.scroll_into_view_if_needed()
        self.page.wait_for_timeout(500)
        part.screenshot(path=path)
        return path

    def pictures(self, name: str, selector: str = ".workbench >> nth=0") -> None:
        """Write pictures in light and dark, 1,300 and 900 pixels wide; nothing may be cut off or white."""
        for theme in ("Light", "Dark"):
            self.theme(theme)
            for width in (1300, 900):
                self.page.set_viewport_size({"width": width, "height": 1400})
                self.page.wait_for_timeout(500)
                self.picture(f"{name}-{theme.lower()}-{width}", selector)
                over = self.page.evaluate(
                    "s => { const e = document.querySelector(s); return e.scrollWidth - e.clientWidth; }",
                    selector.split(" >>")[0],
                )
                assert over <= 2, f"{name} is {over} pixels wider than its place at {width}"
        self.theme("Light")
        self.page.set_viewport_size({"width": 1300, "height": 1400})

    def save(self) -> None:
        """Save the notebook with its outputs."""
        self.command("docmanager:save")
        self.page.wait_for_function(
            "() => !window.jupyterapp.shell.currentWidget.context.model.dirty"
        )

    def close(self) -> list[str]:
        """Shut the kernel down; return the errors that the console showed."""
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        self.page.close()
        return [error for error in self.errors if not any(known in error for known in _NOT_OURS)]
