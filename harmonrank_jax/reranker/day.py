"""A user's day: requests, what the page remembers, and what a policy sees."""

import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from harmonrank_jax.reranker import page as page_lib
from harmonrank_jax.reranker import response as response_lib

NUM_WINDOWS = response_lib.NUM_WINDOWS
# Shares of a memory that are left a window later, for memories of half an hour,
# of three hours, and of the moods on which the page's rules act.
_FAST, _SLOW, _MOOD = (float(np.exp(-1 / windows)) for windows in (2, 12, 4))
# Observation size: 12 features per category and 8 per day.
_CATEGORY_FEATURES, _DAY_FEATURES = 12, 8


class Memory(NamedTuple):
  """What the page remembers of the user's day, by category: `[C]` each."""

  shown_fast: jax.Array
  shown_slow: jax.Array
  shown_today: jax.Array
  clicks_fast: jax.Array
  clicks_slow: jax.Array
  clicks_today: jax.Array
  expected_slow: jax.Array  # Clicks as predicted.
  liked: jax.Array
  disliked: jax.Array


# Shares that are left a window later, field by field.
_LEFT = Memory._make((
    _FAST, _SLOW, 1.0, _FAST, _SLOW, 1.0, _SLOW, _MOOD, _MOOD))


class History(NamedTuple):
  """What a user has been shown earlier in the day; S items, in any order."""

  categories: jax.Array  # [S] int32 in [0, C), or -1 for none of them.
  age: jax.Array  # [S] float32, windows since the item was shown.
  log_odds: jax.Array  # [S] float32, predicted, of a click.
  clicks: jax.Array  # [S] bool
  dismissed: jax.Array  # [S] bool
  where: jax.Array  # [S] bool, True = an item was shown.


class Moment(NamedTuple):
  """When a policy acts; `[]` each, as in `State`."""

  window: jax.Array
  num_requests: jax.Array
  requests_today: jax.Array
  since_last: jax.Array


class State(NamedTuple):
  """Where a user's day stands."""

  user: jax.Array  # [] int32
  window: jax.Array  # [] int32 from 0 to W; W is the end of the day.
  num_requests: jax.Array  # [] int32 of this window, at most `max_requests`.
  start: jax.Array  # [max_requests] int32, first place of the candidates.
  fatigue: jax.Array  # [C], hidden: exposures fresh in the user's mind.
  memory: Memory
  requests_today: jax.Array  # [] float32, before this window.
  since_last: jax.Array  # [] float32, windows since the last request.

  @property
  def moment(self) -> Moment:
    """What an observation shows of it beside the memory."""
    return Moment(self.window, self.num_requests, self.requests_today,
                  self.since_last)


def observation_size(num_categories: int) -> int:
  """Numbers of an observation: 128 for 10 categories."""
  return _CATEGORY_FEATURES * num_categories + _DAY_FEATURES


def first_requests(
    draws: jax.Array, rates: jax.Array, *, max_requests: int
) -> tuple[jax.Array, jax.Array]:
  """The first window with a request, and its number of requests.

  Requests are a Poisson process of `rates` `[W]`, in expected requests by
  window, of which at least one is given. `draws` `[2]` are uniform.
  """
  # Time is measured in expected requests.
  due = jnp.cumsum(rates)
  first = -jnp.log1p(-draws[0] * -jnp.expm1(-due[-1]))
  window = jnp.minimum(jnp.sum(due < first), NUM_WINDOWS - 1)
  more = poisson(draws[1], due[window] - first, max_requests - 1)
  return window, 1 + more


def poisson(uniform: jax.Array, rate: jax.Array, most: int) -> jax.Array:
  """A Poisson number of mean `rate` by inversion, `[]` int32 up to `most`."""
  term = total = jnp.exp(-rate)
  count = jnp.zeros((), jnp.int32)
  for number in range(1, most + 1):
    count += (uniform > total).astype(jnp.int32)
    term = term * rate / number
    total = total + term
  return count


def no_memory(num_categories: int) -> Memory:
  """The memory at the beginning of a day."""
  return Memory(*[jnp.zeros(num_categories)] * len(Memory._fields))


