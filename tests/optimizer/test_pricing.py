"""Prices agree with the table's own arithmetic, and unknown models stay unknown."""

import threading
from datetime import UTC, datetime

import pytest
from genai_prices import Usage, calc_price

from examples.optimizer import pricing
from examples.optimizer.pricing import ModelMonth, price_card, price_cards, smaller_sibling

MONTH = "2026-11"


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-5-mini", "claude-sonnet-4-5-20250929", "gemini-2.5-pro"])
@pytest.mark.parametrize("prompt", [0, 1000, 200_000, 200_001, 900_000])
def test_a_rate_costs_what_the_table_says(model: str, prompt: int) -> None:
    """Also beyond the prompt sizes at which a model gets dearer."""
    card = price_card(model, MONTH)
    assert card is not None
    expected = calc_price(
        Usage(input_tokens=prompt, output_tokens=700), model, genai_request_timestamp=datetime(2026, 11, 1, tzinfo=UTC)
    )
    assert expected.total_price == card.rate(prompt).cost(prompt, 700)


@pytest.mark.parametrize(
    ("model", "provider", "model_id"),
    [
        ("gpt-4o-2024-08-06", "openai", "gpt-4o"),
        ("azure/gpt-4o", "azure", "gpt-4o"),
        ("openai/gpt-4o-mini", "openai", "gpt-4o-mini"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "aws", "regional.anthropic.claude-sonnet-4-5-20250929-v1:0"),
    ],
)
def test_names_as_gateways_write_them(model: str, provider: str, model_id: str) -> None:
    """Dated, prefixed and Bedrock names find their model."""
    card = price_card(model, MONTH)
    assert card is not None
    assert (provider, model_id) == (card.provider_id, card.model_id)


@pytest.mark.parametrize("model", ["house-model", "", "gpt-4o-of-our-own"])
def test_unknown_models_are_not_guessed(model: str) -> None:
    """A name that only resembles a model has no price."""
    assert price_card(model, MONTH) is None


def test_batch_prices_are_known_from_the_day_the_table_has_them() -> None:
    """The batch price is below the standard one; before the table knew any there is none."""
    card = price_card("gpt-4o", MONTH)
    assert card is not None
    batch = card.batch_rate(1000)
    assert batch is not None
    assert batch.cost(1000, 1000) < card.rate(1000).cost(1000, 1000)
    earlier = price_card("gpt-4o", "2026-03")
    assert earlier is not None
    assert earlier.batch_rate(1000) is None


def test_every_smaller_sibling_is_cheaper() -> None:
    """The table of siblings names models that exist and cost less."""
    for model in pricing._SMALLER_SIBLINGS:
        card = price_card(model, MONTH)
        assert card is not None, model
        sibling = smaller_sibling(card, MONTH)
        assert sibling is not None, model
        assert sibling.rate(500).cost(500, 200) < card.rate(500).cost(500, 200), model


async def test_one_look_up_per_model_and_month_in_a_worker_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows there are, the table is asked once for each, and never on the loop's thread."""
    asked: list[tuple[str, threading.Thread]] = []
    find = pricing._find

    def counting(model: str, provider_id: str | None) -> object:
        asked.append((model, threading.current_thread()))
        return find(model, provider_id)

    monkeypatch.setattr(pricing, "_find", counting)
    price_card.cache_clear()
    wanted = {ModelMonth("gpt-4.1-nano", month) for month in ("2026-10", "2026-11")} | {ModelMonth("house", MONTH)}
    cards, siblings = await price_cards(wanted)
    await price_cards(wanted)
    assert sorted(model for model, _ in asked) == ["gpt-4.1-nano", "gpt-4.1-nano", "house"]
    assert threading.main_thread() not in {thread for _, thread in asked}
    assert {"gpt-4.1-nano"} == {key.model for key in cards}
    assert siblings == {}
