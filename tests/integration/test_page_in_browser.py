"""The page in a real browser: Debian's chromium, driven by playwright."""

import importlib.util
import os
import re
import select
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import soundfile as sf

from tests.integration import training
from tests.integration.uploads import bad_uploads, noise, wav
from tests.page.gated import ANSWER_SECONDS, gated_model

ROOT = Path(__file__).parents[2]
OLD = ROOT / "tests" / "data" / "checkpoints" / "dprnn_SB_best.pt"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = [name for name in ("gradio", "playwright") if not importlib.util.find_spec(name)]
MISSING += [] if BROWSER else ["chromium (apt-get install chromium)"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]
PATIENCE = 1000 * ANSWER_SECONDS  # ms; reached only by a failure


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A small DPRNN that does not separate well, and quickly."""
    folder = tmp_path_factory.mktemp("models") / "dprnn"
    done = training.run("recipes/separation/import_checkpoint.py", OLD, folder)
    assert done.returncode == 0, done.stderr
    return folder


class Page:
    """A page that is served: its address, its folder, whatever tried to leave."""

    def __init__(self, url, folder, log):
        self.url, self.folder, self.log = url, folder, log

    def uploads(self):
        """Recordings of visits, the last one's at the end."""
        paths = self.folder.glob("polsess-page-*/*/separated")
        return sorted((p.parent for p in paths), key=lambda place: place.stat().st_ctime)


@pytest.fixture(scope="module")
def page(exported, tmp_path_factory):
    """The command itself, on a free port."""
    folder = tmp_path_factory.mktemp("page")
    example = noise(folder / "example.wav", 3)
    command = [sys.executable, "tests/integration/watched_page.py", str(folder / "log")]
    options = ["--port", "0", "--max_minutes", "0.5", "--chunk_seconds", "1", "--device", "cpu"]
    environment = os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*command, str(exported), *options, "--examples", str(example)],
        cwd=ROOT,
        env=environment | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        ready, _, _ = select.select([process.stdout], [], [], 4 * ANSWER_SECONDS)
        assert ready, "the page does not start"
        url = process.stdout.readline().strip()
        if not url:
            raise AssertionError(process.communicate()[1])
        yield Page(url, folder, folder / "log")
        process.terminate()
        _, errors = process.communicate(timeout=ANSWER_SECONDS)
    assert process.returncode == 130
    assert "Traceback" not in errors, errors
    assert list(folder.glob("polsess-page-*")) == []  # the folder goes with the page


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    fake_microphone = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        options = ["--no-sandbox", *fake_microphone]
        browser = playwright.chromium.launch(executable_path=BROWSER, args=options)
        yield browser
        browser.close()


@pytest.fixture
def visitor(browser):
    """Opens pages, each as a visitor of its own; none may ask for anything outside."""
    contexts, asked, faults = [], [], []

    def come(url, language="en-GB", **options):
        context = browser.new_context(locale=language, accept_downloads=True, **options)
        context.set_default_timeout(PATIENCE)
        context.on("request", lambda request: asked.append((url, request.url)))
        contexts.append(context)
        tab = context.new_page()
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.goto(url)
        tab.wait_for_selector("#separate")
        return tab

    yield come
    for context in contexts:
        context.close()
    local = ("data:", "blob:")
    assert [asks for url, asks in asked if not asks.startswith((url, *local))] == []
    assert len(asked) > 20
    assert faults == []


def give(tab, files, taken=True):
    """Uploads in place of what was there."""
    buttons = (f"#recording button[aria-label={name}]" for name in ("Clear", "Wyczyść"))
    clear = tab.locator(", ".join(buttons))
    if clear.count():
        clear.first.click()
    tab.set_input_files("#recording input[type=file]", files)
    if taken:
        clear.first.wait_for()


def told(tab, pattern):
    """Waits for a sentence, and returns it."""
    expected = tab.locator("#status p", has_text=re.compile(pattern))
    expected.wait_for()
    return expected.inner_text()


def durations(tab):
    tab.wait_for_function(
        "visitPage && [...document.querySelectorAll('.players audio')].every(a => a.readyState > 0)"
    )
    return tab.eval_on_selector_all(".players audio", "all => all.map(a => a.duration)")


def download(tab, name):
    with tab.expect_download() as started:
        tab.click(f".downloads a:has-text('{name}')")
    assert started.value.suggested_filename == name
    return Path(started.value.path()).read_bytes()


