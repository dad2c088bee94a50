"""A day on the home page: requests, slates and clicks.

An episode is a day of one user in windows of 15 minutes, beginning with the
window of the first request. In a window with requests the action corrects the
log pCTR of categories, slot by slot; the greedy DPP makes the slate inside the
step, the rules of the page arrange it, and the user responds (`page.py`).

A world is the arrays of `Params`, so that `vmap` makes users, worlds, bootstrap
replicates and augmentations of it; whatever has a shape is in the
configuration.
"""

import dataclasses
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from harmonrank_jax.reranker import day as day_lib
from harmonrank_jax.reranker import environment
from harmonrank_jax.reranker import page as page_lib
from harmonrank_jax.reranker import response as response_lib

NUM_WINDOWS = response_lib.NUM_WINDOWS
LAYOUTS = ("slot_category", "category", "rank2")
SCOPES = ("request", "window")

# The range of the knob: beyond it log s2 is lost in the rounding of a gain.
_MOST_THETA = 0.999


class Pool(NamedTuple):
  """What the users of a log can be shown; U users, L places, I items.

  The candidates of a request are consecutive places of a user, from a random
  start and around the end: shuffle the places.
  """

  features: jax.Array  # [I, D] float32
  item_categories: jax.Array  # [I] int32 in [0, C)
  items: jax.Array  # [U, L] int32
  log_odds: jax.Array  # [U, L] float32, predicted, of a click
  # [U, L] float32, what a click is worth in relevance: 0, or the log of the
  # predicted rate of conversions after it.
  log_value: jax.Array
  where: jax.Array  # [U, L] bool, True = there is an item


class Params(NamedTuple):
  """A world, and the scores by which the page ranks.

  `synthetic.synthetic_world` makes one from random numbers.
  """

  pool: Pool  # the items of each user
  # How users respond; of at least K positions.
  response: response_lib.ResponseModel
  arrivals: jax.Array  # [W], shares of a day's requests by window
  activity: jax.Array  # [U], expected requests in a day of each user
  base: jax.Array  # [U, L], calibrated log-odds of the places of the pool
  shift: jax.Array  # [W, C], added to them by window and category
  theta: jax.Array  # [], the DPP's weight of relevance, in (0, 1)
  values: jax.Array  # [C], what a click is worth in reward


