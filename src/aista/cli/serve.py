"""``aista serve``: a web service with OpenAI's audio protocol, and a page to try it."""

from __future__ import annotations

from typing import Annotated

import typer

from aista.cli import Bases, examples
from aista.cli.translate import Beams, Coverage, Device, Dtype, Vad
from aista.errors import ConfigError

app = typer.Typer()


@app.command(
    epilog=examples(
        "aista serve",
        "aista serve --model runs/joint --port 9000",
        "aista serve --model runs/joint --base backbone=models/Qwen2-7B",
        "AISTA_API_KEY=secret aista serve --host 0.0.0.0 --max-waiting 64",
        "curl -F file=@talk.wav -F to_language=zh http://127.0.0.1:8000/v1/audio/translations",
        note="SIGTERM or Ctrl-C: nothing new is taken, what was taken is answered. A second "
        "Ctrl-C ends it at once.",
    )
)
def serve(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Folder of a model.", show_default="the one shipped")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at.")] = 8000,
    beams: Beams = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Segments that are answered together.")] = 16,
    max_upload_mb: Annotated[float, typer.Option(min=0.001, help="Largest upload in megabytes.")] = 25.0,
    max_minutes: Annotated[float, typer.Option(min=0.01, help="Longest recording in minutes.")] = 120.0,
    max_waiting: Annotated[int, typer.Option(min=1, help="Requests at once; 503 beyond.")] = 128,
    upload_seconds: Annotated[float, typer.Option(min=0.1, help="How long an upload may take.")] = 60.0,
    answer_seconds: Annotated[float, typer.Option(min=0.1, help="How long an answer may take.")] = 600.0,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="AISTA_API_KEY", help="Key that clients must send.", show_default="none"),
    ] = None,
    vad: Vad = "on",
    coverage: Coverage = "warn",
    device: Device = None,
    dtype: Dtype = None,
    bases: Bases = [],
) -> None:
    """Serve transcriptions and translations over HTTP; open the address in a browser for a page."""
    import errno
    import os
    import signal
    import socket

    from aista.inference.translator import ABOUT, load

    try:
        import uvicorn

        from aista.serve.app import create_app
        from aista.serve.bounds import Limits, PromptH11
    except ImportError as error:
        raise ConfigError(
            "Serving needs packages that are not installed.",
            got=str(error),
            advice="in a copy of the repository: pip install '.[serve]'",
        ) from None
    limits = Limits(max_upload_mb, max_minutes, max_waiting, upload_seconds, answer_seconds, api_key or None)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:  # before the model is loaded: a port that is taken is told at once
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        advice = {
            errno.EADDRINUSE: "another --port; 0 takes a free one",
            errno.EACCES: "a --port from 1024 on",
        }.get(error.errno or 0, "another --host: an address of this machine, such as 127.0.0.1")
        raise ConfigError(f"Cannot listen at {host}, port {port}.", got=error, advice=advice) from None
    translator = load(model, device=device, dtype=dtype, num_beams=beams, batch_size=batch_size)
    translator.vad, translator.coverage = vad == "on", coverage
    service = create_app(translator, limits)
    # Until then, whatever was taken is answered or refused.
    longest = round(upload_seconds + answer_seconds) + 1
    config = uvicorn.Config(service, http=PromptH11, timeout_graceful_shutdown=longest)
    place = f"[{host}]" if ":" in host else host
    if about := ABOUT.get(translator.name):
        typer.echo(f"note: {about} For another: --model", err=True)
    typer.echo(f"Listening at http://{place}:{listener.getsockname()[1]}", err=True)
    server = uvicorn.Server(config)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which uvicorn raises again at the end: systemd expects it
    try:
        server.run(sockets=[listener])
    finally:
        if server.force_exit:  # Python would wait for the threads of the recordings
            os._exit(130)
