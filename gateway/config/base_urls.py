"""Mistakes in a provider's base URL that make every call to it a 404."""

from urllib.parse import urlsplit

# Endpoints that the gateway adds to a base URL.
_ENDPOINTS = ("/chat/completions", "/completions", "/responses", "/messages", "/embeddings", "/models", "/chat")
# Hosts whose API lies below a path (the providers' API references, November 2026).
_PATH_BY_HOST = {
    "api.openai.com": "/v1", "api.groq.com": "/openai/v1", "api.mistral.ai": "/v1", "api.together.xyz": "/v1",
    "api.fireworks.ai": "/inference/v1", "api.x.ai": "/v1", "openrouter.ai": "/api/v1", "integrate.api.nvidia.com": "/v1",
    "api.cerebras.ai": "/v1", "router.huggingface.co": "/v1",
    "generativelanguage.googleapis.com": "/v1beta/openai",
}  # fmt: skip


def base_url_mistake(url: str, dialect: str) -> str | None:
    """What is wrong with a base URL, None where nothing is; never repeats the URL, which may hold a secret.

    dialect: of the provider; litellm adds paths of its own
    """
    if dialect == "litellm":
        return None
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        # No URL at all: the schema says so.
        return None
    path = f"/{parts.path.strip('/')}" if parts.path.strip("/") else ""
    endpoint = next((endpoint for endpoint in _ENDPOINTS if path.lower().endswith(endpoint)), None)
    if endpoint is not None:
        return f"'base_url' must end before '{endpoint}', which is added to it"
    if "/v1/v1/" in f"{path.lower()}/".replace("//", "/"):
        return "'base_url' has '/v1' twice; it must end in one '/v1'"
    expected = _PATH_BY_HOST.get(host.lower())
    if dialect == "openai" and expected is not None and not path:
        return f"'base_url' must end in '{expected}' at this host"
    return None
