"""Finds the entry of a deployment in litellm's price list: by rules about names, never by similarity.

The list names a model as its provider does, mostly after a prefix for the provider (`azure/gpt-5`); Bedrock, Azure and
Vertex have further parts for regions, routes and versions, which do not all have entries of their own.
"""

import re
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

# The list's prefix of the providers behind a host or its subdomains. Base URLs as in their documentation, 2026-11-29.
_PREFIX_BY_HOST = {
    "openai.azure.com": "azure",
    "cognitiveservices.azure.com": "azure",
    "services.ai.azure.com": "azure_ai",
    "models.ai.azure.com": "azure_ai",
    "generativelanguage.googleapis.com": "gemini",
    "aiplatform.googleapis.com": "vertex_ai",
    "rep.googleapis.com": "vertex_ai",
    "fireworks.ai": "fireworks_ai",
    "groq.com": "groq",
    "together.xyz": "together_ai",
    "together.ai": "together_ai",
    "mistral.ai": "mistral",
    "deepseek.com": "deepseek",
    "x.ai": "xai",
    "dashscope.aliyuncs.com": "dashscope",
    "dashscope-intl.aliyuncs.com": "dashscope",
    "dashscope-us.aliyuncs.com": "dashscope",
    "perplexity.ai": "perplexity",
    "cerebras.ai": "cerebras",
    "deepinfra.com": "deepinfra",
    "novita.ai": "novita",
    "moonshot.ai": "moonshot",
    "moonshot.cn": "moonshot",
    "minimax.io": "minimax",
    "minimaxi.com": "minimax",
    "z.ai": "zai",
    "sambanova.ai": "sambanova",
    "hyperbolic.xyz": "hyperbolic",
    "nebius.com": "nebius",
    "ai-gateway.vercel.sh": "vercel_ai_gateway",
    "voyageai.com": "voyage",
    "jina.ai": "jina_ai",
    "baseten.co": "baseten",
    "wandb.ai": "wandb",
    "friendli.ai": "friendliai",
    "scaleway.ai": "scaleway",
    "databricks.com": "databricks",
    "azuredatabricks.net": "databricks",
    "nvidia.com": "nvidia_nim",
    "lambda.ai": "lambda_ai",
}
_BEDROCK_HOST = re.compile(r"bedrock-(runtime|mantle)(?:-fips)?\.([a-z0-9-]+)\.")
# Parts of a Bedrock name: litellm's route, the region of an endpoint, the geography of an inference profile, a context.
_BEDROCK_ROUTES = frozenset({"bedrock", "converse", "converse_like", "invoke", "async_invoke"})
_BEDROCK_REGION = re.compile(r"[a-z]{2}(?:-gov|-iso[a-z]?)?-[a-z]+-\d")
_BEDROCK_GEOGRAPHY = re.compile(r"(?:us-gov|us|eu|apac|jp|au|ca|sa|me|af|il|global)\.(?=[a-z0-9-]+\.)")
_BEDROCK_MAKER = re.compile(r"(?:[a-z-]+\.)?[a-z0-9-]+\.[a-z0-9]")
_BEDROCK_CONTEXT = re.compile(r"(:\d+):\d+k$")
_BEDROCK_VERSION = re.compile(r"-v\d+(?::\d+)?$")
# Google's resource names, and the versions that stand for the current one.
_GOOGLE_RESOURCE = re.compile(r"(?:projects/[^/]+/locations/[^/]+/)?publishers/([^/]+)/models/(.+)")
_GOOGLE_VERSION = re.compile(r"@(?:default|latest|\d{3})$")
_AZURE_PREFIXES = ("azure", "azure_ai")
_VERTEX_PREFIXES = ("vertex_ai", "vertex_ai_beta")
# Makers whose models the list names without a prefix.
_UNPREFIXED = frozenset({"openai", "anthropic", "text-completion-openai"})
# What others call a provider in front of a model's name, and the list's prefix.
_PREFIX_ALIASES = {"google": "gemini", "x-ai": "xai", "mistralai": "mistral", "deepseek": "deepseek"}


def listed_name(is_listed: Callable[[str], bool], model: str, base_url: str = "") -> str | None:
    """Returns the list's name of a model at a provider, None without one; the provider's own entry comes first."""
    return next((name for name in _candidates(model, base_url) if is_listed(name)), None)


