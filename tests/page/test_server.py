"""Where the page is served, and what it may offer."""

import errno
import os
import socket

import pytest
import soundfile as sf

from custom_modules.errors import InputError
from custom_modules.page.server import list_examples, listening


def test_examples_are_the_first_five_of_files_folders_and_patterns(tmp_path):
    for name in "abcdef":
        sf.write(tmp_path / f"{name}.wav", [0.1] * 10, 8000)
    found = list_examples([str(tmp_path / "[ef].wav"), str(tmp_path)])
    assert [path.stem for path in found] == ["e", "f", "a", "b", "c"]


def test_examples_that_cannot_be_heard_are_refused(tmp_path):
    (tmp_path / "text.wav").write_text("no audio")
    os.mkfifo(tmp_path / "pipe.wav")
    for name, reason in (("text", "cannot be read"), ("pipe", "is a pipe"), ("none", "no such")):
        with pytest.raises(InputError, match=f"{name}.wav: .*{reason}"):
            list_examples([str(tmp_path / f"{name}.wav")])


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.EADDRINUSE, "another one"), (errno.EACCES, "another one"), (errno.EINVAL, "--host")],
)
def test_a_port_that_cannot_be_had_says_what_to_change(monkeypatch, number, remedy):
    def refuse(self, address):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket.socket, "bind", refuse)
    told = f"--port=80: .* on 127.0.0.1; .*{remedy}"
    with pytest.raises(InputError, match=told), listening("127.0.0.1", 80):
        pass


def test_one_page_to_a_port():
    with listening("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(InputError, match=f"--port={port}: .*another one"):
            listening("127.0.0.1", port).__enter__()
