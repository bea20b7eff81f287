"""Can every answer's labels be read from its raw response again? Else they are only believed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from apibench import text
from apibench.errors import ApibenchError
from apibench.query import registry
from apibench.query.contract import ProviderError
from apibench.query.store import ResponseStore
from apibench.report import frames


def unread(store: Path, campaigns: Collection[str] | None) -> list[str]:
    """A line for each provider of which an answer's labels cannot be read from the raw response."""
    with ResponseStore.open(store, read_only=True) as opened, opened.reading() as connection:
        answers = connection.execute(
            "SELECT provider, sha256, raw FROM responses WHERE ?1 IS NULL OR campaign IN (SELECT value FROM json_each(?1)) "
            "ORDER BY provider, sha256",
            (frames.as_json(campaigns),),
        )
        parsers: dict[str, Callable[[bytes], object] | None] = {}
        lines: list[str] = []
        failed: dict[str, list[str]] = {}
        for provider, sha256, raw in answers:
            if provider not in parsers:
                parsers[provider] = _parser(provider, lines)
            parse = parsers[provider]
            try:
                if parse is not None:
                    parse(raw if isinstance(raw, bytes) else str(raw).encode())
            except Exception as error:  # noqa: BLE001 - an adapter is somebody's package
                message = error.message if isinstance(error, ProviderError) else str(error) or type(error).__name__
                failed.setdefault(provider, []).append(f"{sha256[:12]}: {text.plain(message, 100)}")
    for provider, those in failed.items():
        first = f"the first: {those[0]}" if len(those) > 1 else those[0]
        lines.append(f"{store.name}: {len(those)} raw responses of {provider} cannot be read again; {first}")
    return lines


def _parser(provider: str, lines: list[str]) -> Callable[[bytes], object] | None:
    try:
        parse: Callable[[bytes], object] = registry.adapter(provider).parse
    except (ApibenchError, AttributeError) as error:
        why = text.plain(error, 160)
        lines.append(f"labels of {text.plain(provider, 40)} cannot be read from the raw responses: {why}")
        return None
    return parse