def separate(exported, recording, folder):
    options = ["--output_folder", folder, "--chunk_seconds", "1", "--device", "cpu"]
    done = training.run("recipes/separation/separate.py", exported, recording, *options)
    assert done.returncode == 0, done.stderr


def test_upload_separate_listen_download(page, visitor, exported, tmp_path):
    talk = noise(tmp_path / "rozmowa ż.flac", 4.5, 44_100, channels=2)
    tab = visitor(page.url)
    give(tab, talk)
    assert told(tab, "44100 Hz") == "rozmowa ż.flac: 0:04, 44100 Hz."
    tab.click("#separate")
    assert told(tab, ": done") == "rozmowa ż.flac: done, 0:04."
    assert durations(tab) == [4.5, 4.5, 4.5]
    assert tab.eval_on_selector(".spectrograms", "async i => { await i.decode(); return i.width }")
    assert tab.locator(".timeline rect").count() > 0

    names = [f"rozmowa ż_s{source}.wav" for source in (1, 2)]
    files = [download(tab, name) for name in names]
    copy = page.uploads()[-1] / "given" / talk.name
    assert copy.read_bytes() == talk.read_bytes()
    separate(exported, copy, tmp_path / "same")
    assert files == [(tmp_path / "same" / name).read_bytes() for name in names]
    # Of the original, the samples; its files' comment names its own place.
    separate(exported, talk, tmp_path / "own")
    for name, data in zip(names, files, strict=True):
        own = (tmp_path / "own" / name).read_bytes()
        assert len(own) == len(data)
        without = [re.sub(rb"place=\w{12}", b"", content) for content in (own, data)]
        assert without[0] == without[1]


def test_an_example_with_the_keyboard_alone_and_byte_for_byte(page, visitor, exported, tmp_path):
    tab = visitor(page.url)
    example = tab.get_by_role("button", name="example.wav")
    example.wait_for()

    def press(target):
        for _ in range(40):
            tab.keyboard.press("Tab")
            if target.evaluate("e => e === document.activeElement"):
                return tab.keyboard.press("Enter")
        raise AssertionError("the keyboard does not reach it")

    press(example)
    told(tab, r"example.wav: 0:03, 8000 Hz\.")
    press(tab.locator("#separate"))
    told(tab, ": done")
    assert durations(tab) == [3, 3, 3]
    separate(exported, page.folder / "example.wav", tmp_path)
    for name in ("example_s1.wav", "example_s2.wav"):
        assert download(tab, name) == (tmp_path / name).read_bytes()


def test_speaking_into_the_microphone(page, visitor):
    tab = visitor(page.url, permissions=["microphone"])
    tab.click("#recording button[aria-label='Record audio']")
    tab.click("#recording button.record-button")
    stop = tab.locator("#recording button.stop-button")
    stop.wait_for()
    tab.wait_for_function("document.querySelector('#recording time')?.innerText > '0:00'")
    stop.click()
    told(tab, r"\d Hz\.")
    tab.click("#separate")
    told(tab, ": done")
    assert min(durations(tab)) > 0.5


def test_polish_and_a_telephone(page, visitor):
    screen = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    tab = visitor(page.url, "pl-PL", **screen)
    assert tab.inner_text("h1:visible") == "Rozdziel mówców"
    assert tab.inner_text("#separate") == "Rozdziel"
    assert "Upuść plik" in tab.inner_text("#recording")
    tab.get_by_role("button", name="example.wav").tap()
    told(tab, "example.wav: 0:03")
    tab.tap("#separate")
    assert told(tab, "gotowe") == "example.wav: gotowe, 0:03."
    assert tab.inner_text(".players .s2 figcaption") == "Mówca 2"
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    small = tab.eval_on_selector_all(
        "#separate, #stop, .downloads a, .players audio",
        "all => all.filter(e => e.getBoundingClientRect().height < 36).length",
    )
    assert small == 0
    tab.click("nav a:has-text('English')")
    tab.wait_for_selector("#separate:has-text('Separate')")
    assert told(tab, ": done") == "example.wav: done, 0:03."  # in the language, after the reload


