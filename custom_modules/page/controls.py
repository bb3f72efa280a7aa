"""The page's controls, in Gradio: what is given, and what is shown of a visit.

Import it after ``GRADIO_TEMP_DIR`` is set, which Gradio reads when it is imported.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr

from custom_modules.page import views
from custom_modules.page.shelf import shown_name
from custom_modules.page.texts import LANGUAGES, TEXTS, RefusedError, clock_time, say
from custom_modules.page.visits import Queue, Visit

#: Between two looks at a visit, s.
_PAUSE_SECONDS = 0.2
_HERE = Path(__file__).parent
#: What the browser adds to each event: language and visit of its tab.
_TAB = "visitPage.language, visitPage.visit()"

#: White on Gradio's orange is hard to read.
_BUTTON = {"background_fill": "#0b6e8a", "background_fill_hover": "#095a71", "text_color": "white"}

Shown = tuple[Any, Any, Any]  # status, players, results


class Desk:
    """Answers a visitor's events."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    def look(self, recording: str | None, language: str, tab: str) -> Any:
        """What a recording is, as soon as it is given; a visit's own sentence stays."""
        if not recording:
            return gr.skip() if tab in self.queue.visits else ""
        try:
            seconds, rate = self.queue.shelf.check(recording)
        except RefusedError as refusal:
            return views.problem(refusal.told(language))
        values = {"length": clock_time(seconds), "rate": rate}
        return views.told(say(language, "chosen", name=shown_name(Path(recording)), **values))

    async def separate(
        self, recording: str | None, model: str, language: str, tab: str
    ) -> AsyncIterator[Shown]:
        """Queues a visit in place of the tab's last one, and shows how it goes."""
        if before := self.queue.visits.get(tab):
            before.is_replaced = True
        self.queue.stop(tab)
        try:
            visit = await asyncio.to_thread(self.queue.join, recording, model)
        except RefusedError as refusal:
            yield views.problem(refusal.told(language)), "", ""
            return
        async for shown in self.follow(visit, language):
            yield shown

    async def resume(self, language: str, tab: str) -> AsyncIterator[Shown]:
        """Goes on showing the visit of a tab that was loaded again."""
        visit = self.queue.visits.get(tab)
        if visit is None:
            yield gr.skip(), gr.skip(), gr.skip()
            return
        async for shown in self.follow(visit, language):
            yield shown

    def stop(self, _language: str, tab: str) -> None:
        """Ends the visit of a tab, if it has one."""
        self.queue.stop(tab)

    async def follow(self, visit: Visit, language: str) -> AsyncIterator[Shown]:
        """A visit at each of its changes; players are drawn once, or they would stop."""
        before: tuple[int, int] | None = None
        drawn = False
        while before is None or not visit.is_over or before[0] != visit.changes:
            if visit.is_replaced:
                return
            state = (visit.changes, self.queue.ahead(visit))
            if state == before:
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            players = views.players(visit, language)
            fresh = gr.skip() if drawn and players else players
            drawn = bool(players)
            with_words = self.queue.studio.recogniser is not None
            shown = views.results(visit, language, with_words)
            yield views.status(visit, language, state[1]), fresh, shown
            before = state


def build(queue: Queue, examples: list[Path]) -> gr.Blocks:
    """The page; examples stay where they are."""
    desk, words = Desk(queue), _translations(queue)
    gr.set_static_paths(examples)
    with gr.Blocks(title=say("en", "title"), analytics_enabled=False) as page:
        gr.HTML(_heading(queue))
        language, tab = gr.Textbox(visible=False), gr.Textbox(visible=False)
        recording = gr.Audio(
            sources=["upload", "microphone"],
            type="filepath",
            label=words("recording"),
            elem_id="recording",
            editable=False,
            buttons=[],
            waveform_options=gr.WaveformOptions(show_recording_waveform=False),
        )
        if examples:
            rows = [[str(path)] for path in examples]
            gr.Examples(rows, [recording], label=words("examples"), api_visibility="private")
        names = list(queue.studio.models)
        model = gr.Dropdown(names, value=names[0], label=words("model"), visible=len(names) > 1)
        with gr.Row():
            separate = gr.Button(words("separate"), variant="primary", elem_id="separate")
            stop = gr.Button(words("stop"), elem_id="stop")
        status = gr.HTML(elem_id="status")
        shown = [status, gr.HTML(elem_id="players"), gr.HTML(elem_id="results")]
        # The page has a queue of its own, which tells its visitors where they are.
        options: dict[str, Any] = {
            "show_progress": "hidden",
            "concurrency_limit": None,
            "api_visibility": "private",
        }
        here = [language, tab]
        given = [recording, model, *here]
        # Also while the last visit goes on, which it replaces.
        again = options | {"trigger_mode": "multiple"}
        separate.click(desk.separate, given, shown, js=f"(r, m) => [r, m, {_TAB}]", **again)
        given = [recording, *here]
        recording.change(desk.look, given, [status], js=f"(r) => [r, {_TAB}]", **options)
        stop.click(desk.stop, here, None, js=f"() => [{_TAB}]", **options)
        page.load(desk.resume, here, shown, js=f"() => [{_TAB}]", **options)
    return page


def script() -> str:
    """What must run before Gradio's own scripts."""
    return (_HERE / "page.js").read_text("utf-8")


def appearance(queue: Queue) -> dict[str, Any]:
    """How the page looks and speaks, for Gradio to mount it; no font is fetched."""
    fonts: dict[str, Any] = {
        "font": ["system-ui", "sans-serif"],
        "font_mono": ["ui-monospace", "monospace"],
    }
    colours = {
        f"button_primary_{part}{mode}": colour
        for part, colour in _BUTTON.items()
        for mode in ("", "_dark")
    }
    return {
        "theme": gr.themes.Default(**fonts).set(**colours),
        "css": (_HERE / "page.css").read_text("utf-8"),
        "i18n": _translations(queue),
        "footer_links": [],
        "run_history": False,
        "max_file_size": queue.shelf.most_bytes,
        "ssr_mode": False,
        "mcp_server": False,
        "enable_monitoring": False,
        "show_error": False,
    }


def _limits(queue: Queue) -> dict[str, str]:
    return {"keep": f"{queue.shelf.keep_minutes:g}", "limit": f"{queue.shelf.max_minutes:g}"}


def _translations(queue: Queue) -> gr.I18n:
    """Labels of controls, which Gradio translates in the browser."""
    keys = ("recording", "model", "examples", "separate", "stop")
    assert all(key in TEXTS for key in keys)
    return gr.I18n(
        **{lang: {key: say(lang, key, **_limits(queue)) for key in keys} for lang in LANGUAGES}
    )


def _heading(queue: Queue) -> str:
    """In both languages, of which the style sheet hides one."""
    parts = [
        f'<{tag} class="text" lang="{language}">{say(language, key, **_limits(queue))}</{tag}>'
        for tag, key in (("h1", "title"), ("p", "intro"))
        for language in LANGUAGES
    ]
    links = (
        '<a href="?language=en" lang="en">English</a><a href="?language=pl" lang="pl">Polski</a>'
    )
    megabytes = queue.shelf.most_bytes // 10**6
    large = "".join(
        f'<span class="text" lang="{language}">{say(language, "too_large", megabytes=megabytes)}'
        "</span>"
        for language in LANGUAGES
    )
    return (
        f'<div class="heading">{"".join(parts[:2])}<nav>{links}</nav>{"".join(parts[2:])}'
        f'<template id="too_large">{large}</template></div>'
    )
