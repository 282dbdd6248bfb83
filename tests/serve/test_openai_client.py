"""The service as OpenAI's own Python client sees it."""

from __future__ import annotations

import pytest

pytest.importorskip("openai")
import openai

from aista.serve.bounds import Limits
from tests.serve.serving import served, stand_in, talk, wav


@pytest.fixture(scope="module")
def client():
    with served(stand_in(), Limits(api_key="s3cret")) as (at, _):
        yield openai.OpenAI(base_url=at + "/v1", api_key="s3cret", max_retries=0)


def ask(client, verb="translations", content=None, into="zh", **more):
    """Call the client; ``to_language`` is vLLM's, which the client sends as it sends any other body."""
    extra = {"extra_body": {"to_language": into}} if verb == "translations" and into else {}
    file = ("talk.wav", wav(1.0) if content is None else content)
    return getattr(client.audio, verb).create(file=file, model="stand-in", **extra, **more)


def test_its_formats(client):
    assert ask(client).text == "中w3" and ask(client, into=None).text == "ew3"
    assert ask(client, "transcriptions", language="en").text == "ew3"
    assert ask(client, response_format="text") == "中w3\n"
    assert ask(client, response_format="srt").startswith("1\n00:00:00,000 --> 00:00:01,000\n中w3\n")
    assert ask(client, response_format="vtt").startswith("WEBVTT\n")
    verbose = ask(client, response_format="verbose_json")
    assert (verbose.text, verbose.duration, verbose.segments[0].end) == ("中w3", 1.0, 1.0)
    assert ask(client, into=None, response_format="verbose_json").language == "english"  # its own docstring
    timed = ask(client, "transcriptions", response_format="verbose_json", timestamp_granularities=["segment"])
    assert [row.text for row in timed.segments] == ["ew3"] and timed.language == "english"


def test_its_stream(client):
    whole = ask(client, "transcriptions", talk(9)).text
    *deltas, done = ask(client, "transcriptions", talk(9), stream=True)
    assert {event.type for event in deltas} == {"transcript.text.delta"} and len(deltas) > 1
    assert "".join(event.delta for event in deltas) == done.text == whole
    assert done.type == "transcript.text.done"


def test_its_errors(client):
    with pytest.raises(openai.BadRequestError, match="temperature"):
        ask(client, temperature=0.5)
    with pytest.raises(openai.BadRequestError, match="chunking_strategy"):
        ask(client, "transcriptions", chunking_strategy="auto")
    with pytest.raises(openai.BadRequestError, match="cannot be decoded"):
        ask(client, "transcriptions", b"no sound", stream=True)
    with pytest.raises(openai.NotFoundError, match="stand-in"):
        client.models.retrieve("whisper-1")
    with pytest.raises(openai.AuthenticationError, match="key"):
        client.with_options(api_key="wrong").models.list()
    assert [model.id for model in client.models.list()] == ["stand-in"]
