"""`histo serve`: a folder's bundles, runs, slides and reviews in a browser, and over HTTP."""

from __future__ import annotations

import getpass
import os
import secrets
import socket
import webbrowser
from base64 import b64encode
from functools import partial
from hashlib import sha256
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

from histo import __version__
from histo.config import check_setting
from histo.errors import HistoError
from histo.report.page import SCRIPT
from histo.screen import Progress, Screen, screen_of

if TYPE_CHECKING:
    from types import FrameType

    from histo.web.guard import Access, App
    from histo.web.served import Served

LOOPBACK = ("127.0.0.1", "localhost", "::1")
TOKEN = "HISTO_TOKEN"
"""The variable that sets the token: an option would show in the list of processes."""
LEAST_TOKEN = 16
PORT = 8791
GRACE = 60
"""Seconds that requests under way have when the server is told to end."""

KEEP_ALIVE = 75
"""Seconds that a connection is kept between two requests: longer than Retry-After, and than a proxy
keeps it, so that neither sends on one that is just being closed."""


def serve(
    folder: str | Path = ".",
    *,
    host: str = "127.0.0.1",
    port: int = PORT,
    allowed_host: tuple[str, ...] | list[str] = (),
    browser: bool = True,
    device: str = "auto",
    precision: str = "auto",
    images: str | Path | None = None,
    progress: Progress = False,
) -> None:
    """Serve a folder until the process is stopped (Ctrl-C, or SIGTERM).

    `host` is where it listens: another than this machine's own makes the folder's runs, bundles and
    reviews readable to whoever has the token. `port` 0 takes a free one. `allowed_host` names it
    behind a reverse proxy; `images` is where the patches of the reviews are, if not in the folder.
    The token is random, or that of the variable HISTO_TOKEN. Raises
    HistoError.
    """
    screen = screen_of(progress)
    try:
        import uvicorn
    except ImportError:
        raise HistoError("serving needs FastAPI: pip install 'histolearn[serve]'") from None
    from histo.model.engines import check_precision
    from histo.web.connection import Connection
    from histo.web.guard import UPLOAD_BYTES
    from histo.web.served import Served

    UPLOAD_BYTES.check(0, "a request")  # a wrong value of the variable is said at once
    check_setting("port", port)
    check_precision(precision)
    served, token = Served.open(Path(folder)), token_of()
    patches = Served.open(Path(images)) if images else None
    listening = listen(host, port)
    with listening:
        place = listening.getsockname()[1]
        access, ending = access_of(token, host, place, allowed_host), Event()
        app = application(served, access, device, patches, precision, ending)
        say_address(host, place, token, screen)
        if browser:
            opened = partial(webbrowser.open, address(host, place, token))
            Thread(target=opened, daemon=True).start()  # a browser of a terminal does not return
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",  # there are no web sockets here
            log_level="warning",
            access_log=False,  # a line of it would have the token
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE,
            timeout_keep_alive=KEEP_ALIVE,
        )
        server = uvicorn.Server(config)
        leave = server.handle_exit

        def end(number: int, frame: FrameType | None) -> None:
            ending.set()
            leave(number, frame)

        server.handle_exit = end  # type: ignore[method-assign, assignment]
        server.run(sockets=[listening])


def application(
    served: Served,
    access: Access,
    device: str = "auto",
    images: Served | None = None,
    precision: str = "auto",
    ending: Event | None = None,
) -> App:
    """The application of a folder, for a server to run; `ending` is set when that is told to end."""
    try:
        from histo.commands.serve_slides import ServedSlides
        from histo.web.app import make_app
        from histo.web.models import Models
        from histo.web.patches import Patches
        from histo.web.queue import Queue
        from histo.web.reviews import Reviews
        from histo.web.site import Site
        from histo.web.surroundings import Surroundings
    except ImportError:
        raise HistoError("serving needs FastAPI: pip install 'histolearn[serve]'") from None

    found, slides = Patches(served, images), ServedSlides(served, device, precision)
    script = b64encode(sha256(SCRIPT.encode()).digest()).decode()
    site = Site(
        served,
        Models(served, device, precision),
        Queue(),
        Reviews(served),
        found,
        slides,
        Surroundings(found, slides),
        __version__,
        (f"sha256-{script}",),
        user_name(),
        ending or Event(),
    )
    return make_app(site, access)


def token_of() -> str:
    """The token: that of the variable, or a random one."""
    given = os.environ.get(TOKEN)
    if given is None:
        return secrets.token_urlsafe(24)
    if len(given) < LEAST_TOKEN or not (
        given.isascii() and given.isprintable() and " " not in given
    ):
        raise HistoError(
            f"{TOKEN} must be {LEAST_TOKEN} or more printable ASCII characters, no space"
        )
    return given


def access_of(token: str, host: str, port: int, allowed: tuple[str, ...] | list[str]) -> Access:
    """The names that the server answers to: any other may be a page of somebody else's."""
    from histo.web.guard import Access

    own = [f"{bracketed(name)}:{port}" for name in (*LOOPBACK, host, *allowed)]
    hosts = frozenset(name.lower() for name in (*own, *allowed))
    return Access(token, hosts, f"histo-{port}")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; HistoError where the address is taken or not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError) as error:
        raise HistoError(
            f"cannot listen at {host}, port {port}: {error}", "give another {port}"
        ) from None


def bracketed(host: str) -> str:
    """A host as an address has it."""
    return f"[{host}]" if ":" in host else host


def address(host: str, port: int, token: str) -> str:
    """What a browser opens."""
    return f"http://{bracketed(host)}:{port}/?token={token}"


def say_address(host: str, port: int, token: str, screen: Screen) -> None:
    """The address with the token; beyond this machine, what that means."""
    if host not in LOOPBACK:
        screen.say(
            f"note: {host} is not this machine alone: whoever has the address below can see the "
            "runs, the bundles, the slides and the reviews, change reviews and start maps; nothing is encrypted"
        )
    screen.say(f"serving at {address(host, port, token)}")
    screen.say("stop with Ctrl-C")


def user_name() -> str:
    """Who reviews; blank where the system does not know."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
