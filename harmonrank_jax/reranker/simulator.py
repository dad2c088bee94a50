"""A day on the home page: who comes when, what is shown, what is clicked.

An episode is a day of one user in windows of 15 minutes, from the window of
the first request on. In a window with requests the action corrects the log
pCTR of categories, slot by slot; the greedy DPP makes the slate inside the
step, the page's rules arrange it, and the user responds (`response.py`).

Everything that a world is made of is an array of `Params`, so that `vmap`
makes users, worlds, bootstrap replicates and augmentations of it; everything
that has a shape is in the configuration.
"""

import dataclasses
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from harmonrank_jax.diversity import greedy
from harmonrank_jax.reranker import environment
from harmonrank_jax.reranker import response as response_lib

NUM_WINDOWS = response_lib.NUM_WINDOWS
LAYOUTS = ("slot_category", "category", "rank2")
SCOPES = ("request", "window")

# Of a category, and of the day, in an observation: 128 for 10 categories.
_CATEGORY_FEATURES, _DAY_FEATURES = 12, 8
# What is left after a window of memories of half an hour, of three hours, and
# of the moods that the page's rules act on.
_FAST, _SLOW, _MOOD = (float(np.exp(-1 / windows)) for windows in (2, 12, 4))
# How far the knob turns: beyond it log s2 is lost in a gain's rounding.
_MOST_THETA = 0.999
# log s2 of a slot that nothing could fill: the tolerance of the greedy DPP.
_LEAST_LOG_VOLUME = float(np.log(1e-5))


class Pool(NamedTuple):
  """What the users of a log can be shown; U users, L places, I items.

  A request's candidates are a run of a user's places, from anywhere and around
  the end: shuffle them.

  Attributes:
    features: `[I, D]` float32.
    item_categories: `[I]` int32 in [0, C).
    items: `[U, L]` int32.
    log_odds: `[U, L]` float32, predicted, of a click.
    log_value: `[U, L]` float32, what a click is worth in relevance: 0, or the
      log of the predicted rate of conversions after it.
    where: `[U, L]` bool, True = there is an item.
  """

  features: jax.Array
  item_categories: jax.Array
  items: jax.Array
  log_odds: jax.Array
  log_value: jax.Array
  where: jax.Array


class Params(NamedTuple):
  """A world, and the scores that the page goes by.

  Attributes:
    pool: what there is to show.
    response: how users respond; of at least K positions.
    arrivals: `[W]`, shares of a day's requests by window.
    activity: `[U]`, expected requests of each user's day.
    base: `[U, L]`, calibrated log-odds of the pool's places.
    shift: `[W, C]`, added to them by window and category.
    theta: `[]`, the DPP's weight of relevance, in (0, 1).
    values: `[C]`, what a click is worth in reward.
  """

  pool: Pool
  response: response_lib.ResponseModel
  arrivals: jax.Array
  activity: jax.Array
  base: jax.Array
  shift: jax.Array
  theta: jax.Array
  values: jax.Array


class Memory(NamedTuple):
  """What the page remembers of the user's day, by category: `[C]` each."""

  shown_fast: jax.Array
  shown_slow: jax.Array
  shown_today: jax.Array
  clicks_fast: jax.Array
  clicks_slow: jax.Array
  clicks_today: jax.Array
  expected_slow: jax.Array  # Clicks that were predicted.
  liked: jax.Array
  disliked: jax.Array


class State(NamedTuple):
  """Where a user's day stands.

  Attributes:
    user: `[]` int32.
    window: `[]` int32 from 0 to W; W is the end of the day.
    num_requests: `[]` int32, of this window, at most `max_requests`.
    start: `[max_requests]` int32, where in the pool candidates begin.
    fatigue: `[C]`, hidden: exposures fresh in the user's mind.
    memory: what the page knows.
    requests_today: `[]` float32, before this window.
    since_last: `[]` float32, windows since the last request.
  """

  user: jax.Array
  window: jax.Array
  num_requests: jax.Array
  start: jax.Array
  fatigue: jax.Array
  memory: Memory
  requests_today: jax.Array
  since_last: jax.Array


