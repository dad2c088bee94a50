"""One slate of the page: selected, arranged, laid out and answered.

The greedy DPP selects the items of a slate (`select`), the rules of the page
change their order (`arrange`), and the user responds to what is laid out
(`respond`).
"""

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from harmonrank_jax.diversity import greedy
from harmonrank_jax.reranker import response as response_lib

# The log s2 of a slot that nothing could fill: the tolerance of the greedy DPP.
_LEAST_LOG_VOLUME = float(np.log(1e-5))


class Candidates(NamedTuple):
  """The items that a request may show; N items."""

  items: jax.Array  # [N] int32
  categories: jax.Array  # [N] int32 in [0, C), or -1 for none of them.
  features: jax.Array  # [N, D] float32
  log_odds: jax.Array  # [N] float32, predicted, of a click.
  relevance: jax.Array  # [N] float32, log of the expected value.
  where: jax.Array  # [N] bool, True = there is an item.


class Selection(NamedTuple):
  """What the greedy DPP selected, in its order."""

  indices: jax.Array  # [K] int32 of the candidates, 0 where none is selected.
  picked: jax.Array  # [K] bool, True = an item was selected.
  gains: jax.Array  # [K], as those of `greedy_dpp`.
  diversity: jax.Array  # [], log det S_Y / K.


class Page(NamedTuple):
  """A slate and the response to it, slot by slot: `[K]`."""

  items: jax.Array  # int32, -1 where nothing was shown.
  categories: jax.Array  # int32
  log_odds: jax.Array  # Predicted, of a click.
  similarity: jax.Array  # Cosine to the most similar item above.
  clicks: jax.Array  # bool
  click_probability: jax.Array  # Before any draw, the cascade included.
  dismissed: jax.Array  # bool
  where: jax.Array  # bool, True = an item was shown.
  diversity: jax.Array  # [], log det S_Y / K.


def select(
    candidates: Candidates,
    bias: jax.Array,
    theta: jax.Array,
    *,
    above: jax.Array | None = None,
    quotas: jax.Array | None = None,
) -> Selection:
  """Selects a slate by the greedy DPP; theta in (0, 1) weighs relevance.

  `bias` `[K, C]` is added to relevance by slot and category. The slate also
  has to differ from the items of features `above`, `[S, D]`, and has at most
  `quotas` `[C]` items of a category.
  """
  slate = greedy.greedy_dpp(
      candidates.features, candidates.relevance, num_selected=len(bias),
      theta=theta, where=candidates.where, category_ids=candidates.categories,
      quotas=quotas, slot_bias=bias, shown_features=above, fill="none")
  picked = slate.indices >= 0
  indices = jnp.maximum(slate.indices, 0)
  # A gain is the weighted relevance plus log s2; these sum to log det S_Y.
  weight = theta / (1 - theta)
  log_volume = jnp.where(
      picked, slate.gains - weight * (
          candidates.relevance[indices]
          + jax.vmap(of_category)(bias, candidates.categories[indices])),
      _LEAST_LOG_VOLUME)
  diversity = jnp.mean(jnp.maximum(log_volume, _LEAST_LOG_VOLUME))
  return Selection(indices, picked, slate.gains, diversity)


def arrange(
    categories: jax.Array,
    picked: jax.Array,
    mood: jax.Array,
    *,
    feedback_rule: float,
    spread: int | None,
) -> jax.Array:
  """Order of the slots by the rules of the page, a permutation `[K]`.

  `mood` `[C]` is recent dismissals less recent clicks. `simulator.Simulator`
  describes both rules.
  """
  slots = jnp.arange(len(categories))
  order = slots
  if feedback_rule:
    push = feedback_rule * of_category(jnp.tanh(mood), categories)
    # The half slot lets a pushed item pass one that is not pushed.
    places = jnp.where(picked, slots + 1.5 * push, jnp.inf)
    order = jnp.argsort(places, stable=True)
  if spread is not None and spread < len(slots):
    order = _spread(order, categories, picked, spread)
  return order


