"""app.py, with a line in a file for each try to connect to another machine."""

import runpy
import sys


def watch(log):
    def note(event, details):
        if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
            address = details if event == "socket.getaddrinfo" else details[1]
            host = address[0] if isinstance(address, tuple) else ""
            if host and not str(host).startswith(("127.", "::1", "localhost")):
                with open(log, "a") as file:
                    file.write(f"{event} {address}\n")

    sys.addaudithook(note)


if __name__ == "__main__":
    _, log, *arguments = sys.argv
    watch(log)
    sys.argv = ["recipes/separation/app.py", *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")
