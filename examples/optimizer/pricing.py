"""What a model costs, from the price table that `genai-prices` ships; nothing is fetched and nothing is guessed."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

import genai_prices
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

_PER_MILLION = Decimal(1_000_000)
_BATCH = {"processing": "batch"}
PRICE_TABLE = f"genai-prices {genai_prices.__version__}"


class ModelMonth(NamedTuple):
    """What one look-up answers: a model as the log spells it, in a month such as 2026-03."""

    model: str
    month: str


@dataclass(frozen=True, slots=True)
class Rate:
    """US dollars per token for prompts of one size; None where the table knows no such price."""

    input: Decimal
    output: Decimal
    cache_read: Decimal | None
    cache_write: Decimal | None

    def cost(self, input_tokens: int, output_tokens: int) -> Decimal:
        """What so many tokens cost."""
        return self.input * input_tokens + self.output * output_tokens


@dataclass(frozen=True, slots=True)
class PriceCard:
    """A model's prices in one month."""

    provider_id: str
    model_id: str
    standard: ModelPrice
    batch: ModelPrice | None

    @property
    def thresholds(self) -> frozenset[int]:
        """Prompt sizes above which a token costs another price."""
        prices = (self.standard, self.batch) if self.batch else (self.standard,)
        return frozenset(
            tier.start
            for price in prices
            for tiered in (price.input_mtok, price.output_mtok, price.cache_read_mtok, price.cache_write_mtok)
            if isinstance(tiered, TieredPrices)
            for tier in tiered.tiers
        )

    def rate(self, prompt_tokens: int) -> Rate:
        """The price of a token in a call with a prompt of this size."""
        return _rate(self.standard, prompt_tokens)

    def batch_rate(self, prompt_tokens: int) -> Rate | None:
        """The same through the provider's batch API, where it has one with a price of its own."""
        return _rate(self.batch, prompt_tokens) if self.batch else None


def _rate(price: ModelPrice, prompt_tokens: int) -> Rate:
    def per_token(value: Decimal | TieredPrices | None) -> Decimal | None:
        if isinstance(value, TieredPrices):
            reached = [tier.price for tier in value.tiers if prompt_tokens > tier.start]
            value = reached[-1] if reached else value.base
        return None if value is None else value / _PER_MILLION

    return Rate(
        input=per_token(price.input_mtok) or Decimal(0),
        output=per_token(price.output_mtok) or Decimal(0),
        cache_read=per_token(price.cache_read_mtok),
        cache_write=per_token(price.cache_write_mtok),
    )


def load_price_table() -> None:
    """Read the table into memory; the first look-up would do it, and wait for it."""
    get_snapshot()


async def price_cards(wanted: Iterable[ModelMonth]) -> tuple[dict[ModelMonth, PriceCard], dict[ModelMonth, PriceCard]]:
    """The cards of models and of their smaller siblings: one look-up each per model and month, in a worker thread.

    A model that the table does not know is left out.
    """
    return await asyncio.to_thread(_price_cards, tuple(wanted))


def _price_cards(wanted: Iterable[ModelMonth]) -> tuple[dict[ModelMonth, PriceCard], dict[ModelMonth, PriceCard]]:
    cards = {key: card for key in wanted if (card := price_card(*key)) is not None}
    siblings = {key: sibling for key, card in cards.items() if (sibling := smaller_sibling(card, key.month))}
    return cards, siblings


@lru_cache(maxsize=4096)
def price_card(model: str, month: str, provider_id: str | None = None) -> PriceCard | None:
    """The prices of a model as they stood on the first of a month, or None."""
    found = _find(model, provider_id)
    if found is None:
        return None
    provider, info = found
    at = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    standard = info.get_prices(at)
    if standard.input_mtok is None and standard.output_mtok is None:
        return None
    batch = info.get_prices(at, _BATCH)
    return PriceCard(provider.id, info.id, standard, batch if batch != standard else None)


def _find(model: str, provider_id: str | None) -> tuple[Provider, ModelInfo] | None:
    """By the name alone; then by a `provider/model` name as gateways write it; then by Bedrock's ids."""
    for provider in (provider_id,) if provider_id else (None, "litellm", "aws"):
        try:
            return get_snapshot().find_provider_model(model, None, provider, None)
        except LookupError:
            continue
    return None


# The next smaller model of the same generation and provider, by the table's ids. Only the prices come from the
# table; which models are siblings is the providers' own naming.
_SMALLER_SIBLINGS: Mapping[str, str] = {
    "gpt-4o": "gpt-4o-mini",
    "gpt-4.1": "gpt-4.1-mini",
    "gpt-4.1-mini": "gpt-4.1-nano",
    "gpt-5": "gpt-5-mini",
    "gpt-5-mini": "gpt-5-nano",
    "gpt-5.4": "gpt-5.4-mini",
    "gpt-5.4-mini": "gpt-5.4-nano",
    "claude-opus-4-5": "claude-sonnet-4-5",
    "claude-sonnet-4-5": "claude-haiku-4-5",
    "claude-opus-5-5": "claude-sonnet-5-5",
    "claude-sonnet-5-5": "claude-haiku-5-5",
    "gemini-2.5-pro": "gemini-2.5-flash",
    "gemini-2.5-flash": "gemini-2.5-flash-lite",
    "gemini-3.5-flash": "gemini-3.5-flash-lite",
}


def smaller_sibling(card: PriceCard, month: str) -> PriceCard | None:
    """The prices of the next smaller model of the family at the same provider, or None."""
    sibling = _SMALLER_SIBLINGS.get(card.model_id)
    return price_card(sibling, month, card.provider_id) if sibling else None