def region_of(base_url: str, location: str = "") -> str:
    """Returns the region of price_entry.region_permille that an endpoint is in: us, eu, vertex; "" for none.

    location: where Vertex serves, as a setting names it
    """
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if host in ("us.api.openai.com", "eu.api.openai.com"):
        return host[:2]
    if host.endswith(("aiplatform.googleapis.com", "rep.googleapis.com")):
        found = re.search(r"/locations/([^/]+)", parts.path)
        location = found[1] if found else host.removesuffix("aiplatform.googleapis.com").strip("-.")
    return "vertex" if location not in ("", "global") else ""


def _candidates(model: str, base_url: str) -> Iterator[str]:
    host = urlsplit(base_url).hostname or ""
    bedrock = _BEDROCK_HOST.match(host)
    prefix = "bedrock" if bedrock else _prefix_of_host(host)
    first, _, rest = model.partition("/")
    if bedrock and bedrock[1] == "mantle":
        yield f"bedrock_mantle/{model}"
    if prefix == "bedrock" or first in _BEDROCK_ROUTES or model.startswith("arn:aws"):
        yield from _bedrock(model, bedrock[2] if bedrock else "")
    elif prefix in _AZURE_PREFIXES or first in _AZURE_PREFIXES:
        yield from _azure(model, prefix)
    elif prefix == "vertex_ai" or first in _VERTEX_PREFIXES or _GOOGLE_RESOURCE.fullmatch(model):
        yield from _vertex(model)
    elif prefix:
        bare = model.removeprefix("models/").removeprefix(f"{prefix}/")
        yield f"{prefix}/{bare}"
    yield model
    if model.startswith("ft:"):
        # A fine-tuned model costs what the list says of those of its base: ft:base:organization:name:id.
        yield ":".join(model.split(":")[:2])
    if first in _UNPREFIXED and rest:
        yield rest
    if first in _PREFIX_ALIASES and rest:
        yield f"{_PREFIX_ALIASES[first]}/{rest}"
    if _BEDROCK_GEOGRAPHY.match(model) and _BEDROCK_MAKER.match(model):
        yield from _bedrock(model, "")
    if "@" in model:
        yield from _vertex(model)


def _prefix_of_host(host: str) -> str:
    labels = host.split(".")
    suffixes = (".".join(labels[start:]) for start in range(len(labels)))
    found = next((_PREFIX_BY_HOST[suffix] for suffix in suffixes if suffix in _PREFIX_BY_HOST), "")
    # Vertex names its regions in front: us-east5-aiplatform.googleapis.com.
    return found or ("vertex_ai" if host.endswith("-aiplatform.googleapis.com") else "")


def _bedrock(model: str, region: str) -> Iterator[str]:
    """bedrock/<region>/<id> before <id>; an id without its geography, context and version where it has no entry."""
    parts = model.rpartition(":")[2].split("/") if model.startswith("arn:aws") else model.split("/")
    if model.startswith("arn:aws"):
        parts = model.split("/")[1:]
        region = model.split(":")[3]
    while len(parts) > 1 and (parts[0] in _BEDROCK_ROUTES or _BEDROCK_REGION.fullmatch(parts[0])):
        region = parts[0] if _BEDROCK_REGION.fullmatch(parts[0]) else region
        parts = parts[1:]
    name = "/".join(parts)
    for plain in dict.fromkeys((name, _BEDROCK_GEOGRAPHY.sub("", name, count=1))):
        spelled = _BEDROCK_CONTEXT.sub(r"\1", plain)
        forms = (plain, spelled, f"{spelled}-v1:0", f"{spelled}:0", _BEDROCK_VERSION.sub("", spelled))
        for form in dict.fromkeys(forms):
            if region:
                yield f"bedrock/{region}/{form}"
            yield form
            yield f"bedrock/{form}"


def _azure(model: str, prefix: str) -> Iterator[str]:
    first, _, rest = model.partition("/")
    bare = rest if first in _AZURE_PREFIXES else model
    order = dict.fromkeys((first if first in _AZURE_PREFIXES else prefix, *_AZURE_PREFIXES))
    yield from (f"{name}/{bare}" for name in order)
    yield bare


def _vertex(model: str) -> Iterator[str]:
    first, _, rest = model.partition("/")
    name = rest if first in _VERTEX_PREFIXES else model
    resource = _GOOGLE_RESOURCE.fullmatch(name)
    if resource:
        name = resource[2] if resource[1] in ("google", "anthropic") else f"{resource[1]}/{resource[2]}"
    name = name.removeprefix("google/").removeprefix("anthropic/")
    for form in dict.fromkeys((name, _GOOGLE_VERSION.sub("", name), name.partition("@")[0])):
        yield f"vertex_ai/{form}"
        yield form
        # The list names some models of other makers without them.
        yield f"vertex_ai/{form.rpartition('/')[2]}"