def test_bad_uploads_are_a_sentence_each_and_the_page_goes_on(page, visitor, tmp_path):
    tab = visitor(page.url)
    alerts = []
    tab.on("dialog", lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
    uploads = bad_uploads(tmp_path)
    assert len(uploads) >= 20
    for name, content, sentence in uploads:
        give(tab, {"name": name, "mimeType": "audio/wav", "buffer": content})
        said = told(tab, sentence)
        assert "Traceback" not in said
        assert "/" not in said
    give(tab, {"name": "nan.wav", "mimeType": "audio/wav", "buffer": uploads[13][1]})
    told(tab, "nan.wav")
    tab.click("#separate")
    told(tab, "nan.wav holds values that are no numbers")
    tab.locator("#recording button[aria-label=Clear]").first.click()
    tab.locator("#recording input[type=file]").wait_for(state="attached")
    tab.click("#separate")
    told(tab, "There is no recording yet")
    silence = tmp_path / "silence.wav"
    silence.touch()
    os.truncate(silence, 400_000_000)
    give(tab, silence, taken=False)
    large = "The file is too large: at most 11 MB"
    tab.locator("[data-testid=toast-text]", has_text=large).wait_for()
    tab.reload()
    tab.wait_for_selector("#separate")
    give(tab, {"name": "good.wav", "mimeType": "audio/wav", "buffer": wav(tmp_path)})
    told(tab, "good.wav: 0:00")
    tab.click("#separate")
    told(tab, "good.wav: done")
    assert alerts == []
    outside = [path for path in page.folder.iterdir() if not path.name.startswith("polsess-page-")]
    assert {path.name for path in outside} <= {"example.wav", "log"}
    assert not (page.folder.parent / "x.wav").exists()


def test_neither_page_nor_program_reaches_another_machine(page, visitor):
    """What the other tests here have done, and what is tried on purpose."""
    tab = visitor(page.url)
    refused = tab.evaluate("fetch('https://example.org/').then(() => 'sent', e => e.name)")
    assert refused == "TypeError"
    assert "example.org" not in tab.content()
    fonts = tab.evaluate("[...document.fonts].filter(f => f.status === 'loaded').length")
    assert fonts == 0
    assert not page.log.exists(), page.log.read_text()


@pytest.fixture
def gated(tmp_path):
    """A page in this process, whose model waits for the test."""
    import uvicorn

    from custom_modules.page.server import application, listening
    from custom_modules.page.shelf import Shelf
    from custom_modules.page.visits import Queue, Studio

    queue = Queue(Studio({"gate": gated_model()}), Shelf(tmp_path))
    config = uvicorn.Config(application(queue, []), log_level="warning")
    server = uvicorn.Server(config)
    queue.start()
    with listening("127.0.0.1", 0) as sock:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        yield f"http://127.0.0.1:{sock.getsockname()[1]}", queue
        queue.studio.models["gate"].mods.separator.let(1000)
        server.should_exit = server.force_exit = True
        thread.join()


def test_two_visitors_chunks_and_a_reload_in_between(gated, visitor, tmp_path):
    url, queue = gated
    gate = queue.studio.models["gate"].mods.separator
    talk = noise(tmp_path / "talk.wav", 5, 192_000)
    first, second = visitor(url), visitor(url, "pl-PL")
    give(first, talk)
    told(first, "0:05")
    first.click("#separate")
    told(first, "0:00 of 0:05")
    give(second, noise(tmp_path / "druga.wav", 2))
    told(second, "0:02")
    second.click("#separate")
    assert told(second, "kolejce") == "druga.wav czeka w kolejce. Przed nim: 1."

    gate.let(3)
    told(first, "0:02 of 0:05|0:03 of 0:05")
    # The beginning is heard while the rest is made, and goes on being heard. Chromium plays
    # when it has some 256 KiB.
    first.eval_on_selector(".players .s1 audio", "a => { a.muted = true; return a.play() }")
    first.wait_for_function("document.querySelector('.players .s1 audio').currentTime > 0.2")
    assert first.eval_on_selector(".players .s1 audio", "a => a.duration") == 5
    first.eval_on_selector(".players .s1 audio", "a => { a.mark = 'the same' }")
    gate.let(1)
    told(first, "0:03 of 0:05|0:04 of 0:05")
    assert first.eval_on_selector(".players .s1 audio", "a => a.mark") == "the same"

    first.reload()
    told(first, "0:03 of 0:05|0:04 of 0:05")
    gate.let(3)
    told(first, ": done")
    told(second, "rozdzielono|gotowe")
    assert durations(first) == [5, 5, 5]
    second.click("#stop")
    gate.let(9)
    told(second, "przerwano|gotowe")
    assert sf.info(next(tmp_path.glob("*/separated/talk_s2.wav"))).frames == 5 * 192_000
