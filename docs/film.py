"""Film a real JupyterLab with the real models for the README: `python -m docs.film` writes docs/film.webp.

How long a frame stays is chosen here; what it shows is what the browser showed. Look at the film before you keep it, and
make it on an idle machine: the times of the models are in the picture.
"""

import io
import math
import tempfile
from contextlib import closing
from pathlib import Path

from PIL import Image

from tests.lab import Lab

FILM = Path(__file__).with_name("film.webp")
SEARCH = """import workbench as wb

teacher = wb.Teacher("all-mpnet-base-v2")  # large: embeds the documents, once
student = wb.load_ready()  # small, in the teacher's space: embeds the queries
wb.search("tutorial", documents=teacher, queries=student)"""
MAP = """texts = wb.read_texts("tutorial")
wb.explore(texts, {"teacher": teacher, "student": student})"""
QUERY = "why is my coffee so bitter?"
# A dot for the mouse, which pictures of a page leave out, and a line that says what is going on.
PAGE = """([x, y, width, height]) => {
  document.body.insertAdjacentHTML("beforeend", `<div id="dot"></div><div id="words"></div><style>
    .jp-InputPrompt, .jp-OutputPrompt, .jp-OutputArea-promptOverlay, .jp-cell-toolbar, .jp-Collapser { display: none !important; }
    #dot { position: fixed; z-index: 2000; width: 14px; height: 14px; margin: -9px; border-radius: 50%; pointer-events: none;
      background: #e6550d99; border: 2px solid #e6550d; }
    #words { position: fixed; z-index: 1000; left: ${x}px; width: ${width}px; top: ${y + height - 42}px; height: 42px;
      background: #1d2733; color: #fff; font: 18px/42px system-ui, sans-serif; text-align: center; }</style>`);
  addEventListener("mousemove", (e) => { dot.style.left = `${e.clientX}px`; dot.style.top = `${e.clientY}px`; }, true);
}"""


class Film:
    """Frames of a page, each with the milliseconds that it stays."""

    def __init__(self, page) -> None:
        self.page, self.frames, self.mouse = page, [], (500, 400)
        self.clip = page.locator(".jp-NotebookPanel-notebook").bounding_box() | {"width": 1000}
        page.evaluate(PAGE, [*self.clip.values()])
        page.locator(".jp-WindowedPanel-outer").evaluate("e => { e.scrollTop = 0; }")

    def shot(self, stays: int, wait: int = 0) -> None:
        """Take a frame after so many milliseconds."""
        self.page.wait_for_timeout(wait)
        picture = self.page.screenshot(clip=self.clip, caret="initial")
        self.frames.append((Image.open(io.BytesIO(picture)).convert("RGB"), stays))

    def say(self, words: str) -> None:
        """Change the line below."""
        self.page.locator("#words").evaluate("(e, words) => { e.textContent = words; }", words)

    def move(self, x: float, y: float, steps: int = 6) -> None:
        """Move the mouse."""
        (left, top), self.mouse = self.mouse, (x, y)
        for step in range(1, steps + 1):
            self.page.mouse.move(left + (x - left) * step / steps, top + (y - top) * step / steps)
            self.shot(60)

    def click(self, selector: str, right: float) -> None:
        """Click on something, so many pixels from its left."""
        box = self.page.locator(selector).first.bounding_box()
        self.move(box["x"] + right, box["y"] + box["height"] / 2)
        self.page.mouse.click(*self.mouse)

    def scroll(self, selector: str, above: int) -> None:
        """Scroll until something is so many pixels below the upper edge."""
        far = self.page.locator(selector).first.bounding_box()["y"] - self.clip["y"] - above
        for _ in range(2):
            self.page.locator(".jp-WindowedPanel-outer").evaluate(
                "(e, y) => { e.scrollTop += y; }", far / 2
            )
            self.shot(90, wait=150)


with tempfile.TemporaryDirectory() as folder, closing(Lab(Path(folder))) as lab:
    notebook = lab.open("film", [SEARCH, MAP], width=1080)
    page = notebook.page
    page.set_viewport_size({"width": 1080, "height": 900})
    notebook.run_all(900)
    notebook.python(
        f"Out[1].ask({QUERY.replace('coffee', 'bread')!r}) or Out[1].select(0) or Out[2].wait() and 1",
        300,
    )
    film = Film(page)
    film.say("A large model embeds your texts. A small one answers the queries, on the same index.")
    film.shot(2400, wait=2000)
    film.say("Type a query")
    film.scroll(".workbench input", 10)
    film.click(".workbench input", 370)
    for at in range(0, len(QUERY), 2):
        page.keyboard.type(QUERY[at : at + 2])
        film.shot(80)
    page.keyboard.press("Enter")
    page.locator("b", has_text=QUERY).wait_for()
    film.say("The answers side by side: lines join the same passage")
    film.shot(900, wait=1000)
    film.move(film.clip["x"] + 336, 560)
    film.scroll(".retrieval header", 24)
    film.say(
        "Left: the large model. Middle: the small one alone. Right: the small one on the large one's index."
    )
    film.shot(3000)
    film.say("The map: each point is a text, red where the two models differ most")
    film.scroll(".workbench-map", 164)
    film.shot(1800, wait=1500)
    film.say("Draw around some texts: the table lists them")
    places = notebook.python(
        "Out[2].points._places[Out[2].table['text'].str.contains('coffee')].tolist()"
    )
    x, y = (sorted(axis)[len(places) // 2] for axis in zip(*places, strict=True))
    box = page.locator(".workbench-over").bounding_box()
    for turn in range(17):
        right, up = x + 0.09 * math.cos(math.pi * turn / 8), y + 0.1 * math.sin(math.pi * turn / 8)
        film.move(
            box["x"] + box["width"] * right, box["y"] + box["height"] * (1 - up), 1 if turn else 6
        )
        page.mouse.down() if not turn else None
    page.mouse.up()
    film.shot(1800, wait=1500)
    film.scroll(".workbench-map", 68)
    film.say("Sort by agreement, click on the worst: its nearest texts for both models")
    film.click("th button[data-column=cosine]", 20)
    film.shot(600, wait=1000)
    film.click(".workbench-map >> xpath=//following::tbody/tr", 200)
    film.shot(3600, wait=1000)
    (first, *rest), stays = zip(*film.frames, strict=True)
    first.save(
        FILM,
        save_all=True,
        append_images=rest,
        duration=stays,
        lossless=True,
        method=6,
        minimize_size=True,
    )
    print(f"{FILM}: {FILM.stat().st_size:,} bytes, {sum(stays) / 1000:.1f} s, {len(stays)} frames")