class Page(NamedTuple):
  """What happened to one slate, slot by slot: `[K]`.

  Attributes:
    items: int32, -1 where nothing was shown.
    categories: int32.
    log_odds: predicted.
    similarity: cosine to the most similar item above.
    clicks: bool.
    click_probability: before the day's dice, the cascade included.
    dismissed: bool.
    where: bool.
    diversity: `[]`, `log det S_Y / K`.
  """

  items: jax.Array
  categories: jax.Array
  log_odds: jax.Array
  similarity: jax.Array
  clicks: jax.Array
  click_probability: jax.Array
  dismissed: jax.Array
  where: jax.Array
  diversity: jax.Array


@dataclasses.dataclass(frozen=True)
class Simulator:
  """The home page as an `environment.Environment`.

  The reward is, by category, the value of the clicks of a window. The first
  cost is the diversity constraint's, `-log det S_Y / K`; with
  `exposure_costs` one for each category follows, minus its share of the
  slots, so that a threshold of minus a floor keeps it at the floor.

  Attributes:
    num_categories: C, of 1 + 5 + N.
    num_slots: K of a slate.
    num_candidates: N of a request; at most the pool's places.
    layout: of the action: "slot_category", a correction of log pCTR for each
      slot and category (K C numbers); "category", the same in all slots (C);
      "rank2", a level and a slope over the slots for each category (2 C).
      Corrections are centred over categories: what is added to all of them
      changes nothing.
    knob: True = the action's last number moves the log-odds of theta, within
      0.001 to 0.999.
    max_requests: of a window, all answered by the same action.
    scope: "request", slates are diverse each by itself; "window", also
      against those before in the window: the diversity of a slate is then
      what it adds to the `log det` of them all.
    spread: at most so many slots of a category in a row, after selection, if
      there are others; None is no such rule.
    feedback_rule: slots that a category is pushed down after a dismissal and
      up after a click, which fades in an hour; 0 is no such rule.
    exposure_costs: whether shares of the slots are costs, too.
    expected_rewards: True = rewards are the clicks' expectation given the
      slate instead of the clicks: the same mean, less noise.
    privileged: True = relevance is the true log-probability of a click, of
      the hidden response and fatigue, instead of the scores: a bound for
      those who have to learn them.
  """

  num_categories: int = 10
  num_slots: int = 10
  num_candidates: int = 60
  layout: str = "category"
  knob: bool = False
  max_requests: int = 1
  scope: str = "request"
  spread: int | None = 3
  feedback_rule: float = 1.0
  exposure_costs: bool = False
  expected_rewards: bool = False
  privileged: bool = False

  def __post_init__(self):
    for name in ("num_categories", "num_slots", "num_candidates",
                 "max_requests"):
      if getattr(self, name) < 1:
        raise ValueError(
            f"{name} must be at least 1, got {getattr(self, name)}.")
    for name, options in (("layout", LAYOUTS), ("scope", SCOPES)):
      if getattr(self, name) not in options:
        raise ValueError(f"{name} must be one of {', '.join(options)}, got "
                         f"{getattr(self, name)!r}.")
    if self.spread is not None and self.spread < 1:
      raise ValueError(f"spread must be at least 1, got {self.spread}.")
    if not self.feedback_rule >= 0:
      raise ValueError(
          f"feedback_rule must be at least 0, got {self.feedback_rule}.")

  @property
  def observation_size(self) -> int:
    """128 for 10 categories."""
    return _CATEGORY_FEATURES * self.num_categories + _DAY_FEATURES

  @property
  def action_size(self) -> int:
    """Numbers of an action: corrections, then the knob if there is one."""
    numbers = {"slot_category": self.num_slots, "category": 1, "rank2": 2}
    return numbers[self.layout] * self.num_categories + self.knob

  @property
  def num_rewards(self) -> int:
    """One a category."""
    return self.num_categories

  @property
  def num_costs(self) -> int:
    """Of diversity, and of exposure."""
    return 1 + self.num_categories * self.exposure_costs

  def reset(
      self, key: jax.Array, params: Params
  ) -> tuple[State, environment.StepResult]:
    """Begins the day of a user, with the first request.

    Args:
      key: consumed.
      params: the world.

    Returns:
      `State` and `StepResult`, whose `where` is True.

    Raises:
      ValueError: if shapes of the world do not fit.
    """
    self._check(params)
    user_key, time_key, start_key = jax.random.split(key, 3)
    num_users, num_places = params.pool.items.shape
    user = jax.random.randint(user_key, (), 0, num_users)
    # The time of the first of the day's requests, a Poisson process, in
    # expected requests; given that there is one.
    due = jnp.cumsum(params.activity[user] * params.arrivals)
    draws = jax.random.uniform(time_key, (2,))
    first = -jnp.log1p(-draws[0] * -jnp.expm1(-due[-1]))
    window = jnp.minimum(jnp.sum(due < first), NUM_WINDOWS - 1)
    more = _poisson(draws[1], due[window] - first, self.max_requests - 1)
    zeros = jnp.zeros(self.num_categories)
    state = State(
        user=user, window=window, num_requests=1 + more,
        start=jax.random.randint(
            start_key, (self.max_requests,), 0, num_places),
        fatigue=zeros, memory=Memory(*[zeros] * len(Memory._fields)),
        requests_today=jnp.zeros(()), since_last=jnp.zeros(()))
    none = jnp.zeros(self.num_costs)
    return state, self._result(
        state, params, jnp.zeros(self.num_categories), none, none)

  def step(
      self, key: jax.Array, state: State, action: jax.Array, params: Params
  ) -> tuple[State, environment.StepResult]:
    """Shows the slates of a window, and goes on to the next.

    Args:
      key: consumed. The same key brings the same requests, candidates and
        dice, whatever the action: common random numbers.
      state: from `reset` or `step`.
      action: `[A]` in `layout`.
      params: the world.

    Returns:
      `State` and `StepResult`. The last window's is `terminated`; nothing is
      truncated.
    """
    state, result, _ = self.step_with_pages(key, state, action, params)
    return state, result

  def step_with_pages(
      self, key: jax.Array, state: State, action: jax.Array, params: Params
  ) -> tuple[State, environment.StepResult, Page]:
    """`step`, with the slates: `Page` of `[max_requests, K]`."""
    bias, theta = self.corrections(action, params)
    uniform = jax.random.uniform(
        key, (2 * self.max_requests * self.num_slots + 1 + self.max_requests,))
    dice, (arrival, *starts) = (
        uniform[:-1 - self.max_requests].reshape(
            self.max_requests, 2, self.num_slots),
        uniform[-1 - self.max_requests:])
    pages, fatigue, memory, above = [], state.fatigue, state.memory, None
    for request in range(self.max_requests):
      is_made = request < state.num_requests
      page, above = self._page(
          state, request, is_made, bias, theta, dice[request], fatigue,
          memory, above, params)
      fatigue, memory = self._remember(page, fatigue, memory)
      pages.append(page)
    made = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pages)

    window = state.window + 1
    rate = params.activity[state.user] * params.arrivals[
        jnp.minimum(window, NUM_WINDOWS - 1)]
    num_places = params.pool.items.shape[1]
    next_state = State(
        user=state.user, window=window,
        num_requests=jnp.where(
            window < NUM_WINDOWS, _poisson(arrival, rate, self.max_requests),
            0),
        start=jnp.minimum(
            (jnp.stack(starts) * num_places).astype(jnp.int32),
            num_places - 1),
        fatigue=fatigue * params.response.recovery,
        memory=_faded(memory),
        requests_today=state.requests_today + state.num_requests,
        since_last=jnp.where(
            state.num_requests > 0, 1.0, state.since_last + 1))
    reward, cost, counted = self._measured(made, state, params)
    return next_state, self._result(
        next_state, params, reward, cost, counted), made

  def corrections(
      self, action: jax.Array, params: Params
  ) -> tuple[jax.Array, jax.Array]:
    """What an action does, read from its layout.

    Args:
      action: `[A]`.
      params: the world, of which theta is moved by the knob.

    Returns:
      Corrections `[K, C]` of log pCTR, of mean 0 over categories, and theta
      `[]`.
    """
    numbers, theta = action, params.theta
    if self.knob:
      numbers = action[:-1]
      theta = jnp.clip(
          jax.nn.sigmoid(jax.scipy.special.logit(theta) + action[-1]),
          1 - _MOST_THETA, _MOST_THETA)
    rows = numbers.reshape(-1, self.num_categories)
    rows -= jnp.mean(rows, axis=1, keepdims=True)
    if self.layout == "rank2":
      slope = jnp.linspace(-1, 1, self.num_slots)[:, None]
      rows = rows[0][None, :] + slope * rows[1][None, :]
    return jnp.broadcast_to(
        rows, (self.num_slots, self.num_categories)), theta

  def _check(self, params: Params) -> None:
    num_users, num_places = params.pool.items.shape
    expected = {
        "arrivals": (NUM_WINDOWS,), "activity": (num_users,),
        "base": (num_users, num_places),
        "shift": (NUM_WINDOWS, self.num_categories), "theta": (),
        "values": (self.num_categories,)}
    for name, shape in expected.items():
      if getattr(params, name).shape != shape:
        raise ValueError(f"params.{name} has shape "
                         f"{getattr(params, name).shape}; expected {shape}.")
    level = params.response.level.shape
    if level != (self.num_categories,):
      raise ValueError(f"params.response.level has shape {level}; expected "
                       f"{(self.num_categories,)}.")
    positions = params.response.examination.shape[0]
    if positions < self.num_slots:
      raise ValueError(f"params.response knows {positions} positions; slates "
                       f"have {self.num_slots}.")
    if num_places < self.num_candidates:
      raise ValueError(f"params.pool has {num_places} places; requests have "
                       f"{self.num_candidates} candidates.")

  def _candidates(
      self, state: State, request: int, params: Params
  ) -> tuple[jax.Array, ...]:
    """Items, their categories, log-odds, relevance, mask: `[N]` each."""
    pool, num_places = params.pool, params.pool.items.shape[1]
    places = (state.start[request] + jnp.arange(self.num_candidates)
              ) % num_places
    take = lambda array: array[state.user, places]
    items = take(pool.items)
    categories = pool.item_categories[items]
    window = jnp.minimum(state.window, NUM_WINDOWS - 1)
    where = take(pool.where)
    log_odds = jnp.where(where, take(pool.log_odds), 0)
    if self.privileged:
      score = response_lib.attraction(
          params.response, log_odds, categories, window,
          state.fatigue[categories], jnp.zeros(()))
    else:
      score = take(params.base) + params.shift[window][categories]
    relevance = jax.nn.log_sigmoid(score) + take(pool.log_value)
    return items, categories, log_odds, relevance, where

  def _page(
      self, state, request, is_made, bias, theta, dice, fatigue, memory, above,
      params
  ) -> tuple[Page, jax.Array | None]:
    """Selects, arranges and shows a slate; and what the next is to differ from.
    """
    items, categories, log_odds, relevance, where = self._candidates(
        state, request, params)
    features = params.pool.features[items]
    slate = greedy.greedy_dpp(
        features, relevance, num_selected=self.num_slots, theta=theta,
        where=where, category_ids=categories, slot_bias=bias,
        shown_features=above)
    picked = slate.indices >= 0
    chosen = jnp.maximum(slate.indices, 0)
    # What the gain has beside relevance is log s2; these sum to log det S_Y.
    weight = theta / (1 - theta)
    shown_category = categories[chosen]
    slots = jnp.arange(self.num_slots)
    log_volume = jnp.where(
        picked, slate.gains - weight * (
            relevance[chosen] + bias[slots, shown_category]),
        _LEAST_LOG_VOLUME)

    order = self._arranged(shown_category, picked, memory)
    chosen, picked, shown_category = (
        values[order] for values in (chosen, picked, shown_category))
    where = picked & is_made
    shown_features = jnp.where(where[:, None], features[chosen], 0)
    page = self._responded(
        Page(items=jnp.where(where, items[chosen], -1),
             categories=shown_category, log_odds=log_odds[chosen],
             similarity=_similarity_above(shown_features), clicks=where,
             click_probability=jnp.zeros(self.num_slots), dismissed=where,
             where=where,
             diversity=jnp.mean(jnp.maximum(log_volume, _LEAST_LOG_VOLUME))),
        state.window, fatigue, dice, params.response)
    if self.scope == "request" or self.max_requests == 1:
      return page, None
    if above is not None:
      shown_features = jnp.concatenate([above, shown_features])
    return page, shown_features

  def _arranged(
      self, categories: jax.Array, picked: jax.Array, memory: Memory
  ) -> jax.Array:
    """Order of the slots by the page's rules; a permutation `[K]`."""
    slots = jnp.arange(self.num_slots)
    order = slots
    if self.feedback_rule:
      mood = memory.disliked - memory.liked
      push = self.feedback_rule * jnp.tanh(mood)[categories]
      # Half a slot more than one that is not pushed, to pass it.
      places = jnp.where(picked, slots + 1.5 * push, jnp.inf)
      order = jnp.argsort(places, stable=True)
    if self.spread is not None and self.spread < self.num_slots:
      order = _spread(order, categories, picked, self.spread)
    return order

  def _responded(
      self, page: Page, window: jax.Array, fatigue: jax.Array,
      dice: jax.Array, response: response_lib.ResponseModel
  ) -> Page:
    """Clicks, dismissals, and what was to be expected of them."""
    odds = response_lib.attraction(
        response, page.log_odds, page.categories,
        jnp.minimum(window, NUM_WINDOWS - 1), fatigue[page.categories],
        page.similarity)
    q = jnp.where(
        page.where,
        response.examination[:self.num_slots] * jax.nn.sigmoid(odds), 0)
    # Reached by the expected user: each click above may have been the last.
    stays = 1 - q * response.stop
    reached = jnp.cumprod(jnp.concatenate([jnp.ones(1), stays[:-1]]))
    # And by this one. One number decides both the click and the leaving.
    wants = dice[0] < q
    leaves = dice[0] < q * response.stop
    has_left = jnp.cumsum(leaves) - leaves > 0
    clicks = wants & ~has_left
    dismissed = page.where & ~clicks & (dice[1] < response.dismiss)
    return page._replace(
        clicks=clicks, click_probability=reached * q, dismissed=dismissed)

  def _remember(
      self, page: Page, fatigue: jax.Array, memory: Memory
  ) -> tuple[jax.Array, Memory]:
    is_category = jax.nn.one_hot(page.categories, self.num_categories)
    shown, clicks, dismissed, expected = (
        jnp.stack([page.where, page.clicks, page.dismissed,
                   page.where * jax.nn.sigmoid(page.log_odds)])
        .astype(jnp.float32) @ is_category)
    return fatigue + shown, Memory(
        memory.shown_fast + shown, memory.shown_slow + shown,
        memory.shown_today + shown, memory.clicks_fast + clicks,
        memory.clicks_slow + clicks, memory.clicks_today + clicks,
        memory.expected_slow + expected, memory.liked + clicks,
        memory.disliked + dismissed)

  def _measured(
      self, made: Page, state: State, params: Params
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Reward, cost and what is counted, of the slates of a window."""
    is_category = jax.nn.one_hot(made.categories, self.num_categories)
    clicks = (made.click_probability if self.expected_rewards
              else made.clicks.astype(jnp.float32))
    reward = params.values * jnp.einsum("rk,rkc->c", clicks, is_category)
    is_made = jnp.arange(self.max_requests) < state.num_requests
    cost = -jnp.sum(jnp.where(is_made, made.diversity, 0))[None]
    count = state.num_requests.astype(jnp.float32)
    if self.exposure_costs:
      shares = jnp.einsum(
          "rk,rkc->c", made.where.astype(jnp.float32), is_category)
      cost = jnp.concatenate([cost, -shares / self.num_slots])
    return reward, cost, jnp.broadcast_to(count, cost.shape)

  def _result(
      self, state: State, params: Params, reward: jax.Array, cost: jax.Array,
      counted: jax.Array
  ) -> environment.StepResult:
    return environment.StepResult(
        observation=self._observe(state, params), reward=reward, cost=cost,
        counted=counted, where=state.num_requests > 0,
        terminated=state.window >= NUM_WINDOWS,
        truncated=jnp.zeros((), bool))

  def _observe(self, state: State, params: Params) -> jax.Array:
    """`[O]`: candidates, and the page's memory. Never hidden state."""
    _, categories, log_odds, _, where = self._candidates(state, 0, params)
    is_category = jax.nn.one_hot(
        categories, self.num_categories) * where[:, None]
    share = jnp.sum(is_category, axis=0)
    mean = log_odds @ is_category / jnp.maximum(share, 1)
    best = jnp.max(jnp.where(
        is_category > 0, log_odds[:, None], -6.0), axis=0)
    memory = state.memory
    slates = float(self.num_slots)
    by_category = jnp.stack([
        share / self.num_candidates, mean / 4, best / 4,
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


def _faded(memory: Memory) -> Memory:
  """A window later."""
  return Memory(
      memory.shown_fast * _FAST, memory.shown_slow * _SLOW,
      memory.shown_today, memory.clicks_fast * _FAST,
      memory.clicks_slow * _SLOW, memory.clicks_today,
      memory.expected_slow * _SLOW, memory.liked * _MOOD,
      memory.disliked * _MOOD)


def _poisson(
    uniform: jax.Array, rate: jax.Array, most: int
) -> jax.Array:
  """A Poisson number by inversion, at most `most`."""
  term = total = jnp.exp(-rate)
  count = jnp.zeros((), jnp.int32)
  for number in range(1, most + 1):
    count += (uniform > total).astype(jnp.int32)
    term = term * rate / number
    total = total + term
  return count


def _similarity_above(features: jax.Array) -> jax.Array:
  """`[K]` cosine to the most similar row above, 0 at the first."""
  norms = jnp.linalg.norm(features, axis=1, keepdims=True)
  unit = features / jnp.where(norms > 0, norms, 1)
  cosine = jnp.matmul(unit, unit.T, precision=lax.Precision.HIGHEST)
  is_above = jnp.tri(len(features), k=-1, dtype=bool)
  return jnp.max(jnp.where(is_above, cosine, 0), axis=1, initial=0)


def _spread(
    order: jax.Array, categories: jax.Array, picked: jax.Array, most: int
) -> jax.Array:
  """The order, changed so that none has more than `most` in a row.

  Each slot gets the first that is left whose category may come; if there is
  none, the first that is left. Slots that nothing was picked for stay last.
  """
  kinds, valid = categories[order], picked[order]
  count = len(order)
  left = jnp.ones(count, bool)
  last, run = jnp.int32(-1), jnp.int32(0)
  chosen = []
  for _ in range(count):
    may = valid & ((kinds != last) | (run < most))
    # The first of the best class: 2 if it may come, 1 if there is an item.
    place = jnp.argmax(jnp.where(
        left, may.astype(jnp.int32) + valid.astype(jnp.int32), -1))
    run = jnp.where(kinds[place] == last, run + 1, 1)
    last = kinds[place]
    left = left.at[place].set(False)
    chosen.append(place)
  return order[jnp.stack(chosen)]
