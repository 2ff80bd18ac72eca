"""Routes of the page to try the server: HTML, scripts and styles, which hold nothing of a model.

The content security policy allows the server's own scripts and styles, and requests to the server alone.
"""

from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from loupe import __version__
from loupe.data.pixels.limits import MAX_PIXELS
from loupe.evaluate.unclassified import UNCLASSIFIED
from loupe.export import web_templates
from loupe.serve.limits import MIB, Limits

FOLDER = Path(__file__).parent / "page"
PREFIX = "/page/"
SHARED = ("page.css", "elements.js", "intake.js", "evidence.js")  # with the exported page
STYLES = ("page.css", "serve.css")
SCRIPTS = ("elements.js", "evidence.js", "server.js", "comparison.js", "side.js", "intake.js", "images.js")
ICON = "icon.svg"
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
}


def routes(limits: Limits) -> list[Route]:
    """Routes of the page and its files, all read now."""
    files = {file: web_templates.text(file) for file in SHARED} | {
        file: (FOLDER / file).read_text(encoding="utf-8") for file in (*STYLES, *SCRIPTS, ICON) if file not in SHARED
    }
    html = _html(limits)

    async def page(request: Request) -> Response:
        return _answer(html, "text/html")

    async def file(request: Request) -> Response:
        name = request.path_params["file"]
        if name not in files:
            raise HTTPException(404)
        return _answer(files[name], TYPES[Path(name).suffix])

    return [Route("/", page), Route(PREFIX + "{file}", file)]


def _html(limits: Limits) -> str:
    return (
        web_templates.environment(FOLDER)
        .get_template("index.html")
        .render(
            beginning="Asking the server for its models.",
            prefix=PREFIX,
            styles=STYLES,
            scripts=SCRIPTS,
            most_bytes=limits.body_bytes,
            most_mib=limits.body_bytes // MIB,
            most_pixels=f"{MAX_PIXELS:,}",
            unclassified=UNCLASSIFIED,
            version=__version__,
        )
    )


def _answer(content: str, kind: str) -> Response:
    return Response(content, media_type=kind, headers=HEADERS)