def lay_out(
    candidates: Candidates,
    selection: Selection,
    order: jax.Array,
    is_made: jax.Array | bool,
) -> tuple[Page, jax.Array]:
  """The page before any response, and features `[K, D]`; 0 without request."""
  indices, picked = selection.indices[order], selection.picked[order]
  where = picked & is_made
  features = jnp.where(where[:, None], candidates.features[indices], 0)
  nothing = jnp.zeros_like(where)
  return Page(
      items=jnp.where(where, candidates.items[indices], -1),
      categories=candidates.categories[indices],
      log_odds=candidates.log_odds[indices],
      similarity=_similarity_above(features), clicks=nothing,
      click_probability=jnp.zeros(len(order)), dismissed=nothing, where=where,
      diversity=selection.diversity), features


def respond(
    page: Page,
    window: jax.Array,
    fatigue: jax.Array,
    dice: jax.Array,
    response: response_lib.ResponseModel,
) -> Page:
  """The page with clicks and dismissals, by uniform `dice` `[2, K]`."""
  window = jnp.minimum(window, response_lib.NUM_WINDOWS - 1)
  odds = response_lib.attraction(
      response, page.log_odds, page.categories,
      response.demand[page.categories, window], fatigue[page.categories],
      page.similarity)
  click_if_reached = jnp.where(
      page.where,
      response.examination[:len(odds)] * jax.nn.sigmoid(odds), 0)
  # In expectation each click above may have been the last.
  stays = 1 - click_if_reached * response.stop
  reached = jnp.cumprod(jnp.concatenate([jnp.ones(1), stays[:-1]]))
  # One uniform decides both: below q a click, below q * stop a click and
  # leaving; q is the probability of a click if the slot is reached.
  wants = dice[0] < click_if_reached
  leaves = dice[0] < click_if_reached * response.stop
  has_left = jnp.cumsum(leaves) - leaves > 0
  clicks = wants & ~has_left
  dismissed = page.where & ~clicks & (dice[1] < response.dismiss)
  return page._replace(
      clicks=clicks, click_probability=reached * click_if_reached,
      dismissed=dismissed)


def of_category(values: jax.Array, categories: jax.Array) -> jax.Array:
  """Values `[C]` by category, of items `[...]`; 0 for those in none."""
  is_known = (categories >= 0) & (categories < len(values))
  return jnp.where(is_known, values[jnp.where(is_known, categories, 0)], 0)


def _similarity_above(features: jax.Array) -> jax.Array:
  """Cosine to the most similar row above, `[K]`; 0 at the first."""
  norms = jnp.linalg.norm(features, axis=1, keepdims=True)
  unit = features / jnp.where(norms > 0, norms, 1)
  cosine = jnp.matmul(unit, unit.T, precision=lax.Precision.HIGHEST)
  is_above = jnp.tri(len(features), k=-1, dtype=bool)
  return jnp.max(jnp.where(is_above, cosine, 0), axis=1, initial=0)


def _spread(
    order: jax.Array, categories: jax.Array, picked: jax.Array, most: int
) -> jax.Array:
  """The order, changed so that no category has more than `most` in a row.

  Each slot gets the first remaining item whose category is allowed; if there
  is none, the first remaining item. Items in no category, -1, are allowed.
  Empty slots stay last.
  """
  kinds, valid = categories[order], picked[order]
  count = len(order)
  left = jnp.ones(count, bool)
  last, run = jnp.int32(-1), jnp.int32(0)
  chosen = []
  for _ in range(count):
    may = valid & ((kinds != last) | (run < most) | (kinds < 0))
    # The first of the best class: 2 if it is allowed, 1 if there is an item.
    place = jnp.argmax(jnp.where(
        left, may.astype(jnp.int32) + valid.astype(jnp.int32), -1))
    run = jnp.where(kinds[place] == last, run + 1, 1)
    last = kinds[place]
    left = left.at[place].set(False)
    chosen.append(place)
  return order[jnp.stack(chosen)]
