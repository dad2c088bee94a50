"""A user's day: requests, what the page remembers, and what a policy sees."""

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
  shown, clicks, dismissed, expected = (
      jnp.stack([page.where, page.clicks, page.dismissed,
                 page.where * jax.nn.sigmoid(page.log_odds)])
      .astype(jnp.float32) @ is_category)
  new = Memory(
      shown_fast=shown, shown_slow=shown, shown_today=shown,
      clicks_fast=clicks, clicks_slow=clicks, clicks_today=clicks,
      expected_slow=expected, liked=clicks, disliked=dismissed)
  return fatigue + shown, jax.tree.map(jnp.add, memory, new)


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
    state: State, candidates: page_lib.Candidates, *, num_slots: int
) -> jax.Array:
  """The observation, `[O]` float32: candidates and memory, nothing hidden."""
  memory, slates = state.memory, float(num_slots)
  num_categories = len(memory.liked)
  is_category = jax.nn.one_hot(
      candidates.categories, num_categories) * candidates.where[:, None]
  share = jnp.sum(is_category, axis=0)
  mean = candidates.log_odds @ is_category / jnp.maximum(share, 1)
  best = jnp.max(jnp.where(
      is_category > 0, candidates.log_odds[:, None], -6.0), axis=0)
  by_category = jnp.stack([
      share / len(candidates.items), mean / 4, best / 4,
      memory.shown_fast / slates, memory.shown_slow / slates,
      memory.shown_today / (10 * slates), memory.clicks_fast / slates,
      memory.clicks_slow / slates, memory.clicks_today / (10 * slates),
      memory.expected_slow / slates, jnp.tanh(memory.liked),
      jnp.tanh(memory.disliked)])
  angle = 2 * jnp.pi * state.window / NUM_WINDOWS * jnp.array([1.0, 2.0])
  day = jnp.concatenate([
      jnp.cos(angle), jnp.sin(angle), jnp.stack([
          state.window / NUM_WINDOWS, state.requests_today / 10,
          jnp.log1p(state.since_last) / 4,
          state.num_requests.astype(jnp.float32)])])
  return jnp.concatenate([by_category.reshape(-1), day])


def _fade(memory: Memory) -> Memory:
  """The memory a window later."""
  return Memory(
      memory.shown_fast * _FAST, memory.shown_slow * _SLOW,
      memory.shown_today, memory.clicks_fast * _FAST,
      memory.clicks_slow * _SLOW, memory.clicks_today,
      memory.expected_slow * _SLOW, memory.liked * _MOOD,
      memory.disliked * _MOOD)
