"""A web service that speaks OpenAI's audio protocol, and a page to try it (optional extra ``[serve]``)."""