@dataclasses.dataclass(frozen=True)
class Simulator:
  """The home page as an `environment.Environment`.

  The reward is, by category, the value of the clicks of a window. The first
  cost is that of the diversity constraint, `-log det S_Y / K`. With
  `exposure_costs` there is one more for each category, minus its share of the
  slots: a threshold of minus a floor keeps the share above the floor.

  Attributes:
    num_categories: C; by default 10.
    num_slots: K of a slate.
    num_candidates: N of a request; at most the number of places in the pool.
    layout: of the action: "slot_category", a correction of log pCTR for each
      slot and category (K C numbers); "category", the same in all slots (C);
      "rank2", a level and a slope over the slots for each category (2 C).
      Corrections are centred over categories, so that a constant added to all
      of them changes nothing.
    knob: True = the last number of the action moves the log-odds of theta,
      within 0.001 to 0.999.
    max_requests: of a window, all answered by the same action.
    scope: "request", each slate is diverse by itself; "window", also against
      the slates before in the window: the diversity of a slate is then what it
      adds to the `log det` of them all.
    spread: the most slots of one category in a row after selection, as far as
      there are other items; None is no such rule.
    feedback_rule: slots that a category is pushed down after a dismissal and
      up after a click, fading in an hour; 0 is no such rule.
    exposure_costs: whether shares of the slots are costs, too.
    expected_rewards: True = rewards are the expected clicks given the slate
      instead of the clicks: the same mean, less noise.
    privileged: True = relevance is the true log-probability of a click, from
      the hidden response and fatigue, instead of the scores: an upper bound
      for policies that have to learn them.
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
    return day_lib.observation_size(self.num_categories)

  @property
  def action_size(self) -> int:
    """Numbers of an action: corrections, then the knob if there is one."""
    numbers = {"slot_category": self.num_slots, "category": 1, "rank2": 2}
    return numbers[self.layout] * self.num_categories + self.knob

  @property
  def num_rewards(self) -> int:
    """C: one reward for each category."""
    return self.num_categories

  @property
  def num_costs(self) -> int:
    """One of diversity, and with `exposure_costs` one a category."""
    return 1 + self.num_categories * self.exposure_costs

  def reset(
      self, key: jax.Array, params: Params
  ) -> tuple[day_lib.State, environment.StepResult]:
    """Begins the day of a user, with the first request: `where` is True.

    Raises ValueError if shapes of the world do not fit.
    """
    _check(self, params)
    user_key, time_key, start_key = jax.random.split(key, 3)
    num_users, num_places = params.pool.items.shape
    user = jax.random.randint(user_key, (), 0, num_users)
    window, num_requests = day_lib.first_requests(
        jax.random.uniform(time_key, (2,)), _rates(params, user),
        max_requests=self.max_requests)
    state = day_lib.State(
        user=user, window=window, num_requests=num_requests,
        start=jax.random.randint(
            start_key, (self.max_requests,), 0, num_places),
        fatigue=jnp.zeros(self.num_categories),
        memory=day_lib.no_memory(self.num_categories),
        requests_today=jnp.zeros(()), since_last=jnp.zeros(()))
    none = jnp.zeros(self.num_costs)
    return state, _result(
        self, state, params, jnp.zeros(self.num_categories), none, none)

  def step(
      self, key: jax.Array, state: day_lib.State, action: jax.Array,
      params: Params,
  ) -> tuple[day_lib.State, environment.StepResult]:
    """Shows the slates of a window, and goes on to the next.

    The same key brings the same requests, candidates and dice, whatever the
    action: common random numbers. The action is `[A]` in `layout`. The result
    of the last window is `terminated`; none is truncated.
    """
    state, result, _ = self.step_with_pages(key, state, action, params)
    return state, result

  def step_with_pages(
      self, key: jax.Array, state: day_lib.State, action: jax.Array,
      params: Params,
  ) -> tuple[day_lib.State, environment.StepResult, page_lib.Page]:
    """As `step`, with the slates: `Page` of `[max_requests, K]`."""
    uniform = jax.random.uniform(
        key, (2 * self.max_requests * self.num_slots + 1 + self.max_requests,))
    dice = uniform[:-1 - self.max_requests].reshape(
        self.max_requests, 2, self.num_slots)
    after, pages = _show(self, state, action, dice, params)
    after = day_lib.next_window(
        after, uniform[-1 - self.max_requests:], _rates(params, state.user),
        recovery=params.response.recovery,
        num_places=params.pool.items.shape[1])
    reward, cost, counted = _measure(self, pages, state, params)
    return after, _result(self, after, params, reward, cost, counted), pages

  def corrections(
      self, action: jax.Array, theta: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """What an action `[A]` does, read from its layout.

    Corrections `[K, C]` of log pCTR, of mean 0 over categories, and theta
    `[]`, moved by the knob.
    """
    numbers = action
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


def _check(simulator: Simulator, params: Params) -> None:
  """Raises ValueError if shapes of the world do not fit the page."""
  num_users, num_places = params.pool.items.shape
  num_categories = simulator.num_categories
  expected = {
      "arrivals": (NUM_WINDOWS,), "activity": (num_users,),
      "base": (num_users, num_places), "shift": (NUM_WINDOWS, num_categories),
      "theta": (), "values": (num_categories,),
      "response.level": (num_categories,)}
  for name, shape in expected.items():
    actual = operator.attrgetter(name)(params).shape
    if actual != shape:
      raise ValueError(
          f"params.{name} has shape {actual}; expected {shape}.")
  positions = params.response.examination.shape[0]
  if positions < simulator.num_slots:
    raise ValueError(f"params.response knows {positions} positions; slates "
                     f"have {simulator.num_slots}.")
  if num_places < simulator.num_candidates:
    raise ValueError(f"params.pool has {num_places} places; requests have "
                     f"{simulator.num_candidates} candidates.")


def _rates(params: Params, user: jax.Array) -> jax.Array:
  """Expected requests of a user by window, `[W]`."""
  return params.activity[user] * params.arrivals


def _candidates(
    simulator: Simulator, state: day_lib.State, request: int, params: Params
) -> page_lib.Candidates:
  """The candidates of a request of the window."""
  pool, num_places = params.pool, params.pool.items.shape[1]
  places = (state.start[request] + jnp.arange(simulator.num_candidates)
            ) % num_places
  take = lambda array: array[state.user, places]
  items = take(pool.items)
  categories = pool.item_categories[items]
  window = jnp.minimum(state.window, NUM_WINDOWS - 1)
  where = take(pool.where)
  log_odds = jnp.where(where, take(pool.log_odds), 0)
  if simulator.privileged:
    score = response_lib.attraction(
        params.response, log_odds, categories,
        params.response.demand[categories, window],
        state.fatigue[categories], jnp.zeros(()))
  else:
    score = take(params.base) + params.shift[window][categories]
  relevance = jax.nn.log_sigmoid(score) + take(pool.log_value)
  return page_lib.Candidates(
      items, categories, pool.features[items], log_odds, relevance, where)


def _show(
    simulator: Simulator, state: day_lib.State, action: jax.Array,
    dice: jax.Array, params: Params,
) -> tuple[day_lib.State, page_lib.Page]:
  """Shows the slates of a window in turn; `Page` is `[max_requests, K]`."""
  bias, theta = simulator.corrections(action, params.theta)
  is_joint = simulator.scope == "window" and simulator.max_requests > 1
  pages, fatigue, memory, above = [], state.fatigue, state.memory, None
  for request in range(simulator.max_requests):
    # Candidates are scored by the fatigue at the beginning of the window.
    candidates = _candidates(simulator, state, request, params)
    selection = page_lib.select(candidates, bias, theta, above=above)
    order = page_lib.arrange(
        candidates.categories[selection.indices], selection.picked,
        memory.disliked - memory.liked,
        feedback_rule=simulator.feedback_rule, spread=simulator.spread)
    page, features = page_lib.lay_out(
        candidates, selection, order, request < state.num_requests)
    page = page_lib.respond(
        page, state.window, fatigue, dice[request], params.response)
    fatigue, memory = day_lib.remember(page, fatigue, memory)
    pages.append(page)
    if is_joint:
      above = features if above is None else jnp.concatenate([above, features])
  return (state._replace(fatigue=fatigue, memory=memory),
          jax.tree.map(lambda *leaves: jnp.stack(leaves), *pages))


def _measure(
    simulator: Simulator, pages: page_lib.Page, state: day_lib.State,
    params: Params,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Reward `[C]`, cost and counted slates `[Q]` of a window.

  `pages` are `[max_requests, K]`, `state` is that before the window. A learner
  trained in `environment.Paired` sees this reward less that of the twin.
  """
  is_category = jax.nn.one_hot(pages.categories, simulator.num_categories)
  clicks = (pages.click_probability if simulator.expected_rewards
            else pages.clicks.astype(jnp.float32))
  reward = params.values * jnp.einsum("rk,rkc->c", clicks, is_category)
  is_made = jnp.arange(simulator.max_requests) < state.num_requests
  cost = -jnp.sum(jnp.where(is_made, pages.diversity, 0))[None]
  count = state.num_requests.astype(jnp.float32)
  if simulator.exposure_costs:
    shares = jnp.einsum(
        "rk,rkc->c", pages.where.astype(jnp.float32), is_category)
    cost = jnp.concatenate([cost, -shares / simulator.num_slots])
  return reward, cost, jnp.broadcast_to(count, cost.shape)


def _result(
    simulator: Simulator, state: day_lib.State, params: Params,
    reward: jax.Array, cost: jax.Array, counted: jax.Array,
) -> environment.StepResult:
  """What a state shows, after these rewards and costs."""
  candidates = _candidates(simulator, state, 0, params)
  return environment.StepResult(
      observation=day_lib.observe(
          state.memory, state.moment, candidates,
          num_slots=simulator.num_slots,
          num_candidates=simulator.num_candidates),
      reward=reward, cost=cost, counted=counted, where=state.num_requests > 0,
      terminated=state.window >= NUM_WINDOWS,
      truncated=jnp.zeros((), bool))
