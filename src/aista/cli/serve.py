"""``aista serve``: a web service with OpenAI's audio protocol, and a page to try it."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer()


@app.command(
    epilog="""Examples:

    aista serve

    aista serve --model runs/joint --port 9000

    curl -F file=@talk.wav -F to_language=zh http://127.0.0.1:8000/v1/audio/translations
"""
)
def serve(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Folder of a model.", show_default="the one shipped")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at.")] = 8000,
    beams: Annotated[int, typer.Option(min=1, help="Beams of the search; 1 is greedy.")] = 1,
    max_upload_mb: Annotated[float, typer.Option(min=0.001, help="Largest upload in megabytes.")] = 25.0,
    max_minutes: Annotated[float, typer.Option(min=0.01, help="Longest recording in minutes.")] = 120.0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...", show_default="a GPU if any")] = None,
) -> None:
    """Serve transcriptions and translations over HTTP; open the address in a browser for a page."""
    from aista.errors import ConfigError
    from aista.inference.translator import load

    try:
        import uvicorn

        from aista.serve.app import create_app
    except ImportError as error:
        raise ConfigError(
            "Serving needs packages that are not installed.",
            got=str(error),
            advice="in a copy of the repository: pip install '.[serve]'",
        ) from None
    translator = load(model, device=device, num_beams=beams)
    service = create_app(translator, max_upload_mb=max_upload_mb, max_minutes=max_minutes)
    uvicorn.run(service, host=host, port=port)