def remember(
    page: page_lib.Page, fatigue: jax.Array, memory: Memory
) -> tuple[jax.Array, Memory]:
  """Fatigue `[C]` and memory after a page and the response to it."""
  is_category = jax.nn.one_hot(page.categories, len(fatigue))
  counts = _impressions(page) @ is_category
  return fatigue + counts[0], jax.tree.map(
      jnp.add, memory, _as_memory(counts))


def remembered(history: History, *, num_categories: int) -> Memory:
  """The memory that `remember` and the time since have made of the day."""
  is_category = jax.nn.one_hot(history.categories, num_categories)
  impressions = _as_memory(_impressions(history))
  return jax.tree.map(
      lambda made, left: (made * left ** history.age) @ is_category,
      impressions, _LEFT)


def next_window(
    state: State,
    uniform: jax.Array,
    rates: jax.Array,
    *,
    recovery: jax.Array,
    num_places: int,
) -> State:
  """The state a window later.

  `uniform` `[1 + max_requests]` draws the number of requests and the starts of
  their candidates; `rates` `[W]` are expected requests by window.
  """
  window = state.window + 1
  requests = poisson(uniform[0], rates[jnp.minimum(window, NUM_WINDOWS - 1)],
                     len(uniform) - 1)
  return State(
      user=state.user, window=window,
      num_requests=jnp.where(window < NUM_WINDOWS, requests, 0),
      start=jnp.minimum(
          (uniform[1:] * num_places).astype(jnp.int32), num_places - 1),
      fatigue=state.fatigue * recovery, memory=_fade(state.memory),
      requests_today=state.requests_today + state.num_requests,
      since_last=jnp.where(state.num_requests > 0, 1.0, state.since_last + 1))


def observe(
    memory: Memory, moment: Moment, candidates: page_lib.Candidates, *,
    num_slots: int, num_candidates: int,
) -> jax.Array:
  """The observation, `[O]` float32: candidates and memory, nothing hidden.

  Shares of the candidates are those of `num_candidates`, or of all there are
  if these are more.
  """
  slates = float(num_slots)
  num_categories = len(memory.liked)
  is_category = jax.nn.one_hot(
      candidates.categories, num_categories) * candidates.where[:, None]
  share = jnp.sum(is_category, axis=0)
  mean = candidates.log_odds @ is_category / jnp.maximum(share, 1)
  best = jnp.max(jnp.where(
      is_category > 0, candidates.log_odds[:, None], -6.0), axis=0)
  by_category = jnp.stack([
      share / jnp.maximum(jnp.sum(candidates.where), num_candidates),
      mean / 4, best / 4,
      memory.shown_fast / slates, memory.shown_slow / slates,
      memory.shown_today / (10 * slates), memory.clicks_fast / slates,
      memory.clicks_slow / slates, memory.clicks_today / (10 * slates),
      memory.expected_slow / slates, jnp.tanh(memory.liked),
      jnp.tanh(memory.disliked)])
  angle = 2 * jnp.pi * moment.window / NUM_WINDOWS * jnp.array([1.0, 2.0])
  day = jnp.concatenate([
      jnp.cos(angle), jnp.sin(angle), jnp.stack([
          moment.window / NUM_WINDOWS, moment.requests_today / 10,
          jnp.log1p(moment.since_last) / 4,
          moment.num_requests.astype(jnp.float32)])])
  return jnp.concatenate([by_category.reshape(-1), day])


def _fade(memory: Memory) -> Memory:
  """The memory a window later."""
  return jax.tree.map(operator.mul, memory, _LEFT)


def _impressions(shown: page_lib.Page | History) -> jax.Array:
  """`[4, ...]` float32: exposures, clicks, dismissals, predicted clicks."""
  return jnp.stack([
      shown.where, shown.clicks, shown.dismissed,
      shown.where * jax.nn.sigmoid(shown.log_odds)]).astype(jnp.float32)


def _as_memory(impressions: jax.Array) -> Memory:
  """Impressions `[4, ...]` by what remembers them, fresh: `[...]` each."""
  shown, clicks, dismissed, expected = impressions
  return Memory(
      shown_fast=shown, shown_slow=shown, shown_today=shown,
      clicks_fast=clicks, clicks_slow=clicks, clicks_today=clicks,
      expected_slow=expected, liked=clicks, disliked=dismissed)
